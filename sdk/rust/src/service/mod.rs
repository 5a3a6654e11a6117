//! Application services: programs that the node agent starts and that carry out tasks.
//!
//! ```no_run
//! use flame_rs::Bytes;
//! use flame_rs::service::{Service, TaskContext, TaskError, run};
//!
//! struct Upper;
//!
//! impl Service for Upper {
//!     async fn on_task_invoke(&self, task: TaskContext) -> Result<Option<Bytes>, TaskError> {
//!         let input = task.input.unwrap_or_default();
//!         Ok(Some(Bytes::from(input.to_ascii_uppercase())))
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), flame_rs::service::RunError> {
//!     run(Upper).await
//! }
//! ```

mod desk;
mod stream;
mod unary;
mod worker;

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flame_rpc::v1::instance_server::InstanceServer;
use flame_rpc::v1::instance_stream_server::InstanceStreamServer;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::MAX_MESSAGE_SIZE;
use crate::error::report;
use crate::stop::StopRequest;

/// Names the unix socket on which a service listens; set by the node agent.
pub const INSTANCE_ENDPOINT: &str = "FLAME_INSTANCE_ENDPOINT";

/// `off` makes a service of this SDK take tasks only by single calls.
pub const SERVICE_STREAM: &str = "FLAME_SERVICE_STREAM";

/// HTTP/2 flow-control windows. The protocol's 64 KiB stall inputs of megabytes.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// How long tasks under way may go on after SIGTERM. The node agent kills after its own time.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The session that the process serves.
#[derive(Debug, Clone)]
pub struct SessionContext {
    /// Id of the session.
    pub session_id: String,
    /// Its application.
    pub application: ApplicationContext,
    /// What the client gave to the session for all of its tasks.
    pub common_data: Option<Bytes>,
}

/// The application that the process belongs to.
#[derive(Debug, Clone, Default)]
pub struct ApplicationContext {
    /// Name of the application.
    pub name: String,
    /// The registered command.
    pub command: Option<String>,
    /// The registered working directory.
    pub working_directory: Option<String>,
    /// The registered image.
    pub image: Option<String>,
    /// Where the application's package comes from.
    pub url: Option<String>,
    /// How the package was installed.
    pub installer: Option<String>,
}

/// One task.
#[derive(Debug, Clone)]
pub struct TaskContext {
    /// Number of the task within its session, as text.
    pub task_id: String,
    /// Id of its session.
    pub session_id: String,
    /// What the client gave to the task.
    pub input: Option<Bytes>,
}

/// Why a task (or a session) failed, in words for the client. Any error converts into it with `?`,
/// its causes included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskError(String);

impl TaskError {
    /// A failure with this text.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// The text.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0
    }
}

// Not an `Error` itself, so that every error can be converted into it.
impl<E: StdError + 'static> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self(report(&error))
    }
}

/// What a service does. The process serves one session at a time and one task at a time.
pub trait Service: Send + Sync + 'static {
    /// Called once when the process is bound to a session; an error refuses the session.
    fn on_session_enter(
        &self,
        session: SessionContext,
    ) -> impl Future<Output = Result<(), TaskError>> + Send {
        drop(session);
        async { Ok(()) }
    }

    /// Carries out a task and returns its output; an error fails the task with its text.
    fn on_task_invoke(
        &self,
        task: TaskContext,
    ) -> impl Future<Output = Result<Option<Bytes>, TaskError>> + Send;

    /// Called when the process leaves its session, before it gets SIGTERM.
    fn on_session_leave(&self) -> impl Future<Output = Result<(), TaskError>> + Send {
        async { Ok(()) }
    }
}

/// Why a service could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The program was not started by a node agent.
    #[error(
        "{INSTANCE_ENDPOINT} is not set: this program is a service that Flame's node agent starts; \
         register it as an application (`flmctl register`) and open a session of it"
    )]
    NoEndpoint,
    /// Something that is no socket is in the way.
    #[error("cannot listen on {path}: there is a file that is not a socket", path = path.display())]
    NotASocket {
        /// The path of [`INSTANCE_ENDPOINT`].
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {path}", path = path.display())]
    Listen {
        /// The path of [`INSTANCE_ENDPOINT`].
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Signals cannot be watched.
    #[error("cannot watch for signals")]
    Signal(#[source] io::Error),
    /// The server failed.
    #[error("cannot serve on {path}", path = path.display())]
    Serve {
        /// The path of [`INSTANCE_ENDPOINT`].
        path: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Serves `service` on the socket that the node agent names, until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`] if the program was not started by a node agent or cannot listen.
pub async fn run<S: Service>(service: S) -> Result<(), RunError> {
    let path = std::env::var_os(INSTANCE_ENDPOINT)
        .filter(|path| !path.is_empty())
        .ok_or(RunError::NoEndpoint)?;
    let mut stop = StopRequest::watch().map_err(RunError::Signal)?;
    let stopped = async move { stop.requested().await };
    let streams = std::env::var_os(SERVICE_STREAM).is_none_or(|value| value != "off");
    serve_with(service, Path::new(&path), stopped, streams).await
}

/// As [`run`], on the socket at `path` until `stopped` is done. Tasks under way then have a few
/// seconds to end.
///
/// # Errors
/// [`RunError`] if it cannot listen.
pub async fn serve<S: Service>(
    service: S,
    path: &Path,
    stopped: impl Future<Output = ()> + Send,
) -> Result<(), RunError> {
    serve_with(service, path, stopped, true).await
}

/// As [`serve`], with or without streams of tasks.
async fn serve_with<S: Service>(
    service: S,
    path: &Path,
    stopped: impl Future<Output = ()> + Send,
    streams: bool,
) -> Result<(), RunError> {
    let listener = listen(path)?;
    let (stopping, mut stop_seen) = watch::channel(false);
    let (service, session) = (Arc::new(service), unary::Session::default());
    // Inputs were measured where clients hand them in; here they come with something around them.
    let tasks_stream = streams.then(|| {
        let tasks = stream::TaskStreams::new(service.clone(), session.clone(), stop_seen.clone());
        InstanceStreamServer::new(tasks)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(MAX_MESSAGE_SIZE)
    });
    let calls = InstanceServer::new(unary::Adapter::new(service, session))
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(MAX_MESSAGE_SIZE);
    let stopped = async move {
        stopped.await;
        stopping.send_replace(true);
    };
    let serving = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(calls)
        .add_optional_service(tasks_stream)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped);
    let overdue = async {
        if stop_seen.wait_for(|stopping| *stopping).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(DRAIN_TIME).await;
    };
    let served = tokio::select! {
        served = serving => served,
        () = overdue => Ok(()),
    };
    // The agent removes the directory; a leftover would only confuse a look at it.
    let _ = std::fs::remove_file(path);
    served.map_err(|source| RunError::Serve {
        path: path.to_owned(),
        source,
    })
}

/// Binds the socket, in place of one that a process before this one left behind.
fn listen(path: &Path) -> Result<UnixListener, RunError> {
    let failed = |source| RunError::Listen {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path).map_err(failed)?,
        Ok(_) => {
            return Err(RunError::NotASocket {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    UnixListener::bind(path).map_err(failed)
}
