//! What the session manager measures of itself, for Prometheus. Work adds to these numbers once per
//! batch and never per task; what can be counted when somebody asks is counted then, see
//! [`crate::core::Census`].

mod exposition;
pub(crate) mod http;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// A number that never is below zero.
type Level = Gauge<u64, AtomicU64>;

/// Numbers that the engine keeps while it works.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    batch_commands: Histogram,
    batch_seconds: Histogram,
    pass_seconds: Histogram,
    commit_records: Histogram,
    commit_seconds: Histogram,
    commit_failures: Counter,
    /// Commands that nobody has looked at yet.
    pub(crate) queued_commands: Level,
    /// Records that are not durable yet.
    pub(crate) waiting_records: Level,
    /// 1 while the state cannot be stored.
    pub(crate) store_failing: Level,
}

impl Default for Metrics {
    fn default() -> Self {
        // From the 50 us of a commit to memory to the seconds of a disk that stalls.
        let store_seconds = || Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        // From what is usual to what is too much, see the numbers in the design.
        let core_seconds = || Histogram::new(exponential_buckets(0.000_005, 2.0, 16));
        let sizes = || Histogram::new(exponential_buckets(1.0, 4.0, 9));
        let mut metrics = Self {
            registry: Registry::with_prefix(exposition::PREFIX),
            batch_commands: sizes(),
            batch_seconds: core_seconds(),
            pass_seconds: core_seconds(),
            commit_records: sizes(),
            commit_seconds: store_seconds(),
            commit_failures: Counter::default(),
            queued_commands: Level::default(),
            waiting_records: Level::default(),
            store_failing: Level::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "batch_commands",
            "Commands that the core applied as one batch",
            self.batch_commands.clone(),
        );
        registry.register_with_unit(
            "batch_duration",
            "Time that the core took for a batch, scheduler included",
            Unit::Seconds,
            self.batch_seconds.clone(),
        );
        registry.register_with_unit(
            "scheduler_pass_duration",
            "Time of a pass of the scheduler",
            Unit::Seconds,
            self.pass_seconds.clone(),
        );
        registry.register(
            "commit_records",
            "Records that were stored with one commit",
            self.commit_records.clone(),
        );
        registry.register_with_unit(
            "commit_duration",
            "Time from the beginning of a commit until its records are durable",
            Unit::Seconds,
            self.commit_seconds.clone(),
        );
        registry.register(
            "commit_failures",
            "Commits that failed; each is tried again",
            self.commit_failures.clone(),
        );
        registry.register(
            "commands_queued",
            "Commands that the core has not looked at yet",
            self.queued_commands.clone(),
        );
        registry.register(
            "records_waiting",
            "Records that are not durable yet",
            self.waiting_records.clone(),
        );
        registry.register(
            "store_failing",
            "1 while state cannot be stored and nothing new is taken",
            self.store_failing.clone(),
        );
    }

    /// The core has applied a batch of commands.
    pub(crate) fn applied(&self, commands: usize, took: Duration) {
        // A batch without commands is one of those that come because of the time.
        if commands > 0 {
            self.batch_commands.observe(commands as f64);
        }
        self.batch_seconds.observe(took.as_secs_f64());
    }

    /// The scheduler has made a pass.
    pub(crate) fn passed(&self, took: Duration) {
        self.pass_seconds.observe(took.as_secs_f64());
    }

    /// A commit is durable.
    pub(crate) fn committed(&self, records: usize, took: Duration) {
        self.commit_records.observe(records as f64);
        self.commit_seconds.observe(took.as_secs_f64());
        self.store_failing.set(0);
    }

    /// A commit failed.
    pub(crate) fn commit_failed(&self) {
        self.commit_failures.inc();
        self.store_failing.set(1);
    }
}

#[cfg(test)]
mod tests;
