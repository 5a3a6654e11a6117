//! One executor: a service process bound to a session, and the tasks that it is given.

mod prepare;
mod service;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use flame_core::ExecutorId;
use flame_rpc::node::{StartExecutor, TaskAttempt, TaskDone, TaskItem};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::timeout;

use crate::directories::Directories;
use crate::environment::Surroundings;
use crate::runtime::{Exit, Running, Runtime, Stop};
use crate::socket::SocketWatch;
use service::{InvokeError, Service};

/// How long a running task may go on after the executor's release was asked for.
pub const FINISH_LIMIT: Duration = Duration::from_secs(5);
/// How long OnSessionLeave may take.
pub const LEAVE_LIMIT: Duration = Duration::from_secs(5);
/// How long a process may take to end after SIGTERM before it gets SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long the end of a killed process is awaited; the kernel may hold it in a disk wait.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// After a broken connection: how long to see whether the process has died. The kernel closes
/// the socket shortly before it reports the end.
const DEATH_LIMIT: Duration = Duration::from_secs(1);

/// Result codes of a bind that failed, as clients see them in the session's events.
pub mod code {
    /// The application could not be installed.
    pub const INSTALL: i32 = 10;
    /// The process could not be started, or died before it served.
    pub const PROCESS: i32 = 11;
    /// OnSessionEnter failed.
    pub const ENTER: i32 = 12;
    /// Anything else.
    pub const UNKNOWN: i32 = 19;
}

/// What all executors of this agent share.
pub struct Host {
    /// Where sockets, working directories and outputs are.
    pub directories: Arc<Directories>,
    /// The environment of services.
    pub surroundings: Surroundings,
    /// Starts processes.
    pub runtime: Box<dyn Runtime>,
    /// Tells when sockets appear.
    pub sockets: SocketWatch,
    /// Largest message to and from a service, in bytes.
    pub max_message_size: usize,
}

/// What an executor is told.
#[derive(Debug)]
pub enum Command {
    /// More tasks, run in order, one at a time.
    Tasks(Vec<TaskItem>),
    /// Give back the tasks that have not begun.
    Recall,
    /// End it. Tasks that have not begun are lost.
    Release,
}

/// What an executor tells.
#[derive(Debug)]
pub enum Happened {
    /// OnSessionEnter has succeeded.
    Bound,
    /// A task has ended.
    Done(TaskDone),
    /// These tasks have not begun and will not: they were recalled.
    Returned(Vec<TaskAttempt>),
    /// The executor is gone; always the last.
    Ended(Ended),
}

/// Why an executor is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It never became bound.
    BindFailed {
        /// One of [`code`].
        code: i32,
        /// For people.
        message: String,
    },
    /// Its process ended by itself, or stopped serving.
    Died {
        /// For people.
        message: String,
        /// Whether a task was being invoked.
        running: bool,
    },
    /// As asked.
    Released {
        /// Whether a task was being invoked and had to be given up.
        running: bool,
    },
}

/// What happened to which executor.
pub type Event = (ExecutorId, Happened);

/// One executor from start to end. Sends [`Happened::Ended`] as its last event, when its process
/// is gone and its files are removed.
pub async fn run(
    id: ExecutorId,
    order: StartExecutor,
    host: Arc<Host>,
    commands: UnboundedReceiver<Command>,
    events: UnboundedSender<Event>,
) {
    let mut inbox = Inbox {
        id: id.clone(),
        events: events.clone(),
        commands,
        queue: VecDeque::new(),
        released: false,
    };
    let ended = live(&id, &order, &host, &mut inbox, &events).await;
    // The agent's loop is gone only when the whole agent is.
    let _ = events.send((id, Happened::Ended(ended)));
}

async fn live(
    id: &ExecutorId,
    order: &StartExecutor,
    host: &Host,
    inbox: &mut Inbox,
    events: &UnboundedSender<Event>,
) -> Ended {
    let prepared = match prepare::prepare(host, id, order) {
        Ok(prepared) => prepared,
        Err(failed) => return failed.into(),
    };
    // From here on dropped last: the directory must outlive the process.
    let _files = prepared.files;
    let process = match host.runtime.start(prepared.launch).await {
        Ok(process) => process,
        Err(error) => return BindError::new(code::PROCESS, error).into(),
    };
    tracing::debug!(executor = %id, session = order.session_id, pid = process.pid(), "service process started");
    let bring_up = service::bring_up(host, &prepared.socket, order, process.as_ref());
    let bound = tokio::select! {
        bound = bring_up => bound,
        () = inbox.released() => {
            end(process.as_ref()).await;
            return Ended::Released { running: false };
        }
    };
    let service = match bound {
        Ok(service) => service,
        Err(failed) => {
            end(process.as_ref()).await;
            return failed.into();
        }
    };
    if events.send((id.clone(), Happened::Bound)).is_err() {
        inbox.released = true;
    }
    Serving {
        id,
        process: process.as_ref(),
        service,
        inbox,
        events,
    }
    .until_the_end()
    .await
}

/// Ends the process: asks, waits, makes.
async fn end(process: &dyn Running) {
    process.stop(Stop::Terminate);
    if timeout(GRACE, process.exited()).await.is_ok() {
        return;
    }
    process.stop(Stop::Kill);
    if timeout(KILL_LIMIT, process.exited()).await.is_err() {
        tracing::error!(
            pid = process.pid(),
            "the service process does not end even after SIGKILL"
        );
    }
}

/// Why an executor cannot become bound.
#[derive(Debug)]
struct BindError {
    code: i32,
    message: String,
}

impl BindError {
    fn new(code: i32, message: impl ToString) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }
}

impl From<BindError> for Ended {
    fn from(error: BindError) -> Self {
        Self::BindFailed {
            code: error.code,
            message: error.message,
        }
    }
}

/// How a process ended, with what it said last.
fn obituary(exit: Exit, process: &dyn Running) -> String {
    let last = process.last_errors();
    if last.is_empty() {
        format!("the service process {exit}; it wrote nothing to its standard error")
    } else {
        format!("the service process {exit}; its last lines on standard error:\n{last}")
    }
}

/// Commands as they come, and the tasks among them that wait for their turn.
struct Inbox {
    id: ExecutorId,
    events: UnboundedSender<Event>,
    /// Unbounded so that the agent's loop never waits for one executor; the session manager's
    /// credits bound what is in it.
    commands: UnboundedReceiver<Command>,
    queue: VecDeque<TaskItem>,
    released: bool,
}

impl Inbox {
    /// Takes in one command. Nothing is lost if it is dropped before it completes.
    async fn take(&mut self) {
        match self.commands.recv().await {
            Some(Command::Tasks(tasks)) => self.queue.extend(tasks),
            Some(Command::Recall) => self.give_back(),
            Some(Command::Release) | None => self.released = true,
        }
    }

    fn give_back(&mut self) {
        let attempt = |task: TaskItem| TaskAttempt {
            task_id: task.task_id,
            attempt: task.attempt,
        };
        let tasks = self.queue.drain(..).map(attempt).collect();
        let told = self.events.send((self.id.clone(), Happened::Returned(tasks)));
        self.released |= told.is_err();
    }

    /// Completes when the executor shall end; collects tasks meanwhile.
    async fn released(&mut self) {
        while !self.released {
            self.take().await;
        }
    }
}

/// A bound executor.
struct Serving<'a> {
    id: &'a ExecutorId,
    process: &'a dyn Running,
    service: Service,
    inbox: &'a mut Inbox,
    events: &'a UnboundedSender<Event>,
}

/// What one invocation came to.
enum Turn {
    Finished(Result<TaskDone, InvokeError>),
    Exited(Exit),
    Released,
}

impl Serving<'_> {
    async fn until_the_end(mut self) -> Ended {
        let mut exited = self.process.exited();
        loop {
            if self.inbox.released {
                return self.leave(false).await;
            }
            let Some(task) = self.inbox.queue.pop_front() else {
                tokio::select! {
                    exit = &mut exited => return self.died(exit, false),
                    () = self.inbox.take() => continue,
                }
            };
            let turn = {
                let mut invoke = std::pin::pin!(self.service.invoke(self.id, task));
                let turn = tokio::select! {
                    biased;
                    finished = &mut invoke => Turn::Finished(finished),
                    exit = &mut exited => Turn::Exited(exit),
                    () = self.inbox.released() => Turn::Released,
                };
                match turn {
                    Turn::Released => tokio::select! {
                        finished = &mut invoke => Turn::Finished(finished),
                        exit = &mut exited => Turn::Exited(exit),
                        () = tokio::time::sleep(FINISH_LIMIT) => Turn::Released,
                    },
                    other => other,
                }
            };
            match turn {
                Turn::Finished(Ok(done)) => self.tell(done),
                Turn::Finished(Err(InvokeError { done, broken: false })) => self.tell(done),
                Turn::Finished(Err(InvokeError { done, broken: true })) => {
                    if let Ok(exit) = timeout(DEATH_LIMIT, &mut exited).await {
                        return self.died(exit, true);
                    }
                    self.tell(done);
                    if let Err(error) = self.service.reconnect().await {
                        end(self.process).await;
                        let message = format!("the service no longer answers on its socket: {error}");
                        return Ended::Died {
                            message,
                            running: false,
                        };
                    }
                }
                Turn::Exited(exit) => return self.died(exit, true),
                Turn::Released => return self.leave(true).await,
            }
        }
    }

    fn tell(&mut self, done: TaskDone) {
        if self.events.send((self.id.clone(), Happened::Done(done))).is_err() {
            self.inbox.released = true;
        }
    }

    fn died(&self, exit: Exit, running: bool) -> Ended {
        Ended::Died {
            message: obituary(exit, self.process),
            running,
        }
    }

    /// OnSessionLeave, unless a task still runs (a service is asked one thing at a time), and
    /// the process's end.
    async fn leave(mut self, running: bool) -> Ended {
        if !running {
            let leave = timeout(LEAVE_LIMIT, self.service.leave());
            tokio::select! {
                left = leave => {
                    let problem = match left {
                        Ok(Ok(())) => None,
                        Ok(Err(error)) => Some(error),
                        Err(_) => Some(format!("no answer within {} s", LEAVE_LIMIT.as_secs())),
                    };
                    if let Some(error) = problem {
                        tracing::warn!(executor = %self.id, error, "OnSessionLeave failed");
                    }
                }
                exit = self.process.exited() => {
                    tracing::warn!(executor = %self.id, "in OnSessionLeave, the service process {exit}");
                }
            }
        }
        end(self.process).await;
        Ended::Released { running }
    }
}
