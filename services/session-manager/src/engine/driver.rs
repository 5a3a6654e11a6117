//! The task that owns the core: applies commands in batches, has each batch's records stored, and
//! releases what the batch decided when they are durable.
//!
//! It runs on the same threads as the servers, so that on a small machine no thread has to be woken
//! between a request and its effect. Only the store has a thread of its own, because it waits for
//! the disk; the next batch is applied meanwhile.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

use super::clock::{Clock, Looks};
use super::links::Links;
use super::outbox::{Held, Outbox};
use super::storing::{Committed, Storage, StoreHealth};
use super::{Job, Release};
use crate::core::{Core, CoreError, Effects, Now, Summary};
use crate::metrics::Metrics;
use crate::notices;
use crate::store::{Record, StoreError};
use crate::wall::unix_millis;
use crate::watch::Watchers;

/// Commands that are applied before anything else is looked at: a few milliseconds' worth.
const MAX_JOBS: usize = 4096;
/// Records that may wait for the store before no more commands are taken. Clients then wait, which
/// is the only thing that slows them down to the speed of the disk.
const MAX_WAITING: usize = 65_536;

/// A commit costs a sync, which is long compared with the work for one record. Under load commits
/// begin at least this far apart, so that many records share one.
const COMMIT_INTERVAL: Duration = Duration::from_millis(2);
/// With up to that many open tasks somebody waits for each of them: what they leave is stored at
/// once. With more they wait for each other anyway.
const FEW_TASKS: u64 = 64;

/// Wait between two tries to store what could not be stored.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// See the module's text.
pub(super) struct Driver {
    pub(super) core: Core,
    pub(super) jobs: UnboundedReceiver<Job>,
    pub(super) storage: Storage,
    pub(super) watchers: Arc<Watchers>,
    pub(super) links: Arc<Links>,
    pub(super) health: Arc<StoreHealth>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<Clock>,
}

/// The driver with what it does at the moment.
struct Run {
    driver: Driver,
    looks: Looks,
    outbox: Outbox<Release>,
    last_commit: Instant,
    /// Records of the commit that is under way.
    storing_size: usize,
    /// Tasks that have not ended.
    open_tasks: u64,
    /// The store failed, and is tried again then.
    retry_at: Option<Instant>,
    alarm: Pin<Box<Sleep>>,
}

enum Step {
    Job(Job),
    Closed,
    Committed(Committed),
    StoreGone,
    Alarm,
    Stop,
}

impl Driver {
    /// Runs until `stop` comes or nobody can give commands any more, and everything that was
    /// commanded is durable.
    pub(super) async fn run(self, stop: oneshot::Receiver<()>) {
        let now = Instant::now();
        let Summary { pending, running, .. } = self.core.summary();
        let open_tasks = pending + running;
        let run = Run {
            looks: Looks::new(Arc::clone(&self.clock)),
            driver: self,
            outbox: Outbox::default(),
            last_commit: now,
            storing_size: 0,
            open_tasks: open_tasks as u64,
            retry_at: None,
            alarm: Box::pin(sleep(Duration::ZERO)),
        };
        run.until_the_end(stop).await;
    }
}

impl Run {
    async fn until_the_end(mut self, mut stop: oneshot::Receiver<()>) {
        let (mut open, mut stopping) = (true, false);
        let mut jobs = Vec::new();
        loop {
            self.begin_commit();
            self.measure_queues();
            if !open && self.outbox.is_settled() {
                break;
            }
            self.set_alarm();
            let takes_jobs = open && self.outbox.len() < MAX_WAITING;
            let step = tokio::select! {
                biased;
                _ = &mut stop, if !stopping => Step::Stop,
                committed = self.driver.storage.committed(), if self.outbox.is_storing() => {
                    committed.map_or(Step::StoreGone, Step::Committed)
                }
                job = self.driver.jobs.recv(), if takes_jobs => job.map_or(Step::Closed, Step::Job),
                () = self.alarm.as_mut() => Step::Alarm,
            };
            match step {
                Step::Job(job) => {
                    jobs.push(job);
                    // What else has arrived at this moment is read by its own tasks first: then
                    // one batch serves all of it.
                    tokio::task::yield_now().await;
                    while jobs.len() < MAX_JOBS
                        && let Ok(job) = self.driver.jobs.try_recv()
                    {
                        jobs.push(job);
                    }
                    self.apply(&mut jobs);
                }
                Step::Committed(committed) => self.on_committed(committed),
                Step::Alarm if self.is_due() => self.apply(&mut jobs),
                // A look at the clock.
                Step::Alarm => {}
                Step::Closed => open = false,
                Step::Stop => {
                    stopping = true;
                    self.driver.jobs.close();
                }
                Step::StoreGone => {
                    tracing::error!("the store's thread ended");
                    return;
                }
            }
        }
        // It has nothing to do any more, so this does not block.
        self.driver.storage.end();
    }

    fn now(&mut self) -> Now {
        let (mono, stall) = self.looks.look();
        if let Some(stall) = stall {
            notices::stalled(stall);
        }
        Now {
            wall: unix_millis(),
            mono,
        }
    }

    /// Applies commands, and what has become due.
    fn apply(&mut self, jobs: &mut Vec<Job>) {
        let (began, commands) = (Instant::now(), jobs.len());
        let now = self.now();
        let mut fx = Effects {
            records: self.outbox.take_records(),
            ..Effects::default()
        };
        let known = fx.records.len();
        let core = &mut self.driver.core;
        for job in jobs.drain(..) {
            let before = fx.records.len();
            let release = job(core, now, &mut fx);
            let promises = release.promises || fx.records.len() > before;
            self.outbox.reply(release, promises);
        }
        if core.timers_are_due(now) {
            // Signs of life may wait in the queue, or may be on their way into it.
            for (node, at) in self.driver.links.heard() {
                core.node_heard(&node, at, now, &mut fx);
            }
        }
        core.settle_what_is_due(now, &mut fx);
        if core.wants_pass(now) {
            let began = Instant::now();
            core.pass(now, &mut fx);
            self.driver.metrics.passed(began.elapsed());
        }
        self.driver.metrics.applied(commands, began.elapsed());
        self.driver.links.send(std::mem::take(&mut fx.orders));
        fx.notices.iter().for_each(notices::log);
        if self.driver.watchers.watches_tasks() {
            // What has ended meanwhile is among the updates.
            let watched = self.driver.watchers.watched_of(&fx.handed_out);
            let rows = watched.into_iter().filter_map(|task| core.live_row(task));
            self.outbox.news(rows.map(Arc::new));
        }
        for record in &fx.records[known..] {
            match record {
                Record::TaskCreated(_) => self.open_tasks += 1,
                Record::TaskFinished(_) => self.open_tasks = self.open_tasks.saturating_sub(1),
                _ => {}
            }
        }
        self.outbox.applied(fx);
        match self.retry_at {
            Some(_) => self.refuse(),
            None => {
                if let Some(held) = self.outbox.release() {
                    self.release(held);
                }
            }
        }
    }

    /// Gives the store what waits, if it is time.
    fn begin_commit(&mut self) {
        let now = Instant::now();
        while self.commit_at() <= now
            && let Some(records) = self.outbox.begin_commit()
        {
            self.storing_size = records.len();
            self.last_commit = now;
            if let Some(committed) = self.driver.storage.commit(records) {
                self.on_committed(committed);
            }
        }
    }

    fn measure_queues(&self) {
        let metrics = &self.driver.metrics;
        metrics
            .waiting_records
            .set((self.outbox.len() + self.storing_size) as u64);
        metrics.queued_commands.set(self.driver.jobs.len() as u64);
    }

    /// When the next commit may begin.
    fn commit_at(&self) -> Instant {
        match self.retry_at {
            Some(at) => at,
            None if self.open_tasks <= FEW_TASKS => self.last_commit,
            None => self.last_commit + COMMIT_INTERVAL,
        }
    }

    fn on_committed(&mut self, (records, result): Committed) {
        self.storing_size = 0;
        match result {
            Ok(()) => {
                let took = self.last_commit.elapsed();
                self.driver.metrics.committed(records.len(), took);
                if self.retry_at.take().is_some() {
                    self.driver.health.set(None);
                    notices::store_recovered();
                }
                let held = self.outbox.committed();
                self.release(held);
            }
            Err(error) => {
                if self.retry_at.is_none() {
                    notices::store_failed(&error);
                }
                self.driver.metrics.commit_failed();
                self.retry_at = Some(Instant::now() + STORE_RETRY);
                self.driver.health.set(Some(error.to_string()));
                self.outbox.failed(records);
                self.refuse_because(&error);
            }
        }
    }

    fn refuse(&mut self) {
        if let Err(error) = self.driver.health.check() {
            self.refuse_with(&error);
        }
    }

    fn refuse_because(&mut self, error: &StoreError) {
        let text = format!("the session manager {error}; whether this request takes effect is not known yet");
        self.refuse_with(&CoreError::Unavailable(text));
    }

    /// While the store fails, clients that asked for a change are told so at once, and those that
    /// read get their answer.
    fn refuse_with(&mut self, error: &CoreError) {
        for reply in self.outbox.take_replies() {
            (reply.reply.send)(if reply.promises {
                Err(error.clone())
            } else {
                Ok(())
            });
        }
    }

    fn release(&self, held: Held<Release>) {
        self.driver.links.send(held.answers);
        for link in held.hang_up {
            self.driver.links.close(link);
            self.driver.links.stop_listening(link);
        }
        self.driver.watchers.publish(held.updates, &held.closed);
        for reply in held.replies {
            (reply.reply.send)(Ok(()));
        }
    }

    /// Whether something in the core is due by itself.
    fn is_due(&mut self) -> bool {
        let now = self.now();
        let core = &self.driver.core;
        core.wants_pass(now) || core.next_deadline(now).is_some_and(|at| at <= now.mono)
    }

    /// Sets the alarm to the next moment at which something is due by itself, or the clock has to be
    /// looked at.
    fn set_alarm(&mut self) {
        let now = self.now();
        let clock = &self.driver.clock;
        let core = self.driver.core.next_deadline(now);
        let core = core.map(|at| clock.instant(at));
        let commit = (!self.outbox.is_storing() && self.outbox.len() > 0).then(|| self.commit_at());
        let at = core
            .into_iter()
            .chain(commit)
            .fold(clock.next_look(), Instant::min);
        if self.alarm.deadline() != at || self.alarm.is_elapsed() {
            self.alarm.as_mut().reset(at);
        }
    }
}
