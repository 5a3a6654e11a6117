//! A pass of the scheduler: it runs when something changed, starts as many executors as policies
//! and capacity allow, and makes room for sessions that have a right to it.
//!
//! A pass looks at every open session and every node once, and at executors only where somebody has
//! to give way; what sessions hold is counted when it changes and not in every pass. It ends when
//! nobody who is left could get anything.

mod explain;
mod pass;
mod policy;
mod quotas;
mod rooms;
mod victims;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flame_core::state::Shim;
use flame_core::{ExecutorId, NodeName, Resources};

use super::{Core, Effects, Executor, ExecutorState, Now, Session, SessionKey};
use pass::Pass;
use quotas::Vacancy;
use rooms::{Needs, Room};

/// An executor that has been idle for less than this is not taken by another session: a client
/// that waits for each result sends its next task within a round trip, and a new process costs
/// more than that.
const IDLE_GRACE: Duration = Duration::from_millis(10);

/// What a session has, as far as the scheduler looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counted {
    /// Executors that are not on their way out.
    have: usize,
    /// Those of them that have work.
    busy: usize,
    /// What they hold.
    held: Resources,
}

impl Core {
    pub(super) fn recheck_is_due(&self, now: Now) -> bool {
        self.recheck_at.is_some_and(|at| at <= now.mono)
    }

    pub(super) fn schedule(&mut self, now: Now, fx: &mut Effects) {
        let mut pass = self.prepare(now);
        pass.line_up();
        while let Some(at) = pass.next() {
            if self.serve(&mut pass, at, now, fx) {
                pass.served(at);
            } else {
                pass.is_stuck(at);
            }
        }
        self.recheck_at = pass.recheck();
        self.unserved = false;
        for key in pass.unserved() {
            self.unserved = true;
            if let Some(session) = self.sessions.get_mut(&key) {
                session.unserved = true;
            }
        }
    }

    /// Gives the demand at `at` one executor, or the promise of one. False if that cannot be.
    fn serve(&mut self, pass: &mut Pass, at: usize, now: Now, fx: &mut Effects) -> bool {
        let demand = pass.demand(at);
        let kind = &mut pass.kinds[demand.kind];
        let quota = pass.quotas.at(kind.application);
        let vacancy = quota.vacancy();
        if vacancy == Vacancy::None {
            return self.make_vacancy(pass, demand, now, fx);
        }
        if vacancy == Vacancy::Now && !kind.full {
            if let Some(node) = pass.rooms.take(&kind.needs) {
                quota.stay(1);
                let key = pass.contenders[demand.contender].claim.key;
                if self
                    .nodes
                    .get(&node)
                    .is_some_and(|node| node.hello.ephemeral && node.reserved_for.is_none())
                {
                    // Only now it is known whose node this is: the rest of its room is for that one.
                    pass.recheck_at(now.mono);
                }
                self.start_executor(key, &node, fx);
                return true;
            }
            kind.full = true;
        }
        // Room that is free is not kept for a process that has to wait for the end of another one.
        let will_be_room =
            pass.rooms.promise(&kind.needs) || vacancy == Vacancy::Later && pass.rooms.have_room(&kind.needs);
        let application = kind.application;
        let served = will_be_room || self.make_room(pass, demand, now, fx);
        if served {
            pass.quotas.at(application).promise();
        }
        served
    }

    fn prepare(&mut self, now: Now) -> Pass {
        let mut pass = Pass::new(&self.config);
        pass.reserved = self.reserved_nodes();
        let max_executors = self.config.limits.max_executors;
        for node in self.nodes.values().filter(|node| node.takes_work()) {
            pass.total = pass.total.plus(&node.hello.allocatable);
            pass.rooms.add(Room::new(node, max_executors));
        }
        for executor in self.leaving.iter().filter_map(|id| self.executors.get(id)) {
            pass.rooms.leaves(&executor.node, &executor.resources);
            let application = pass.quotas.place(&executor.application, &self.applications);
            pass.quotas.at(application).leaves();
        }
        for key in &self.open {
            if let Some(session) = self.sessions.get_mut(key) {
                pass.add(session, &self.applications, &self.executors, now);
            }
        }
        pass
    }

    /// Sets an executor on its way out: it takes no more tasks, and its place will be free.
    pub(super) fn leave(&mut self, id: &ExecutorId, state: ExecutorState) {
        let Some(executor) = self.executors.get_mut(id.as_str()) else {
            return;
        };
        executor.state = state;
        self.leaving.insert(id.clone());
        if let Some(session) = self.sessions.get_mut(&executor.session) {
            session.counted = None;
            session.idle.retain(|idle| idle != id);
        }
    }
}

/// Executors that `session` has use for, `busy` of which it has and which have work.
fn wanted(session: &Session, busy: usize) -> usize {
    (busy + session.pending.len()).max(session.row.min_instances as usize)
}

impl Session {
    /// What it has; counted anew only if that has changed.
    pub(super) fn count(&mut self, executors: &HashMap<ExecutorId, Executor>) -> Counted {
        if let Some(counted) = self.counted {
            return counted;
        }
        let mut counted = Counted::default();
        let own = self.executors.iter().filter_map(|id| executors.get(id));
        for executor in own.filter(|executor| !executor.is_leaving()) {
            counted.have += 1;
            counted.busy += usize::from(!executor.tasks.is_empty());
            counted.held = counted.held.plus(&executor.resources);
        }
        self.counted = Some(counted);
        counted
    }

    /// What an executor of it asks of its node, if its application needs `shim`, and some nodes are
    /// `reserved` for sessions.
    fn needs(&self, shim: Shim, reserved: &[(NodeName, SessionKey)]) -> Needs {
        let others = reserved.iter().filter(|(_, session)| *session != self.row.key);
        let others = others.map(|(node, _)| node);
        Needs {
            unit: self.row.resources,
            shim,
            labels: Arc::clone(&self.row.node_labels),
            avoids: self.avoids.keys().chain(others).cloned().collect(),
        }
    }
}

impl Executor {
    /// Whether it takes no more tasks and its place will be free.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.state, ExecutorState::Draining | ExecutorState::Releasing)
    }
}
