//! A pass of the scheduler: it runs when something changed, starts as many executors as policies
//! and capacity allow, and makes room for sessions that have a right to it.
//!
//! A pass looks at every open session and every node once, and at executors only where somebody has
//! to give way; what sessions hold is counted when it changes and not in every pass.

mod explain;
mod policy;
mod rooms;
mod victims;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use flame_core::state::Shim;
use flame_core::{ApplicationName, ExecutorId, Resources};

use super::{Core, Effects, Executor, ExecutorState, Now, Session, SessionKey};
use policy::{Claim, Place};
use rooms::{Needs, Room, Rooms};

/// An executor that has been idle for less than this is not taken by another session: a client
/// that waits for each result sends its next task within a round trip, and a new process costs
/// more than that.
const IDLE_GRACE: Duration = Duration::from_millis(10);

/// What a session wants, and what it is.
#[derive(Debug, Clone)]
struct Demand {
    claim: Claim,
    application: ApplicationName,
    needs: Needs,
    /// Executors still wanted.
    wants: usize,
}

/// A demand in the queue: the first in the order of the policies comes out first.
struct Queued {
    place: Reverse<Place>,
    demand: Demand,
}

/// What one pass works with.
struct Pass {
    total: Resources,
    /// Of all open sessions.
    claims: BTreeMap<SessionKey, Claim>,
    queue: BinaryHeap<Queued>,
    rooms: Rooms,
    per_application: HashMap<ApplicationName, usize>,
    /// Needs for which there is no room on any node.
    full: Vec<Needs>,
    /// Needs for which nobody gives way.
    hopeless: Vec<Needs>,
    recheck: Option<Duration>,
}

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

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place.cmp(&other.place)
    }
}

impl Pass {
    fn recheck_at(&mut self, at: Duration) {
        self.recheck = Some(self.recheck.map_or(at, |known| known.min(at)));
    }
}

impl Core {
    pub(super) fn recheck_is_due(&self, now: Now) -> bool {
        self.recheck_at.is_some_and(|at| at <= now.mono)
    }

    pub(super) fn schedule(&mut self, now: Now, fx: &mut Effects) {
        let mut pass = self.prepare(now);
        let mut unserved = Vec::new();
        while let Some(Queued { mut demand, .. }) = pass.queue.pop() {
            if !self.serve(&mut pass, &demand, now, fx) {
                unserved.push(demand.claim.key);
                continue;
            }
            demand.wants -= 1;
            demand.claim = demand.claim.with_one_more();
            *pass
                .per_application
                .entry(demand.application.clone())
                .or_default() += 1;
            pass.claims.insert(demand.claim.key, demand.claim);
            self.enqueue(&mut pass, demand);
        }
        self.recheck_at = pass.recheck;
        self.unserved = !unserved.is_empty();
        for key in unserved {
            if let Some(session) = self.sessions.get_mut(&key) {
                session.unserved = true;
            }
        }
    }

    /// Gives `demand` one executor, or the promise of one. False if that cannot be.
    fn serve(&mut self, pass: &mut Pass, demand: &Demand, now: Now, fx: &mut Effects) -> bool {
        let limit = self.applications.get(&demand.application);
        let limit = limit.and_then(|application| application.spec.max_instances);
        let used = pass.per_application.get(&demand.application);
        if limit.is_some_and(|limit| used.is_some_and(|used| *used >= limit as usize)) {
            return false;
        }
        if !pass.full.contains(&demand.needs) {
            if let Some(node) = pass.rooms.take(&demand.needs) {
                self.start_executor(demand.claim.key, &node, fx);
                return true;
            }
            pass.full.push(demand.needs.clone());
        }
        pass.rooms.promise(&demand.needs) || self.make_room(pass, demand, now, fx)
    }

    fn enqueue(&self, pass: &mut Pass, demand: Demand) {
        if demand.wants > 0 {
            let place = policy::place(&self.config.policies, &demand.claim, &pass.total);
            pass.queue.push(Queued {
                place: Reverse(place),
                demand,
            });
        }
    }

    fn prepare(&mut self, now: Now) -> Pass {
        let mut pass = Pass {
            total: Resources::default(),
            claims: BTreeMap::new(),
            queue: BinaryHeap::new(),
            rooms: Rooms::new(self.config.placement),
            per_application: HashMap::new(),
            full: Vec::new(),
            hopeless: Vec::new(),
            recheck: None,
        };
        let max_executors = self.config.limits.max_executors as usize;
        for node in self.nodes.values().filter(|node| node.takes_work()) {
            pass.total = pass.total.plus(&node.hello.allocatable);
            pass.rooms.add(Room::new(node, max_executors));
        }
        for executor in self.leaving.iter().filter_map(|id| self.executors.get(id)) {
            pass.rooms.leaves(&executor.node, &executor.resources);
        }
        let mut demands = Vec::new();
        let keys: Vec<_> = self.open.iter().copied().collect();
        for key in keys {
            demands.extend(self.prepare_session(key, now, &mut pass));
        }
        for demand in demands {
            self.enqueue(&mut pass, demand);
        }
        pass
    }

    fn prepare_session(&mut self, key: SessionKey, now: Now, pass: &mut Pass) -> Option<Demand> {
        let session = self.sessions.get_mut(&key)?;
        let Counted { have, busy, held } = session.count(&self.executors);
        let starved = have == 0 && !session.pending.is_empty();
        session.waiting_since = starved.then(|| session.waiting_since.unwrap_or(now.mono));
        let row = &session.row;
        let claim = Claim {
            key,
            priority: row.priority,
            waiting_since: session.waiting_since,
            instances: have,
            held,
            unit: row.resources,
        };
        pass.claims.insert(key, claim);
        if have > 0 {
            match pass.per_application.get_mut(&row.application) {
                Some(count) => *count += have,
                None => drop(pass.per_application.insert(row.application.clone(), have)),
            }
        }
        let most = row.max_instances.map_or(usize::MAX, |max| max as usize);
        let wants = wanted(session, busy).min(most).saturating_sub(have);
        session.avoids.retain(|_, until| *until > now.mono);
        session.unserved = session.paused || have >= most;
        if wants == 0 || session.paused {
            return None;
        }
        if let Some(until) = session.avoids.values().min() {
            pass.recheck_at(*until);
        }
        let session = self.sessions.get(&key)?;
        Some(Demand {
            claim,
            application: session.row.application.clone(),
            needs: self.needs(session)?,
            wants,
        })
    }

    /// What an executor of `session` asks of its node.
    fn needs(&self, session: &Session) -> Option<Needs> {
        let application = self.applications.get(session.row.application.as_str())?;
        let shim = flame_rpc::v1::Shim::try_from(application.spec.shim).map_or(Shim::Host, Shim::from);
        Some(Needs {
            unit: session.row.resources,
            shim,
            labels: Arc::clone(&session.row.node_labels),
            avoids: session.avoids.keys().cloned().collect(),
        })
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
}

impl Executor {
    /// Whether it takes no more tasks and its place will be free.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.state, ExecutorState::Draining | ExecutorState::Releasing)
    }
}
