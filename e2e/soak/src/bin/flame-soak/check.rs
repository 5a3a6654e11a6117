//! What must not happen, and the report of what did.

use std::collections::HashSet;
use std::time::Duration;

use flame_rs::{task, v1};
use serde::Serialize;

/// Violations that are told in words; the others are only counted.
const TOLD: usize = 20;

/// What happened in one session, or in all.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Sessions that were run.
    pub(crate) sessions: u64,
    /// Tasks whose creation was acknowledged.
    pub(crate) tasks: u64,
    /// Ends that were seen.
    pub(crate) ends: u64,
    /// Calls that created tasks.
    pub(crate) calls: u64,
    /// The longest that a call took, with all its repetitions, in milliseconds.
    pub(crate) longest_call_ms: u128,
    /// How many things happened that must not.
    pub(crate) violation_count: u64,
    /// The first of them.
    pub(crate) violations: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.tasks += other.tasks;
        self.ends += other.ends;
        self.calls += other.calls;
        self.longest_call_ms = self.longest_call_ms.max(other.longest_call_ms);
        self.violation_count += other.violation_count;
        let room = TOLD.saturating_sub(self.violations.len());
        self.violations.extend(other.violations.into_iter().take(room));
    }

    pub(crate) fn call(&mut self, took: Duration) {
        self.calls += 1;
        self.longest_call_ms = self.longest_call_ms.max(took.as_millis());
    }

    pub(crate) fn violation(&mut self, text: String) {
        self.violation_count += 1;
        if self.violations.len() < TOLD {
            self.violations.push(text);
        }
    }

    /// Every acknowledged task is in the list once, has succeeded, and with the right output.
    pub(crate) fn check_list(&mut self, session: &str, size: usize, listed: &[v1::Task]) {
        let mut ids = HashSet::new();
        for record in listed {
            let Ok(id) = task::id(record).parse::<u64>() else {
                self.violation(format!(
                    "{session}: a task with the id {:?} is listed",
                    task::id(record)
                ));
                continue;
            };
            if !ids.insert(id) || id == 0 || id > self.tasks {
                self.violation(format!(
                    "{session}: task {id} is listed twice, or was never acknowledged"
                ));
            }
            let input = flame_soak::input(session, id, size);
            let spec = record.spec.clone().unwrap_or_default();
            let right =
                spec.input.as_ref() == Some(&input) && spec.output == Some(flame_soak::output(&input));
            if !right {
                let state = task::state(record);
                self.violation(format!(
                    "{session}: task {id} is listed as {state} with wrong content"
                ));
            }
        }
        if ids.len() as u64 != self.tasks {
            let (found, all) = (ids.len(), self.tasks);
            self.violation(format!(
                "{session}: {found} tasks are listed, {all} were acknowledged"
            ));
        }
    }
}

/// The ends of a session's tasks so far.
#[derive(Debug)]
pub(crate) struct Ends {
    session: String,
    size: usize,
    ids: HashSet<u64>,
}

impl Ends {
    /// None yet, of `session` with inputs of `size` bytes.
    pub(crate) fn new(session: &str, size: usize) -> Self {
        Self {
            session: session.to_owned(),
            size,
            ids: HashSet::new(),
        }
    }

    /// How many tasks have ended.
    pub(crate) fn seen(&self) -> u64 {
        self.ids.len() as u64
    }

    /// Takes the next end of the stream.
    pub(crate) fn check(&mut self, end: &v1::TaskEnd, report: &mut Report) {
        report.ends += 1;
        let (session, id) = (&self.session, end.task_id);
        if end.sequence != report.ends {
            let (is, expected) = (end.sequence, report.ends);
            report.violation(format!("{session}: end {expected} was expected, {is} came"));
        }
        if !self.ids.insert(id) {
            report.violation(format!("{session}: task {id} ended twice"));
        }
        if end.state() != v1::TaskState::Succeed {
            let (state, why) = (end.state(), end.message());
            report.violation(format!("{session}: task {id} ended as {state:?}: {why}"));
        } else if end.output != Some(flame_soak::output(&flame_soak::input(session, id, self.size))) {
            report.violation(format!("{session}: task {id} has the wrong output"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 40;

    fn end(sequence: u64, task_id: u64) -> v1::TaskEnd {
        v1::TaskEnd {
            sequence,
            task_id,
            state: v1::TaskState::Succeed.into(),
            output: Some(flame_soak::output(&flame_soak::input("s", task_id, SIZE))),
            ..Default::default()
        }
    }

    fn record(id: u64) -> v1::Task {
        let input = flame_soak::input("s", id, SIZE);
        v1::Task {
            metadata: Some(v1::Metadata {
                id: id.to_string(),
                name: id.to_string(),
            }),
            spec: Some(v1::TaskSpec {
                session_id: "s".to_owned(),
                output: Some(flame_soak::output(&input)),
                input: Some(input),
            }),
            status: None,
        }
    }

    fn violations(ends: &[v1::TaskEnd]) -> u64 {
        let (mut all, mut report) = (Ends::new("s", SIZE), Report::default());
        ends.iter().for_each(|end| all.check(end, &mut report));
        report.violation_count
    }

    #[test]
    fn each_kind_of_wrong_end_is_noticed() {
        assert_eq!(violations(&[end(1, 2), end(2, 1)]), 0);
        assert_eq!(violations(&[end(1, 2), end(2, 2)]), 1, "twice");
        assert_eq!(violations(&[end(1, 2), end(3, 1)]), 1, "a gap");
        let mut wrong = end(1, 1);
        wrong.output = end(1, 2).output;
        assert_eq!(violations(&[wrong]), 1, "another task's output");
        let mut failed = end(1, 1);
        failed.state = v1::TaskState::Failed.into();
        assert_eq!(violations(&[failed]), 1, "failed");
    }

    #[test]
    fn each_kind_of_wrong_list_is_noticed() {
        let check = |listed: &[v1::Task]| {
            let mut report = Report {
                tasks: 2,
                ..Report::default()
            };
            report.check_list("s", SIZE, listed);
            report.violation_count
        };
        assert_eq!(check(&[record(2), record(1)]), 0);
        assert_eq!(check(&[record(1)]), 1, "one is missing");
        assert_eq!(check(&[record(1), record(2), record(3)]), 2, "one too many");
        assert_eq!(check(&[record(1), record(1), record(2)]), 1, "one is twice");
        let mut wrong = record(1);
        wrong.spec = record(2).spec;
        assert_eq!(check(&[wrong, record(2)]), 1, "another task's content");
    }
}
