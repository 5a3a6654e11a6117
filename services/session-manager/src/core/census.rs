//! How many things of each kind there are at a moment. It looks at every open session, node and
//! executor, so it is for those who ask every few seconds.

use flame_core::Resources;
use flame_core::state::NodeState;

use super::{Core, Counters, ExecutorState, Now, Session};

/// See [`Core::census`].
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Census {
    /// Sessions that take tasks and may get executors.
    pub open: OpenSessions,
    /// Sessions that take tasks, but get no new executors because binding failed too often.
    pub paused: OpenSessions,
    /// Sessions that were closed and are kept.
    pub closed_sessions: usize,
    /// Since when the session that waits longest has work but no executor, in milliseconds; zero if
    /// none waits.
    pub longest_wait_ms: u64,
    /// Nodes.
    pub nodes: NodeCensus,
    /// Executors.
    pub executors: ExecutorCensus,
    /// What the nodes that take work offer.
    pub allocatable: Resources,
    /// What executors hold, wherever they are.
    pub used: Resources,
    /// Open links to agents that have introduced themselves.
    pub links: usize,
    /// What has happened so far.
    pub counters: Counters,
}

/// Sessions that take tasks, and their tasks.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct OpenSessions {
    /// How many.
    pub sessions: usize,
    /// Those of them that have work but no executor.
    pub waiting: usize,
    /// Their tasks that wait.
    pub pending: usize,
    /// Their tasks that were handed out.
    pub running: usize,
}

/// Nodes by state.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct NodeCensus {
    /// Heard of lately.
    pub ready: usize,
    /// Silent; they get no new work.
    pub suspect: usize,
    /// Silent for so long that their tasks were given to others.
    pub lost: usize,
    /// Their agent stopped.
    pub left: usize,
    /// Those, in any state, that somebody has cordoned or drained.
    pub cordoned: usize,
    /// Those whose link comes and goes, so that they get no new executors for a while.
    pub unstable: usize,
    /// Those, in any state, that get executors and tasks.
    pub take_work: usize,
}

/// Executors by state.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ExecutorCensus {
    /// Asked for, and not bound yet.
    pub binding: usize,
    /// Bound, with a task.
    pub busy: usize,
    /// Bound, without a task.
    pub idle: usize,
    /// They finish what they have.
    pub draining: usize,
    /// Told to end.
    pub releasing: usize,
}

impl OpenSessions {
    fn count(&mut self, session: &Session) {
        self.sessions += 1;
        self.waiting += usize::from(session.waiting_since.is_some());
        self.pending += session.pending.len();
        self.running += session.running();
    }
}

impl Core {
    /// Counts everything; for metrics.
    #[must_use]
    pub fn census(&self, now: Now) -> Census {
        let mut census = Census {
            closed_sessions: self.sessions.len() - self.open.len(),
            links: self.links.len(),
            counters: self.counters,
            ..Census::default()
        };
        for session in self.open.iter().filter_map(|key| self.sessions.get(key)) {
            let group = match session.paused {
                true => &mut census.paused,
                false => &mut census.open,
            };
            group.count(session);
            let waits = session.waiting_since.map(|since| now.mono.saturating_sub(since));
            let millis = waits.map_or(0, |waits| u64::try_from(waits.as_millis()).unwrap_or(u64::MAX));
            census.longest_wait_ms = census.longest_wait_ms.max(millis);
        }
        for node in self.nodes.values() {
            let nodes = &mut census.nodes;
            *match node.state {
                NodeState::Ready => &mut nodes.ready,
                NodeState::Suspect => &mut nodes.suspect,
                NodeState::Lost => &mut nodes.lost,
                NodeState::Left => &mut nodes.left,
            } += 1;
            nodes.cordoned += usize::from(node.cordon.is_some());
            nodes.unstable += usize::from(node.stability.is_held());
            if node.takes_work() {
                nodes.take_work += 1;
                census.allocatable = census.allocatable.plus(&node.hello.allocatable);
            }
            census.used = census.used.plus(&node.used);
        }
        for executor in self.executors.values() {
            let executors = &mut census.executors;
            *match &executor.state {
                ExecutorState::Binding => &mut executors.binding,
                ExecutorState::Bound {
                    idle_since: Some(_), ..
                } => &mut executors.idle,
                ExecutorState::Bound { .. } => &mut executors.busy,
                ExecutorState::Draining => &mut executors.draining,
                ExecutorState::Releasing => &mut executors.releasing,
            } += 1;
        }
        census
    }
}
