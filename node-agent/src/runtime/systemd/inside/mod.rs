//! What the launcher does in its unit before it becomes the application: lets the agent in, makes
//! the working directory, and tells systemd that both are done. If nobody wants the unit yet, it stands by.

pub mod admit;
pub mod standing;
pub mod stream;

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flame_systemd::Notifier;

use crate::spec::{Service, Spec, SpecError, UnitSpec};
use stream::Stream;

/// Name of the credential that holds the spec.
const SPEC: &str = "spec";
/// How long journald may take to notice a new stream. It takes less than a millisecond; a journald that hangs
/// must not keep executors from starting.
pub const NOTICE_LIMIT: Duration = Duration::from_millis(50);

/// Why the application is not started.
#[derive(Debug, thiserror::Error)]
pub enum InsideError {
    /// The process was not started by systemd as the unit says.
    #[error("${0} is not set: this is the program of flame-executor@.service")]
    NoUnit(&'static str),
    /// There is no usable spec.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The agent could not reach the socket.
    #[error(
        "cannot let the node agent into {directory}: {source} (its file system must support access control lists)",
        directory = directory.display()
    )]
    Admit {
        /// The directory of the socket.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The application would have nowhere to work.
    #[error("cannot make the working directory {directory}: {source}", directory = directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent could not say what to run.
    #[error("cannot be told what to run: {0}")]
    Standing(#[from] standing::StandingError),
}

/// What is left to do: to become this process.
#[derive(Debug)]
pub struct Prepared {
    /// The process.
    pub process: Spec,
    /// Its standard output, if it is not that of the launcher.
    pub output: Option<Stream>,
}

/// Prepares everything and tells systemd.
///
/// # Errors
/// [`InsideError`] says what is missing.
pub fn prepare() -> Result<Prepared, InsideError> {
    let directory = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .ok_or(InsideError::NoUnit(name))
    };
    let spec = UnitSpec::read(&directory("CREDENTIALS_DIRECTORY")?.join(SPEC))?;
    let sockets = directory("RUNTIME_DIRECTORY")?;
    // Early, because journald takes a moment to look at it.
    let output = spec.service.as_ref().map(open_output);
    admit::admit(&sockets, spec.agent).map_err(|source| InsideError::Admit {
        directory: sockets.clone(),
        source,
    })?;
    make(&spec.own_directory)?;
    let notifier = Notifier::from_env();
    match (spec.service, output) {
        (Some(service), Some(output)) => {
            let output = noticed(output);
            notifier.ready();
            Ok(Prepared {
                process: service.process,
                output,
            })
        }
        _ => stand_by(&notifier, &sockets, spec.agent),
    }
}

/// Waits until the agent has an executor for this unit.
fn stand_by(notifier: &Notifier, sockets: &Path, agent: u32) -> Result<Prepared, InsideError> {
    let standing = standing::Standing::listen(sockets)?;
    notifier.status(standing::STATUS);
    notifier.ready();
    let (service, caller) = standing.wait(agent)?;
    let output = noticed(open_output(&service));
    notifier.status("");
    caller.accept()?;
    Ok(Prepared {
        process: service.process,
        output,
    })
}

fn open_output(service: &Service) -> io::Result<Stream> {
    Stream::open(Path::new(stream::JOURNALD), &service.identifier)
}

fn noticed(output: io::Result<Stream>) -> Option<Stream> {
    match output {
        Ok(output) => {
            output.await_notice(NOTICE_LIMIT);
            Some(output)
        }
        Err(error) => {
            eprintln!("flame-executor: cannot open a stream of the journal: {error}");
            None
        }
    }
}

fn make(directory: &Path) -> Result<(), InsideError> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(directory)
        .map_err(|source| InsideError::Directory {
            directory: directory.to_path_buf(),
            source,
        })
}
