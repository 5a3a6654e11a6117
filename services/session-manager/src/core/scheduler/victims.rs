//! Making room: whose executor has to go so that another session can have one.

use std::collections::BTreeSet;
use std::time::Duration;

use flame_core::ExecutorId;

use super::IDLE_GRACE;
use super::pass::{Contender, Demand, Pass};
use super::policy::Claim;
use super::rooms::Needs;
use crate::core::model::TURN;
use crate::core::{Core, Effects, Executor, ExecutorState, Now, SessionKey};

/// What it costs to take executors: how many of them have work, and how many they are.
type Cost = (usize, usize);

/// Nobody can be cheaper than one executor without work.
const CHEAPEST: Cost = (0, 1);

/// Where nobody can be taken who has no work, nobody is cheaper than one who has.
const CHEAPEST_WITH_WORK: Cost = (1, 1);

/// Nodes that are looked at for a lower cost after one was found.
const FURTHER_LOOKS: usize = 32;

/// Executors that have to go so that there is room on the node at `place`.
struct Eviction {
    place: usize,
    victims: Vec<ExecutorId>,
}

impl Core {
    /// Takes executors from other sessions until there will be room for one of `demand` on some
    /// node; the fewest that have work, then the fewest. False if nobody has to give way.
    pub(super) fn make_room(&mut self, pass: &mut Pass, demand: Demand, now: Now, fx: &mut Effects) -> bool {
        if pass.kinds[demand.kind].hopeless {
            return false;
        }
        pass.rank();
        let Some(Eviction { place, victims }) = self.cheapest(pass, demand, None, now) else {
            pass.kinds[demand.kind].hopeless = true;
            return false;
        };
        self.evict(pass, &victims, fx);
        let unit = pass.kinds[demand.kind].needs.unit;
        pass.rooms.promise_at(place, &unit);
        true
    }

    /// As [`Core::make_room`], where the application of `demand` has as many executors as it may
    /// have: one of them has to go in any case. The same rules hold between its sessions as between
    /// those that share nodes.
    pub(super) fn make_vacancy(
        &mut self,
        pass: &mut Pass,
        demand: Demand,
        now: Now,
        fx: &mut Effects,
    ) -> bool {
        if pass.kinds[demand.kind].hopeless {
            return false;
        }
        pass.rank();
        let Some(victims) = self.victims_of_limit(pass, demand, now) else {
            pass.kinds[demand.kind].hopeless = true;
            return false;
        };
        self.evict(pass, &victims, fx);
        let kind = &pass.kinds[demand.kind];
        // If there is none on its way out, it is free and stays so.
        pass.rooms.promise(&kind.needs);
        pass.quotas.at(kind.application).promise();
        true
    }

    /// Executors that have to go so that there is room for one of `demand` and its application may
    /// have it: none that would go in vain.
    fn victims_of_limit(&self, pass: &Pass, demand: Demand, now: Now) -> Option<Vec<ExecutorId>> {
        let application = pass.kinds[demand.kind].application;
        if !pass.quotas.is_one_short(application) {
            return None;
        }
        if pass.rooms.have_room(&pass.kinds[demand.kind].needs) {
            return self
                .least_entitled(pass, demand, application, now)
                .map(|id| vec![id]);
        }
        if let Some(eviction) = self.cheapest(pass, demand, Some(application), now) {
            return Some(eviction.victims);
        }
        // Room where others are, and the place of one of its own.
        let mut victims = self.cheapest(pass, demand, None, now)?.victims;
        let is_own = |id: &ExecutorId| {
            let key = self.executors.get(id.as_str()).map(|executor| executor.session);
            let found = key.and_then(|key| pass.contender(key));
            found.is_some_and(|at| pass.contenders[at].application == application)
        };
        if !victims.iter().any(is_own) {
            victims.push(self.least_entitled(pass, demand, application, now)?);
        }
        Some(victims)
    }

    fn evict(&mut self, pass: &mut Pass, victims: &[ExecutorId], fx: &mut Effects) {
        for id in victims {
            let Some(executor) = self.executors.get(id.as_str()) else {
                continue;
            };
            let idle = executor.tasks.is_empty();
            pass.rooms.leaves(&executor.node, &executor.resources);
            if let Some(at) = pass.contender(executor.session) {
                pass.gives(at, &executor.resources);
            }
            if idle {
                self.release(id, "another session is to have its place", fx);
            } else {
                self.leave(id, ExecutorState::Draining);
                self.recall(id, fx);
            }
        }
    }

    /// The executors on one node that cost least; only those of one application, if it is named.
    fn cheapest(
        &self,
        pass: &Pass,
        demand: Demand,
        application: Option<usize>,
        now: Now,
    ) -> Option<Eviction> {
        let mut seen = BTreeSet::new();
        let mut best: Option<(Cost, Eviction)> = None;
        let mut looks = 0;
        // Where somebody has no work it costs nothing, and those nodes come first.
        for (has_no_work, executor) in self.givers(pass, demand, application, now) {
            let found = best.as_ref().map(|(cost, _)| *cost);
            let enough = found.is_some_and(|(busy, count)| {
                (busy, count) == CHEAPEST
                    || !has_no_work && (busy == 0 || (busy, count) == CHEAPEST_WITH_WORK)
            });
            if enough || looks > FURTHER_LOOKS {
                break;
            }
            let Some(place) = pass
                .rooms
                .place(&executor.node)
                .filter(|place| seen.insert(*place))
            else {
                continue;
            };
            looks += usize::from(found.is_some());
            let Some((cost, victims)) = self.victims(pass, demand, place, application, now) else {
                continue;
            };
            if found.is_none_or(|found| cost < found) {
                best = Some((cost, Eviction { place, victims }));
            }
        }
        best.map(|(_, eviction)| eviction)
    }

    /// The executor of `application` whose session has the least right to it; one without work, if
    /// there is one.
    fn least_entitled(
        &self,
        pass: &Pass,
        demand: Demand,
        application: usize,
        now: Now,
    ) -> Option<ExecutorId> {
        let taker = pass.contenders[demand.contender].claim;
        let mut givers = self.givers(pass, demand, Some(application), now);
        let given = givers.find(|(_, executor)| {
            let holder = pass
                .contender(executor.session)
                .map(|at| pass.contenders[at].claim);
            holder.is_some_and(|holder| self.has_to_give(pass, &taker, executor, &holder, now))
        });
        given.map(|(_, executor)| executor.id.clone())
    }

    /// Executors of sessions of which some may have to give something to `demand`: first those
    /// without work, then all, those of sessions with the least right to what they have first. It
    /// is a look at the sessions, of which there are fewer than executors.
    fn givers<'a>(
        &'a self,
        pass: &'a Pass,
        demand: Demand,
        application: Option<usize>,
        now: Now,
    ) -> impl Iterator<Item = (bool, &'a Executor)> {
        let taker = pass.contenders[demand.contender].claim;
        let turn = taker.waiting_since.map(|since| since + TURN);
        if let Some(at) = turn.filter(|at| *at > now.mono) {
            pass.recheck_at(at);
        }
        let starved = turn.is_some_and(|at| at <= now.mono);
        let may_give = move |holder: &&Contender| {
            let Contender { claim, kept, .. } = holder;
            claim.instances > 0
                && claim.key != taker.key
                && application.is_none_or(|application| application == holder.application)
                && (claim.instances > *kept || taker.priority > claim.priority)
                && (holder.has_idle
                    || (starved && taker.priority >= claim.priority)
                    || pass.gives_way(&taker, claim, &claim.unit))
        };
        let session = |holder: &Contender| self.sessions.get(&holder.claim.key);
        let with_idle = pass.with_idle().filter(may_give).filter_map(session);
        let idle = with_idle.flat_map(|session| session.idle.iter().rev().map(|id| (true, id)));
        let by_right = pass.by_right().filter(may_give).filter_map(session);
        // Of a session's executors the newest has done least to stay.
        let all = by_right.flat_map(|session| session.executors.iter().rev().map(|id| (false, id)));
        idle.chain(all)
            .filter_map(|(idle, id)| Some((idle, self.executors.get(id)?)))
    }

    /// Executors on the node at `place` that give way to `demand`, as few as are needed.
    fn victims(
        &self,
        pass: &Pass,
        demand: Demand,
        place: usize,
        application: Option<usize>,
        now: Now,
    ) -> Option<(Cost, Vec<ExecutorId>)> {
        let taker = pass.contenders[demand.contender].claim;
        let room = pass.rooms.at(place);
        let Needs { unit, .. } = *pass.kinds[demand.kind].needs;
        if !room.could_fit(&pass.kinds[demand.kind].needs) {
            return None;
        }
        let node = self.nodes.get(room.name.as_str())?;
        let (mut coming, mut slots) = (room.coming, room.coming_slots);
        let mut candidates: Vec<&Executor> = node
            .executors
            .iter()
            .filter_map(|id| self.executors.get(id))
            .filter(|executor| !executor.is_leaving())
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
        // What the holders would be left with, of whom there are few on one node.
        let mut left: Vec<Claim> = Vec::new();
        for executor in candidates {
            if slots > 0 && coming.covers(&unit) {
                break;
            }
            let Some(at) = pass.contender(executor.session) else {
                continue;
            };
            if application.is_some_and(|application| application != pass.contenders[at].application) {
                continue;
            }
            let known = left.iter().position(|claim| claim.key == executor.session);
            let holder = known.map_or(pass.contenders[at].claim, |known| left[known]);
            if !self.has_to_give(pass, &taker, executor, &holder, now) {
                continue;
            }
            let rest = holder.without(&executor.resources);
            match known {
                Some(known) => left[known] = rest,
                None => left.push(rest),
            }
            coming = coming.plus(&executor.resources);
            slots += 1;
            busy += usize::from(!executor.tasks.is_empty());
            chosen.push(executor.id.clone());
        }
        let enough = slots > 0 && coming.covers(&unit) && !chosen.is_empty();
        enough.then_some(((busy, chosen.len()), chosen))
    }

    /// Whether `executor` of the session with claim `holder` has to give way to `taker`.
    fn has_to_give(&self, pass: &Pass, taker: &Claim, executor: &Executor, holder: &Claim, now: Now) -> bool {
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
        if pass.gives_way(taker, holder, &executor.resources) {
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
