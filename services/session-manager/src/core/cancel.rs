//! Tasks that are ended early: cancelled by a client, or over their time.
//!
//! The task ends at once, and a result that comes later is refused. Its executor need not know more
//! than that if the task waits. If it runs, the service process is ended, because the Instance
//! protocol has no way to interrupt it; the tasks behind it are requeued when the process is gone.
//! If it was given in advance it is recalled with the others, and only if it turns out that it has
//! begun meanwhile, the process is ended.

use flame_core::state::TaskState;
use flame_core::{ExecutorId, TaskId};
use flame_rpc::v1;

use super::{Core, CoreError, Effects, ExecutorState, Now, SessionKey, TaskKey, TaskPhase, TaskRow};

/// What a task that is cancelled without a reason has as its message.
const NO_REASON: &str = "it was cancelled";

/// What became of a task that was to be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// It ended by that.
    Changed,
    /// It had been cancelled before.
    Unchanged,
    /// It has ended, if it ever was; how is in the store. See [`ended_otherwise`].
    InStore(SessionKey),
}

/// Nothing if the task of `session` that has ended so was cancelled.
///
/// # Errors
/// It ended in another way.
pub fn ended_otherwise(session: &str, row: &TaskRow) -> Result<(), CoreError> {
    let how = match row.state {
        TaskState::Cancelled => return Ok(()),
        TaskState::Failed => "failed",
        _ => "succeeded",
    };
    Err(CoreError::Precondition(format!(
        "task {} of session {session} has {how} already",
        row.id
    )))
}

impl Core {
    /// Ends task `id` of `session` as cancelled, wherever it is.
    ///
    /// # Errors
    /// The session does not exist, or the task has ended otherwise.
    pub fn cancel_task(
        &mut self,
        session: &str,
        id: TaskId,
        reason: Option<String>,
        now: Now,
        fx: &mut Effects,
    ) -> Result<Cancel, CoreError> {
        let found = self.session(session)?;
        let key = found.row.key;
        if !found.live.contains_key(&id) {
            let Some(row) = self.recent.get((key, id)) else {
                return Ok(Cancel::InStore(key));
            };
            return ended_otherwise(session, &row).map(|()| Cancel::Unchanged);
        }
        let message = reason.unwrap_or_else(|| NO_REASON.to_owned());
        self.end_task((key, id), TaskState::Cancelled, message, now, fx);
        Ok(Cancel::Changed)
    }

    /// Cancels all tasks of `session` that have not ended; says how many.
    ///
    /// # Errors
    /// The session does not exist.
    pub fn cancel_tasks(
        &mut self,
        session: &str,
        reason: Option<String>,
        now: Now,
        fx: &mut Effects,
    ) -> Result<u64, CoreError> {
        let found = self.session(session)?;
        let key = found.row.key;
        let mut tasks: Vec<_> = found
            .live
            .iter()
            .map(|(id, task)| match &task.phase {
                TaskPhase::Pending => (None, *id),
                // The one that runs first: with it goes its executor, and the others with that.
                TaskPhase::Running { attempt, .. } => (Some(*attempt), *id),
            })
            .collect();
        tasks.sort_unstable();
        let count = tasks.len() as u64;
        let message = reason.unwrap_or_else(|| NO_REASON.to_owned());
        for (_, id) in tasks {
            self.end_task((key, id), TaskState::Cancelled, message.clone(), now, fx);
        }
        Ok(count)
    }

    /// Closes a session whose tasks may run: they are cancelled. Repeating it changes nothing.
    ///
    /// # Errors
    /// The session does not exist.
    pub fn cancel_session(
        &mut self,
        session: &str,
        reason: Option<String>,
        now: Now,
        fx: &mut Effects,
    ) -> Result<v1::Session, CoreError> {
        let message = reason.unwrap_or_else(|| "the session was closed".to_owned());
        self.cancel_tasks(session, Some(message), now, fx)?;
        self.close_session(session, now, fx)
    }

    /// Ends a task that has not ended, and sees to it that nobody goes on with it.
    pub(super) fn end_task(
        &mut self,
        (key, id): TaskKey,
        state: TaskState,
        message: String,
        now: Now,
        fx: &mut Effects,
    ) {
        let task = self.sessions.get(&key).and_then(|session| session.live.get(&id));
        let Some(phase) = task.map(|task| task.phase.clone()) else {
            return;
        };
        let reason = format!("task {id} is ended: {message}");
        self.finish_task((key, id), state, None, Some(message), now, fx);
        if let TaskPhase::Running { executor, attempt } = phase {
            self.withdraw(&executor, id, attempt, &reason, fx);
        }
    }

    /// Takes a task that has ended out of an executor's hands.
    fn withdraw(&mut self, executor: &ExecutorId, id: TaskId, attempt: u64, reason: &str, fx: &mut Effects) {
        let Some(found) = self.executors.get_mut(executor.as_str()) else {
            return;
        };
        let runs = found.running() == Some(attempt);
        found.tasks.remove(&id);
        if let Some(session) = self.sessions.get_mut(&found.session) {
            session.counted = None;
        }
        if runs {
            self.end_running(executor, reason, fx);
        } else {
            found.withdrawn.insert(id, attempt);
            self.ask_for_withdrawn(executor, fx);
        }
    }

    /// Has an executor say whether it has begun tasks that were taken from it: those that it does
    /// not give back and has no result of, it runs.
    pub(super) fn ask_for_withdrawn(&mut self, id: &ExecutorId, fx: &mut Effects) {
        let asks = |executor: &super::Executor| !executor.withdrawn.is_empty() && !executor.give_up;
        if self.executors.get(id.as_str()).is_some_and(asks) {
            self.order_recall(id, fx);
        }
    }

    /// All recalls are answered: what was withdrawn and neither given back nor finished, runs.
    pub(super) fn end_withdrawn(&mut self, id: &ExecutorId, fx: &mut Effects) {
        let Some(executor) = self.executors.get(id.as_str()) else {
            return;
        };
        if executor.recalls == 0 && !executor.withdrawn.is_empty() {
            self.end_running(id, "it runs a task that has been ended", fx);
        }
    }

    /// Ends an executor without waiting for the task that it runs.
    fn end_running(&mut self, id: &ExecutorId, reason: &str, fx: &mut Effects) {
        let Some(executor) = self.executors.get_mut(id.as_str()) else {
            return;
        };
        if std::mem::replace(&mut executor.give_up, true) {
            return;
        }
        if executor.state == ExecutorState::Releasing {
            // It was told to end, but not that nobody waits for what it runs.
            self.order_release(id, reason, fx);
        } else {
            self.release(id, reason, fx);
        }
        self.dirty = true;
    }
}

impl super::Executor {
    /// The attempt that is running, as far as can be known: executors run tasks in the order in
    /// which they were handed out.
    pub(super) fn running(&self) -> Option<u64> {
        self.tasks.values().chain(self.withdrawn.values()).min().copied()
    }
}
