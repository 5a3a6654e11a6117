//! Executors: started, bound, idle, drained, released, gone.

use flame_core::lifecycle::LifecycleEvent;
use flame_core::{ExecutorId, NodeName, event};
use flame_rpc::node::{self, ExecutorPhase, to_agent::Message};
use flame_rpc::v1;
use std::collections::BTreeMap;
use std::time::Duration;

use super::planted::{Bug, planted};
use super::{Core, Effects, Executor, ExecutorState, Node, Now, RequeueReason, SessionKey};

/// Wait after the first failure to bind; doubled with each further one.
const FIRST_BIND_RETRY: Duration = Duration::from_millis(100);
/// Longest wait between two tries to bind.
const MAX_BIND_RETRY: Duration = Duration::from_secs(10);

impl Core {
    /// All executors, by id.
    #[must_use]
    pub fn list_executors(&self) -> v1::ExecutorList {
        let mut executors: Vec<_> = self.executors.values().collect();
        executors.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        v1::ExecutorList {
            executors: executors.into_iter().map(Executor::view).collect(),
        }
    }

    /// Starts an executor for session `key` on `node`.
    pub(super) fn start_executor(&mut self, key: SessionKey, node: &NodeName, fx: &mut Effects) {
        self.last_executor += 1;
        let Ok(id) = ExecutorId::new(&format!("e{}-{}", self.generation, self.last_executor)) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let Some(application) = self.applications.get(session.row.application.as_str()) else {
            return;
        };
        let Some(found) = self.nodes.get_mut(node.as_str()) else {
            return;
        };
        let Some(link) = found.link else { return };
        if found.hello.ephemeral {
            found.reserved_for.get_or_insert(key);
        }
        found.used = found.used.plus(&session.row.resources);
        found.executors.insert(id.clone());
        session.executors.insert(id.clone());
        session.counted = None;
        session.runs_on(node, fx);
        let start = node::StartExecutor {
            executor_id: id.to_string(),
            session_id: session.row.id.to_string(),
            application: application.name.to_string(),
            spec: Some(application.spec.clone()),
            resreq: Some(session.row.resources.into()),
            session_number: key,
            common_data: session.row.common_data.clone(),
            application_revision: application.revision(),
        };
        let executor = Executor {
            id: id.clone(),
            node: node.clone(),
            session: key,
            session_id: session.row.id.clone(),
            application: application.name.clone(),
            resources: session.row.resources,
            state: ExecutorState::Binding,
            tasks: Default::default(),
            done: 0,
            progress: Duration::ZERO,
            recalls: 0,
            withdrawn: Default::default(),
            give_up: false,
            look_at: None,
        };
        fx.order(link, Message::Start(start));
        self.executors.insert(id, executor);
        self.counters.executors_started += 1;
        // Now the session may have one more than it has to keep.
        self.watch_idle(key);
    }

    /// Tells the node to end an executor. Its resources are free when the node says so.
    pub(super) fn release(&mut self, id: &ExecutorId, reason: &str, fx: &mut Effects) {
        let Some(executor) = self.executors.get(id.as_str()) else {
            return;
        };
        if executor.state == ExecutorState::Releasing {
            return;
        }
        self.leave(id, ExecutorState::Releasing);
        self.order_release(id, reason, fx);
    }

    /// The order that belongs to [`ExecutorState::Releasing`].
    pub(super) fn order_release(&self, id: &ExecutorId, reason: &str, fx: &mut Effects) {
        let Some(executor) = self.executors.get(id.as_str()) else {
            return;
        };
        if let Some(link) = self.nodes.get(executor.node.as_str()).and_then(|node| node.link) {
            let release = node::ReleaseExecutor {
                executor_id: id.to_string(),
                reason: reason.to_owned(),
                give_up: executor.give_up,
            };
            fx.order(link, Message::Release(release));
        }
    }

    /// What an agent says of one of its executors.
    pub(super) fn executor_update(&mut self, update: node::ExecutorUpdate, now: Now, fx: &mut Effects) {
        let Some(executor) = self.executors.get(update.executor_id.as_str()) else {
            return;
        };
        let id = executor.id.clone();
        match update.phase() {
            ExecutorPhase::Bound => self.executor_bound(&id, now, fx),
            ExecutorPhase::BindFailed => self.bind_failed(&id, update.code, &update.message, now, fx),
            ExecutorPhase::Died => self.executor_died(&id, &update, now, fx),
            ExecutorPhase::Released | ExecutorPhase::Unspecified => {
                let text = format!("executor {id} on node {} was released", executor.node);
                fx.event(LifecycleEvent::ExecutorReleased, text)
                    .concerns(executor);
                self.remove_executor(&id, RequeueReason::Released, None, now, fx);
            }
        }
    }

    fn executor_bound(&mut self, id: &ExecutorId, now: Now, fx: &mut Effects) {
        let Some(executor) = self.executors.get_mut(id.as_str()) else {
            return;
        };
        if executor.state != ExecutorState::Binding {
            return;
        }
        executor.state = ExecutorState::Bound {
            since: now.mono,
            idle_since: Some(now.mono),
        };
        self.counters.executors_bound += 1;
        let text = format!(
            "executor {id} on node {} serves session {}",
            executor.node, executor.session_id
        );
        fx.event(LifecycleEvent::ExecutorBound, text).concerns(executor);
        if let Some(session) = self.sessions.get_mut(&executor.session) {
            session.idle.push_back(id.clone());
            session.bind_failures = 0;
            session.avoids.remove(executor.node.as_str());
            session.waiting_since = None;
            let key = executor.session;
            self.touched.insert(key);
            self.watch_idle(key);
        }
        // A session of higher right may have come while the process started.
        self.dirty = true;
    }

    fn bind_failed(&mut self, id: &ExecutorId, code: i32, reason: &str, now: Now, fx: &mut Effects) {
        let Some(executor) = self.executors.get(id.as_str()) else {
            return;
        };
        let (key, node) = (executor.session, executor.node.clone());
        let releasing = executor.state == ExecutorState::Releasing;
        self.remove_executor(id, RequeueReason::NotBound, None, now, fx);
        if releasing {
            return;
        }
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        self.counters.executors_not_bound += 1;
        session.bind_failures += 1;
        let failures = session.bind_failures;
        let wait = FIRST_BIND_RETRY
            .saturating_mul(1 << failures.saturating_sub(1).min(10))
            .min(MAX_BIND_RETRY);
        session.avoids.retain(|_, until| *until > now.mono);
        session.avoids.insert(node.clone(), now.mono + wait);
        let session_id = session.row.id.clone();
        let text = format!(
            "failed to bind session {session_id} to executor {id} on node {node}: code {code}: {reason}"
        );
        let notice = fx.event(LifecycleEvent::ExecutorBindFailed, text.clone());
        (notice.session, notice.node, notice.executor) =
            (Some(session_id.clone()), Some(node), Some(id.clone()));
        let exhausted = failures >= self.config.bind_retries && !session.paused;
        session.paused |= exhausted;
        self.session_event(key, event::BIND_FAILED, text, now, fx);
        if exhausted {
            let text = format!(
                "session {session_id} gets no new executors, because binding failed {failures} times; \
                 mend the cause and close the session, or add a node; the last failure: {reason}"
            );
            fx.event(LifecycleEvent::SessionPaused, text.clone()).session = Some(session_id);
            self.session_event(key, event::BIND_RETRIES_EXHAUSTED, text, now, fx);
        }
    }

    fn executor_died(&mut self, id: &ExecutorId, update: &node::ExecutorUpdate, now: Now, fx: &mut Effects) {
        let Some(executor) = self.executors.get(id.as_str()) else {
            return;
        };
        // A service that ends before it did anything will do so again: that is a failure to bind,
        // or else it would be started over and over (defect 12).
        if executor.done == 0 && executor.tasks.is_empty() {
            let reason = update.message.clone();
            return self.bind_failed(id, event::bind::PROCESS, &reason, now, fx);
        }
        self.counters.executors_died += 1;
        let killed = update
            .lost
            .first()
            .filter(|_| update.running)
            .map(|lost| lost.task_id);
        let text = format!("executor {id} died: {}", update.message);
        fx.event(LifecycleEvent::ExecutorDied, text)
            .concerns(executor)
            .task = killed;
        let session = self.sessions.get_mut(&executor.session);
        let task = session.and_then(|session| session.live.get_mut(&killed?));
        let attempt = update.lost.first().map_or(0, |lost| lost.attempt);
        // The agent of an earlier attempt may tell of its death again after a later one has died.
        let is_new = task.is_some_and(|task| {
            let is_new = attempt > task.last_killed;
            task.last_killed = task.last_killed.max(attempt);
            is_new
        });
        let killed = killed
            .filter(|_| is_new)
            .map(|task| (task, update.message.as_str()));
        self.remove_executor(id, RequeueReason::ServiceDied, killed, now, fx);
    }

    /// Forgets an executor that is gone, and requeues what it had.
    pub(super) fn remove_executor(
        &mut self,
        id: &ExecutorId,
        why: RequeueReason,
        killed: Option<(flame_core::TaskId, &str)>,
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(executor) = self.executors.remove(id.as_str()) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(executor.node.as_str()) {
            node.executors.remove(id.as_str());
            node.used = node.used.minus(&executor.resources);
        }
        if let Some(session) = self.sessions.get_mut(&executor.session) {
            session.executors.remove(id.as_str());
            session.idle.retain(|idle| idle != id);
            session.counted = None;
        }
        self.leaving.remove(id);
        self.dirty = true;
        self.forget_time(&executor);
        self.note_drained(&executor.node, fx);
        if !planted(Bug::ForgottenRequeue) {
            self.requeue(executor.session, executor.tasks.into_keys(), why, killed, now, fx);
        }
    }

    /// After a result: the next task, or the end of an executor that drains, or idleness.
    pub(super) fn executor_has_room(&mut self, id: &str, now: Now, fx: &mut Effects) {
        let Some(executor) = self.executors.get_mut(id) else {
            return;
        };
        executor.progress = now.mono;
        if !executor.tasks.is_empty() {
            // It may be filled up again, see `prefetch.rs`.
            self.touched.insert(executor.session);
            return;
        }
        match &mut executor.state {
            ExecutorState::Bound { idle_since, .. } => {
                *idle_since = Some(now.mono);
                if let Some(session) = self.sessions.get_mut(&executor.session) {
                    session.idle.push_front(executor.id.clone());
                    self.touched.insert(executor.session);
                    // Somebody may wait for exactly this executor to become idle.
                    self.dirty |= self.unserved && session.pending.is_empty();
                    let key = executor.session;
                    self.watch_idle(key);
                }
            }
            ExecutorState::Draining => {
                let id = executor.id.clone();
                self.release(&id, "another session is to have its place", fx);
            }
            ExecutorState::Binding | ExecutorState::Releasing => {}
        }
    }
}

impl Executor {
    /// Whether a task that is given to it now arrives.
    pub(super) fn is_reachable(&self, nodes: &BTreeMap<NodeName, Node>) -> bool {
        nodes.get(self.node.as_str()).is_some_and(Node::is_ready)
    }
}
