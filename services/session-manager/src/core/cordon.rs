//! Nodes that somebody takes out of service: cordoned (nothing new), drained (and what runs there
//! ends), forgotten. A cordon belongs to the name of a node, so that it outlives restarts of the
//! agent, of this process and of the machine.

use flame_core::NodeName;
use flame_core::lifecycle::LifecycleEvent;
use flame_rpc::v1;

use super::{Core, CoreError, Effects, ExecutorState, Now, RequeueReason};
use crate::store::Record;

/// Why a node is given nothing new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cordon {
    /// Which.
    pub node: NodeName,
    /// What runs there ends, too.
    pub drain: bool,
    /// In the words of whoever asked for it.
    pub reason: Option<String>,
    /// Unix milliseconds.
    pub since: i64,
}

impl Core {
    /// Takes a node out of service. To cordon a node that is drained changes nothing but the reason.
    ///
    /// # Errors
    /// The node does not exist.
    pub fn cordon_node(
        &mut self,
        name: &str,
        drain: bool,
        reason: Option<String>,
        now: Now,
        fx: &mut Effects,
    ) -> Result<v1::Node, CoreError> {
        let Some(node) = self.nodes.get_mut(name) else {
            return Err(unknown(name));
        };
        let old = node.cordon.clone();
        let cordon = Cordon {
            node: node.hello.name.clone(),
            drain: drain || old.as_ref().is_some_and(|old| old.drain),
            reason: reason.or_else(|| old.as_ref().and_then(|old| old.reason.clone())),
            since: old.as_ref().map_or(now.wall, |old| old.since),
        };
        if old.as_ref() != Some(&cordon) {
            node.cordon = Some(cordon.clone());
            let what = if cordon.drain { "drained" } else { "cordoned" };
            let why = cordon
                .reason
                .as_ref()
                .map_or_else(String::new, |why| format!(": {why}"));
            let event = match cordon.drain {
                true => LifecycleEvent::NodeDraining,
                false => LifecycleEvent::NodeCordoned,
            };
            fx.event(event, format!("node {name} is {what}{why}")).node = Some(cordon.node.clone());
            self.cordons.insert(cordon.node.clone(), cordon.clone());
            fx.records.push(Record::NodeCordoned(cordon.clone()));
            self.dirty = true;
        }
        if cordon.drain {
            self.drain_executors(&cordon.node, fx);
        }
        self.get_node(name)
    }

    /// Takes a node into service again. Executors that are on their way out go nevertheless.
    ///
    /// # Errors
    /// The node is neither known nor cordoned.
    pub fn uncordon_node(&mut self, name: &str, fx: &mut Effects) -> Result<(), CoreError> {
        let known = self.nodes.get_mut(name);
        if known.is_none() && !self.cordons.contains_key(name) {
            return Err(unknown(name));
        }
        if let Some(node) = known {
            node.cordon = None;
        }
        if let Some((node, _)) = self.cordons.remove_entry(name) {
            let text = format!("node {name} is in service again");
            fx.event(LifecycleEvent::NodeUncordoned, text).node = Some(node.clone());
            fx.records.push(Record::NodeUncordoned(node));
            self.dirty = true;
        }
        Ok(())
    }

    /// Removes a node that is not connected, with its cordon and its identity: another machine may have
    /// its name then.
    ///
    /// # Errors
    /// It does not exist or is connected.
    pub fn forget_node(&mut self, name: &str, now: Now, fx: &mut Effects) -> Result<(), CoreError> {
        let found = self.nodes.get(name);
        if found.is_some_and(|node| node.link.is_some()) {
            return Err(CoreError::Precondition(format!(
                "node {name} is connected; stop its agent first"
            )));
        }
        let node = match found {
            Some(node) => node.hello.name.clone(),
            None => {
                let cordoned = self.cordons.get(name).map(|cordon| &cordon.node);
                let known = cordoned.or_else(|| self.identities.knows(name));
                known.ok_or_else(|| unknown(name))?.clone()
            }
        };
        self.drop_executors(&node, RequeueReason::NodeLost, now, fx);
        self.nodes.remove(name);
        self.forget_identity(&node, fx);
        if self.cordons.remove(name).is_some() {
            fx.records.push(Record::NodeUncordoned(node.clone()));
        }
        fx.event(LifecycleEvent::NodeForgotten, format!("node {name} is forgotten"))
            .node = Some(node);
        Ok(())
    }

    /// Has all executors of a node end: those that work after what they run.
    pub(super) fn drain_executors(&mut self, name: &NodeName, fx: &mut Effects) {
        let Some(node) = self.nodes.get(name.as_str()) else {
            return;
        };
        for id in node.executors.clone() {
            let Some(executor) = self.executors.get(id.as_str()) else {
                continue;
            };
            match executor.state {
                ExecutorState::Bound { .. } if !executor.tasks.is_empty() => {
                    self.leave(&id, ExecutorState::Draining);
                    self.recall(&id, fx);
                }
                ExecutorState::Bound { .. } | ExecutorState::Binding => {
                    self.release(&id, "its node is drained", fx);
                }
                ExecutorState::Draining | ExecutorState::Releasing => {}
            }
        }
    }

    /// An executor of the node is gone: perhaps it was the last one.
    pub(super) fn note_drained(&self, name: &NodeName, fx: &mut Effects) {
        let Some(node) = self.nodes.get(name.as_str()) else {
            return;
        };
        if node.executors.is_empty() && node.cordon.as_ref().is_some_and(|cordon| cordon.drain) {
            let text = format!("node {name} is drained: nothing runs there any more");
            fx.event(LifecycleEvent::NodeDrained, text).node = Some(name.clone());
        }
    }
}

fn unknown(name: &str) -> CoreError {
    CoreError::NotFound(format!("node {name} not found"))
}
