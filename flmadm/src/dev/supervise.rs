//! The supervisor: starts daemons, sees their ends, does what [`super::core`] decides, and leaves nothing behind.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use flame_core::config::ClusterConfig;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, setsid, wait};
use tokio::signal::unix::{SignalKind, signal};

use super::DevPrefix;
use super::cluster::{Cluster, DaemonSpec, Shape};
use super::core::{Core, Effect, Exit};
use super::log_file::{Follower, bound, tail};
use super::nodes::{self, NodeReport};
use super::running::{Phase, Published, supervised};
use super::{launch, leftovers, process};
use crate::failure::{Failure, Kind, Outcome};
use crate::interrupts::Watch;

/// Lines of a log that a failure shows.
const LAST_LINES: usize = 20;
/// How often logs are looked at for somebody who reads them.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// How often the size of logs is looked at.
const BOUND_INTERVAL: Duration = Duration::from_secs(5);
/// How long what the daemons have left has to end by itself.
const ORPHAN_GRACE: Duration = Duration::from_millis(500);

/// What `flmadm dev supervise` is told.
#[derive(Debug, Args)]
pub(super) struct SuperviseArgs {
    #[command(flatten)]
    at: DevPrefix,
    /// Seconds within which nodes have to be ready
    #[arg(long)]
    timeout: u64,
}

/// What a supervisor tells whoever looks on.
#[derive(Debug)]
pub(super) enum Told<'a> {
    /// Something that it has done.
    Did(&'a str),
    /// A daemon has logged a line.
    Logged { daemon: &'a str, line: &'a str },
    /// Nodes take tasks.
    Ready(&'a [NodeReport]),
}

/// A supervisor in the background, until it is asked to end.
///
/// # Errors
/// The cluster cannot be started, or its session manager was given up.
pub(super) fn background(args: &SuperviseArgs, out: &mut dyn Write) -> Outcome<()> {
    setsid().map_err(|error| Failure::new(Kind::Start, "cannot leave the session").because(error))?;
    let cluster = args.at.cluster()?;
    let Some(shape) = cluster.shape() else {
        return Err(Failure::arguments("this is started by flmadm dev up --detach"));
    };
    let mut show = |told: Told<'_>| {
        if let Told::Did(text) = told {
            let _ = writeln!(out, "{} {text}", jiff::Timestamp::now());
        }
    };
    watch(
        &cluster,
        &shape,
        Duration::from_secs(args.timeout),
        None,
        false,
        &mut show,
    )
}

/// Starts the cluster and watches over it until a signal asks to end; then ends everything. `lock` is let go when it
/// is ready; with `follows`, lines that are logged are told.
///
/// # Errors
/// The cluster cannot be started, or its session manager was given up.
pub(super) fn watch(
    cluster: &Cluster,
    shape: &Shape,
    ready_within: Duration,
    lock: Option<File>,
    follows: bool,
    show: &mut dyn FnMut(Told<'_>),
) -> Outcome<()> {
    let failed = |error| Failure::new(Kind::Start, "cannot watch over daemons").because(error);
    let Some(config) = cluster.config()? else {
        return Err(Failure::installation("nothing is installed"));
    };
    // An installation before us may have left handlers that would end us at once.
    let _signals_are_ours = Watch::begin()?;
    // What daemons leave behind becomes ours, so that it can be ended.
    set_child_subreaper(Some(getpid())).map_err(|error| failed(error.into()))?;
    process::write_pid_file(&cluster.pid_file("supervisor"), std::process::id())?;
    // One thread: daemons are tied to the life of the thread that starts them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let mut shell = Shell::new(cluster, shape, follows, show);
    let outcome = runtime.block_on(shell.run(&config, ready_within, lock));
    // Also after a failure of our own nothing may be left.
    let left = runtime
        .block_on(shell.end_orphans())
        .and_then(|()| leftovers::end(cluster.path()));
    let failure = outcome.map_err(failed)?;
    for line in left? {
        shell.tell(&format!("killed {line}"));
    }
    shell.follow();
    let failure = failure.map(|why| shell.with_logs(why));
    shell.publish(Phase::Ending, failure.clone())?;
    for daemon in &shell.specs {
        let _ = std::fs::remove_file(cluster.pid_file(&daemon.name));
    }
    let _ = std::fs::remove_file(cluster.pid_file("supervisor"));
    match failure {
        None => Ok(()),
        Some(why) => Err(Failure::new(Kind::Start, why)),
    }
}

struct Shell<'a> {
    cluster: &'a Cluster,
    shape: &'a Shape,
    specs: Vec<DaemonSpec>,
    core: Core,
    since: Vec<Option<SystemTime>>,
    followers: Vec<Follower>,
    show: &'a mut dyn FnMut(Told<'_>),
    phase: Phase,
    /// Set when all daemons have ended: why, if nobody asked for it.
    over: Option<Option<String>>,
}

impl<'a> Shell<'a> {
    fn new(cluster: &'a Cluster, shape: &'a Shape, follows: bool, show: &'a mut dyn FnMut(Told<'_>)) -> Self {
        let specs = shape.daemons();
        let follow = |daemon: &DaemonSpec| Follower::from_end(cluster.log(&daemon.name));
        Self {
            cluster,
            shape,
            core: Core::new(
                specs.iter().map(|daemon| (daemon.name.clone(), daemon.role)),
                Instant::now(),
            ),
            since: vec![None; specs.len()],
            followers: match follows {
                true => specs.iter().map(follow).collect(),
                false => Vec::new(),
            },
            specs,
            show,
            phase: Phase::Starting,
            over: None,
        }
    }

    /// Until all daemons have ended; gives why, if nobody asked for it.
    async fn run(
        &mut self,
        config: &ClusterConfig,
        ready_within: Duration,
        lock: Option<File>,
    ) -> std::io::Result<Option<String>> {
        let mut children = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut follow = tokio::time::interval(FOLLOW_INTERVAL);
        let mut bound_logs = tokio::time::interval(BOUND_INTERVAL);
        let agents = self.specs.len() - 1;
        let ready = nodes::await_ready(config, agents, ready_within);
        let mut ready = std::pin::pin!(ready);
        let mut lock = lock;
        let mut waits = true;
        self.tick();
        loop {
            if let Some(why) = self.over.take() {
                return Ok(why);
            }
            let due = self.core.next_due().map(tokio::time::Instant::from_std);
            let wake = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = children.recv() => self.reap(),
                _ = terminate.recv() => self.end(None),
                _ = interrupt.recv() => self.end(None),
                _ = hang_up.recv() => self.end(None),
                () = wake => self.tick(),
                answer = &mut ready, if waits => {
                    waits = false;
                    drop(lock.take());
                    self.ready(answer);
                }
                _ = follow.tick(), if !self.followers.is_empty() => self.follow(),
                _ = bound_logs.tick() => self.bound_logs(),
            }
            waits &= !self.core.is_ending();
        }
    }

    fn ready(&mut self, answer: Result<Vec<NodeReport>, String>) {
        match answer {
            Ok(nodes) => {
                self.core.ready();
                self.phase = Phase::Ready;
                self.note();
                self.follow();
                (self.show)(Told::Ready(&nodes));
            }
            Err(problem) => self.end(Some(problem)),
        }
    }

    fn tick(&mut self) {
        let effects = self.core.tick(Instant::now());
        self.carry_out(effects);
    }

    fn end(&mut self, why: Option<String>) {
        if !self.core.is_ending() {
            self.phase = Phase::Ending;
            self.tell("stopping the daemons");
        }
        let effects = self.core.end(why, Instant::now());
        self.carry_out(effects);
    }

    /// Takes note of every child that has ended; some may be what a dead daemon has left.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let exit = match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => Exit::Status(status),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => continue,
            };
            let Ok(pid) = u32::try_from(pid.as_raw_nonzero().get()) else {
                continue;
            };
            if let Some(index) = self.core.with_pid(pid) {
                let _ = std::fs::remove_file(self.cluster.pid_file(&self.specs[index].name));
                self.follow();
                let effects = self.core.exited(index, exit, Instant::now());
                self.carry_out(effects);
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut queue = VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            match effect {
                Effect::Start(index) => match self.start(index) {
                    Ok(pid) => {
                        self.since[index] = Some(SystemTime::now());
                        self.core.started(index, pid);
                    }
                    Err(failure) => {
                        let exit = Exit::Unstarted(failure.report());
                        queue.extend(self.core.exited(index, exit, Instant::now()));
                    }
                },
                Effect::Terminate(pid) => send(pid, Signal::TERM),
                Effect::Kill(pid) => send(pid, Signal::KILL),
                Effect::Say(text) => self.tell(&text),
                // If all end because of it, the failure shows it.
                Effect::ShowLog(index) if !self.core.is_ending() => {
                    let text = self.last_lines(index);
                    self.tell(&text);
                }
                Effect::ShowLog(_) => {}
                Effect::Over(why) => self.over = Some(why),
            }
        }
        self.note();
    }

    fn start(&mut self, index: usize) -> Outcome<u32> {
        let daemon = &self.specs[index];
        let pid = launch::start(self.cluster, self.shape, daemon, true)?;
        process::write_pid_file(&self.cluster.pid_file(&daemon.name), pid)?;
        Ok(pid)
    }

    fn tell(&mut self, text: &str) {
        (self.show)(Told::Did(text));
    }

    /// Makes the state known; what cannot be written must not stop the supervision.
    fn note(&mut self) {
        if let Err(failure) = self.publish(self.phase, None) {
            self.tell(&failure.report());
        }
    }

    fn publish(&self, phase: Phase, failure: Option<String>) -> Outcome<()> {
        let daemons = self.core.daemons.iter().zip(&self.since);
        let published = Published {
            phase,
            failure,
            daemons: daemons
                .map(|(daemon, since)| supervised(daemon, *since))
                .collect(),
        };
        published.write(self.cluster)
    }

    fn follow(&mut self) {
        for (daemon, follower) in self.specs.iter().zip(&mut self.followers) {
            for line in follower.new_lines().unwrap_or_default() {
                (self.show)(Told::Logged {
                    daemon: &daemon.name,
                    line: &line,
                });
            }
        }
    }

    fn bound_logs(&mut self) {
        for daemon in &self.specs {
            let log = self.cluster.log(&daemon.name);
            if let Err(error) = bound(&log) {
                (self.show)(Told::Did(&format!("cannot cut {}: {error}", log.display())));
            }
        }
    }

    fn last_lines(&self, index: usize) -> String {
        last_lines(self.cluster, &self.specs[index])
    }

    /// `why`, with the ends of the logs of the daemons that have to do with it.
    fn with_logs(&self, why: String) -> String {
        let guilty = |spec: &&DaemonSpec| why.starts_with(&format!("{} ", spec.name));
        let one: Vec<&DaemonSpec> = self.specs.iter().filter(guilty).collect();
        let all: Vec<&DaemonSpec> = self.specs.iter().collect();
        let shown = if one.is_empty() { all } else { one };
        let mut text = why.clone();
        for daemon in shown {
            text.push('\n');
            text.push_str(&last_lines(self.cluster, daemon));
        }
        text
    }

    /// Ends what became ours because its parent has ended.
    ///
    /// # Errors
    /// A signal handler cannot be set up.
    async fn end_orphans(&mut self) -> Outcome<()> {
        let mut children = signal(SignalKind::child())
            .map_err(|error| Failure::new(Kind::Start, "cannot watch over daemons").because(error))?;
        let mut kill = false;
        loop {
            self.reap();
            let orphans = own_children();
            if orphans.is_empty() {
                return Ok(());
            }
            if kill {
                for pid in orphans {
                    self.tell(&format!("killed the process {pid}, which a daemon had left"));
                    send(pid, Signal::KILL);
                }
            }
            kill = tokio::time::timeout(ORPHAN_GRACE, children.recv()).await.is_err();
        }
    }
}

/// The end of a daemon's log, with a headline.
pub(super) fn last_lines(cluster: &Cluster, daemon: &DaemonSpec) -> String {
    let log = cluster.log(&daemon.name);
    let lines = tail(&log, LAST_LINES).unwrap_or_default();
    let mut text = format!("--- the end of {}", log.display());
    for line in lines {
        text.push('\n');
        text.push_str(&line);
    }
    text
}

fn own_children() -> Vec<u32> {
    let own = std::process::id();
    process::all()
        .into_iter()
        .filter(|pid| process::stat(*pid).is_some_and(|stat| stat.parent == own && !stat.is_zombie))
        .collect()
}

/// Sends a signal to a child of ours: its pid is its own until we have waited for it.
fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
