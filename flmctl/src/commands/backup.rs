//! `flmctl backup`: the session manager's state as a file.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use flame_core::fsutil::{Draft, WriteError};
use flame_rpc::v1::backup_part::Part;
use flame_rpc::v1::{BackupHeader, BackupPart};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tonic::{Status, Streaming};

use crate::cli::BackupArgs;
use crate::client::Client;
use crate::error::CtlError;
use crate::format;
use crate::printer::Printer;

/// The owner alone may read a backup: it has everybody's tasks.
const MODE: u32 = 0o600;

/// Where the backup goes.
#[derive(Debug)]
pub(crate) struct Target {
    file: PathBuf,
    force: bool,
}

/// What was written; field names are stable.
#[derive(Debug, Serialize)]
struct Written {
    file: PathBuf,
    size: u64,
    sha256: String,
    creation_time: Option<String>,
    version: String,
    format: u32,
}

impl Target {
    /// Refuses at once what could be refused only at the end otherwise.
    pub(crate) fn new(args: BackupArgs) -> Result<Self, CtlError> {
        let BackupArgs { file, force } = args;
        if file.is_dir() {
            return Err(CtlError::Usage(format!("{} is a directory", file.display())));
        }
        if !force && file.symlink_metadata().is_ok() {
            return Err(exists(&file));
        }
        Ok(Self { file, force })
    }

    fn finish(&self, draft: Draft) -> Result<(), CtlError> {
        if self.force {
            return draft.replace(MODE).map_err(failed);
        }
        draft.create(MODE).map_err(|error| match error.source.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.file),
            _ => failed(error),
        })
    }
}

fn exists(file: &std::path::Path) -> CtlError {
    CtlError::Backup(format!("{} exists; --force replaces it", file.display()))
}

fn failed(error: WriteError) -> CtlError {
    CtlError::File {
        action: error.action,
        path: error.path,
        source: error.source,
    }
}

/// Writes the state to the target, or leaves what was there.
pub(crate) async fn run(client: &Client, printer: &Printer, target: &Target) -> Result<(), CtlError> {
    let mut draft = Draft::of(&target.file).map_err(failed)?;
    let stream = client.backup().await?;
    let (header, sha256) = receive(client, stream, &mut draft).await?;
    target.finish(draft)?;
    let written = Written {
        file: target.file.clone(),
        size: header.size,
        sha256: hex(&sha256),
        creation_time: format::rfc3339(header.time),
        version: header.version,
        format: header.format,
    };
    printer.show(&written, |_| {
        format!(
            "backup written to {} ({}, sha256 {})\n",
            written.file.display(),
            format::size(written.size),
            written.sha256
        )
    })
}

/// Takes everything up to the trailer and checks that it is all.
async fn receive(
    client: &Client,
    mut stream: Streaming<BackupPart>,
    draft: &mut Draft,
) -> Result<(BackupHeader, Vec<u8>), CtlError> {
    let wrong = |text: &str| Err(CtlError::Backup(text.to_owned()));
    let broken = |status: Status| client.failed("back up the state".to_owned(), &status);
    let mut header: Option<(BackupHeader, ProgressBar)> = None;
    let (mut digest, mut received) = (Sha256::new(), 0);
    while let Some(part) = stream.message().await.map_err(broken)? {
        match (part.part, &header) {
            (Some(Part::Header(found)), None) => {
                let bar = progress_bar(found.size);
                header = Some((found, bar));
            }
            (Some(Part::Data(data)), Some((_, bar))) => {
                draft.fill(|file| file.write_all(&data)).map_err(failed)?;
                digest.update(&data);
                received += data.len() as u64;
                bar.set_position(received);
            }
            (Some(Part::Trailer(trailer)), Some((found, bar))) => {
                bar.finish_and_clear();
                let sum = digest.finalize().to_vec();
                if received != found.size || trailer.sha256 != sum {
                    return wrong("what arrived is not what was sent");
                }
                return Ok((found.clone(), sum));
            }
            _ => return wrong("the session manager sent something else"),
        }
    }
    wrong("the session manager ended the transfer early")
}

/// Shown only to people, on a terminal.
fn progress_bar(size: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(size).with_style(style)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
