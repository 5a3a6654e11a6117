//! A pass of the scheduler: it runs when something changed, starts as many executors as policies
//! and capacity allow, and makes room for sessions that have a right to it.

use std::collections::HashMap;
use std::time::Duration;

use flame_core::state::Shim;
use flame_core::{ApplicationName, ExecutorId, NodeName, Resources};

use super::model::TURN;
use super::policy::{self, Claim};
use super::{Core, Effects, Executor, ExecutorState, Now, Session, SessionKey};

/// An executor that has been idle for less than this is not taken by another session: a client
/// that waits for each result sends its next task within a round trip, and a new process costs
/// more than that.
const IDLE_GRACE: Duration = Duration::from_millis(10);

/// What a session wants, and what it is.
struct Demand {
    claim: Claim,
    application: ApplicationName,
    shim: Shim,
    /// Executors still wanted.
    wants: usize,
}

/// A node's room in this pass.
struct Room {
    name: NodeName,
    shims: Vec<Shim>,
    allocatable: Resources,
    free: Resources,
    slots: usize,
    /// What will be free when the executors that are on their way out are gone, less what this
    /// pass has already promised of it.
    coming: Resources,
    coming_slots: usize,
}

/// What one pass works with.
struct Pass {
    total: Resources,
    claims: HashMap<SessionKey, Claim>,
    demands: Vec<Demand>,
    rooms: Vec<Room>,
    per_application: HashMap<ApplicationName, usize>,
    recheck: Option<Duration>,
}

impl Pass {
    fn recheck_at(&mut self, at: Duration) {
        self.recheck = Some(self.recheck.map_or(at, |known| known.min(at)));
    }
}

impl Room {
    fn fits(&self, unit: &Resources, shim: Shim) -> bool {
        self.slots > 0 && self.shims.contains(&shim) && self.free.covers(unit)
    }

    fn will_fit(&self, unit: &Resources, shim: Shim) -> bool {
        self.coming_slots > 0 && self.shims.contains(&shim) && self.coming.covers(unit)
    }

    fn take(&mut self, unit: &Resources) {
        self.free = self.free.minus(unit);
        self.slots = self.slots.saturating_sub(1);
        self.promise(unit);
    }

    fn promise(&mut self, unit: &Resources) {
        self.coming = self.coming.minus(unit);
        self.coming_slots = self.coming_slots.saturating_sub(1);
    }
}

impl Core {
    pub(super) fn recheck_is_due(&self, now: Now) -> bool {
        self.recheck_at.is_some_and(|at| at <= now.mono)
    }

    pub(super) fn schedule(&mut self, now: Now, fx: &mut Effects) {
        let mut pass = self.prepare(now);
        let mut unserved = Vec::new();
        while let Some(at) = self.next_demand(&pass) {
            let (unit, shim) = (pass.demands[at].claim.unit, pass.demands[at].shim);
            // Packing: the fullest node that fits, so that large executors find room elsewhere.
            let fitting = pass.rooms.iter_mut().filter(|room| room.fits(&unit, shim));
            let best = fitting.min_by(|a, b| {
                (a.free.cpu, a.free.memory, &a.name).cmp(&(b.free.cpu, b.free.memory, &b.name))
            });
            if let Some(room) = best {
                room.take(&unit);
                let node = room.name.clone();
                let key = pass.demands[at].claim.key;
                self.satisfied(&mut pass, at);
                self.start_executor(key, &node, fx);
            } else if let Some(room) = pass.rooms.iter_mut().find(|room| room.will_fit(&unit, shim)) {
                room.promise(&unit);
                self.satisfied(&mut pass, at);
            } else if !self.make_room(&mut pass, at, now, fx) {
                unserved.push(pass.demands.swap_remove(at).claim.key);
            }
        }
        self.recheck_at = pass.recheck;
        // Some were not even looked at, because their applications are at their limits.
        let left = pass.demands.iter().filter(|demand| demand.wants > 0);
        unserved.extend(left.map(|demand| demand.claim.key));
        self.unserved = !unserved.is_empty();
        for key in unserved {
            if let Some(session) = self.sessions.get_mut(&key) {
                session.unserved = true;
            }
        }
    }

    fn prepare(&mut self, now: Now) -> Pass {
        let mut pass = Pass {
            total: Resources::default(),
            claims: HashMap::new(),
            demands: Vec::new(),
            rooms: Vec::new(),
            per_application: HashMap::new(),
            recheck: None,
        };
        for node in self.nodes.values().filter(|node| node.takes_work()) {
            pass.total = pass.total.plus(&node.hello.allocatable);
            let leaving: Vec<_> = node
                .executors
                .iter()
                .filter_map(|id| self.executors.get(id))
                .filter(|e| e.is_leaving())
                .collect();
            let slots = (self.config.limits.max_executors as usize).saturating_sub(node.executors.len());
            pass.rooms.push(Room {
                name: node.hello.name.clone(),
                shims: node.hello.shims.clone(),
                allocatable: node.hello.allocatable,
                free: node.free(),
                slots,
                coming: leaving
                    .iter()
                    .fold(node.free(), |sum, executor| sum.plus(&executor.resources)),
                coming_slots: slots + leaving.len(),
            });
        }
        for executor in self.executors.values().filter(|executor| !executor.is_leaving()) {
            *pass
                .per_application
                .entry(executor.application.clone())
                .or_default() += 1;
        }
        let keys: Vec<_> = self.open.iter().copied().collect();
        for key in keys {
            self.prepare_session(key, now, &mut pass);
        }
        pass
    }

    fn prepare_session(&mut self, key: SessionKey, now: Now, pass: &mut Pass) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let staying = session
            .executors
            .iter()
            .filter_map(|id| self.executors.get(id))
            .filter(|e| !e.is_leaving());
        let (mut have, mut busy, mut held) = (0, 0, Resources::default());
        for executor in staying {
            have += 1;
            busy += usize::from(!executor.tasks.is_empty());
            held = held.plus(&executor.resources);
        }
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
        let most = row.max_instances.map_or(usize::MAX, |max| max as usize);
        let wants = wanted(session, busy).min(most).saturating_sub(have);
        session.unserved = session.paused || have >= most || session.retry_at.is_some_and(|at| at > now.mono);
        if wants == 0 || session.paused {
            return;
        }
        if let Some(retry) = session.retry_at.filter(|at| *at > now.mono) {
            pass.recheck_at(retry);
            return;
        }
        let Some(application) = self.applications.get(row.application.as_str()) else {
            return;
        };
        let shim = flame_rpc::v1::Shim::try_from(application.spec.shim).map_or(Shim::Host, Shim::from);
        pass.demands.push(Demand {
            claim,
            application: application.name.clone(),
            shim,
            wants,
        });
    }

    /// The demand to be served next, by the policies.
    fn next_demand(&self, pass: &Pass) -> Option<usize> {
        let room = |demand: &&(usize, &Demand)| {
            let limit = self
                .applications
                .get(&demand.1.application)
                .and_then(|app| app.spec.max_instances);
            let used = pass
                .per_application
                .get(&demand.1.application)
                .copied()
                .unwrap_or(0);
            demand.1.wants > 0 && limit.is_none_or(|limit| used < limit as usize)
        };
        let open = pass.demands.iter().enumerate();
        let open = open.filter(|demand| room(&demand));
        let first = |a: &(usize, &Demand), b: &(usize, &Demand)| {
            policy::order(&self.config.policies, &a.1.claim, &b.1.claim, &pass.total)
        };
        open.min_by(first).map(|(at, _)| at)
    }

    fn satisfied(&self, pass: &mut Pass, at: usize) {
        let demand = &mut pass.demands[at];
        demand.wants -= 1;
        demand.claim = demand.claim.with_one_more();
        *pass
            .per_application
            .entry(demand.application.clone())
            .or_default() += 1;
        let claim = demand.claim;
        pass.claims.insert(claim.key, claim);
    }

    /// Takes executors from other sessions until there will be room for one of `demand` on some
    /// node; the fewest that have work, then the fewest. False if nobody has to give way.
    fn make_room(&mut self, pass: &mut Pass, at: usize, now: Now, fx: &mut Effects) -> bool {
        let mut best: Option<((usize, usize), usize, Vec<ExecutorId>)> = None;
        for place in 0..pass.rooms.len() {
            if let Some((cost, victims)) = self.victims(pass, at, place, now)
                && best.as_ref().is_none_or(|(known, ..)| cost < *known)
            {
                best = Some((cost, place, victims));
            }
        }
        let Some((_, place, victims)) = best else {
            return false;
        };
        for id in victims {
            let Some(executor) = self.executors.get_mut(id.as_str()) else {
                continue;
            };
            let (key, resources, idle) = (executor.session, executor.resources, executor.tasks.is_empty());
            let room = &mut pass.rooms[place];
            room.coming = room.coming.plus(&resources);
            room.coming_slots += 1;
            if let Some(claim) = pass.claims.get_mut(&key) {
                *claim = claim.without(&resources);
            }
            if let Some(count) = pass.per_application.get_mut(&executor.application) {
                *count = count.saturating_sub(1);
            }
            if idle {
                self.release(&id, "another session is to have its place", fx);
            } else {
                executor.state = ExecutorState::Draining;
                self.recall(&id, fx);
            }
        }
        let unit = pass.demands[at].claim.unit;
        pass.rooms[place].promise(&unit);
        self.satisfied(pass, at);
        true
    }

    /// Executors on the node at `place` that give way to the demand at `at`, as few as are
    /// needed; with how many of them have work, and how many they are.
    fn victims(
        &self,
        pass: &mut Pass,
        at: usize,
        place: usize,
        now: Now,
    ) -> Option<((usize, usize), Vec<ExecutorId>)> {
        let (unit, shim) = (pass.demands[at].claim.unit, pass.demands[at].shim);
        let room = &pass.rooms[place];
        if !room.shims.contains(&shim) || !room.allocatable.covers(&unit) {
            return None;
        }
        let node = self.nodes.get(room.name.as_str())?;
        let (mut coming, mut slots) = (room.coming, room.coming_slots);
        let mut candidates: Vec<&Executor> = node
            .executors
            .iter()
            .filter_map(|id| self.executors.get(id))
            .collect();
        // Idle ones first, the longest idle of them first; then those with the newest session.
        let rank = |executor: &&Executor| match executor.state {
            ExecutorState::Bound {
                idle_since: Some(since),
                ..
            } => (0, since, 0),
            _ => (1, Duration::ZERO, SessionKey::MAX - executor.session),
        };
        candidates.sort_by_key(rank);
        let (mut chosen, mut busy) = (Vec::new(), 0);
        // What the holders would be left with.
        let mut left: HashMap<SessionKey, Claim> = HashMap::new();
        for executor in candidates {
            if slots > 0 && coming.covers(&unit) {
                break;
            }
            let known = left
                .get(&executor.session)
                .or_else(|| pass.claims.get(&executor.session));
            let Some(holder) = known.copied() else { continue };
            if !self.has_to_give(pass, at, executor, &holder, now) {
                continue;
            }
            left.insert(executor.session, holder.without(&executor.resources));
            coming = coming.plus(&executor.resources);
            slots += 1;
            busy += usize::from(!executor.tasks.is_empty());
            chosen.push(executor.id.clone());
        }
        let enough = slots > 0 && coming.covers(&unit) && !chosen.is_empty();
        enough.then_some(((busy, chosen.len()), chosen))
    }

    /// Whether `executor` of the session with claim `holder` has to give way to the demand at `at`.
    fn has_to_give(&self, pass: &mut Pass, at: usize, executor: &Executor, holder: &Claim, now: Now) -> bool {
        let taker = pass.demands[at].claim;
        let ExecutorState::Bound { since, idle_since } = executor.state else {
            return false;
        };
        let Some(session) = self.sessions.get(&executor.session) else {
            return false;
        };
        if taker.key == holder.key {
            return false;
        }
        let kept = session.row.min_instances as usize;
        if holder.instances <= kept && taker.priority <= holder.priority {
            return false;
        }
        if policy::gives_way(
            &self.config.policies,
            &taker,
            holder,
            &executor.resources,
            &pass.total,
        ) {
            return true;
        }
        if let Some(idle_since) = idle_since.filter(|_| session.pending.is_empty()) {
            if idle_since + IDLE_GRACE <= now.mono {
                return true;
            }
            pass.recheck_at(idle_since + IDLE_GRACE);
            return false;
        }
        // More sessions than places: after a turn, it is somebody else's turn.
        let Some(starved_since) = taker.waiting_since.filter(|_| taker.priority >= holder.priority) else {
            return false;
        };
        let turn_ends = (since + TURN).max(starved_since + TURN);
        if turn_ends <= now.mono {
            return true;
        }
        pass.recheck_at(turn_ends);
        false
    }
}

/// Executors that `session` has use for, `busy` of which it has and which have work.
fn wanted(session: &Session, busy: usize) -> usize {
    (busy + session.pending.len()).max(session.row.min_instances as usize)
}

impl Executor {
    /// Whether it takes no more tasks and its place will be free.
    fn is_leaving(&self) -> bool {
        matches!(self.state, ExecutorState::Draining | ExecutorState::Releasing)
    }
}
