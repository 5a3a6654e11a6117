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

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flame_rpc::v1;
use flame_rpc::v1::instance_server::{Instance, InstanceServer};
use futures::FutureExt;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::MAX_MESSAGE_SIZE;
use crate::error::report;
use crate::stop::StopRequest;

/// Names the unix socket on which a service listens; set by the node agent.
pub const INSTANCE_ENDPOINT: &str = "FLAME_INSTANCE_ENDPOINT";

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
    serve(service, Path::new(&path), stopped).await
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
    let listener = listen(path)?;
    let server = InstanceServer::new(Adapter(Arc::new(service)))
        .max_decoding_message_size(MAX_MESSAGE_SIZE)
        .max_encoding_message_size(MAX_MESSAGE_SIZE);
    let (stopping, stop_seen) = tokio::sync::oneshot::channel();
    let stopped = async move {
        stopped.await;
        // The receiver lives as long as this future is polled.
        let _ = stopping.send(());
    };
    let serving = Server::builder()
        .add_service(server)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped);
    let overdue = async {
        match stop_seen.await {
            Ok(()) => tokio::time::sleep(DRAIN_TIME).await,
            Err(_) => std::future::pending().await,
        }
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

/// Speaks the Instance protocol for a [`Service`].
struct Adapter<S>(Arc<S>);

/// A panic becomes an error, so that it costs one task and not the process (where the program is
/// built to unwind).
async fn caught<T>(work: impl Future<Output = Result<T, TaskError>>) -> Result<T, TaskError> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            Err(TaskError(format!(
                "the service panicked: {}",
                text.unwrap_or_else(|| "without a text".to_owned())
            )))
        })
}

fn result(outcome: Result<(), TaskError>) -> Response<v1::Result> {
    Response::new(match outcome {
        Ok(()) => v1::Result {
            return_code: 0,
            message: None,
        },
        Err(TaskError(message)) => v1::Result {
            return_code: -1,
            message: Some(message),
        },
    })
}

#[tonic::async_trait]
impl<S: Service> Instance for Adapter<S> {
    async fn on_session_enter(
        &self,
        request: Request<v1::SessionContext>,
    ) -> Result<Response<v1::Result>, Status> {
        let session = request.into_inner();
        let application = session.application.unwrap_or_default();
        let session = SessionContext {
            session_id: session.session_id,
            application: ApplicationContext {
                name: application.name,
                command: application.command,
                working_directory: application.working_directory,
                image: application.image,
                url: application.url,
                installer: application.installer,
            },
            common_data: session.common_data,
        };
        Ok(result(caught(self.0.on_session_enter(session)).await))
    }

    async fn on_task_invoke(
        &self,
        request: Request<v1::TaskContext>,
    ) -> Result<Response<v1::TaskResult>, Status> {
        let task = request.into_inner();
        let task = TaskContext {
            task_id: task.task_id,
            session_id: task.session_id,
            input: task.input,
        };
        Ok(Response::new(match caught(self.0.on_task_invoke(task)).await {
            Ok(output) => v1::TaskResult {
                return_code: 0,
                output,
                message: None,
            },
            Err(TaskError(message)) => v1::TaskResult {
                return_code: -1,
                output: None,
                message: Some(message),
            },
        }))
    }

    async fn on_session_leave(
        &self,
        _request: Request<v1::EmptyRequest>,
    ) -> Result<Response<v1::Result>, Status> {
        Ok(result(caught(self.0.on_session_leave()).await))
    }
}
