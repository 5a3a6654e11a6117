//! One module per command; each takes the connection, the printer and its arguments.

pub(crate) mod apply;
pub(crate) mod backup;
pub(crate) mod cancel;
pub(crate) mod create;
pub(crate) mod docs;
pub(crate) mod end;
pub(crate) mod explain;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod node;
pub(crate) mod view;
pub(crate) mod watch;

use std::io::Read;
use std::path::Path;

use bytes::Bytes;

use crate::error::CtlError;

/// Reads `path`, or standard input if it is `-`, without stopping the runtime: Ctrl-C still works.
pub(crate) async fn read_input(action: &'static str, path: &Path) -> Result<Bytes, CtlError> {
    let failed = |source| CtlError::File {
        action,
        path: path.to_path_buf(),
        source,
    };
    let wanted = path.to_path_buf();
    let reading = tokio::task::spawn_blocking(move || {
        if wanted.as_os_str() != "-" {
            return std::fs::read(wanted);
        }
        let mut data = Vec::new();
        std::io::stdin().lock().read_to_end(&mut data)?;
        Ok(data)
    });
    match reading.await {
        Ok(read) => read.map(Bytes::from).map_err(failed),
        Err(stopped) => Err(failed(std::io::Error::other(stopped))),
    }
}
