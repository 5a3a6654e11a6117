//! Who is served first, and who has to give way: pure functions behind one trait.

use std::cmp::Ordering;
use std::time::Duration;

use flame_core::Resources;
use flame_core::config::cluster::Policy;

use crate::core::SessionKey;
use crate::core::planted::{Bug, planted};

/// A session's claim to executors, as far as policies look at it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Claim {
    /// The older session has the lower number.
    pub(crate) key: SessionKey,
    pub(crate) priority: u32,
    /// Since when it has had work but no executor.
    pub(crate) waiting_since: Option<Duration>,
    /// Its executors.
    pub(crate) instances: usize,
    /// What they hold.
    pub(crate) held: Resources,
    /// What one more executor would hold.
    pub(crate) unit: Resources,
}

/// One way to compare claims.
pub(crate) trait Rule {
    /// A number that is lower for a claim that is to be served earlier.
    fn rank(&self, claim: &Claim, total: &Resources) -> f64;

    /// `Less` if `taker` deserves one executor more than `holder` deserves to keep one of
    /// `given`, `Greater` if not, `Equal` if this rule does not decide.
    fn transfer(&self, taker: &Claim, holder: &Claim, given: &Resources, total: &Resources) -> Ordering;
}

struct Priority;
struct Drf;

impl Claim {
    /// As it would be with one executor more.
    pub(crate) fn with_one_more(self) -> Self {
        Self {
            waiting_since: None,
            instances: self.instances + 1,
            held: self.held.plus(&self.unit),
            ..self
        }
    }

    /// As it would be without one executor of size `given`.
    pub(crate) fn without(self, given: &Resources) -> Self {
        Self {
            instances: self.instances.saturating_sub(1),
            held: self.held.minus(given),
            ..self
        }
    }
}

impl Rule for Priority {
    fn rank(&self, claim: &Claim, _total: &Resources) -> f64 {
        -level(claim)
    }

    fn transfer(&self, taker: &Claim, holder: &Claim, _given: &Resources, _total: &Resources) -> Ordering {
        level(holder).total_cmp(&level(taker))
    }
}

fn level(claim: &Claim) -> f64 {
    let level = f64::from(claim.priority);
    if planted(Bug::InvertedPriority) {
        -level
    } else {
        level
    }
}

/// Dominant resource fairness (Ghodsi et al., NSDI 2011): the session whose largest share of any
/// one resource is smallest comes first.
impl Rule for Drf {
    fn rank(&self, claim: &Claim, total: &Resources) -> f64 {
        dominant_share(&claim.held, total)
    }

    fn transfer(&self, taker: &Claim, holder: &Claim, given: &Resources, total: &Resources) -> Ordering {
        let after_taking = dominant_share(&taker.with_one_more().held, total);
        let after_giving = dominant_share(&holder.without(given).held, total);
        // Never to the other side of equality, or the executor would be taken back at once.
        if after_taking <= after_giving {
            Ordering::Less
        } else {
            Ordering::Greater
        }
    }
}

fn rule(policy: Policy) -> &'static dyn Rule {
    match policy {
        Policy::Priority => &Priority,
        Policy::Drf => &Drf,
    }
}

/// More policies than there are would say nothing new.
const MAX_POLICIES: usize = 4;

/// A claim's place in the queue, the lower the earlier: by the first policy that tells two claims
/// apart, else the one that has waited longer without any executor, else the older session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    ranks: [f64; MAX_POLICIES],
    waiting_since: Duration,
    key: SessionKey,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        let ranks = self.ranks.iter().zip(&other.ranks);
        let decided = ranks.map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne());
        decided.unwrap_or_else(|| (self.waiting_since, self.key).cmp(&(other.waiting_since, other.key)))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place {}

/// Where `claim` stands in the queue.
pub(crate) fn place(policies: &[Policy], claim: &Claim, total: &Resources) -> Place {
    let mut ranks = [0.0; MAX_POLICIES];
    for (rank, policy) in ranks.iter_mut().zip(policies) {
        *rank = rule(*policy).rank(claim, total);
    }
    Place {
        ranks,
        waiting_since: claim.waiting_since.unwrap_or(Duration::MAX),
        key: claim.key,
    }
}

/// Whether `holder` has to give an executor of size `given` to `taker` although it has work.
pub(crate) fn gives_way(
    policies: &[Policy],
    taker: &Claim,
    holder: &Claim,
    given: &Resources,
    total: &Resources,
) -> bool {
    let mut decisions = policies
        .iter()
        .map(|policy| rule(*policy).transfer(taker, holder, given, total));
    decisions
        .find(|decision| decision.is_ne())
        .is_some_and(|decision| decision.is_lt())
}

/// Largest share of any resource, 0 to 1. A resource that the cluster does not have counts as
/// used up by whoever holds any of it.
pub(crate) fn dominant_share(held: &Resources, total: &Resources) -> f64 {
    let share = |held: u64, total: u64| match (held, total) {
        (0, _) => 0.0,
        (_, 0) => 1.0,
        (held, total) => held as f64 / total as f64,
    };
    share(held.cpu, total.cpu)
        .max(share(held.memory, total.memory))
        .max(share(held.gpu.into(), total.gpu.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOTAL: Resources = Resources {
        cpu: 9,
        memory: 18,
        gpu: 0,
    };
    const BOTH: [Policy; 2] = [Policy::Priority, Policy::Drf];

    fn order(policies: &[Policy], a: &Claim, b: &Claim, total: &Resources) -> Ordering {
        place(policies, a, total).cmp(&place(policies, b, total))
    }

    fn claim(key: u64, priority: u32, cpu: u64, memory: u64, unit: (u64, u64)) -> Claim {
        let unit = Resources {
            cpu: unit.0,
            memory: unit.1,
            gpu: 0,
        };
        Claim {
            key,
            priority,
            waiting_since: None,
            instances: 1,
            held: Resources { cpu, memory, gpu: 0 },
            unit,
        }
    }

    #[test]
    fn the_higher_priority_comes_first_whatever_it_holds() {
        let low = claim(1, 1, 0, 0, (1, 1));
        let high = claim(2, 5, 9, 18, (1, 1));
        assert_eq!(order(&BOTH, &high, &low, &TOTAL), Ordering::Less);
        assert!(gives_way(&BOTH, &high, &low, &low.unit, &TOTAL));
        assert!(!gives_way(&BOTH, &low, &high, &high.unit, &TOTAL));
    }

    /// The example of the DRF paper, section 4.1: 9 CPUs and 18 GB; tasks of A need 1 CPU and
    /// 4 GB, tasks of B 3 CPUs and 1 GB. A gets 3 tasks, B gets 2.
    #[test]
    fn drf_divides_as_the_paper_does() {
        let (mut a, mut b) = (claim(1, 0, 0, 0, (1, 4)), claim(2, 0, 0, 0, (3, 1)));
        let mut placed = (0, 0);
        loop {
            let free = TOTAL.minus(&a.held).minus(&b.held);
            let a_first = order(&BOTH, &a, &b, &TOTAL).is_lt();
            let (chosen, count) = if a_first {
                (&mut a, &mut placed.0)
            } else {
                (&mut b, &mut placed.1)
            };
            if !free.covers(&chosen.unit) {
                break;
            }
            chosen.held = chosen.held.plus(&chosen.unit);
            *count += 1;
        }
        assert_eq!(placed, (3, 2));
    }

    #[test]
    fn equals_are_served_in_the_order_of_their_creation() {
        let (older, newer) = (claim(1, 0, 1, 1, (1, 1)), claim(2, 0, 1, 1, (1, 1)));
        assert_eq!(order(&BOTH, &older, &newer, &TOTAL), Ordering::Less);
        assert_eq!(order(&[], &newer, &older, &TOTAL), Ordering::Greater);
        assert!(!gives_way(&[], &older, &newer, &newer.unit, &TOTAL));
    }

    proptest! {
        /// An executor that was taken is not taken back by the same rule.
        #[test]
        fn a_transfer_is_never_undone(
            a in 0..10u64, b in 1..10u64, unit_a in 1..4u64, unit_b in 1..4u64, pa in 0..3u32, pb in 0..3u32,
        ) {
            let total = Resources { cpu: 20, memory: 0, gpu: 0 };
            let taker = claim(1, pa, a * unit_a, 0, (unit_a, 0));
            let holder = claim(2, pb, b * unit_b, 0, (unit_b, 0));
            if gives_way(&BOTH, &taker, &holder, &holder.unit, &total) {
                let taker = Claim { held: taker.held.plus(&taker.unit), ..taker };
                let holder = Claim { held: holder.held.minus(&holder.unit), ..holder };
                let back = gives_way(&BOTH, &holder, &taker, &taker.unit, &total);
                prop_assert!(!back || taker.held.minus(&taker.unit).cpu >= holder.held.plus(&holder.unit).cpu);
            }
        }

        /// The order is total: it does not depend on who is asked first.
        #[test]
        fn order_is_antisymmetric(pa in 0..3u32, pb in 0..3u32, ca in 0..9u64, cb in 0..9u64) {
            let (a, b) = (claim(1, pa, ca, 0, (1, 1)), claim(2, pb, cb, 0, (1, 1)));
            prop_assert_eq!(order(&BOTH, &a, &b, &TOTAL), order(&BOTH, &b, &a, &TOTAL).reverse());
        }
    }
}
