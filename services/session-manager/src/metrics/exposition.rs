//! The numbers as text, in the OpenMetrics format that Prometheus reads.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::Metrics;
use crate::core::{Census, OpenSessions, RequeueReason};

/// All names begin with it.
pub(super) const PREFIX: &str = "flame";
/// What the text is.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Metrics {
    /// Everything; without a census, if the core has none to give, only what is known without it.
    ///
    /// # Errors
    /// Those of writing to a string, which has none.
    pub(super) fn text(&self, census: Option<Census>) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 << 10);
        encode_registry(&mut text, &self.registry)?;
        let mut registry = Registry::with_prefix(PREFIX);
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the session manager", version);
        registry.register(
            "core_answers",
            "Whether the core answered in time; if not, numbers that it would have to count are missing",
            ConstGauge::new(u64::from(census.is_some())),
        );
        if let Some(census) = census {
            registry.register_collector(Box::new(census));
        }
        encode_registry(&mut text, &registry)?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

/// Writes metrics one after the other.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, &'static str); N], usize)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value as u64).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (word, value) in values {
            ConstCounter::new(value).encode(metric.encode_family(&[(label, word)])?)?;
        }
        Ok(())
    }
}

impl Collector for Census {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        self.work(&mut writer)?;
        self.places(&mut writer)?;
        self.history(&mut writer)
    }
}

impl Census {
    /// Sessions and tasks.
    fn work(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let groups = [("open", &self.open), ("paused", &self.paused)];
        let tasks = groups.iter().flat_map(|(session, group)| {
            [
                ([("state", "pending"), ("session_state", session)], group.pending),
                ([("state", "running"), ("session_state", session)], group.running),
            ]
        });
        writer.gauges(
            "tasks",
            "Tasks that have not ended: pending ones wait, running ones were handed out",
            tasks,
        )?;
        let sessions = |group: &OpenSessions| group.sessions;
        writer.gauges(
            "sessions",
            "Sessions; paused ones are open, but get no new executors because binding failed too often",
            [
                ([("state", "open")], sessions(&self.open)),
                ([("state", "paused")], sessions(&self.paused)),
                ([("state", "closed")], self.closed_sessions),
            ],
        )?;
        writer.gauge(
            "sessions_waiting",
            "Open sessions that have work but no executor",
            (self.open.waiting + self.paused.waiting) as f64,
        )?;
        writer.gauge(
            "session_longest_wait_seconds",
            "For how long one of them has been waiting, the longest",
            self.longest_wait_ms as f64 / 1_000.0,
        )
    }

    /// Nodes and executors.
    fn places(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let (nodes, executors) = (&self.nodes, &self.executors);
        writer.gauges(
            "nodes",
            "Nodes",
            [
                ([("state", "ready")], nodes.ready),
                ([("state", "suspect")], nodes.suspect),
                ([("state", "lost")], nodes.lost),
                ([("state", "left")], nodes.left),
            ],
        )?;
        writer.gauge(
            "nodes_cordoned",
            "Nodes that somebody has cordoned or drained",
            nodes.cordoned as f64,
        )?;
        writer.gauge(
            "nodes_unstable",
            "Nodes whose link comes and goes, so that they get no new executors for a while",
            nodes.unstable as f64,
        )?;
        writer.gauge(
            "nodes_taking_work",
            "Nodes that get executors and tasks: ready, connected, and neither draining nor taken out of service",
            nodes.take_work as f64,
        )?;
        writer.gauge("node_links", "Open links to agents", self.links as f64)?;
        writer.gauges(
            "executors",
            "Executors",
            [
                ([("state", "binding")], executors.binding),
                ([("state", "busy")], executors.busy),
                ([("state", "idle")], executors.idle),
                ([("state", "draining")], executors.draining),
                ([("state", "releasing")], executors.releasing),
            ],
        )?;
        let (offer, used) = (&self.allocatable, &self.used);
        writer.gauge(
            "cpu_allocatable",
            "CPUs of nodes that take work",
            offer.cpu as f64,
        )?;
        writer.gauge("cpu_used", "CPUs that executors hold", used.cpu as f64)?;
        writer.gauge(
            "gpu_allocatable",
            "GPUs of nodes that take work",
            offer.gpu as f64,
        )?;
        writer.gauge("gpu_used", "GPUs that executors hold", used.gpu as f64)?;
        writer.gauge(
            "memory_allocatable_bytes",
            "Memory of nodes that take work",
            offer.memory as f64,
        )?;
        writer.gauge(
            "memory_used_bytes",
            "Memory that executors hold",
            used.memory as f64,
        )
    }

    /// What has happened since the start.
    fn history(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let counters = &self.counters;
        writer.counter(
            "tasks_created",
            "Tasks taken from clients",
            counters.tasks_created,
        )?;
        writer.counter(
            "tasks_handed_out",
            "Hand-outs of tasks to executors",
            counters.tasks_handed_out,
        )?;
        writer.counters(
            "tasks_ended",
            "Tasks that ended",
            "state",
            [
                ("succeeded", counters.tasks_succeeded),
                ("failed", counters.tasks_failed),
                ("cancelled", counters.tasks_cancelled),
            ],
        )?;
        writer.counters(
            "tasks_requeued",
            "Tasks that were handed out and wait again",
            "reason",
            RequeueReason::ALL.map(|reason| (reason.word(), counters.requeued(reason))),
        )?;
        writer.counter(
            "results_refused",
            "Results of attempts that were no longer the current one",
            counters.results_refused,
        )?;
        writer.counters(
            "executor_events",
            "What became of executors",
            "event",
            [
                ("started", counters.executors_started),
                ("bound", counters.executors_bound),
                ("bind_failed", counters.executors_not_bound),
                ("died", counters.executors_died),
            ],
        )?;
        writer.counters(
            "session_events",
            "What became of sessions",
            "event",
            [
                ("created", counters.sessions_created),
                ("closed", counters.sessions_closed),
                ("removed", counters.sessions_removed),
            ],
        )?;
        writer.counters(
            "node_events",
            "What became of nodes",
            "event",
            [("suspect", counters.nodes_suspect), ("lost", counters.nodes_lost)],
        )?;
        writer.counter("scheduler_passes", "Passes of the scheduler", counters.passes)
    }
}
