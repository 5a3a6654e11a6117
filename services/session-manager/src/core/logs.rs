//! Where the logs of sessions are: the core knows nothing of their lines, but which nodes to ask.

use flame_core::{NodeName, TaskId};

use super::{Core, CoreError, Effects, LinkId, Session, SessionKey};
use crate::store::Record;

/// Nodes that are remembered of a session. All nodes are asked for the lines of one that ran on more.
const MAX_NODES: usize = 64;

/// The nodes that a session had executors on. The ids of its units' runs are not here but with the agents, beside the
/// journals that they are good for: there may be thousands, and nobody else can use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RanOn {
    /// At most [`MAX_NODES`].
    pub nodes: Vec<NodeName>,
    /// There are no others.
    pub complete: bool,
}

impl RanOn {
    /// Of a session that is new.
    pub(super) fn none() -> Self {
        Self {
            nodes: Vec::new(),
            complete: true,
        }
    }

    /// An executor runs on `node`. Returns whether that is news.
    fn note(&mut self, node: &NodeName) -> bool {
        if self.nodes.contains(node) {
            return false;
        }
        if self.nodes.len() < MAX_NODES {
            self.nodes.push(node.clone());
            return true;
        }
        std::mem::take(&mut self.complete)
    }
}

impl Session {
    /// An executor of it runs on `node`. An order to start one leaves before this is stored; if it is lost with a crash, the
    /// node says what it runs when it connects again.
    pub(super) fn runs_on(&mut self, node: &NodeName, fx: &mut Effects) {
        if !self.ran_on.note(node) {
            return;
        }
        let is_kept = self.ran_on.nodes.last() == Some(node);
        fx.records.push(Record::SessionRanOn {
            session: self.row.key,
            node: is_kept.then(|| node.clone()),
        });
    }
}

/// Where to look for lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPlaces {
    /// The session's number.
    pub session: SessionKey,
    /// Nothing more will be written.
    pub over: bool,
    /// Nodes to ask, by name.
    pub nodes: Vec<LogPlace>,
}

/// A node that may have lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPlace {
    /// Its name.
    pub node: NodeName,
    /// How to ask it, if it is connected.
    pub link: Option<LinkId>,
    /// It is known to have run what is asked for.
    pub certain: bool,
}

impl Core {
    /// Where the lines of a session are, or those of one of its tasks.
    ///
    /// # Errors
    /// There is no such session or task.
    pub fn log_places(&self, session: &str, task: Option<TaskId>) -> Result<LogPlaces, CoreError> {
        let found = self.session(session)?;
        if let Some(task) = task
            && !(1..=found.last_task).contains(&task)
        {
            let text = format!("task {task} of session {session} not found");
            return Err(CoreError::NotFound(text));
        }
        let mut nodes: Vec<LogPlace> = self.places_of(found);
        nodes.sort_unstable_by(|a, b| a.node.cmp(&b.node));
        let over = match task {
            Some(task) => !found.live.contains_key(&task),
            None => !found.is_open() && found.executors.is_empty(),
        };
        Ok(LogPlaces {
            session: found.row.key,
            over,
            nodes,
        })
    }

    fn places_of(&self, session: &Session) -> Vec<LogPlace> {
        let RanOn { nodes, complete } = &session.ran_on;
        let place = |node: &NodeName, certain| LogPlace {
            node: node.clone(),
            link: self.nodes.get(node.as_str()).and_then(|node| node.link),
            certain,
        };
        let known = nodes.iter().map(|node| place(node, true));
        if *complete {
            return known.collect();
        }
        let runs_on: Vec<&NodeName> = session
            .executors
            .iter()
            .filter_map(|id| Some(&self.executors.get(id.as_str())?.node))
            .collect();
        let others = self.nodes.keys().filter(|node| !nodes.contains(node));
        let others = others.map(|node| place(node, runs_on.contains(&node)));
        known.chain(others).collect()
    }

    /// Where the log of a node's agent is.
    ///
    /// # Errors
    /// There is no such node.
    pub fn log_place_of_agent(&self, name: &str) -> Result<LogPlace, CoreError> {
        match self.nodes.get_key_value(name) {
            Some((name, node)) => Ok(LogPlace {
                node: name.clone(),
                link: node.link,
                certain: true,
            }),
            None => Err(CoreError::NotFound(format!("node {name} not found"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_remembered_once_and_within_a_bound() {
        let node = |number: usize| NodeName::new(&format!("n{number}")).expect("valid");
        let mut ran_on = RanOn::none();
        let news = (1..=MAX_NODES).chain(1..=MAX_NODES);
        let news = news.filter(|number| ran_on.note(&node(*number))).count();
        assert_eq!(
            (news, ran_on.nodes.len(), ran_on.complete),
            (MAX_NODES, MAX_NODES, true)
        );
        assert!(ran_on.note(&node(MAX_NODES + 1)) && !ran_on.note(&node(MAX_NODES + 2)));
        assert_eq!((ran_on.nodes.len(), ran_on.complete), (MAX_NODES, false));
    }
}
