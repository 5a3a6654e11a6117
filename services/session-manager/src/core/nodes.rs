//! Nodes: connected, heard of, silent, gone.

use flame_core::NodeName;
use flame_core::lifecycle::LifecycleEvent;
use flame_core::state::NodeState;
use flame_rpc::node::{self, from_agent, to_agent};
use flame_rpc::v1;
use std::time::Duration;

use super::model::{FORGET_AFTER, LOST_AFTER, SUSPECT_AFTER};
use super::planted::{Bug, planted};
use super::{Core, CoreError, Effects, LinkId, Node, NodeHello, Now, RequeueReason, Stability};

/// How often agents send a heartbeat, in milliseconds: three fit into the time after which a
/// silent node is suspect.
const HEARTBEAT_INTERVAL_MS: u32 = 5_000;

impl Core {
    /// A node's agent has connected. An older link of the same node is ended and counts no more.
    pub fn node_connected(
        &mut self,
        link: LinkId,
        cluster: &str,
        hello: NodeHello,
        executors: Vec<node::RunningExecutor>,
        now: Now,
        fx: &mut Effects,
    ) {
        let name = hello.name.clone();
        if !self.admit(link, &hello, now, fx) {
            return;
        }
        let old = self.nodes.remove(name.as_str());
        if let Some(old_link) = old.as_ref().and_then(|old| old.link) {
            if !planted(Bug::IgnoredEpoch) {
                self.links.remove(&old_link);
            }
            fx.hang_up.push(old_link);
        }
        let (epoch, known, mut stability, reserved_for) =
            old.map_or((1, Default::default(), Stability::default(), None), |old| {
                let mut stability = old.stability;
                if old.state != NodeState::Left {
                    stability.lost(now.mono);
                }
                let same = old.hello.agent_instance == hello.agent_instance;
                let reserved_for = old.reserved_for.filter(|_| same);
                (old.epoch + 1, (old.executors, old.used), stability, reserved_for)
            });
        let flaps = stability.came(now);
        let cordon = self.cordons.get(name.as_str()).cloned();
        let drain = cordon.as_ref().is_some_and(|cordon| cordon.drain);
        let (allocatable, instance) = (hello.allocatable, hello.agent_instance.clone());
        let node = Node {
            hello,
            state: NodeState::Ready,
            link: Some(link),
            epoch,
            draining: false,
            cordon,
            stability,
            last_heard: now.mono,
            last_heard_wall: now.wall,
            last_message: now.mono,
            refused: None,
            reserved_for,
            executors: known.0,
            used: known.1,
        };
        let slots = node.slots(self.config.limits.max_executors);
        self.nodes.insert(name.clone(), node);
        self.links.insert(link, name.clone());
        let text = format!("node {name} is ready with {allocatable} (link {epoch}, agent {instance})");
        fx.event(LifecycleEvent::NodeRegistered, text).node = Some(name.clone());
        if flaps {
            let text = format!(
                "the link of node {name} comes and goes; it gets no new executors until it is stable"
            );
            fx.event(LifecycleEvent::NodeUnstable, text).node = Some(name.clone());
        }
        fx.order(
            link,
            to_agent::Message::Welcome(node::Welcome {
                cluster: cluster.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                link_epoch: epoch,
                heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS,
                max_message_size: self.config.limits.max_message_size as u64,
                max_executors: slots,
            }),
        );
        self.reconcile(&name, executors, now, fx);
        self.reserve(&name);
        self.release_unselected(&name, fx);
        if drain {
            self.drain_executors(&name, fx);
        }
        // What could not run on the other nodes may run on this one.
        for session in self.sessions.values_mut().filter(|session| session.paused) {
            session.paused = false;
            session.bind_failures = 0;
            session.avoids.clear();
        }
        self.dirty = true;
        self.timer(Duration::ZERO);
    }

    /// A message of a connected agent, other than Hello. Messages on a link that is not the
    /// node's current one are ignored.
    pub fn node_message(&mut self, link: LinkId, message: from_agent::Message, now: Now, fx: &mut Effects) {
        let Some(name) = self.links.get(&link).cloned() else {
            return;
        };
        let Some(node) = self.nodes.get_mut(name.as_str()) else {
            return;
        };
        node.last_heard = now.mono;
        node.last_heard_wall = now.wall;
        node.last_message = now.mono;
        if node.state != NodeState::Ready {
            self.node_recovered(&name, fx);
        }
        match message {
            // Lines of logs do not come here: the link hands them to their readers.
            from_agent::Message::Hello(_)
            | from_agent::Message::Heartbeat(_)
            | from_agent::Message::Log(_) => {}
            from_agent::Message::Executor(update) => self.executor_update(update, now, fx),
            from_agent::Message::Results(batch) => {
                let mut results = batch.results.into_iter().peekable();
                while let Some(first) = results.next() {
                    let executor = first.executor_id.clone();
                    let mut run = vec![first];
                    while let Some(next) = results.next_if(|next| next.executor_id == executor) {
                        run.push(next);
                    }
                    self.tasks_done(&executor, run, now, fx);
                }
                fx.answer(
                    link,
                    to_agent::Message::Ack(node::ResultAck {
                        sequence: batch.sequence,
                    }),
                );
            }
            from_agent::Message::Returned(returned) => self.tasks_returned(returned, now, fx),
            from_agent::Message::Draining(draining) => self.node_draining(&name, &draining.reason, fx),
            from_agent::Message::LeaveRequest(request) => {
                self.leave_requested(&name, link, &request.reason, fx);
            }
            from_agent::Message::Leave(leave) => self.node_left(&name, &leave.reason, now, fx),
        }
    }

    /// Something of the node's agent arrived at `at`, and may still wait to be looked at: silent is
    /// only who sends nothing. To be told before the core looks who is silent.
    ///
    /// A lost node stays lost, because it has to say first what still runs there.
    pub fn node_heard(&mut self, name: &NodeName, at: Duration, now: Now, fx: &mut Effects) {
        let Some(node) = self.nodes.get_mut(name.as_str()) else {
            return;
        };
        let at = at.min(now.mono);
        if !matches!(node.state, NodeState::Ready | NodeState::Suspect) || at <= node.last_heard {
            return;
        }
        let silent = now.mono - at;
        node.last_heard = at;
        let ago = i64::try_from(silent.as_millis()).unwrap_or(i64::MAX);
        node.last_heard_wall = now.wall.saturating_sub(ago);
        if node.state == NodeState::Suspect && silent < SUSPECT_AFTER {
            self.node_recovered(name, fx);
        }
    }

    fn node_recovered(&mut self, name: &NodeName, fx: &mut Effects) {
        let Some(node) = self.nodes.get_mut(name.as_str()) else {
            return;
        };
        node.state = NodeState::Ready;
        self.dirty = true;
        let executors = node.executors.iter().filter_map(|id| self.executors.get(id));
        self.touched.extend(executors.map(|executor| executor.session));
        // It may be silent again before the time at which it would have been lost.
        self.timers_at = Duration::ZERO;
        let text = format!("node {name} is heard of again");
        fx.event(LifecycleEvent::NodeRecovered, text).node = Some(name.clone());
    }

    /// A link has ended. The node has the time until it is lost to come back.
    pub fn node_disconnected(&mut self, link: LinkId, fx: &mut Effects) {
        let Some(name) = self.links.remove(&link) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(name.as_str()) {
            node.link = None;
            if node.state != NodeState::Left {
                let text = format!("the link to node {name} ended");
                fx.event(LifecycleEvent::NodeDisconnected, text).node = Some(name);
            }
        }
    }

    /// All nodes, by name.
    #[must_use]
    pub fn list_nodes(&self) -> v1::NodeList {
        v1::NodeList {
            nodes: self.nodes.values().map(Node::view).collect(),
        }
    }

    /// One node.
    ///
    /// # Errors
    /// It does not exist.
    pub fn get_node(&self, name: &str) -> Result<v1::Node, CoreError> {
        let found = self.nodes.get(name).map(Node::view);
        found.ok_or_else(|| CoreError::NotFound(format!("node {name} not found")))
    }

    /// The node finishes what runs there and gets nothing new.
    fn node_draining(&mut self, name: &NodeName, reason: &str, fx: &mut Effects) {
        let Some(node) = self.nodes.get_mut(name.as_str()) else {
            return;
        };
        node.draining = true;
        let text = format!("node {name} takes no more work: {reason}");
        fx.event(LifecycleEvent::NodeDraining, text).node = Some(name.clone());
        self.drain_executors(name, fx);
        self.dirty = true;
    }

    fn node_left(&mut self, name: &NodeName, reason: &str, now: Now, fx: &mut Effects) {
        self.drop_executors(name, RequeueReason::NodeLeft, now, fx);
        if let Some(node) = self.nodes.get_mut(name.as_str()) {
            node.state = NodeState::Left;
            if let Some(link) = node.link.take() {
                self.links.remove(&link);
                fx.hang_up.push(link);
            }
        }
        let text = format!("node {name} left: {reason}");
        fx.event(LifecycleEvent::NodeLeft, text).node = Some(name.clone());
        if self
            .nodes
            .get(name.as_str())
            .is_some_and(|node| node.hello.ephemeral)
        {
            // It does not come back under this name.
            self.nodes.remove(name.as_str());
            self.forget_identity(name, fx);
            let text = format!("node {name} was ephemeral and is forgotten");
            fx.event(LifecycleEvent::NodeForgotten, text).node = Some(name.clone());
        }
    }

    /// Nodes that were silent for too long become suspect, lost, forgotten.
    pub(super) fn check_nodes(&mut self, now: Now, fx: &mut Effects) {
        let mut suspect = Vec::new();
        let mut lost = Vec::new();
        let mut forgotten = Vec::new();
        for (name, node) in &mut self.nodes {
            if node.stability.release(now.mono) {
                self.dirty = true;
                let text = format!("the link of node {name} is stable again");
                fx.event(LifecycleEvent::NodeStable, text).node = Some(name.clone());
            }
            let silent = now.mono.saturating_sub(node.last_heard);
            match node.state {
                NodeState::Ready if silent >= SUSPECT_AFTER => {
                    node.state = NodeState::Suspect;
                    let text = format!(
                        "node {name} is silent for {} s and gets no new work",
                        silent.as_secs()
                    );
                    self.counters.nodes_suspect += 1;
                    suspect.push(name.clone());
                    fx.event(LifecycleEvent::NodeSuspect, text).node = Some(name.clone());
                }
                NodeState::Suspect if silent >= LOST_AFTER => {
                    node.state = NodeState::Lost;
                    // If it is heard of again, it has to say first what still runs there.
                    if let Some(link) = node.link.take() {
                        self.links.remove(&link);
                        fx.hang_up.push(link);
                    }
                    lost.push(name.clone());
                }
                NodeState::Lost | NodeState::Left if silent >= FORGET_AFTER => forgotten.push(name.clone()),
                _ => {}
            }
        }
        for name in suspect {
            self.release_idle_on(&name, fx);
            self.dirty = true;
        }
        for name in lost {
            let text = format!("node {name} is lost; its tasks are given to others");
            self.counters.nodes_lost += 1;
            fx.event(LifecycleEvent::NodeLost, text).node = Some(name.clone());
            self.drop_executors(&name, RequeueReason::NodeLost, now, fx);
        }
        for name in forgotten {
            let text = format!("node {name} was gone for long and is forgotten");
            fx.event(LifecycleEvent::NodeForgotten, text).node = Some(name.clone());
            self.nodes.remove(name.as_str());
            self.forget_identity(&name, fx);
            self.links.retain(|_, node| *node != name);
        }
        self.forget_unseen(now, fx);
    }

    pub(super) fn drop_executors(&mut self, name: &NodeName, why: RequeueReason, now: Now, fx: &mut Effects) {
        let Some(node) = self.nodes.get(name.as_str()) else {
            return;
        };
        for executor in node.executors.clone() {
            self.remove_executor(&executor, why, None, now, fx);
        }
    }
}
