//! What has happened since the start, as plain numbers. Whoever shows them reads them when asked, so
//! that counting costs the work nothing but an addition.

use flame_core::state::TaskState;

/// Why a task that was handed out waits again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequeueReason {
    /// Its service died.
    ServiceDied,
    /// Its executor could not be bound after all.
    NotBound,
    /// Its executor was released before the task ended.
    Released,
    /// Its node was silent for too long.
    NodeLost,
    /// Its node's agent stopped.
    NodeLeft,
    /// Its node's agent was started anew and knows nothing of the executor.
    AgentRestarted,
    /// It was lost with a link before the agent had it.
    LinkLost,
    /// It had not begun and was taken back, because the task before it takes long.
    Recalled,
}

impl RequeueReason {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 8] = [
        Self::ServiceDied,
        Self::NotBound,
        Self::Released,
        Self::NodeLost,
        Self::NodeLeft,
        Self::AgentRestarted,
        Self::LinkLost,
        Self::Recalled,
    ];

    /// One word, as metrics show it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ServiceDied => "service_died",
            Self::NotBound => "not_bound",
            Self::Released => "released",
            Self::NodeLost => "node_lost",
            Self::NodeLeft => "node_left",
            Self::AgentRestarted => "agent_restarted",
            Self::LinkLost => "link_lost",
            Self::Recalled => "recalled",
        }
    }
}

/// Numbers that only grow, from zero at the start of the process.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Tasks that were taken from clients.
    pub tasks_created: u64,
    /// Hand-outs of tasks to executors; a task that is requeued is handed out again.
    pub tasks_handed_out: u64,
    /// Tasks that ended well.
    pub tasks_succeeded: u64,
    /// Tasks that failed.
    pub tasks_failed: u64,
    /// Tasks that were cancelled.
    pub tasks_cancelled: u64,
    /// Results that were refused, because the task was no longer in that executor's hands or not
    /// under that attempt.
    pub results_refused: u64,
    /// Executors that were asked for.
    pub executors_started: u64,
    /// Executors that were bound to their session.
    pub executors_bound: u64,
    /// Executors that could not be bound.
    pub executors_not_bound: u64,
    /// Executors whose service died after it had worked.
    pub executors_died: u64,
    /// Sessions that were made.
    pub sessions_created: u64,
    /// Sessions that were closed.
    pub sessions_closed: u64,
    /// Closed sessions that were removed, by request or because there were too many.
    pub sessions_removed: u64,
    /// Nodes that became suspect.
    pub nodes_suspect: u64,
    /// Nodes that were lost.
    pub nodes_lost: u64,
    /// Passes of the scheduler.
    pub passes: u64,
    /// In the order of [`RequeueReason::ALL`].
    pub(crate) requeued: [u64; RequeueReason::ALL.len()],
}

impl Counters {
    pub(super) fn task_ended(&mut self, state: TaskState) {
        match state {
            TaskState::Succeed => self.tasks_succeeded += 1,
            TaskState::Cancelled => self.tasks_cancelled += 1,
            _ => self.tasks_failed += 1,
        }
    }

    pub(super) fn task_requeued(&mut self, reason: RequeueReason) {
        self.requeued[reason as usize] += 1;
    }

    /// Tasks that wait again after they were handed out, for this reason.
    #[must_use]
    pub fn requeued(&self, reason: RequeueReason) -> u64 {
        self.requeued[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_and_a_word_of_its_own() {
        let mut counters = Counters::default();
        for (place, reason) in RequeueReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason:?}");
            for _ in 0..=place {
                counters.task_requeued(reason);
            }
        }
        for (place, reason) in RequeueReason::ALL.into_iter().enumerate() {
            assert_eq!(counters.requeued(reason), place as u64 + 1, "{reason:?}");
            let same = RequeueReason::ALL
                .iter()
                .filter(|other| other.word() == reason.word());
            assert_eq!(same.count(), 1, "{reason:?}");
        }
    }
}
