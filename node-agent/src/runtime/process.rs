//! Plain child processes, each in a group of its own that ends with it.

use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flame_core::ExecutorId;
use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::main_process::MainProcess;
use super::{Exit, Launch, Owner, Running, Runtime, Site, StartError, Stop, told};
use crate::capture::{self, BoundedFile, Switch, Tail};
use crate::directories::Directories;

/// The launcher's file name.
const LAUNCHER: &str = "flame-executor";
/// How long the last output of an ended process is awaited. Only a process that left the group
/// and keeps the pipe open makes it take that long.
const LAST_OUTPUT: Duration = Duration::from_millis(200);

/// Makes plain child processes through the launcher.
#[derive(Debug)]
pub struct ProcessRuntime {
    launcher: PathBuf,
    directories: Arc<Directories>,
}

impl ProcessRuntime {
    /// Looks for the launcher beside this program and below the installation directory.
    ///
    /// # Errors
    /// [`StartError::NoLauncher`] names where it was looked for.
    pub fn new(directories: Arc<Directories>) -> Result<Self, StartError> {
        let beside = std::env::current_exe()
            .ok()
            .and_then(|own| Some(own.parent()?.join(LAUNCHER)));
        let candidates: Vec<PathBuf> = beside
            .into_iter()
            .chain([directories.home.join("bin").join(LAUNCHER)])
            .collect();
        match candidates.iter().find(|path| path.is_file()) {
            Some(launcher) => Ok(Self {
                launcher: launcher.clone(),
                directories,
            }),
            None => Err(StartError::NoLauncher(candidates)),
        }
    }

    fn spawn(&self, launch: &Launch, spec: &SpecFile) -> Result<ProcessHandle, StartError> {
        let failed = |action| {
            let launcher = self.launcher.clone();
            move |source| StartError::Launcher {
                action,
                launcher,
                source,
            }
        };
        let mut child = Command::new(&self.launcher)
            .arg(&spec.0)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed("start"))?;
        let pid = child.id();
        let group = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| failed("watch")(std::io::Error::other("it has no process id")))?;
        let reaped = Arc::new(AtomicBool::new(false));
        let guard = Group {
            group,
            reaped: reaped.clone(),
        };
        let tail = Tail::default();
        let outputs = [
            child
                .stdout
                .take()
                .map(|pipe| self.capture(launch, "out", pipe.into(), None)),
            child
                .stderr
                .take()
                .map(|pipe| self.capture(launch, "err", pipe.into(), Some(tail.clone()))),
        ];
        let (outputs, readers): (Vec<Output>, Vec<JoinHandle<()>>) =
            outputs.into_iter().flatten().flatten().unzip();
        let process = match MainProcess::open(group) {
            Ok(process) => Arc::new(process),
            Err(error) => {
                drop(guard);
                // Killed by the guard; collected so that no zombie stays.
                let _ = child.wait();
                return Err(failed("watch")(error));
            }
        };
        let (ended, exit) = watch::channel(None);
        tokio::spawn(watch_to_the_end(child, process.clone(), guard, readers, ended));
        Ok(ProcessHandle {
            pid,
            process,
            group,
            reaped,
            exit,
            tail,
            outputs,
        })
    }

    fn capture(
        &self,
        launch: &Launch,
        ending: &'static str,
        pipe: OwnedFd,
        tail: Option<Tail>,
    ) -> Option<(Output, JoinHandle<()>)> {
        let (switch, switches) = unbounded_channel();
        let output = Output {
            directory: self.directories.logs.clone(),
            ending,
            switch,
        };
        match pipe::Receiver::from_owned_fd(pipe) {
            Ok(pipe) => {
                let file = BoundedFile::create(output.path(&launch.owner.executor));
                let reader = tokio::spawn(capture::drain(pipe, file, tail, switches));
                Some((output, reader))
            }
            Err(error) => {
                tracing::warn!(executor = %launch.owner.executor, %error, "cannot read the output of the service");
                None
            }
        }
    }
}

impl Runtime for ProcessRuntime {
    fn site(&self, owner: &Owner, _: &[String]) -> Result<Site, StartError> {
        Ok(Site {
            socket: self.directories.socket(&owner.executor)?,
            temporary: self.directories.temporary(&owner.application),
            work: None,
            home: None,
            variables: Vec::new(),
            place: None,
        })
    }

    fn start(&self, launch: Launch) -> BoxFuture<'_, Result<Box<dyn Running>, StartError>> {
        async move {
            let path = self.directories.spec(&launch.owner.executor);
            launch.spec.write(&path)?;
            let spec = SpecFile(path);
            let handle = self.spawn(&launch, &spec)?;
            Ok(Box::new(ProcessOfExecutor { handle, _spec: spec }) as Box<dyn Running>)
        }
        .boxed()
    }
}

/// Where one output of a process is kept.
struct Output {
    directory: PathBuf,
    ending: &'static str,
    switch: UnboundedSender<Switch>,
}

impl Output {
    fn path(&self, executor: &ExecutorId) -> PathBuf {
        self.directory.join(format!("{executor}.{}", self.ending))
    }

    async fn hand_over(&self, executor: &ExecutorId) {
        let (done, switched) = oneshot::channel();
        let file = BoundedFile::create(self.path(executor));
        // A pipe that has come to its end has no reader any more, and nothing to be kept.
        if self.switch.send(Switch { file, done }).is_ok() {
            let _ = switched.await;
        }
    }
}

/// A spec on disk. The launcher removes it once it is read; this is for one that never got there.
#[derive(Debug)]
struct SpecFile(PathBuf);

impl Drop for SpecFile {
    fn drop(&mut self) {
        // Missing is as good as removed; anything else is cleared at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

struct ProcessOfExecutor {
    handle: ProcessHandle,
    _spec: SpecFile,
}

struct ProcessHandle {
    pid: u32,
    process: Arc<MainProcess>,
    group: Pid,
    reaped: Arc<AtomicBool>,
    exit: watch::Receiver<Option<Exit>>,
    tail: Tail,
    outputs: Vec<Output>,
}

impl Running for ProcessOfExecutor {
    fn pid(&self) -> u32 {
        self.handle.pid
    }

    fn main_ended(&self) -> BoxFuture<'_, ()> {
        self.handle.process.ended().boxed()
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        told(&self.handle.exit)
    }

    fn stop(&self, how: Stop) {
        // Until it is collected, the number belongs to our process.
        if !self.handle.reaped.load(Ordering::Acquire) {
            let signal = match how {
                Stop::Terminate => Signal::TERM,
                Stop::Kill => Signal::KILL,
            };
            signal_group(self.handle.group, signal);
        }
    }

    fn can_be_handed_over(&self) -> bool {
        true
    }

    fn hand_over<'a>(&'a self, executor: &'a ExecutorId) -> BoxFuture<'a, ()> {
        async move {
            let outputs = self.handle.outputs.iter();
            futures::future::join_all(outputs.map(|output| output.hand_over(executor))).await;
        }
        .boxed()
    }

    fn last_errors(&self) -> BoxFuture<'_, String> {
        async { self.handle.tail.text() }.boxed()
    }
}

/// Ends the group if the watcher is dropped before the process has ended: the agent stops.
struct Group {
    group: Pid,
    reaped: Arc<AtomicBool>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.reaped.load(Ordering::Acquire) {
            signal_group(self.group, Signal::KILL);
        }
    }
}

fn signal_group(group: Pid, signal: Signal) {
    match kill_process_group(group, signal) {
        // Nobody is left in it.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => tracing::error!(%error, "cannot end process group {}", group.as_raw_pid()),
    }
}

/// Awaits the end, ends what the process left behind, and reports once its output is read.
async fn watch_to_the_end(
    mut child: Child,
    process: Arc<MainProcess>,
    guard: Group,
    outputs: Vec<JoinHandle<()>>,
    ended: watch::Sender<Option<Exit>>,
) {
    process.ended().await;
    // Until `wait` collects it, neither its number nor that of its group is used anew, so this is the moment to
    // signal the group.
    signal_group(guard.group, Signal::KILL);
    let exit = child.wait().map_or(Exit::Unknown, exit_of);
    guard.reaped.store(true, Ordering::Release);
    let drained = futures::future::join_all(outputs);
    // Ends early if the limit passes; the readers then go on by themselves.
    let _ = tokio::time::timeout(LAST_OUTPUT, drained).await;
    ended.send_replace(Some(exit));
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Status(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unknown,
    }
}
