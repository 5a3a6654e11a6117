//! Nodes that end by themselves: an agent without work asks whether it may leave, and an ephemeral
//! node serves one session only.

use flame_core::NodeName;
use flame_core::lifecycle::LifecycleEvent;
use flame_rpc::node::{LeaveAnswer, to_agent::Message};

use super::{Core, Effects, Executor, ExecutorState, LinkId, SessionKey};

impl Core {
    /// The agent of `name` has nothing to do and would like to leave. If it may, the node gets nothing
    /// new: orders of before are on their way in front of the answer, so neither side can be wrong.
    pub(super) fn leave_requested(&mut self, name: &NodeName, link: LinkId, reason: &str, fx: &mut Effects) {
        let Some(node) = self.nodes.get_mut(name.as_str()) else {
            return;
        };
        let granted = node.executors.is_empty();
        let answer = match granted {
            true => String::new(),
            false => format!("{} of its executors are not gone yet", node.executors.len()),
        };
        if granted && !node.draining {
            node.draining = true;
            self.dirty = true;
            let text = format!("node {name} takes no more work and may leave: {reason}");
            fx.event(LifecycleEvent::NodeDraining, text).node = Some(name.clone());
        }
        let answer = LeaveAnswer {
            granted,
            reason: answer,
        };
        fx.order(link, Message::LeaveAnswer(answer));
    }

    /// Nodes that are kept for one session, and for which.
    pub(super) fn reserved_nodes(&self) -> Vec<(NodeName, SessionKey)> {
        let reserved = self.nodes.values().filter_map(|node| {
            let session = node.reserved_for?;
            Some((node.hello.name.clone(), session))
        });
        reserved.collect()
    }

    /// The node has connected with executors: an ephemeral one is kept for the session of the first.
    pub(super) fn reserve(&mut self, name: &NodeName) {
        let Some(node) = self.nodes.get_mut(name.as_str()) else {
            return;
        };
        if node.hello.ephemeral && node.reserved_for.is_none() {
            let mut executors = node.executors.iter().filter_map(|id| self.executors.get(id));
            node.reserved_for = executors.next().map(|executor| executor.session);
        }
    }

    /// The node has connected, perhaps with other labels than before: executors of sessions that do not
    /// select it any more end, those that work after what they run.
    pub(super) fn release_unselected(&mut self, name: &NodeName, fx: &mut Effects) {
        let Some(node) = self.nodes.get(name.as_str()) else {
            return;
        };
        let labels = &node.hello.labels;
        let executors = node.executors.iter().filter_map(|id| self.executors.get(id));
        let unselected = executors.filter(|executor| {
            let session = self.sessions.get(&executor.session);
            session.is_some_and(|session| {
                let mut selector = session.row.node_labels.iter();
                !selector.all(|label| labels.contains(label))
            })
        });
        let unselected: Vec<_> = unselected
            .filter(|executor| !Executor::is_leaving(executor))
            .map(|executor| (executor.id.clone(), executor.tasks.is_empty()))
            .collect();
        for (id, is_idle) in unselected {
            if is_idle {
                self.release(
                    &id,
                    "its node has not the labels any more that its session selects",
                    fx,
                );
            } else {
                self.leave(&id, ExecutorState::Draining);
                self.recall(&id, fx);
            }
        }
    }
}
