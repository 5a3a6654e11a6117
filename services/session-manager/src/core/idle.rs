//! Executors without work: they stay warm for the `delay_release` of their application, and those
//! that make up the minimum of their session stay for good.
//!
//! A session is looked at when the first of its executors may have been idle for long enough, and
//! then again when the next one may have been. Executors become idle far more often than that, so
//! the queue is not touched for each of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use flame_core::{ApplicationName, ExecutorId, NodeName};

use super::{Application, Core, Effects, Executor, ExecutorState, Now, Session, SessionKey};

/// Sessions that have idle executors which do not stay for good, by when to look at them.
pub(super) type IdleChecks = BTreeSet<(Duration, SessionKey)>;

impl Core {
    /// Sees to it that the idle executors of a session are released in time.
    pub(super) fn watch_idle(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        if session.idle_check.is_some() || session.idle.is_empty() || keeps_all(session, &self.executors) {
            return;
        }
        let delay = delay_release(&self.applications, session);
        let since = session.idle.iter().filter_map(|id| self.executors.get(id));
        let longest = since.filter_map(Executor::idle_since).min();
        if let Some(since) = longest {
            let at = since.saturating_add(delay);
            session.idle_check = Some(at);
            self.idle_checks.insert((at, key));
        }
    }

    /// The session has no executors any more and will not have any.
    pub(super) fn forget_idle(&mut self, key: SessionKey) {
        let session = self.sessions.get_mut(&key);
        if let Some(at) = session.and_then(|session| session.idle_check.take()) {
            self.idle_checks.remove(&(at, key));
        }
    }

    /// When [`Core::release_idle`] has something to do.
    pub(super) fn idle_deadline(&self) -> Option<Duration> {
        self.idle_checks.first().map(|(at, _)| *at)
    }

    /// Releases executors that have been idle for too long.
    pub(super) fn release_idle(&mut self, now: Now, fx: &mut Effects) {
        while self.idle_deadline().is_some_and(|at| at <= now.mono) {
            let Some((_, key)) = self.idle_checks.pop_first() else {
                return;
            };
            let Some(session) = self.sessions.get_mut(&key) else {
                continue;
            };
            session.idle_check = None;
            let delay = delay_release(&self.applications, session);
            let is_over = |executor: &&Executor| {
                let since = executor.idle_since();
                since.is_some_and(|since| since.saturating_add(delay) <= now.mono)
            };
            let idle = session.idle.iter().filter_map(|id| self.executors.get(id));
            let mut over: Vec<_> = idle.filter(is_over).map(|executor| executor.id.clone()).collect();
            over.sort_unstable();
            for id in over {
                // Releasing one may make the next one count to the minimum.
                let session = self.sessions.get(&key);
                if session.is_some_and(|session| keeps_all(session, &self.executors)) {
                    break;
                }
                self.release(&id, "it had no work", fx);
            }
            self.watch_idle(key);
        }
    }

    /// Ends executors without work on a node that is not heard of: others can do theirs.
    pub(super) fn release_idle_on(&mut self, name: &NodeName, fx: &mut Effects) {
        let Some(node) = self.nodes.get(name.as_str()) else {
            return;
        };
        for id in node.executors.clone() {
            let found = self.executors.get(id.as_str());
            let idle = |e: &Executor| matches!(e.state, ExecutorState::Bound { .. }) && e.tasks.is_empty();
            if found.is_some_and(idle) {
                self.release(&id, "its node was silent", fx);
            }
        }
    }
}

impl Executor {
    fn idle_since(&self) -> Option<Duration> {
        match self.state {
            ExecutorState::Bound { idle_since, .. } => idle_since,
            _ => None,
        }
    }
}

/// Whether all the executors of a session that are not on their way out make up its minimum.
fn keeps_all(session: &Session, executors: &HashMap<ExecutorId, Executor>) -> bool {
    let kept = session.row.min_instances as usize;
    let own = session.executors.iter().filter_map(|id| executors.get(id));
    let staying = own.filter(|executor| !executor.is_leaving());
    session.executors.len() <= kept || kept > 0 && staying.take(kept + 1).count() <= kept
}

fn delay_release(applications: &BTreeMap<ApplicationName, Application>, session: &Session) -> Duration {
    let application = applications.get(session.row.application.as_str());
    application.map_or(Duration::ZERO, Application::delay_release)
}
