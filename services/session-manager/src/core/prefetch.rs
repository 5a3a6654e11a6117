//! Tasks in advance: an executor of short tasks is given several, so that no round trip stands
//! between two of them. When one of them takes long after all, those behind it are taken back.

use std::time::Duration;

use flame_core::ExecutorId;
use flame_rpc::node::{self, to_agent::Message};

use super::{Core, Effects, Executor, ExecutorState, Now, RequeueReason, SessionKey};

/// Work that an executor has in advance: several round trips to the agent and back, also on a
/// busy machine, and little enough that no task waits noticeably long behind others.
const IN_ADVANCE: Duration = Duration::from_millis(5);
/// Most tasks in an executor's hands.
const MAX_IN_HAND: usize = 256;
/// Time without a result after which tasks that have not begun are taken back.
const STALLED_AFTER: Duration = Duration::from_millis(50);
/// Time between two looks at all executors, of which there may be thousands.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Weight of the latest task in the average: after five tasks of another length it has adapted.
const LATEST_WEIGHT: f64 = 0.25;

impl Core {
    pub(super) fn learn_task_time(&mut self, key: SessionKey, latest: Duration) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let average = match session.task_time {
            None => latest,
            Some(known) => known.mul_f64(1.0 - LATEST_WEIGHT) + latest.mul_f64(LATEST_WEIGHT),
        };
        session.task_time = Some(average);
    }

    /// Fills the hands of a session's executors. The tasks are divided evenly, so that the last
    /// ones do not queue behind each other while other executors are idle.
    pub(super) fn prefetch(&mut self, key: SessionKey, now: Now, fx: &mut Effects) {
        let Some(session) = self.sessions.get(&key) else {
            return;
        };
        let in_hand = session.task_time.map_or(1, tasks_in_hand);
        if in_hand < 2 || session.pending.is_empty() {
            return;
        }
        let takes = |executor: &&Executor| {
            // Half empty before it is filled: that makes batches.
            matches!(executor.state, ExecutorState::Bound { .. })
                && executor.tasks.len() <= in_hand / 2
                && executor.is_reachable(&self.nodes)
        };
        let bound = session.executors.iter().filter_map(|id| self.executors.get(id));
        let room: Vec<_> = bound
            .filter(takes)
            .map(|e| (e.id.clone(), in_hand - e.tasks.len()))
            .collect();
        let share = session.pending.len().div_ceil(session.executors.len().max(1));
        for (id, free) in room {
            self.hand_out(&id, key, free.min(share), now, fx);
            self.stall_check_at.get_or_insert(now.mono + STALLED_AFTER);
        }
    }

    /// Takes tasks back from executors that have some in advance and do not get to them.
    pub(super) fn recall_from_stalled(&mut self, now: Now, fx: &mut Effects) {
        if self.stall_check_at.is_none_or(|at| at > now.mono) {
            return;
        }
        let waiting = |executor: &&Executor| executor.tasks.len() > 1 && executor.recalls == 0;
        let due = |executor: &Executor| executor.progress + STALLED_AFTER;
        let mut stalled: Vec<ExecutorId> = Vec::new();
        self.stall_check_at = None;
        for executor in self.executors.values().filter(waiting) {
            let at = due(executor);
            if at <= now.mono {
                stalled.push(executor.id.clone());
            } else {
                let at = at.max(now.mono + LOOK_AGAIN);
                self.stall_check_at = Some(self.stall_check_at.map_or(at, |known| known.min(at)));
            }
        }
        stalled.sort_unstable();
        for id in stalled {
            if let Some(executor) = self.executors.get(id.as_str()) {
                // The average has not seen the task that takes so long.
                self.learn_task_time(executor.session, IN_ADVANCE.saturating_mul(4));
            }
            self.recall(&id, fx);
        }
    }

    /// Asks for the tasks that an executor has not begun.
    pub(super) fn recall(&mut self, id: &ExecutorId, fx: &mut Effects) {
        let Some(executor) = self.executors.get_mut(id.as_str()) else {
            return;
        };
        if executor.recalls > 0 || executor.tasks.len() < 2 {
            return;
        }
        self.order_recall(id, fx);
    }

    pub(super) fn order_recall(&mut self, id: &ExecutorId, fx: &mut Effects) {
        let Some(executor) = self.executors.get_mut(id.as_str()) else {
            return;
        };
        executor.recalls += 1;
        if let Some(link) = self.nodes.get(executor.node.as_str()).and_then(|node| node.link) {
            fx.order(
                link,
                Message::Recall(node::Recall {
                    executor_id: id.to_string(),
                }),
            );
        }
    }

    /// An agent gives tasks back that it will not run.
    pub(super) fn tasks_returned(&mut self, returned: node::Returned, now: Now, fx: &mut Effects) {
        let Some(executor) = self.executors.get_mut(returned.executor_id.as_str()) else {
            return;
        };
        executor.recalls = executor.recalls.saturating_sub(1);
        let mut given_back = Vec::new();
        for task in returned.tasks {
            if executor.tasks.get(&task.task_id) == Some(&task.attempt) {
                executor.tasks.remove(&task.task_id);
                given_back.push(task.task_id);
            } else if executor.withdrawn.get(&task.task_id) == Some(&task.attempt) {
                executor.withdrawn.remove(&task.task_id);
            }
        }
        let (key, id) = (executor.session, executor.id.clone());
        let empty = executor.tasks.is_empty();
        if let Some(session) = self.sessions.get_mut(&key).filter(|_| empty) {
            session.counted = None;
        }
        self.requeue(key, given_back, RequeueReason::Recalled, None, now, fx);
        self.end_withdrawn(&id, fx);
        if empty {
            self.executor_has_room_once(&id, now, fx);
        }
    }
}

/// Tasks that an executor is given if each takes `task_time`.
fn tasks_in_hand(task_time: Duration) -> usize {
    let fitting = IN_ADVANCE.as_micros() / task_time.as_micros().max(1);
    usize::try_from(fitting)
        .unwrap_or(MAX_IN_HAND)
        .clamp(1, MAX_IN_HAND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_tasks_are_given_in_advance_and_long_ones_are_not() {
        for (micros, tasks) in [
            (0, 256),
            (1, 256),
            (50, 100),
            (1_000, 5),
            (2_500, 2),
            (3_000, 1),
            (60_000_000, 1),
        ] {
            assert_eq!(tasks_in_hand(Duration::from_micros(micros)), tasks, "{micros} us");
        }
    }
}
