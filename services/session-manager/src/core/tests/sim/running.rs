//! What agents run, judged from the outside: nobody goes on with a task that has ended, no task
//! runs for longer than its session allows, and none is failed for that before its time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flame_core::TaskId;
use flame_core::state::TaskState;
use flame_rpc::node::{ResultBatch, RunningExecutor};

use super::judge::Acceptable;
use super::scenario::Time;
use super::world::{Checked, World};
use crate::core::{Core, SessionKey, TaskRow};

/// Until an agent has told of a task, was told to end it, and has done so: three messages, each of
/// which may wait behind slow ones.
const ENDED_WITHIN: Duration = Duration::from_secs(15);

/// When tasks were handed out, and when they ended.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// To which executor, and when, on the clock of the manager that runs.
    handed: BTreeMap<(SessionKey, TaskId), (String, Duration)>,
    /// Attempts of this manager of which no result has come.
    attempts: BTreeSet<u64>,
    /// When executors last told of a result, or were given or had tasks for the first time.
    progress: BTreeMap<String, Duration>,
    /// When the end of a task was stored.
    ended: BTreeMap<(SessionKey, TaskId), Time>,
}

impl Times {
    pub(super) fn manager_started(&mut self) {
        self.handed.clear();
        self.attempts.clear();
        self.progress.clear();
    }

    pub(super) fn handed_out(
        &mut self,
        task: (SessionKey, TaskId),
        (executor, attempt): (&str, u64),
        now: Duration,
    ) {
        self.attempts.insert(attempt);
        self.progress.entry(executor.to_owned()).or_insert(now);
        self.handed.insert(task, (executor.to_owned(), now));
    }

    pub(super) fn reported(&mut self, running: &[RunningExecutor], now: Duration) {
        for executor in running {
            let id = &executor.executor_id;
            self.progress.entry(id.clone()).or_insert(now);
            for task in &executor.tasks {
                let key = (executor.session_number, task.task_id);
                self.handed.entry(key).or_insert_with(|| (id.clone(), now));
            }
        }
    }

    /// Results tell when the task behind them began, unless they come again.
    pub(super) fn results(&mut self, batch: &ResultBatch, accepted: &Acceptable, now: Duration) {
        for done in &batch.results {
            let is_new = self.attempts.remove(&done.attempt);
            let mut counted = accepted.iter().map(|(_, task)| *task);
            if is_new || counted.any(|task| task == done.task_id) {
                self.progress.insert(done.executor_id.clone(), now);
            }
        }
    }

    pub(super) fn stored(&mut self, row: &TaskRow, now: Time) {
        self.ended.insert((row.session, row.id), now);
    }

    /// A task that failed because of its session's limit had its time.
    pub(super) fn had_its_time(&self, core: &Core, row: &TaskRow, now: Duration) -> Checked {
        let message = row.message.as_deref().unwrap_or_default();
        if row.state != TaskState::Failed || !message.contains("task_timeout") {
            return Ok(());
        }
        let session = core.sessions.get(&row.session);
        let limit = session.and_then(|session| session.row.task_timeout);
        let begun = self.handed.get(&(row.session, row.id)).map(|(executor, handed)| {
            let progress = self.progress.get(executor).copied().unwrap_or_default();
            progress.max(*handed)
        });
        match (limit, begun) {
            (Some(limit), Some(begun)) if now >= begun + limit => Ok(()),
            _ => Err(format!(
                "task {} failed at {now:?} for the limit {limit:?}, and began at {begun:?}",
                row.id
            )),
        }
    }
}

impl World {
    /// To be asked when nothing goes wrong any more.
    pub(super) fn nobody_runs_for_too_long(&self) -> Checked {
        let calm = self.scenario.calm_at();
        for agent in self.agents.iter().filter(|agent| agent.link.is_some()) {
            for (session, item, began) in agent.running() {
                let began = began.max(calm).max(agent.linked_at);
                let ended = self.judge.times.ended.get(&(session, item.task_id));
                if let Some(ended) = ended.filter(|ended| self.now > (**ended).max(began) + ENDED_WITHIN) {
                    return Err(format!(
                        "{} has run task {} of session {session} since {began:?}, which ended at {ended:?}",
                        agent.name, item.task_id
                    ));
                }
                let stored = self.disk.sessions.get(&session);
                let limit = stored.and_then(|stored| stored.row.task_timeout);
                if limit.is_some_and(|limit| self.now > began + limit + ENDED_WITHIN) {
                    return Err(format!(
                        "{} has run task {} of session {session} since {began:?} with the limit {limit:?}",
                        agent.name, item.task_id
                    ));
                }
            }
        }
        Ok(())
    }
}
