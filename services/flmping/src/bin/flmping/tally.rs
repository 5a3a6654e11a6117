//! What became of the tasks, and how it is printed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is counted exactly, in microseconds: one hour.
const LONGEST: u64 = 3_600_000_000;

/// Different failures that are shown; a cluster that is down fails every task alike.
const SHOWN_FAILURES: usize = 5;

/// One task that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its session's id.
    pub(crate) session: Arc<str>,
    /// Number within the session; 0 if the task could not be created.
    pub(crate) id: u64,
    /// `Succeed`, `Failed`, `Cancelled`, `Wrong` (output) or `Error`.
    pub(crate) state: &'static str,
    /// The service's message, or what went wrong.
    pub(crate) text: String,
    /// From the submission to the sight of the end.
    pub(crate) latency: Duration,
}

impl Ended {
    pub(crate) fn succeeded(&self) -> bool {
        self.state == "Succeed"
    }
}

/// Counts tasks as they end.
pub(crate) struct Tally {
    tasks: u64,
    ended: u64,
    succeeded: u64,
    failures: BTreeMap<String, u64>,
    /// `None` only if the histogram's bounds were wrong.
    latencies: Option<Histogram<u64>>,
    /// Empty in benchmark mode.
    rows: Vec<Ended>,
    keep_rows: bool,
}

/// The result for programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    tasks: u64,
    succeeded: u64,
    failed: u64,
    seconds: f64,
    tasks_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    session: String,
    sessions: u64,
}

impl Tally {
    pub(crate) fn new(tasks: u64, keep_rows: bool) -> Self {
        Self {
            tasks,
            ended: 0,
            succeeded: 0,
            failures: BTreeMap::new(),
            latencies: Histogram::new_with_bounds(1, LONGEST, 3).ok(),
            rows: Vec::new(),
            keep_rows,
        }
    }

    pub(crate) fn add(&mut self, ended: Ended) {
        self.ended += 1;
        if ended.succeeded() {
            self.succeeded += 1;
        } else if self.failures.len() < SHOWN_FAILURES || self.failures.contains_key(&ended.text) {
            *self.failures.entry(ended.text.clone()).or_default() += 1;
        }
        if let Some(latencies) = &mut self.latencies {
            latencies.saturating_record(u64::try_from(ended.latency.as_micros()).unwrap_or(LONGEST));
        }
        if self.keep_rows {
            self.rows.push(ended);
        }
    }

    pub(crate) fn all_ended(&self) -> bool {
        self.ended >= self.tasks
    }

    pub(crate) fn all_succeeded(&self) -> bool {
        self.succeeded == self.tasks
    }

    /// The numbers, after `took`, of `sessions` sessions whose first is `session`. A task that did
    /// not end counts as failed.
    pub(crate) fn report(&self, session: &str, sessions: u64, took: Duration) -> Report {
        let seconds = took.as_secs_f64();
        let milliseconds = |quantile| {
            let latencies = self.latencies.as_ref().filter(|latencies| !latencies.is_empty());
            latencies.map_or(0.0, |latencies| {
                latencies.value_at_quantile(quantile) as f64 / 1000.0
            })
        };
        Report {
            tasks: self.tasks,
            succeeded: self.succeeded,
            failed: self.tasks - self.succeeded,
            seconds: rounded(seconds, 6),
            tasks_per_second: if seconds > 0.0 {
                rounded(self.succeeded as f64 / seconds, 1)
            } else {
                0.0
            },
            p50_ms: milliseconds(0.5),
            p99_ms: milliseconds(0.99),
            p999_ms: milliseconds(0.999),
            session: session.to_owned(),
            sessions,
        }
    }

    /// A line per task, by session and in their order.
    pub(crate) fn table(&mut self) -> String {
        self.rows
            .sort_by(|a, b| (&a.session, a.id).cmp(&(&b.session, b.id)));
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(["Session", "Task", "State", "Output"]);
        for row in &self.rows {
            let id = if row.id == 0 {
                "-".to_owned()
            } else {
                row.id.to_string()
            };
            table.add_row([&row.session, id.as_str(), row.state, &row.text]);
        }
        // No spaces at the ends of lines.
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n")
    }

    /// The failures, each once with its number, for people.
    pub(crate) fn failures(&self) -> Vec<String> {
        let told: u64 = self.failures.values().sum();
        let mut lines: Vec<String> = self
            .failures
            .iter()
            .map(|(text, count)| format!("{count} x {text}"))
            .collect();
        let other = self.tasks - self.succeeded - told;
        if other > 0 {
            lines.push(format!("{other} x unfinished or another failure"));
        }
        lines
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.sessions {
            1 => write!(f, "{} tasks in session {}", self.tasks, self.session)?,
            sessions => write!(f, "{} tasks in {sessions} sessions", self.tasks)?,
        }
        write!(
            f,
            ": {} succeeded, {} failed in {:.3} s ({:.1} tasks/s), \
             latency p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
            self.succeeded,
            self.failed,
            self.seconds,
            self.tasks_per_second,
            self.p50_ms,
            self.p99_ms,
            self.p999_ms
        )
    }
}

fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(id: u64, state: &'static str, text: &str, milliseconds: u64) -> Ended {
        Ended {
            session: "s".into(),
            id,
            state,
            text: text.to_owned(),
            latency: Duration::from_millis(milliseconds),
        }
    }

    #[test]
    fn the_report_counts_and_measures() {
        let mut tally = Tally::new(101, true);
        for id in (1..=99).rev() {
            tally.add(ended(id, "Succeed", "Completed", id));
        }
        tally.add(ended(100, "Failed", "out of paper", 100));
        assert!(!tally.all_succeeded());
        let report = tally.report("s", 1, Duration::from_secs(2));
        assert_eq!((report.tasks, report.succeeded, report.failed), (101, 99, 2));
        assert_eq!(report.tasks_per_second, 49.5);
        assert!(
            (report.p50_ms - 50.0).abs() < 0.1 && (report.p99_ms - 99.0).abs() < 0.1,
            "{report}"
        );
        assert!((report.p999_ms - 100.0).abs() < 0.1, "{report}");
        assert!(
            report.to_string().starts_with("101 tasks in session s: "),
            "{report}"
        );
        assert_eq!(
            tally.failures(),
            ["1 x out of paper", "1 x unfinished or another failure"]
        );
        let table = tally.table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 101);
        assert!(
            lines[0].contains("State") && lines[1].contains("Completed"),
            "{table}"
        );
        assert!(lines[100].contains("out of paper"), "{table}");
    }

    #[test]
    fn programs_get_exactly_these_fields() {
        let report = Tally::new(1, false).report("s", 1, Duration::ZERO);
        let json = serde_json::to_value(report).expect("json");
        let fields: Vec<_> = json
            .as_object()
            .expect("object")
            .keys()
            .map(String::as_str)
            .collect();
        let mut wanted = [
            "tasks",
            "succeeded",
            "failed",
            "seconds",
            "tasks_per_second",
            "p50_ms",
            "p99_ms",
            "p999_ms",
            "session",
            "sessions",
        ];
        wanted.sort_unstable();
        assert_eq!(fields, wanted);
    }
}
