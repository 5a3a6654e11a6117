//! Who a node is: its name belongs to one machine, and to one agent at a time.
//!
//! The identity of a name is stored, so that it holds over restarts of this process, until the node
//! is forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use flame_core::NodeName;
use flame_core::lifecycle::LifecycleEvent;
use flame_core::state::NodeState;
use flame_rpc::node::{Refuse, to_agent::Message};

use super::model::FORGET_AFTER;
use super::{Core, Effects, LinkId, NodeHello, NoticeLevel, Now};
use crate::store::Record;

/// For how long the agent of a link counts as alive since its last message: two heartbeats, and some
/// time for the line.
pub(super) const ALIVE_FOR: Duration = Duration::from_secs(12);
/// When an agent may ask again that was refused because another one is there: often enough that
/// one whose predecessor died without a word waits for little longer than [`ALIVE_FOR`].
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// The first time it may ask again much sooner: it may be the successor of an agent that was killed a
/// moment ago, whose link is about to be seen to end.
const ASK_SOON: Duration = Duration::from_millis(500);
/// What is shown of an id: enough to tell two from each other.
const ID_SHOWN: usize = 8;

/// Which machine has the name of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The name.
    pub node: NodeName,
    /// The machine's own id.
    pub id: String,
    /// For people.
    pub hostname: String,
}

/// The identities of all nodes that are not forgotten.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    by_name: BTreeMap<NodeName, NodeIdentity>,
    /// When those that were stored and have not come since are forgotten; set with the first look
    /// at the clock.
    unseen_until: Option<Duration>,
}

impl Identities {
    pub(super) fn new(stored: Vec<NodeIdentity>) -> Self {
        Self {
            by_name: stored
                .into_iter()
                .map(|identity| (identity.node.clone(), identity))
                .collect(),
            unseen_until: None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.unseen_until
    }

    pub(super) fn knows(&self, node: &str) -> Option<&NodeName> {
        self.by_name.get_key_value(node).map(|(name, _)| name)
    }
}

impl Core {
    /// Whether the agent that says `hello` may have its name from now on. If not, it is told why, and
    /// its link ends; whoever had the name keeps it.
    pub(super) fn admit(&mut self, link: LinkId, hello: &NodeHello, now: Now, fx: &mut Effects) -> bool {
        let Some(mut refusal) = self.objection(hello, now) else {
            self.identify(hello, fx);
            return true;
        };
        // An agent that asks again and again is one line.
        if let Some(node) = self.nodes.get_mut(hello.name.as_str())
            && node.refused.as_ref() != Some(&hello.agent_instance)
        {
            node.refused = Some(hello.agent_instance.clone());
            refusal.retry_after_ms = refusal.retry_after_ms.min(milliseconds(ASK_SOON));
            fx.notice(
                NoticeLevel::Warn,
                format!("an agent was refused: {}", refusal.reason),
            )
            .node = Some(hello.name.clone());
        }
        fx.order(link, Message::Refuse(refusal));
        fx.hang_up.push(link);
        false
    }

    /// What is against it. Agents that have no id are of older versions, and have their name.
    fn objection(&self, hello: &NodeHello, now: Now) -> Option<Refuse> {
        let known = self.identities.by_name.get(hello.name.as_str())?;
        if hello.id.is_empty() {
            return None;
        }
        let (name, host) = (&hello.name, &hello.hostname);
        if known.id != hello.id {
            let reason = format!(
                "the name {name} belongs to another node, on host {} (id {}), and this one, on host {host}, has \
                 the id {}; give this one another name (--name), or, if it replaces the other one, let an \
                 administrator run: flmctl forget {name}",
                known.hostname,
                shown(&known.id),
                shown(&hello.id)
            );
            return Some(Refuse {
                reason,
                r#final: true,
                retry_after_ms: 0,
            });
        }
        let node = self.nodes.get(name.as_str())?;
        let alive = node.link.is_some()
            && matches!(node.state, NodeState::Ready | NodeState::Suspect)
            && now.mono.saturating_sub(node.last_message) < ALIVE_FOR;
        let another = node.hello.agent_instance != hello.agent_instance;
        (alive && another).then(|| Refuse {
            reason: format!(
                "another agent with the name and the id of node {name} is connected, from host {}; if host {host} \
                 is a copy of it, remove the file with the node's id there (flame-node-agent --check names it)",
                node.hello.hostname
            ),
            r#final: false,
            retry_after_ms: milliseconds(ASK_AGAIN),
        })
    }

    /// The name is this node's.
    fn identify(&mut self, hello: &NodeHello, fx: &mut Effects) {
        if hello.id.is_empty() {
            return;
        }
        let identity = NodeIdentity {
            node: hello.name.clone(),
            id: hello.id.clone(),
            hostname: hello.hostname.clone(),
        };
        if self.identities.by_name.get(hello.name.as_str()) != Some(&identity) {
            fx.records.push(Record::NodeIdentified(identity.clone()));
            self.identities.by_name.insert(hello.name.clone(), identity);
        }
    }

    /// The name is free.
    pub(super) fn forget_identity(&mut self, name: &NodeName, fx: &mut Effects) {
        if self.identities.by_name.remove(name).is_some() {
            fx.records.push(Record::NodeForgotten(name.clone()));
        }
    }

    /// Nodes of before this process was started that have not come since.
    pub(super) fn forget_unseen(&mut self, now: Now, fx: &mut Effects) {
        let unseen = |name: &&NodeName| !self.nodes.contains_key(*name);
        let unseen: Vec<_> = self.identities.by_name.keys().filter(unseen).cloned().collect();
        let until = *self
            .identities
            .unseen_until
            .get_or_insert(now.mono + FORGET_AFTER);
        if unseen.is_empty() {
            // Those that come later are nodes, and forgotten as such.
            self.identities.unseen_until = Some(Duration::MAX);
            return;
        }
        if until > now.mono {
            return;
        }
        for name in unseen {
            let text = format!("node {name} was gone for long and is forgotten");
            fx.event(LifecycleEvent::NodeForgotten, text).node = Some(name.clone());
            self.forget_identity(&name, fx);
        }
        self.identities.unseen_until = Some(Duration::MAX);
    }
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// The beginning of an id.
fn shown(id: &str) -> &str {
    id.get(..ID_SHOWN).unwrap_or(id)
}
