//! One unit that an executor runs in: stopping it, and what is known of its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use flame_core::ExecutorId;
use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::process::Signal;
use tokio::sync::watch;

use super::life::Facts;
use super::record::Record;
use super::{Claim, errors, lock};
use crate::runtime::{Exit, Running, Stop};

/// A unit from its start to its end.
#[derive(Debug)]
pub(super) struct Unit {
    name: String,
    instance: String,
    claim: Claim,
    /// Id of the run and process id.
    run: OnceLock<(String, u32)>,
    exit: watch::Sender<Option<Exit>>,
    last_errors: Mutex<String>,
    /// When the present executor took over; what was written before is not about it.
    since: Mutex<Option<SystemTime>>,
    /// Its end was asked for, so nobody asks why it ended.
    asked: AtomicBool,
}

impl Unit {
    pub(super) fn new(claim: Claim) -> Self {
        let instance = claim.instance();
        Self {
            name: claim.profile.unit(&instance),
            instance,
            claim,
            run: OnceLock::new(),
            exit: watch::Sender::new(None),
            last_errors: Mutex::default(),
            since: Mutex::default(),
            asked: AtomicBool::new(false),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    pub(super) fn claim(&self) -> &Claim {
        &self.claim
    }

    pub(super) fn has_started(&self, invocation: String, pid: u32) {
        // Set once: a unit object is for one run.
        let _ = self.run.set((invocation, pid));
    }

    /// Nothing of it is left. Tells who waits, with its last words if it did not end as asked.
    pub(super) async fn has_ended(&self, facts: &Facts) {
        if !self.asked.load(Ordering::Acquire) {
            *lock(&self.last_errors) = {
                let since = *lock(&self.since);
                errors::last_lines(&facts.invocation, since).await
            };
        }
        self.claim.shared.records.remove(&self.instance);
        self.exit.send_replace(Some(facts.exit()));
    }
}

/// An executor's hold on its unit.
#[derive(Debug)]
pub(super) struct Handle {
    unit: Arc<Unit>,
    record: Mutex<Record>,
}

impl Handle {
    pub(super) fn new(unit: Arc<Unit>, record: Record) -> Self {
        Self {
            unit,
            record: Mutex::new(record),
        }
    }

    /// Changes what the next run of the agent will know.
    fn note(&self, change: impl FnOnce(&mut Record)) {
        let mut record = lock(&self.record);
        change(&mut record);
        let records = &self.unit.claim.shared.records;
        // The end may have come meanwhile, and removed the record.
        if self.unit.exit.borrow().is_none()
            && let Err(error) = records.write(self.unit.instance(), &record)
        {
            tracing::warn!(%error, "the executor would not outlive the agent");
        }
    }

    /// Asks systemd to end `unit`. The slot is not free before the question is answered, so the answer cannot hit
    /// who comes after.
    pub(super) fn stop_unit(unit: &Arc<Unit>, how: Stop) {
        if unit.exit.borrow().is_some() {
            return;
        }
        unit.asked.store(true, Ordering::Release);
        let unit = unit.clone();
        tokio::spawn(async move {
            let systemd = unit.claim.shared.systemd();
            let stopped = match how {
                Stop::Terminate => systemd.begin_stop(&unit.name).await.map(drop),
                Stop::Kill => systemd.kill(&unit.name, Signal::KILL.as_raw()).await,
            };
            if let Err(error) = stopped
                && unit.exit.borrow().is_none()
                && !error.is_no_such_unit()
            {
                tracing::error!(%error, "cannot end {}", unit.name);
            }
        });
    }
}

impl Running for Handle {
    fn pid(&self) -> u32 {
        self.unit.run.get().map_or(0, |(_, pid)| *pid)
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        let mut exit = self.unit.exit.subscribe();
        async move {
            match exit.wait_for(Option::is_some).await {
                Ok(exit) => exit.unwrap_or(Exit::Unknown),
                Err(_) => Exit::Unknown,
            }
        }
        .boxed()
    }

    fn stop(&self, how: Stop) {
        Self::stop_unit(&self.unit, how);
    }

    fn hand_over<'a>(&'a self, executor: &'a ExecutorId) -> BoxFuture<'a, ()> {
        *lock(&self.unit.since) = Some(SystemTime::now());
        self.note(|record| record.owner.executor = executor.clone());
        futures::future::ready(()).boxed()
    }

    fn last_errors(&self) -> String {
        lock(&self.unit.last_errors).clone()
    }
}
