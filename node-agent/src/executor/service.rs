//! The Instance service of a process: waiting for it, and calling it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flame_core::ExecutorId;
use flame_core::event::bind;
use flame_rpc::node::{StartExecutor, TaskDone, TaskItem};
use flame_rpc::v1::instance_client::InstanceClient;
use flame_rpc::v1::{ApplicationContext, EmptyRequest, SessionContext, TaskContext, TaskResult};
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::call::Caller;
use super::connection::{ConnectError, Connection};
use super::stream::TaskStream;
use super::{BindError, Host, death, obituary, with_last_errors};
use crate::link::chain;
use crate::runtime::{Exit, Running};

/// First and longest wait between attempts to connect to a socket that exists but is not yet
/// listened on: usually microseconds pass between the two.
const CONNECT_WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// A connected service.
pub(super) struct Service {
    connection: Connection,
    client: InstanceClient<Connection>,
    /// Made with the first task that is not streamed.
    caller: Option<Box<Caller>>,
    socket: PathBuf,
    /// The session that it serves, or served last.
    session: String,
    limit: usize,
    /// How long OnSessionEnter may take.
    enter_limit: Option<Duration>,
}

/// A task that failed because the call did.
pub(super) struct InvokeError {
    /// The failure, should the process be alive.
    pub(super) done: TaskDone,
    /// The connection is broken, as opposed to a service that answered with an error.
    pub(super) broken: bool,
}

/// Why the service does not serve the session.
pub(super) enum EnterError {
    /// It refused it, with this text.
    Refused(String),
    /// It cannot be reached, with this text.
    Unreachable(String),
    /// Its process has ended.
    Exited(Exit),
    /// It has not answered for that long.
    Hangs(Duration),
}

/// Waits for the service to listen, connects, and calls OnSessionEnter.
pub(super) async fn bring_up(
    host: &Host,
    socket: &Path,
    order: &StartExecutor,
    process: &dyn Running,
) -> Result<Service, BindError> {
    let mut exited = process.exited();
    let connected = tokio::select! {
        // A process that listened and died at once is reported as dead.
        biased;
        exit = &mut exited => {
            return Err(BindError::new(
                bind::PROCESS,
                format!("before it listened on its socket, {}", obituary(exit, process).await),
            ));
        }
        connected = timeout(host.patience.start, connect(host, socket)) => connected,
    };
    let Ok(connection) = connected else {
        let limit = host.patience.start.as_secs();
        let message = format!("the service did not listen on FLAME_INSTANCE_ENDPOINT within {limit} s");
        return Err(BindError::new(
            bind::PROCESS,
            with_last_errors(message, process).await,
        ));
    };
    let mut service = Service::new(host, socket, connection);
    match service.enter(order, process).await {
        Ok(()) => Ok(service),
        Err(error) => Err(error.into_bind_error(process).await),
    }
}

/// Connects to a service that an earlier run of the agent has bound to `session`.
pub(super) async fn connect_again(
    host: &Host,
    socket: &Path,
    session: &str,
) -> Result<Service, ConnectError> {
    let connection = Connection::open(socket).await?;
    let mut service = Service::new(host, socket, connection);
    session.clone_into(&mut service.session);
    Ok(service)
}

async fn connect(host: &Host, socket: &Path) -> Connection {
    host.sockets.appeared(socket).await;
    let (mut wait, longest) = CONNECT_WAIT;
    loop {
        match Connection::open(socket).await {
            Ok(connection) => return connection,
            Err(error) => tracing::debug!(error = chain(&error), "not listening yet"),
        }
        sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}

/// Completes with `limit` when that is over.
async fn over(limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) => {
            sleep(limit).await;
            limit
        }
        None => std::future::pending().await,
    }
}

fn client(connection: Connection, limit: usize) -> InstanceClient<Connection> {
    InstanceClient::with_origin(connection, Connection::origin())
        .max_decoding_message_size(limit)
        // An input of just the allowed size is larger with what is around it.
        .max_encoding_message_size(usize::MAX)
}

/// Whether the connection broke; a status that the service sent has no cause on this side.
pub(super) fn is_broken(status: &Status) -> bool {
    status.source().is_some()
}

pub(super) fn in_words(call: &str, status: &Status) -> String {
    format!("{call} failed: {}: {}", status.code(), status.message())
}

impl EnterError {
    /// As the session's events show it.
    pub(super) async fn into_bind_error(self, process: &dyn Running) -> BindError {
        let message = match self {
            Self::Refused(message) | Self::Unreachable(message) => message,
            Self::Exited(exit) => format!("in OnSessionEnter, {}", obituary(exit, process).await),
            Self::Hangs(limit) => {
                let message = format!("OnSessionEnter did not return within {} s", limit.as_secs());
                with_last_errors(message, process).await
            }
        };
        BindError::new(bind::SESSION_ENTER, message)
    }
}

impl Service {
    fn new(host: &Host, socket: &Path, connection: Connection) -> Self {
        Self {
            client: client(connection.clone(), host.max_message_size),
            connection,
            caller: None,
            socket: socket.to_path_buf(),
            session: String::new(),
            limit: host.max_message_size,
            enter_limit: host.patience.enter,
        }
    }

    /// Binds the service to the session of `order`.
    pub(super) async fn enter(
        &mut self,
        order: &StartExecutor,
        process: &dyn Running,
    ) -> Result<(), EnterError> {
        self.session.clone_from(&order.session_id);
        let mut exited = process.exited();
        let limit = self.enter_limit;
        let entered = tokio::select! {
            biased;
            entered = self.call_enter(order) => entered,
            exit = &mut exited => Err(EnterError::Exited(exit)),
            limit = over(limit) => Err(EnterError::Hangs(limit)),
        };
        match entered {
            // The connection breaks a moment before the process has ended.
            Err(EnterError::Unreachable(message)) => match death(process).await {
                Some(exit) => Err(EnterError::Exited(exit)),
                None => Err(EnterError::Unreachable(message)),
            },
            other => other,
        }
    }

    async fn call_enter(&mut self, order: &StartExecutor) -> Result<(), EnterError> {
        let application = order.spec.as_ref().map(|spec| ApplicationContext {
            name: order.application.clone(),
            shim: spec.shim,
            image: spec.image.clone(),
            command: spec.command.clone(),
            working_directory: spec.working_directory.clone(),
            url: spec.url.clone(),
            installer: spec.installer.clone(),
        });
        let context = SessionContext {
            session_id: order.session_id.clone(),
            application,
            common_data: order.common_data.clone(),
        };
        let answer = self.client.on_session_enter(context).await;
        let result = answer
            .map_err(|status| {
                let message = in_words("OnSessionEnter", &status);
                match is_broken(&status) {
                    true => EnterError::Unreachable(message),
                    false => EnterError::Refused(message),
                }
            })?
            .into_inner();
        match (result.return_code, result.message) {
            (0, _) => Ok(()),
            (_, Some(message)) if !message.is_empty() => Err(EnterError::Refused(message)),
            (code, _) => Err(EnterError::Refused(format!(
                "OnSessionEnter returned {code} without a message"
            ))),
        }
    }

    /// Runs one task to its end.
    pub(super) async fn invoke(
        &mut self,
        executor: &ExecutorId,
        task: TaskItem,
    ) -> Result<TaskDone, InvokeError> {
        let context = TaskContext {
            task_id: task.task_id.to_string(),
            session_id: self.session.clone(),
            input: task.input,
        };
        let begin = Instant::now();
        let answer = self.call(&context).await;
        let mut done = TaskDone {
            executor_id: executor.to_string(),
            session_id: self.session.clone(),
            task_id: task.task_id,
            attempt: task.attempt,
            duration_us: u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX),
            ..TaskDone::default()
        };
        match answer {
            Ok(result) => {
                done.return_code = result.return_code;
                done.output = result.output;
                done.message = result.message;
                Ok(done)
            }
            Err(status) => {
                done.return_code = -1;
                done.message = Some(in_words("OnTaskInvoke", &status));
                Err(InvokeError {
                    done,
                    broken: is_broken(&status),
                })
            }
        }
    }

    async fn call(&mut self, task: &TaskContext) -> Result<TaskResult, Status> {
        match &mut self.caller {
            Some(caller) => caller.invoke(task).await,
            none => {
                // Boxed because it is large and rare.
                let caller = Box::pin(Caller::open(&self.socket, self.limit)).await?;
                none.insert(Box::new(caller)).invoke(task).await
            }
        }
    }

    /// To be polled while no task runs: keeps the connection of calls alive, and forgets it when
    /// it has ended. Never completes.
    pub(super) async fn idle(&mut self) {
        if let Some(caller) = &mut self.caller {
            caller.idle().await;
            self.caller = None;
        }
        std::future::pending().await
    }

    /// Closes the connection of calls. Nobody polls it from now on, and a service that stops in
    /// order would wait for its end.
    pub(super) fn no_more_calls(&mut self) {
        self.caller = None;
    }

    /// Tells the service that its session is over.
    pub(super) async fn leave(&mut self) -> Result<(), String> {
        let answer = self.client.on_session_leave(EmptyRequest {}).await;
        let result = answer
            .map_err(|status| in_words("OnSessionLeave", &status))?
            .into_inner();
        match result.return_code {
            0 => Ok(()),
            code => Err(format!(
                "it returned {code}: {}",
                result.message.unwrap_or_default()
            )),
        }
    }

    /// Asks for a stream of tasks.
    pub(super) fn open_stream(&self) -> TaskStream {
        TaskStream::open(self.connection.clone(), self.limit)
    }

    /// The session that the service is bound to.
    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// A new connection after the old one broke.
    pub(super) async fn reconnect(&mut self) -> Result<(), ConnectError> {
        self.connection = Connection::open(&self.socket).await?;
        self.client = client(self.connection.clone(), self.limit);
        self.caller = None;
        Ok(())
    }
}
