//! How service processes are started and ended. [`process::ProcessRuntime`] makes plain child
//! processes, [`systemd::SystemdRuntime`] asks systemd for units.

mod main_process;
pub mod process;
pub mod systemd;

use std::fmt;
use std::io;
use std::path::PathBuf;

use flame_core::{ExecutorId, Resources};
use flame_rpc::node::StartExecutor;
use flame_systemd::manager::SystemdError;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::directories::DirectoryError;
use crate::spec::{Spec, SpecError};

/// Whom a process is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The executor.
    pub executor: ExecutorId,
    /// Its session.
    pub session: String,
    /// Tells the session from another one that had its id before it.
    pub session_number: u64,
    /// Its application.
    pub application: String,
    /// What it asked for.
    pub resources: Resources,
}

/// Where a process will live: taken before it is started, because its environment says so.
#[derive(Debug)]
pub struct Site {
    /// Where its service shall listen.
    pub socket: PathBuf,
    /// Where it may write temporary files, if it cannot be seen from outside or has been made.
    pub temporary: Option<PathBuf>,
    /// Where it works if its application wants no other directory. If nothing is said, the agent makes a directory.
    pub work: Option<PathBuf>,
    /// Its home, unless its application sets another one.
    pub home: Option<PathBuf>,
    /// Variables that say what it has; an application cannot set others.
    pub variables: Vec<(String, String)>,
    place: Option<systemd::Place>,
}

/// What is to be started.
#[derive(Debug)]
pub struct Launch {
    /// Whom it is for.
    pub owner: Owner,
    /// The process.
    pub spec: Spec,
    /// Where it will live.
    pub site: Site,
}

/// A process that an earlier run of the agent has started and bound to a session.
pub struct Survivor {
    /// Whom it is for.
    pub owner: Owner,
    /// Where its service listens.
    pub socket: PathBuf,
    /// The process.
    pub process: Box<dyn Running>,
}

impl Survivor {
    /// The order that it was started by, without what only the start needs: that may be secret, and is not kept.
    #[must_use]
    pub fn order(&self) -> StartExecutor {
        StartExecutor {
            executor_id: self.owner.executor.to_string(),
            session_id: self.owner.session.clone(),
            session_number: self.owner.session_number,
            application: self.owner.application.clone(),
            resreq: Some(self.owner.resources.into()),
            ..StartExecutor::default()
        }
    }
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The spec could not be handed over.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// There is no launcher.
    #[error("the launcher flame-executor is in none of {}; reinstall Flame", list(.0))]
    NoLauncher(Vec<PathBuf>),
    /// systemd refused, or could not be asked.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// The unit was started and ended before the application ran.
    #[error("{unit} did not start: {reason}")]
    Unit {
        /// The unit.
        unit: String,
        /// Why, in words.
        reason: String,
    },
    /// The application asks for a sandbox that there is not.
    #[error(transparent)]
    Profile(#[from] systemd::ProfileError),
    /// The site is not of this runtime.
    #[error("no unit was chosen for the executor")]
    NoUnit,
    /// There are not enough GPUs.
    #[error("the executor wants {wanted} GPUs, but {why}")]
    Gpus {
        /// As many as it asked for.
        wanted: u32,
        /// Why it cannot have them.
        why: String,
    },
    /// What runs could not be written down.
    #[error("cannot write a record to {directory}: {source}", directory = directory.display())]
    Record {
        /// The directory of records.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket would have no place.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The launcher could not be started or watched.
    #[error("cannot {action} {launcher}: {source}", launcher = launcher.display())]
    Launcher {
        /// What was tried.
        action: &'static str,
        /// The launcher.
        launcher: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// Killed by the kernel: all of it used more memory than it may.
    OutOfMemory,
    /// Killed because it did not start or stop in time.
    Timeout,
    /// Killed because it did not say in time that it is alive.
    Watchdog,
    /// Nobody knows.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(number) => match signal_name(*number) {
                Some(name) => write!(f, "was killed by signal {number} ({name})"),
                None => write!(f, "was killed by signal {number}"),
            },
            Self::OutOfMemory => {
                f.write_str("was killed because it used more memory than it may (out of memory)")
            }
            Self::Timeout => f.write_str("was killed because it did not start or stop in time"),
            Self::Watchdog => f.write_str("was killed because it did not say in time that it is alive"),
            Self::Unknown => f.write_str("ended"),
        }
    }
}

/// Names of the signals that end services in practice.
fn signal_name(number: i32) -> Option<&'static str> {
    use rustix::process::Signal;
    [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL, perhaps out of memory"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::SYS, "SIGSYS"),
    ]
    .into_iter()
    .find(|(signal, _)| signal.as_raw() == number)
    .map(|(_, name)| name)
}

/// How to end a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ask it and all that it started.
    Terminate,
    /// Make it and all that it started.
    Kill,
}

/// Starts service processes.
pub trait Runtime: Send + Sync {
    /// Takes what a process of `owner` needs, whose application has these `labels`.
    ///
    /// # Errors
    /// [`StartError`] says what there is not.
    fn site(&self, owner: &Owner, labels: &[String]) -> Result<Site, StartError>;
    /// Starts the process and returns at once; whether it serves is seen at its socket.
    fn start(&self, launch: Launch) -> BoxFuture<'_, Result<Box<dyn Running>, StartError>>;
    /// Whether the agent is about to be started again and can go on with its processes then.
    fn is_restarting(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }
    /// Nothing will be started any more. Ends what no executor is in.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Kills the processes that would outlive the agent, and forgets them.
    fn kill_all(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A process that was started. Its end is always awaited by the runtime, whoever asks.
pub trait Running: Send + Sync {
    /// Process id, for people.
    fn pid(&self) -> u32;
    /// Id of the run of its unit, if it is in one: under it the journal has what it writes.
    fn invocation(&self) -> Option<String> {
        None
    }
    /// Completes when the main process has ended, at once if it has already. The runtime has then yet to see to
    /// what it left behind, and to find out how it ended.
    fn main_ended(&self) -> BoxFuture<'_, ()>;
    /// Completes when nothing of it is left and it is known how it ended, at once if that is so already.
    fn exited(&self) -> BoxFuture<'_, Exit>;
    /// Its service is bound to the session: if it can outlive the agent, it is written down for the agent's next run.
    fn remember(&self) {}
    /// Asks for the end of the process and of all that it started. No effect once it has ended.
    fn stop(&self, how: Stop);
    /// Whether another executor may have it once its own has ended, see [`Running::hand_over`].
    fn can_be_handed_over(&self) -> bool {
        false
    }
    /// It is the process of `executor` from now on: what it writes is kept as that one's output. Completes
    /// when what it had written before is kept as before.
    fn hand_over<'a>(&'a self, executor: &'a ExecutorId) -> BoxFuture<'a, ()> {
        let _ = executor;
        Box::pin(std::future::ready(()))
    }
    /// The last lines that it wrote to its standard error for its present executor, joined. Of one that has ended
    /// as asked they may be gone.
    fn last_errors(&self) -> BoxFuture<'_, String>;
}

/// Completes when the runtime has said how a process ended.
fn told(exit: &watch::Receiver<Option<Exit>>) -> BoxFuture<'static, Exit> {
    let mut exit = exit.clone();
    async move {
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Unknown),
            // Who would say it is gone: the agent ends.
            Err(_) => Exit::Unknown,
        }
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_in_words() {
        for (exit, words) in [
            (Exit::Status(3), "exited with status 3"),
            (Exit::Signal(11), "was killed by signal 11 (SIGSEGV)"),
            (
                Exit::Signal(9),
                "was killed by signal 9 (SIGKILL, perhaps out of memory)",
            ),
            (Exit::Signal(40), "was killed by signal 40"),
            (
                Exit::OutOfMemory,
                "was killed because it used more memory than it may (out of memory)",
            ),
            (Exit::Unknown, "ended"),
        ] {
            assert_eq!(exit.to_string(), words);
        }
    }
}
