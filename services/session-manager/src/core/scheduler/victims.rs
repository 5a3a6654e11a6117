//! Making room: whose executor has to go so that another session can have one.

use std::collections::BTreeMap;
use std::time::Duration;

use flame_core::ExecutorId;

use super::policy::{self, Claim};
use super::rooms::Needs;
use super::{Demand, IDLE_GRACE, Pass};
use crate::core::model::TURN;
use crate::core::{Core, Effects, Executor, ExecutorState, Now, Session, SessionKey};

/// What it costs to take executors: how many of them have work, and how many they are.
type Cost = (usize, usize);

/// Nobody can be cheaper than one executor without work.
const CHEAPEST: Cost = (0, 1);

impl Core {
    /// Takes executors from other sessions until there will be room for one of `demand` on some
    /// node; the fewest that have work, then the fewest. False if nobody has to give way.
    pub(super) fn make_room(&mut self, pass: &mut Pass, demand: &Demand, now: Now, fx: &mut Effects) -> bool {
        // Demands come in the order of their right: where an earlier one of the same needs found
        // nobody, a later one does not either.
        if pass.hopeless.contains(&demand.needs) {
            return false;
        }
        let Some((place, victims)) = self.cheapest(pass, demand, now) else {
            pass.hopeless.push(demand.needs.clone());
            return false;
        };
        for id in victims {
            let Some(executor) = self.executors.get(id.as_str()) else {
                continue;
            };
            let (key, resources, idle) = (executor.session, executor.resources, executor.tasks.is_empty());
            pass.rooms.at(place).leaves(&resources);
            if let Some(claim) = pass.claims.get_mut(&key) {
                *claim = claim.without(&resources);
            }
            if let Some(count) = pass.per_application.get_mut(&executor.application) {
                *count = count.saturating_sub(1);
            }
            if idle {
                self.release(&id, "another session is to have its place", fx);
            } else {
                self.leave(&id, ExecutorState::Draining);
                self.recall(&id, fx);
            }
        }
        pass.rooms.at(place).promise(&demand.needs.unit);
        true
    }

    fn cheapest(&self, pass: &mut Pass, demand: &Demand, now: Now) -> Option<(usize, Vec<ExecutorId>)> {
        if !self.somebody_may_give_way(pass, demand, now) {
            return None;
        }
        let mut best: Option<(Cost, usize, Vec<ExecutorId>)> = None;
        for place in 0..pass.rooms.all().len() {
            let Some((cost, victims)) = self.victims(pass, demand, place, now) else {
                continue;
            };
            if best.as_ref().is_none_or(|(known, ..)| cost < *known) {
                best = Some((cost, place, victims));
            }
            if cost <= CHEAPEST {
                break;
            }
        }
        best.map(|(_, place, victims)| (place, victims))
    }

    /// A look at the sessions, of which there are fewer than executors: whether any of them could
    /// have to give something to `demand`, now or later.
    fn somebody_may_give_way(&self, pass: &mut Pass, demand: &Demand, now: Now) -> bool {
        let taker = demand.claim;
        let turn = taker.waiting_since.map(|since| since + TURN);
        if let Some(at) = turn.filter(|at| *at > now.mono) {
            pass.recheck_at(at);
        }
        let starved = turn.is_some_and(|at| at <= now.mono);
        pass.claims.values().any(|holder| {
            holder.instances > 0
                && holder.key != taker.key
                && (starved
                    || policy::gives_way(&self.config.policies, &taker, holder, &holder.unit, &pass.total)
                    || self.sessions.get(&holder.key).is_some_and(has_idle))
        })
    }

    /// Executors on the node at `place` that give way to `demand`, as few as are needed.
    fn victims(
        &self,
        pass: &mut Pass,
        demand: &Demand,
        place: usize,
        now: Now,
    ) -> Option<(Cost, Vec<ExecutorId>)> {
        let Needs { unit, .. } = demand.needs;
        let room = &pass.rooms.all()[place];
        if !room.could_fit(&demand.needs) {
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
        // What the holders would be left with.
        let mut left: BTreeMap<SessionKey, Claim> = BTreeMap::new();
        for executor in candidates {
            if slots > 0 && coming.covers(&unit) {
                break;
            }
            let known = left
                .get(&executor.session)
                .or_else(|| pass.claims.get(&executor.session));
            let Some(holder) = known.copied() else { continue };
            if !self.has_to_give(pass, demand, executor, &holder, now) {
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

    /// Whether `executor` of the session with claim `holder` has to give way to `demand`.
    fn has_to_give(
        &self,
        pass: &mut Pass,
        demand: &Demand,
        executor: &Executor,
        holder: &Claim,
        now: Now,
    ) -> bool {
        let taker = demand.claim;
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

/// Whether it holds executors that it has no use for at the moment.
fn has_idle(session: &Session) -> bool {
    session.pending.is_empty() && !session.idle.is_empty()
}
