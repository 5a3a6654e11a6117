//! A node comes back: what its agent still runs is compared with what this core believes.
//!
//! Three things can have happened: messages were lost with the old link, the agent was started
//! anew (it reports nothing), or this process was (it knows nothing, and adopts what is reported).

use std::collections::BTreeMap;
use std::time::Duration;

use flame_core::lifecycle::LifecycleEvent;
use flame_core::{ApplicationName, ExecutorId, NodeName, Resources, SessionId};
use flame_rpc::node::{self, RunningExecutor, to_agent::Message};

use super::{Attempts, Core, Effects, Executor, ExecutorState, Now, RequeueReason, SessionKey, TaskPhase};

/// The session of an executor whose own is not there, or is another one by now: keys begin with 1.
const NO_SESSION: SessionKey = 0;

/// The generation of the session manager that started `executor`, which its id begins with.
fn executor_generation(executor: &ExecutorId) -> Option<u32> {
    let (generation, _) = executor.as_str().strip_prefix('e')?.split_once('-')?;
    generation.parse().ok()
}

impl Core {
    pub(super) fn reconcile(
        &mut self,
        name: &NodeName,
        reported: Vec<RunningExecutor>,
        now: Now,
        fx: &mut Effects,
    ) {
        let mut gone = self
            .nodes
            .get(name.as_str())
            .map(|node| node.executors.clone())
            .unwrap_or_default();
        for running in reported {
            gone.remove(running.executor_id.as_str());
            let known = self
                .executors
                .get(running.executor_id.as_str())
                .map(|e| (e.id.clone(), e.node == *name));
            match known {
                Some((id, true)) => self.compare(&id, &running, now, fx),
                _ => self.adopt(name, &running, now, fx),
            }
        }
        for id in gone {
            self.remove_executor(&id, RequeueReason::AgentRestarted, None, now, fx);
        }
    }

    /// An executor that both sides know: tasks that never arrived are requeued, and an order to
    /// release it is repeated.
    fn compare(&mut self, id: &ExecutorId, running: &RunningExecutor, now: Now, fx: &mut Effects) {
        let Some(executor) = self.executors.get_mut(id.as_str()) else {
            return;
        };
        let has = |task: u64, attempt: u64| {
            running
                .tasks
                .iter()
                .any(|reported| reported.task_id == task && reported.attempt == attempt)
        };
        let missing: Vec<_> = executor
            .tasks
            .iter()
            .filter(|(task, attempt)| !has(**task, **attempt))
            .map(|(task, _)| *task)
            .collect();
        for task in &missing {
            executor.tasks.remove(task);
        }
        let key = executor.session;
        // An answer may have been lost with the link.
        executor.recalls = 0;
        executor.withdrawn.retain(|task, attempt| has(*task, *attempt));
        match executor.state {
            ExecutorState::Releasing => {
                executor.state = ExecutorState::Draining;
                self.release(id, "it was to be released before the link was lost", fx);
            }
            ExecutorState::Binding if running.bound => {
                executor.state = ExecutorState::Bound {
                    since: now.mono,
                    idle_since: None,
                };
            }
            _ => {}
        }
        if let Some(session) = self.sessions.get_mut(&key) {
            session.counted = None;
            self.touched.insert(key);
        }
        if !missing.is_empty() {
            self.requeue(key, missing, RequeueReason::LinkLost, None, now, fx);
        }
        self.executor_has_room_once(id, now, fx);
        self.ask_for_withdrawn(id, fx);
        self.watch_time(id);
    }

    /// As `executor_has_room`, for an executor that may be listed as idle already.
    pub(super) fn executor_has_room_once(&mut self, id: &ExecutorId, now: Now, fx: &mut Effects) {
        let Some(executor) = self.executors.get(id.as_str()) else {
            return;
        };
        let listed = self
            .sessions
            .get(&executor.session)
            .is_some_and(|session| session.idle.contains(id));
        // A task that runs goes on: for how long it has run is not forgotten.
        let progress = executor.progress;
        let busy = !executor.tasks.is_empty();
        if !listed {
            self.executor_has_room(id.as_str(), now, fx);
        }
        if busy && let Some(executor) = self.executors.get_mut(id.as_str()) {
            executor.progress = progress;
        }
    }

    /// An executor that only the agent knows: this process was started anew. If its session is
    /// open, the executor goes on, with the attempts it has.
    fn adopt(&mut self, name: &NodeName, running: &RunningExecutor, now: Now, fx: &mut Effects) {
        match self.adoptable(name, running) {
            Some((id, key, application)) => self.take_over(name, running, (id, key, application), now, fx),
            None => self.send_away(name, running, fx),
        }
    }

    /// An executor that nobody needs: it is told to end, and holds its place until it has.
    fn send_away(&mut self, name: &NodeName, running: &RunningExecutor, fx: &mut Effects) {
        let Some(link) = self.nodes.get(name.as_str()).and_then(|node| node.link) else {
            return;
        };
        let release = node::ReleaseExecutor {
            executor_id: running.executor_id.clone(),
            reason: "its session does not need it any more".to_owned(),
            give_up: false,
        };
        fx.order(link, Message::Release(release));
        let id = ExecutorId::new(&running.executor_id).ok();
        let id = id.filter(|id| !self.executors.contains_key(id));
        let session_id = SessionId::new(&running.session_id).ok();
        let application = ApplicationName::new(&running.application).ok();
        let (Some(id), Some(session_id), Some(application)) = (id, session_id, application) else {
            return;
        };
        let executor = Executor {
            id: id.clone(),
            node: name.clone(),
            session: NO_SESSION,
            session_id,
            application,
            resources: running.resreq.as_ref().map(Resources::from).unwrap_or_default(),
            state: ExecutorState::Releasing,
            tasks: BTreeMap::new(),
            done: 1,
            progress: Duration::ZERO,
            recalls: 0,
            withdrawn: BTreeMap::new(),
            give_up: false,
            look_at: None,
        };
        if let Some(node) = self.nodes.get_mut(name.as_str()) {
            node.executors.insert(id.clone());
            node.used = node.used.plus(&executor.resources);
        }
        self.leaving.insert(id.clone());
        self.executors.insert(id, executor);
    }

    fn adoptable(
        &self,
        name: &NodeName,
        running: &RunningExecutor,
    ) -> Option<(ExecutorId, SessionKey, ApplicationName)> {
        let id = ExecutorId::new(&running.executor_id).ok()?;
        // Its session and its tasks may be others than those of the same names in the backup.
        if self.restored_generation > 0
            && executor_generation(&id).is_none_or(|found| found <= self.restored_generation)
        {
            return None;
        }
        // The id of a live executor of another node would be a lie.
        if self
            .executors
            .get(id.as_str())
            .is_some_and(|known| known.node != *name)
        {
            return None;
        }
        let session = self
            .session(&running.session_id)
            .ok()
            .filter(|session| session.is_open())?;
        // A session that was deleted and made again under the same id is another one.
        let same = session.row.key == running.session_number
            && session.row.application.as_str() == running.application;
        same.then(|| (id, session.row.key, session.row.application.clone()))
    }

    /// Whether a session or its application has more executors than it may have.
    fn is_over_limit(&self, key: SessionKey) -> bool {
        let Some(session) = self.sessions.get(&key) else {
            return false;
        };
        let name = &session.row.application;
        let of_session = session.executors.iter().filter_map(|id| self.executors.get(id));
        let of_application = self.executors.values().filter(|e| e.application == *name);
        let application = self.applications.get(name.as_str());
        let most = application.and_then(|application| application.spec.max_instances);
        // Nobody is counted where there are fewer than the limit anyhow.
        let exceeds = |limit: Option<u32>, all: usize| limit.filter(|limit| all > *limit as usize);
        let staying = |executor: &&Executor| !executor.is_leaving();
        exceeds(session.row.max_instances, session.executors.len())
            .is_some_and(|limit| of_session.filter(staying).count() > limit as usize)
            || exceeds(most, self.executors.len())
                .is_some_and(|limit| of_application.filter(staying).count() > limit as usize)
    }

    fn take_over(
        &mut self,
        name: &NodeName,
        running: &RunningExecutor,
        (id, key, application): (ExecutorId, SessionKey, ApplicationName),
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let mut tasks = BTreeMap::new();
        // What has ended, is somebody else's by now, or had its number from a process that died
        // before the task was stored, and that number is another task's now. It may have ended here, too: then the
        // results come before the answer to the recall.
        let mut withdrawn = BTreeMap::new();
        for reported in &running.tasks {
            let Some(task) = session.live.get_mut(&reported.task_id) else {
                withdrawn.insert(reported.task_id, reported.attempt);
                continue;
            };
            let is_same = reported.task_id <= session.last_restored
                || Attempts::generation(reported.attempt) == u64::from(self.generation);
            if task.phase != TaskPhase::Pending || !is_same {
                withdrawn.insert(reported.task_id, reported.attempt);
            } else {
                task.phase = TaskPhase::Running {
                    executor: id.clone(),
                    attempt: reported.attempt,
                };
                task.started.get_or_insert(now.wall);
                session.pending.remove(&reported.task_id);
                tasks.insert(reported.task_id, reported.attempt);
            }
        }
        let resources = running
            .resreq
            .as_ref()
            .map_or(session.row.resources, Resources::from);
        session.executors.insert(id.clone());
        session.counted = None;
        session.runs_on(name, fx);
        let executor = Executor {
            id: id.clone(),
            node: name.clone(),
            session: key,
            session_id: session.row.id.clone(),
            application,
            resources,
            state: match running.bound {
                true => ExecutorState::Bound {
                    since: now.mono,
                    idle_since: None,
                },
                false => ExecutorState::Binding,
            },
            tasks,
            done: 1, // it was bound before, so its death is not a failure to bind
            progress: now.mono,
            recalls: 0,
            withdrawn,
            give_up: false,
            look_at: None,
        };
        let text = format!("executor {id} goes on with {} tasks", executor.tasks.len());
        fx.event(LifecycleEvent::ExecutorAdopted, text)
            .concerns(&executor);
        if let Some(node) = self.nodes.get_mut(name.as_str()) {
            node.executors.insert(id.clone());
            node.used = node.used.plus(&executor.resources);
        }
        self.executors.insert(id.clone(), executor);
        if self.is_over_limit(key) {
            // Others were started before this one was heard of. It finishes what it runs.
            self.leave(&id, ExecutorState::Draining);
            self.recall(&id, fx);
        }
        self.executor_has_room(id.as_str(), now, fx);
        // Now the session may have one more than it has to keep.
        self.watch_idle(key);
        self.ask_for_withdrawn(&id, fx);
        self.watch_time(&id);
    }
}
