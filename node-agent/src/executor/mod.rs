//! One executor: a service process bound to a session, and the tasks that it is given.

mod call;
mod connection;
mod inbox;
mod kind;
mod occupancy;
mod pool;
mod prepare;
mod service;
mod serving;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use flame_core::ExecutorId;
use flame_core::config::node::Patience;
use flame_core::event::bind;
use flame_rpc::node::{StartExecutor, TaskAttempt, TaskDone, TaskItem};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::timeout;

use crate::directories::Directories;
use crate::environment::Surroundings;
use crate::link::chain;
use crate::runtime::{Exit, Running, Runtime, Stop, Survivor};
use crate::socket::SocketWatch;
use inbox::Inbox;
use kind::Kind;
pub use pool::Pool;
use pool::{Place, Room, ServiceProcess};
use prepare::Files;
use service::EnterError;
use serving::{Parting, Serving};

/// How long a running task may go on after the session manager asked for the executor's release.
pub const FINISH_LIMIT: Duration = Duration::from_secs(5);
/// How long OnSessionLeave may take.
pub const LEAVE_LIMIT: Duration = Duration::from_secs(5);
/// How long a process may take to end after SIGTERM before it gets SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long the end of a killed process is awaited; the kernel may hold it in a disk wait.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// After a broken connection: how long to see whether the process has ended. The kernel closes the
/// socket shortly before.
const END_LIMIT: Duration = Duration::from_millis(100);
/// How long the runtime may take to say how a process has ended: systemd may be busy.
const DEATH_LIMIT: Duration = Duration::from_secs(5);

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
    /// How long services may take to begin.
    pub patience: Patience,
}

/// What an executor is told.
#[derive(Debug)]
pub enum Command {
    /// More tasks, run in order, one at a time.
    Tasks(Vec<TaskItem>),
    /// Give back the tasks that have not begun.
    Recall,
    /// End it. Tasks that have not begun are lost.
    Release {
        /// Nobody waits for the task that runs, so neither does the executor. May follow a release
        /// that did not say so.
        give_up: bool,
        /// How long the task that runs may go on. The first release counts.
        finish: Duration,
    },
}

/// What an executor tells.
#[derive(Debug)]
pub enum Happened {
    /// Its process is there.
    Runs {
        /// Id of the run of its unit, under which its lines are in the journal.
        invocation: String,
    },
    /// OnSessionEnter has succeeded.
    Bound {
        /// In a process that has served another session.
        reused: bool,
    },
    /// Tasks have ended, in this order.
    Done(Vec<TaskDone>),
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
        /// One of [`bind`].
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

/// How the life of an executor begins in this run of the agent.
pub enum Beginning {
    /// As the session manager asks.
    Ordered(Box<StartExecutor>),
    /// An earlier run has bound it. Its session is not entered again.
    Survived(Survivor),
}

/// One executor from start to end. Sends [`Happened::Ended`] as its last event, when its process
/// is gone and its files are removed, or the process is parked.
pub async fn run(
    id: ExecutorId,
    beginning: Beginning,
    host: Arc<Host>,
    pool: Arc<Pool>,
    commands: UnboundedReceiver<Command>,
    events: UnboundedSender<Event>,
) {
    let mut inbox = Inbox::new(id.clone(), commands, events.clone());
    let ended = match beginning {
        Beginning::Ordered(order) => live(&id, &order, &host, &pool, &mut inbox).await,
        Beginning::Survived(survivor) => go_on(&id, survivor, &host, &pool, &mut inbox).await,
    };
    // The agent's loop is gone only when the whole agent is.
    let _ = events.send((id, Happened::Ended(ended)));
}

async fn live(
    id: &ExecutorId,
    order: &StartExecutor,
    host: &Host,
    pool: &Arc<Pool>,
    inbox: &mut Inbox,
) -> Ended {
    let kind = Kind::of(order);
    let place = tokio::select! {
        place = pool.place(order, kind.as_ref()) => place,
        () = inbox.released() => return Ended::Released { running: false },
    };
    let (brought_up, reused) = match place {
        Place::Warm(process) => match reuse(id, order, *process, inbox).await {
            Reused::Entered(process) => (Ok(*process), true),
            Reused::Ended(ended) => return ended,
            Reused::Lost(room) => (start(id, order, host, room, inbox).await, false),
        },
        Place::Cold(room) => (start(id, order, host, room, inbox).await, false),
    };
    let process = match brought_up {
        Ok(process) => process,
        Err(ended) => return ended,
    };
    process.process.remember();
    inbox.tell(Happened::Bound { reused });
    serve(id, process, kind, pool, inbox).await
}

async fn go_on(
    id: &ExecutorId,
    survivor: Survivor,
    host: &Host,
    pool: &Arc<Pool>,
    inbox: &mut Inbox,
) -> Ended {
    let Survivor {
        owner,
        socket,
        process,
    } = survivor;
    let process: Arc<dyn Running> = process.into();
    let room = pool.room(owner.resources);
    tell_where(process.as_ref(), inbox);
    let service = match service::connect_again(host, &socket, &owner.session).await {
        Ok(service) => service,
        Err(error) => {
            // Its socket may be closed a moment before it has ended.
            let message = match death(process.as_ref()).await {
                Some(exit) => obituary(exit, process.as_ref()).await,
                None => {
                    end(process.as_ref()).await;
                    let error = chain(&error);
                    format!("the service did not answer after a restart of the node agent: {error}")
                }
            };
            let running = false;
            return Ended::Died { message, running };
        }
    };
    let process = ServiceProcess {
        process,
        service,
        files: Files::none(),
        room,
    };
    serve(id, process, None, pool, inbox).await
}

/// The life of a bound executor. A process of a `kind` may serve another session afterwards.
async fn serve(
    id: &ExecutorId,
    process: ServiceProcess,
    kind: Option<Kind>,
    pool: &Arc<Pool>,
    inbox: &mut Inbox,
) -> Ended {
    let ServiceProcess {
        process,
        service,
        files,
        room,
    } = process;
    let serving = Serving {
        id,
        process: process.as_ref(),
        service,
        inbox,
        kind: kind.filter(|_| process.can_be_handed_over()),
    };
    match serving.until_the_end().await {
        Parting::Ended(ended) => ended,
        Parting::Left(left) => {
            let (service, kind) = *left;
            let process = ServiceProcess {
                process,
                service,
                files,
                room,
            };
            pool.park(kind, process).await;
            Ended::Released { running: false }
        }
    }
}

/// A new service process, bound to the session.
async fn start(
    id: &ExecutorId,
    order: &StartExecutor,
    host: &Host,
    room: Room,
    inbox: &mut Inbox,
) -> Result<ServiceProcess, Ended> {
    let prepared = prepare::prepare(host, id, order)?;
    let files = prepared.files;
    let process = host.runtime.start(prepared.launch).await;
    let process: Arc<dyn Running> = process
        .map_err(|error| BindError::new(bind::PROCESS, chain(&error)))?
        .into();
    tracing::debug!(executor = %id, session = order.session_id, pid = process.pid(), "service process started");
    tell_where(process.as_ref(), inbox);
    let bound = tokio::select! {
        bound = service::bring_up(host, &prepared.socket, order, process.as_ref()) => bound.map_err(Ended::from),
        () = inbox.released() => Err(Ended::Released { running: false }),
    };
    match bound {
        Ok(service) => Ok(ServiceProcess {
            process,
            service,
            files,
            room,
        }),
        Err(ended) => {
            end(process.as_ref()).await;
            Err(ended)
        }
    }
}

/// Tells where the lines of a process are, if they are in the journal.
fn tell_where(process: &dyn Running, inbox: &mut Inbox) {
    if let Some(invocation) = process.invocation() {
        inbox.tell(Happened::Runs { invocation });
    }
}

/// What came of a process that was parked.
enum Reused {
    /// It serves the session.
    Entered(Box<ServiceProcess>),
    /// The executor has ended, and the process with it.
    Ended(Ended),
    /// It was not there any more, which is no fault of the session.
    Lost(Room),
}

/// Binds a parked process to the session.
async fn reuse(
    id: &ExecutorId,
    order: &StartExecutor,
    mut parked: ServiceProcess,
    inbox: &mut Inbox,
) -> Reused {
    let process = parked.process.clone();
    let entered = tokio::select! {
        entered = async {
            process.hand_over(id).await;
            parked.service.enter(order, process.as_ref()).await
        } => entered,
        () = inbox.released() => {
            parked.end().await;
            return Reused::Ended(Ended::Released { running: false });
        }
    };
    let error = match entered {
        Ok(()) => {
            tracing::debug!(executor = %id, session = order.session_id, pid = process.pid(), "service process taken over");
            tell_where(process.as_ref(), inbox);
            return Reused::Entered(Box::new(parked));
        }
        Err(error) => error,
    };
    let lost = matches!(error, EnterError::Unreachable(_) | EnterError::Exited(_));
    let error = error.into_bind_error(process.as_ref()).await;
    let room = parked.end().await;
    if !lost {
        return Reused::Ended(error.into());
    }
    let reason = error.message;
    tracing::info!(executor = %id, "a new service process is started instead of a parked one: {reason}");
    Reused::Lost(room)
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

/// After a broken connection: how the process has ended. `None`: it lives.
async fn death(process: &dyn Running) -> Option<Exit> {
    timeout(END_LIMIT, process.main_ended()).await.ok()?;
    let told = timeout(DEATH_LIMIT, process.exited()).await;
    Some(told.unwrap_or(Exit::Unknown))
}

/// How a process ended, with what it said last.
async fn obituary(exit: Exit, process: &dyn Running) -> String {
    with_last_errors(format!("the service process {exit}"), process).await
}

/// What went wrong, with what the process said last.
async fn with_last_errors(what: String, process: &dyn Running) -> String {
    let last = process.last_errors().await;
    if last.is_empty() {
        format!("{what}; it wrote nothing to its standard error")
    } else {
        format!("{what}; its last lines on standard error:\n{last}")
    }
}
