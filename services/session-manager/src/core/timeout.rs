//! The `task_timeout` of sessions: a task that runs longer than that on one attempt fails, and its
//! service process is ended as if it had been cancelled.
//!
//! A task that was given in advance has not begun. Executors run tasks in the order in which they
//! were handed out, so only the first one in an executor's hands runs, and it began when the
//! executor last finished a task or was given one while it had none ([`Executor::progress`]). This
//! process learns of that a few milliseconds late and never early, so no task is ended before its
//! time. What is not known is not held against a task: the time starts anew when this process does,
//! and while a node is not connected nobody is ended; its results may be on their way.
//!
//! Tasks may be far shorter than their limit, so the queue of deadlines is not touched for each of
//! them: an executor is looked at when a task of it could first be over its time, and then again
//! when the one that runs by then could be.

use std::collections::BTreeSet;
use std::time::Duration;

use flame_core::state::TaskState;
use flame_core::{ExecutorId, TaskId};

use super::{Core, Effects, Executor, NoticeLevel, Now};

/// Time for news from an agent, such as results that could not be sent before a reconnect.
const RESULTS_ARRIVE: Duration = Duration::from_secs(1);

/// Executors whose tasks have a limit, by when to look at them.
pub(super) type Deadlines = BTreeSet<(Duration, ExecutorId)>;

/// What a look at an executor tells.
enum Overdue {
    /// It has nothing whose time is measured.
    Nothing,
    /// Not before that.
    At(Duration),
    /// This task is.
    Now(TaskId),
}

impl Core {
    /// Sees to it that the tasks of an executor are ended in time, if they have a limit.
    pub(super) fn watch_time(&mut self, id: &ExecutorId) {
        let Some(executor) = self.executors.get(id.as_str()) else {
            return;
        };
        if executor.look_at.is_some() || executor.tasks.is_empty() {
            return;
        }
        let session = self.sessions.get(&executor.session);
        let Some(limit) = session.and_then(|session| session.row.task_timeout) else {
            return;
        };
        self.look_at(id, overdue_at(executor, limit));
    }

    fn look_at(&mut self, id: &ExecutorId, at: Duration) {
        if let Some(executor) = self.executors.get_mut(id.as_str()) {
            executor.look_at = Some(at);
            self.deadlines.insert((at, id.clone()));
        }
    }

    /// The executor is gone.
    pub(super) fn forget_time(&mut self, executor: &Executor) {
        if let Some(at) = executor.look_at {
            self.deadlines.remove(&(at, executor.id.clone()));
        }
    }

    /// When [`Core::end_overdue`] has something to do.
    pub(super) fn time_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Fails tasks that are over their time.
    pub(super) fn end_overdue(&mut self, now: Now, fx: &mut Effects) {
        while self.time_deadline().is_some_and(|at| at <= now.mono) {
            let Some((_, id)) = self.deadlines.pop_first() else {
                return;
            };
            let overdue = match self.executors.get_mut(id.as_str()) {
                None => Overdue::Nothing,
                Some(executor) => {
                    executor.look_at = None;
                    self.overdue(&id, now)
                }
            };
            match overdue {
                Overdue::Nothing => {}
                Overdue::At(at) => self.look_at(&id, at),
                Overdue::Now(task) => self.fail_overdue(&id, task, now, fx),
            }
        }
    }

    fn overdue(&self, id: &ExecutorId, now: Now) -> Overdue {
        let Some(executor) = self.executors.get(id.as_str()) else {
            return Overdue::Nothing;
        };
        let session = self.sessions.get(&executor.session);
        let limit = session.and_then(|session| session.row.task_timeout);
        let node = self.nodes.get(executor.node.as_str());
        let linked = node.filter(|node| node.link.is_some());
        // Nothing begins any more in a process that is ended at once.
        let first = executor.tasks.iter().filter(|_| !executor.give_up);
        let first = first.min_by_key(|(_, attempt)| **attempt);
        // When the node connects again, the executor is looked at again.
        let (Some(limit), Some(node), Some((task, attempt))) = (limit, linked, first) else {
            return Overdue::Nothing;
        };
        if executor.running() != Some(*attempt) {
            // Perhaps one runs that was withdrawn. What the executor says of it is on its way.
            return Overdue::At(now.mono + RESULTS_ARRIVE);
        }
        let at = overdue_at(executor, limit).max(node.stability.since() + RESULTS_ARRIVE);
        if at > now.mono {
            Overdue::At(at)
        } else {
            Overdue::Now(*task)
        }
    }

    fn fail_overdue(&mut self, id: &ExecutorId, task: TaskId, now: Now, fx: &mut Effects) {
        let Some(Executor {
            session: key,
            session_id,
            node,
            ..
        }) = self.executors.get(id.as_str())
        else {
            return;
        };
        let (key, session_id, node) = (*key, session_id.clone(), node.clone());
        let limit = self
            .sessions
            .get(&key)
            .and_then(|session| session.row.task_timeout);
        let message = format!(
            "it ran longer than the task_timeout of its session, {:?}",
            limit.unwrap_or_default()
        );
        let notice = fx.notice(NoticeLevel::Warn, format!("task {task} failed: {message}"));
        (notice.session, notice.node, notice.executor) = (Some(session_id), Some(node), Some(id.clone()));
        notice.task = Some(task);
        self.end_task((key, task), TaskState::Failed, message, now, fx);
    }
}

/// When the first task in the executor's hands is over its time.
fn overdue_at(executor: &Executor, limit: Duration) -> Duration {
    executor.progress.saturating_add(limit)
}
