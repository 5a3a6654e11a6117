//! Tasks: created, handed out, ended, taken back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flame_core::state::TaskState;
use flame_core::{ExecutorId, TaskId};
use flame_rpc::node::{self, to_agent::Message};

use super::planted::{Bug, planted};
use super::{
    Core, CoreError, Effects, ExecutorState, Found, LiveTasks, MAX_TASKS, Now, RequeueReason, Session,
    SessionKey, TaskKey, TaskPhase, TaskRow,
};
use crate::store::Record;

impl Core {
    /// Adds a task to an open session.
    ///
    /// # Errors
    /// The session does not exist or is closed.
    pub fn create_task(
        &mut self,
        session: &str,
        input: Option<Bytes>,
        now: Now,
        fx: &mut Effects,
    ) -> Result<TaskRow, CoreError> {
        let key = self.session_key(session)?;
        let row = self.session_for_tasks(session, 1)?.add_task(input, now);
        fx.records.push(Record::TaskCreated(row.clone()));
        self.counters.tasks_created += 1;
        self.touched.insert(key);
        Ok(row)
    }

    /// Session `id` if it takes `count` more tasks.
    fn session_for_tasks(&mut self, id: &str, count: usize) -> Result<&mut Session, CoreError> {
        let key = self.session_key(id)?;
        let found = self.sessions.get_mut(&key).filter(|s| s.is_open());
        let found = found.ok_or_else(|| CoreError::Invalid(format!("session {id} is not open")))?;
        if found.last_task.saturating_add(count as u64) > MAX_TASKS {
            return Err(CoreError::Invalid(format!(
                "session {id} has had {} tasks, and can have {MAX_TASKS}; open another one",
                found.last_task
            )));
        }
        Ok(found)
    }

    /// Adds many tasks to an open session; returns the first one's number.
    ///
    /// # Errors
    /// The session does not exist or is closed; then none was added.
    pub fn create_tasks(
        &mut self,
        session: &str,
        inputs: Vec<Option<Bytes>>,
        now: Now,
        fx: &mut Effects,
    ) -> Result<TaskId, CoreError> {
        let key = self.session_key(session)?;
        let found = self.session_for_tasks(session, inputs.len())?;
        let first = found.last_task + 1;
        let rows = inputs.into_iter().map(|input| found.add_task(input, now));
        let created = rows.len() as u64;
        fx.records.extend(rows.map(Record::TaskCreated));
        self.counters.tasks_created += created;
        self.touched.extend((!planted(Bug::LostWakeUp)).then_some(key));
        Ok(first)
    }

    /// Where task `id` of `session` is.
    ///
    /// # Errors
    /// The session does not exist.
    pub fn get_task(&self, session: &str, id: TaskId) -> Result<Found, CoreError> {
        let session = self.session(session)?;
        let key = session.row.key;
        let live = session.live_row(id).map(Arc::new);
        Ok(live
            .or_else(|| self.recent.get((key, id)))
            .map_or(Found::InStore(key), Found::AtHand))
    }

    /// Tasks of `session` that have not ended.
    ///
    /// # Errors
    /// The session does not exist.
    pub fn list_tasks(&self, session: &str) -> Result<LiveTasks, CoreError> {
        let session = self.session(session)?;
        let mut tasks: Vec<_> = session
            .live
            .keys()
            .filter_map(|id| session.live_row(*id))
            .collect();
        tasks.sort_unstable_by_key(|task| task.id);
        Ok(LiveTasks {
            key: session.row.key,
            tasks,
        })
    }

    /// Hands pending tasks of a session to its idle executors, and then some in advance to all.
    pub(super) fn dispatch(&mut self, key: SessionKey, now: Now, fx: &mut Effects) {
        loop {
            let Some(session) = self.sessions.get_mut(&key) else {
                return;
            };
            if session.pending.is_empty() {
                return;
            }
            // The executor that worked last has the warmest caches. One on a node that cannot be
            // reached keeps its place until that comes back, or is lost.
            let (executors, nodes) = (&self.executors, &self.nodes);
            let reachable =
                |id: &ExecutorId| executors.get(id.as_str()).is_some_and(|e| e.is_reachable(nodes));
            let place = session.idle.iter().position(reachable);
            let Some(executor) = place.and_then(|place| session.idle.remove(place)) else {
                break;
            };
            self.hand_out(&executor, key, 1, now, fx);
        }
        // More executors may be wanted, unless it is known that there are none.
        self.dirty |= self.sessions.get(&key).is_some_and(|session| !session.unserved);
        self.prefetch(key, now, fx);
    }

    /// Gives `executor` up to `count` pending tasks of its session.
    pub(super) fn hand_out(
        &mut self,
        executor: &ExecutorId,
        key: SessionKey,
        count: usize,
        now: Now,
        fx: &mut Effects,
    ) {
        let (Some(found), Some(session)) = (
            self.executors.get_mut(executor.as_str()),
            self.sessions.get_mut(&key),
        ) else {
            return;
        };
        if found.tasks.is_empty() {
            found.progress = now.mono;
        }
        let mut items = Vec::with_capacity(count.min(session.pending.len()));
        while items.len() < count {
            let Some(id) = session.pending.pop_first() else {
                break;
            };
            let Some(task) = session.live.get_mut(&id) else {
                continue;
            };
            let attempt = self.attempts.next();
            task.phase = TaskPhase::Running {
                executor: executor.clone(),
                attempt,
            };
            task.started.get_or_insert(now.wall);
            items.push(node::TaskItem {
                task_id: id,
                attempt,
                input: task.input.clone(),
            });
            found.tasks.insert(id, attempt);
            fx.handed_out.push((key, id));
        }
        if items.is_empty() {
            return;
        }
        session.counted = None;
        self.counters.tasks_handed_out += items.len() as u64;
        if let ExecutorState::Bound { idle_since, .. } = &mut found.state {
            *idle_since = None;
        }
        let node = self.nodes.get(found.node.as_str());
        if let Some(link) = node.and_then(|node| node.link) {
            let batch = node::TaskBatch {
                executor_id: executor.to_string(),
                tasks: items,
            };
            fx.order(link, Message::Tasks(batch));
        }
        self.watch_time(executor);
    }

    /// Takes results from an executor. A result of an attempt that is not the current one is
    /// refused: somebody else has the task, or had it.
    pub(super) fn tasks_done(
        &mut self,
        id: &str,
        mut results: Vec<node::TaskDone>,
        now: Now,
        fx: &mut Effects,
    ) {
        let given = results.len();
        let Some(executor) = self.executors.get_mut(id) else {
            self.counters.results_refused += given as u64;
            return;
        };
        results.retain(|result| {
            let current =
                executor.tasks.get(&result.task_id) == Some(&result.attempt) || planted(Bug::OldAttempt);
            if current {
                executor.tasks.remove(&result.task_id);
            } else if executor.withdrawn.get(&result.task_id) == Some(&result.attempt) {
                executor.withdrawn.remove(&result.task_id);
                // It ran after all, so the time of the one behind it begins only now.
                executor.progress = now.mono;
            }
            current
        });
        self.counters.results_refused += (given - results.len()) as u64;
        if results.is_empty() {
            return;
        }
        executor.done += results.len() as u64;
        let key = executor.session;
        if let Some(session) = self.sessions.get_mut(&key).filter(|_| executor.tasks.is_empty()) {
            session.counted = None;
        }
        for result in results {
            self.task_done(key, result, now, fx);
        }
        self.executor_has_room(id, now, fx);
    }

    fn task_done(&mut self, key: SessionKey, done: node::TaskDone, now: Now, fx: &mut Effects) {
        self.learn_task_time(key, Duration::from_micros(done.duration_us));
        let (state, message) = match done.return_code {
            0 => (TaskState::Succeed, None),
            code => {
                let silent = || format!("the service answered with code {code} and no message");
                (
                    TaskState::Failed,
                    Some(
                        done.message
                            .filter(|text| !text.is_empty())
                            .unwrap_or_else(silent),
                    ),
                )
            }
        };
        self.finish_task((key, done.task_id), state, done.output, message, now, fx);
    }

    pub(super) fn finish_task(
        &mut self,
        (key, id): TaskKey,
        state: TaskState,
        output: Option<Bytes>,
        message: Option<String>,
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let Some(task) = session.live.remove(&id) else {
            return;
        };
        session.pending.remove(&id);
        match state {
            TaskState::Succeed => session.succeeded += 1,
            TaskState::Cancelled => session.cancelled += 1,
            _ => session.failed += 1,
        }
        self.counters.task_ended(state);
        let row = Arc::new(TaskRow {
            session: key,
            id,
            state,
            created: task.created,
            started: task.started,
            finished: Some(now.wall),
            sequence: Some(session.ended()),
            input: task.input,
            output,
            message,
        });
        fx.records.push(Record::TaskFinished(Arc::clone(&row)));
        self.recent.push(Arc::clone(&row));
        fx.updates.push(row);
    }

    /// Makes tasks pending again that an executor had and will not finish, for `why`. `killed` is
    /// the task that ran when the executor's process died, with what is known of the death.
    pub(super) fn requeue(
        &mut self,
        key: SessionKey,
        tasks: impl IntoIterator<Item = TaskId>,
        why: RequeueReason,
        killed: Option<(TaskId, &str)>,
        now: Now,
        fx: &mut Effects,
    ) {
        for id in tasks {
            let Some(session) = self.sessions.get_mut(&key) else {
                return;
            };
            let Some(task) = session.live.get_mut(&id) else {
                continue;
            };
            task.phase = TaskPhase::Pending;
            session.pending.insert(id);
            let reason = killed
                .filter(|(killed, _)| *killed == id)
                .map(|(_, reason)| reason);
            if let Some(reason) = reason {
                task.kills += 1;
                let limit = self.config.task_retries;
                if task.kills >= limit {
                    let text = format!(
                        "the service died {limit} times while it ran this task; the last time: {reason}"
                    );
                    self.finish_task((key, id), TaskState::Failed, None, Some(text), now, fx);
                    continue;
                }
            }
            self.counters.task_requeued(why);
        }
        self.touched.insert(key);
        self.dirty = true;
    }
}
