//! One unit that an executor runs in: stopping it, and what is known of its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::process::Signal;
use tokio::sync::watch;

use super::life::Facts;
use super::{Claim, Record, errors, lock};
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
    }
}

impl Running for Handle {
    fn pid(&self) -> u32 {
        self.unit.run.get().map_or(0, |(_, pid)| *pid)
    }

    fn invocation(&self) -> Option<String> {
        self.unit.run.get().map(|(invocation, _)| invocation.clone())
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

    fn last_errors(&self) -> String {
        lock(&self.unit.last_errors).clone()
    }
}
