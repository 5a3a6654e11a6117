//! The life of one unit, as the signals of systemd tell it. No I/O: signals in, news out.

use flame_systemd::manager::{JobId, JobResult, UnitChange, UnitSight};

use crate::runtime::Exit;

/// What systemd has said about a run of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Id of the run; empty if it never began.
    pub(super) invocation: String,
    /// Process id of the main process, 0 if there is none.
    pub(super) pid: u32,
    result: String,
    code: i32,
    status: i32,
    active_state: String,
}

/// Something that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// The launcher has done its part: the application runs.
    Started(Facts),
    /// It did not, and nothing of the unit is left.
    NotStarted(Facts),
    /// The unit ran, and nothing of it is left.
    Ended(Facts),
}

#[derive(Debug)]
enum Phase {
    /// The job is being asked for. Jobs that end meanwhile: one may be ours, but the end of a stop of the run
    /// before may come as late as now.
    Asked { over: Vec<(JobId, JobResult)> },
    /// The job is under way.
    Starting { job: JobId },
    /// The job has failed, but processes may be left.
    Failing,
    /// The application runs.
    Running,
    /// Nothing is left.
    Over,
}

/// The life of one unit, from the request to start it.
#[derive(Debug)]
pub(super) struct Life {
    phase: Phase,
    facts: Facts,
}

impl Life {
    /// Of a unit whose start is about to be asked for.
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Asked { over: Vec::new() },
            facts: Facts::default(),
        }
    }

    /// Of a unit that an earlier run of the agent has started.
    pub(super) fn adopted(invocation: String, pid: u32) -> Self {
        Self {
            phase: Phase::Running,
            facts: Facts {
                invocation,
                pid,
                ..Facts::default()
            },
        }
    }

    /// systemd has accepted the start.
    pub(super) fn on_job_made(&mut self, job: JobId) -> Option<News> {
        let Phase::Asked { over } = &mut self.phase else {
            return None;
        };
        let result = over
            .iter()
            .find(|(other, _)| *other == job)
            .map(|(_, result)| result.clone());
        self.phase = Phase::Starting { job: job.clone() };
        self.on_job_over(&job, &result?)
    }

    /// A job of the unit is over.
    pub(super) fn on_job_over(&mut self, job: &JobId, result: &JobResult) -> Option<News> {
        match &mut self.phase {
            Phase::Asked { over } => {
                over.push((job.clone(), result.clone()));
                None
            }
            Phase::Starting { job: ours } if ours == job => {
                if result.is_success() {
                    self.phase = Phase::Running;
                    // It may be over again by now; that was told before the end of the job.
                    return match self.is_inactive() {
                        true => self.over(),
                        false => Some(News::Started(self.facts.clone())),
                    };
                }
                if self.facts.result.is_empty() {
                    self.facts.result = result.to_string();
                }
                self.phase = Phase::Failing;
                // Without any change of state it never came to a process.
                let never_began = self.facts.active_state.is_empty();
                (never_began || self.is_inactive()).then(|| self.over()).flatten()
            }
            _ => None,
        }
    }

    /// Something has changed about the unit.
    pub(super) fn on_change(&mut self, change: UnitChange) -> Option<News> {
        let facts = &mut self.facts;
        fn update<T>(known: &mut T, new: Option<T>) {
            if let Some(new) = new {
                *known = new;
            }
        }
        update(&mut facts.invocation, change.invocation_id);
        // What has ended still has the number of its process for people.
        update(&mut facts.pid, change.main_pid.filter(|pid| *pid > 0));
        update(&mut facts.result, change.result);
        update(&mut facts.code, change.exit_code);
        update(&mut facts.status, change.exit_status);
        update(&mut facts.active_state, change.active_state);
        match self.phase {
            // Before the job is over, this may still be about the run before.
            Phase::Asked { .. } | Phase::Starting { .. } | Phase::Over => None,
            Phase::Failing | Phase::Running => self.is_inactive().then(|| self.over()).flatten(),
        }
    }

    /// Signals were lost, and this is what is seen of the unit now; `None`: systemd does not know it.
    pub(super) fn on_seen(&mut self, sight: Option<UnitSight>) -> Option<News> {
        let Some(UnitSight { change, job: pending }) = sight else {
            return self.on_vanished();
        };
        let news = self.on_change(change);
        let Phase::Starting { job } = &self.phase else {
            return news;
        };
        if pending.as_ref() == Some(job) {
            return None;
        }
        // The job is over, and nobody heard how.
        match self.facts.active_state.as_str() {
            "active" => {
                self.phase = Phase::Running;
                Some(News::Started(self.facts.clone()))
            }
            "deactivating" => {
                self.phase = Phase::Failing;
                None
            }
            _ => self.is_inactive().then(|| self.over()).flatten(),
        }
    }

    /// systemd does not know the unit any more, and nobody heard how it ended: the connection to D-Bus was lost.
    pub(super) fn on_vanished(&mut self) -> Option<News> {
        match self.phase {
            // It may be that it does not know it yet; the answer to the request tells.
            Phase::Asked { .. } => None,
            _ => self.over(),
        }
    }

    fn is_inactive(&self) -> bool {
        ["inactive", "failed"].contains(&self.facts.active_state.as_str())
    }

    fn over(&mut self) -> Option<News> {
        let facts = self.facts.clone();
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Running => Some(News::Ended(facts)),
            Phase::Over => None,
            Phase::Asked { .. } | Phase::Starting { .. } | Phase::Failing => Some(News::NotStarted(facts)),
        }
    }
}

/// `CLD_EXITED`, `CLD_KILLED` and `CLD_DUMPED` of waitid(2).
const EXITED: i32 = 1;
const KILLED: i32 = 2;
const DUMPED: i32 = 3;

impl Facts {
    /// How the main process ended.
    pub(super) fn exit(&self) -> Exit {
        match (self.result.as_str(), self.code) {
            ("oom-kill", _) => Exit::OutOfMemory,
            ("watchdog", _) => Exit::Watchdog,
            ("timeout", _) => Exit::Timeout,
            (_, EXITED) => Exit::Status(self.status),
            (_, KILLED | DUMPED) => Exit::Signal(self.status),
            _ => Exit::Unknown,
        }
    }

    /// Why the unit did not start, in words.
    pub(super) fn reason(&self) -> String {
        let setup = SETUP.iter().find(|(status, _)| *status == self.status);
        match (self.result.as_str(), self.code, setup) {
            ("exit-code", EXITED, Some((_, words))) => format!("systemd could not {words}"),
            ("resources", ..) => "systemd could not make what the unit needs".to_owned(),
            ("protocol", ..) => "the launcher ended before it was ready".to_owned(),
            ("canceled", ..) => "it was stopped meanwhile".to_owned(),
            ("", ..) => "the connection to D-Bus was lost, and its end was not heard of".to_owned(),
            ("exit-code" | "signal" | "core-dump" | "oom-kill" | "timeout", ..) => {
                format!("the launcher {}", self.exit())
            }
            (result, ..) => format!("its start ended with \"{result}\""),
        }
    }
}

/// What systemd itself failed to do in the new process, by its exit status (systemd.exec(5)).
const SETUP: [(i32, &str); 12] = [
    (200, "enter the working directory"),
    (203, "execute the launcher"),
    (209, "open the journal for its output"),
    (217, "make its user"),
    (218, "drop its capabilities"),
    (219, "enter its control group"),
    (225, "cut it off from the network"),
    (226, "make its mount namespace"),
    (228, "filter its system calls"),
    (233, "make its runtime directory"),
    (243, "hand the spec over as a credential"),
    (245, "restrict its address families"),
];

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
