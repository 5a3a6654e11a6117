//! One unit that an executor runs in: stopping it, seeing its main process end, and what is known of its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use flame_systemd::manager::SystemdError;
use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::process::{Pid, Signal};
use tokio::sync::watch;
use tokio::time::sleep;

use super::life::Facts;
use super::{Claim, Record, errors, lock};
use crate::runtime::main_process::MainProcess;
use crate::runtime::{Exit, Running, Stop, told};

/// How long systemd usually takes to say that a unit is over whose main process has ended. If it takes longer,
/// others are left in it.
const USUAL_END: Duration = Duration::from_millis(10);

/// A unit from its start to its end.
#[derive(Debug)]
pub(super) struct Unit {
    name: String,
    instance: String,
    claim: Arc<Claim>,
    run: OnceLock<Run>,
    exit: watch::Sender<Option<Exit>>,
    last_errors: Mutex<String>,
    /// Its end was asked for, so nobody asks why it ended.
    asked: AtomicBool,
    /// systemd has said that it is over.
    over: AtomicBool,
}

/// A run of a unit.
#[derive(Debug)]
struct Run {
    invocation: String,
    pid: u32,
    main: Main,
}

/// What is known of the main process.
#[derive(Debug, Clone)]
enum Main {
    Held(Arc<MainProcess>),
    /// It had ended before somebody could take hold of it.
    Gone,
    /// Nobody could take hold of it, so that systemd alone knows.
    Unknown,
}

impl Main {
    fn hold(pid: u32) -> Self {
        // systemd says 0 when it has ended.
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Self::Gone;
        };
        match MainProcess::open(pid) {
            Ok(process) => Self::Held(Arc::new(process)),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Self::Gone,
            Err(error) => {
                tracing::warn!(%error, "cannot watch process {pid}");
                Self::Unknown
            }
        }
    }

    async fn ended(&self) {
        match self {
            Self::Held(process) => process.ended().await,
            Self::Gone => {}
            Self::Unknown => std::future::pending().await,
        }
    }
}

impl Unit {
    pub(super) fn new(claim: Arc<Claim>) -> Self {
        let instance = claim.instance();
        Self {
            name: claim.profile.unit(&claim.shared.settings.names, &instance),
            instance,
            claim,
            run: OnceLock::new(),
            exit: watch::Sender::new(None),
            last_errors: Mutex::default(),
            asked: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    pub(super) fn claim(&self) -> &Arc<Claim> {
        &self.claim
    }

    /// Id of its run; empty before it has started.
    pub(super) fn invocation(&self) -> String {
        self.run
            .get()
            .map(|run| run.invocation.clone())
            .unwrap_or_default()
    }

    /// Whether nothing of it is left.
    pub(super) fn has_gone(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Completes when nothing of it is left.
    pub(super) async fn gone(&self) {
        told(&self.exit.subscribe()).await;
    }

    pub(super) fn has_started(self: &Arc<Self>, invocation: String, pid: u32) {
        let main = Main::hold(pid);
        let unit = Arc::downgrade(self);
        let watched = main.clone();
        tokio::spawn(async move {
            watched.ended().await;
            sleep(USUAL_END).await;
            if let Some(unit) = unit.upgrade() {
                unit.end_what_is_left().await;
            }
        });
        // Set once: a unit object is for one run.
        let _ = self.run.set(Run {
            invocation,
            pid,
            main,
        });
    }

    /// Its main process has ended. What that leaves behind has as long as `TimeoutStopSec=` to end after SIGTERM,
    /// and so long nobody would hear of the end; but without the service it is of no use.
    async fn end_what_is_left(&self) {
        if self.asked.load(Ordering::Acquire) || self.over.load(Ordering::Acquire) {
            return;
        }
        tracing::debug!(
            "the main process of {} has ended; what it left behind is killed",
            self.name
        );
        self.report(self.kill().await);
    }

    async fn kill(&self) -> Result<(), SystemdError> {
        let systemd = self.claim.shared.systemd();
        systemd.kill(&self.name, Signal::KILL.as_raw()).await
    }

    /// Says if it could not be ended; one that is over by now has ended.
    fn report(&self, asked: Result<(), SystemdError>) {
        if let Err(error) = asked
            && self.exit.borrow().is_none()
            && !error.is_no_such_unit()
        {
            tracing::error!(%error, "cannot end {}", self.name);
        }
    }

    /// Nothing of it is left. Tells who waits, with its last words if it did not end as asked.
    pub(super) async fn has_ended(&self, facts: &Facts) {
        self.over.store(true, Ordering::Release);
        if !self.asked.load(Ordering::Acquire) {
            let said = errors::last_lines(&facts.invocation).await;
            *lock(&self.last_errors) = said;
        }
        self.claim.shared.records.remove(&self.instance);
        self.exit.send_replace(Some(facts.exit()));
    }
}

/// An executor's hold on its unit.
#[derive(Debug)]
pub(super) struct Handle {
    unit: Arc<Unit>,
    record: Record,
}

impl Handle {
    /// That of the executor in `record`.
    pub(super) fn new(unit: Arc<Unit>, record: Record) -> Self {
        Self { unit, record }
    }

    /// Asks systemd to end `unit`. The slot is not free before the question is answered, so the answer cannot hit
    /// who comes after.
    pub(super) fn stop_unit(unit: &Arc<Unit>, how: Stop) {
        if unit.exit.borrow().is_some() {
            return;
        }
        tokio::spawn(Self::ask_for_the_end(unit.clone(), how));
    }

    /// As [`Self::stop_unit`], and completes when systemd has been asked.
    pub(super) async fn ask_for_the_end(unit: Arc<Unit>, how: Stop) {
        unit.asked.store(true, Ordering::Release);
        unit.report(match how {
            Stop::Terminate => {
                let systemd = unit.claim.shared.systemd();
                systemd.begin_stop(&unit.name).await.map(drop)
            }
            Stop::Kill => unit.kill().await,
        });
    }

    async fn last_lines(&self) -> String {
        if self.unit.exit.borrow().is_some() {
            return lock(&self.unit.last_errors).clone();
        }
        match self.unit.run.get() {
            Some(run) => errors::lines_so_far(&run.invocation).await,
            None => String::new(),
        }
    }
}

impl Running for Handle {
    fn pid(&self) -> u32 {
        self.unit.run.get().map_or(0, |run| run.pid)
    }

    fn invocation(&self) -> Option<String> {
        self.unit.run.get().map(|run| run.invocation.clone())
    }

    fn main_ended(&self) -> BoxFuture<'_, ()> {
        async {
            match self.unit.run.get() {
                Some(run) => run.main.ended().await,
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        told(&self.unit.exit.subscribe())
    }

    fn remember(&self) {
        // The record of one that has ended is removed already.
        if self.unit.exit.borrow().is_some() {
            return;
        }
        let shared = &self.unit.claim.shared;
        // Without it the executor serves as well; only the agent's next run could not go on with it.
        if let Err(error) = shared.write_record(&self.unit.instance, &self.record) {
            tracing::warn!(%error, "the executor would not outlive the agent");
        }
    }

    fn stop(&self, how: Stop) {
        Self::stop_unit(&self.unit, how);
    }

    fn last_errors(&self) -> BoxFuture<'_, String> {
        self.last_lines().boxed()
    }
}
