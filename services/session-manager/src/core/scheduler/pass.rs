//! What one pass of the scheduler works with. What can be looked up by its place in a list is: a
//! pass over thousands of sessions has no time for copies of what they are.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use flame_core::config::cluster::Policy;
use flame_core::{ApplicationName, ExecutorId, NodeName, Resources};

use super::policy::{self, Claim, Place};
use super::quotas::Quotas;
use super::rooms::{Needs, Rooms};
use super::{Counted, wanted};
use crate::core::{Application, CoreConfig, Executor, Now, Session, SessionKey};

/// An open session.
#[derive(Debug)]
pub(super) struct Contender {
    pub(super) claim: Claim,
    /// The place of its application's quota.
    pub(super) application: usize,
    /// Executors that it keeps against those of no higher priority.
    pub(super) kept: usize,
    /// Whether it holds executors that it has no use for at the moment.
    pub(super) has_idle: bool,
}

/// What sessions want that differ in nothing but their right to it.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) application: usize,
    pub(super) needs: Arc<Needs>,
    /// There is no room for it on any node.
    pub(super) full: bool,
    /// Nobody gives way. Demands come in the order of their right: where an earlier one found
    /// nobody, a later one of the same kind does not either.
    pub(super) hopeless: bool,
    /// The last one that asked got nothing, and nothing has become free since.
    stuck: bool,
}

/// What a session wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    pub(super) contender: usize,
    pub(super) kind: usize,
    /// Executors still wanted.
    wants: usize,
}

/// A demand in the queue: the first in the order of the policies comes out first.
type Queued = (Reverse<Place>, usize);

/// See the module.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) total: Resources,
    /// Nodes that serve one session only.
    pub(super) reserved: Vec<(NodeName, SessionKey)>,
    /// By key.
    pub(super) contenders: Vec<Contender>,
    pub(super) kinds: Vec<Kind>,
    pub(super) quotas: Quotas,
    pub(super) rooms: Rooms,
    policies: Vec<Policy>,
    /// When the next pass is to be if nothing changes before.
    recheck: Cell<Option<Duration>>,
    /// The places of those who hold executors that they have no use for.
    with_idle: Vec<usize>,
    /// The places of all, those with the least right to what they have first; made when somebody
    /// has to give way.
    by_right: BTreeSet<(Reverse<Place>, usize)>,
    demands: Vec<Demand>,
    queue: BinaryHeap<Queued>,
    known_kinds: HashMap<(usize, Arc<Needs>), usize>,
    /// How many kinds are stuck.
    stuck: usize,
}

impl Pass {
    pub(super) fn new(config: &CoreConfig) -> Self {
        Self {
            total: Resources::default(),
            reserved: Vec::new(),
            contenders: Vec::new(),
            kinds: Vec::new(),
            quotas: Quotas::default(),
            rooms: Rooms::new(config.placement),
            policies: config.policies.clone(),
            recheck: Cell::new(None),
            with_idle: Vec::new(),
            by_right: BTreeSet::new(),
            demands: Vec::new(),
            queue: BinaryHeap::new(),
            known_kinds: HashMap::new(),
            stuck: 0,
        }
    }

    /// Takes in an open session; they come in the order of their keys.
    pub(super) fn add(
        &mut self,
        session: &mut Session,
        applications: &BTreeMap<ApplicationName, Application>,
        executors: &HashMap<ExecutorId, Executor>,
        now: Now,
    ) {
        let Counted { have, busy, held } = session.count(executors);
        let starved = have == 0 && !session.pending.is_empty();
        session.waiting_since = starved.then(|| session.waiting_since.unwrap_or(now.mono));
        let row = &session.row;
        let application = self.quotas.place(&row.application, applications);
        self.quotas.at(application).stay(have);
        let has_idle = session.pending.is_empty() && !session.idle.is_empty();
        if has_idle {
            self.with_idle.push(self.contenders.len());
        }
        self.contenders.push(Contender {
            claim: Claim {
                key: row.key,
                priority: row.priority,
                waiting_since: session.waiting_since,
                instances: have,
                held,
                unit: row.resources,
            },
            application,
            kept: row.min_instances as usize,
            has_idle,
        });
        let most = row.max_instances.map_or(usize::MAX, |max| max as usize);
        // Like the limit of an application, that of a session counts processes, also those that
        // are on their way out.
        let most = most.saturating_sub(session.executors.len().saturating_sub(have));
        session.unserved = session.paused || have >= most;
        if !session.avoids.is_empty() {
            session.avoids.retain(|_, until| *until > now.mono);
        }
        let wants = wanted(session, busy).min(most).saturating_sub(have);
        if wants == 0 || session.paused {
            return;
        }
        if let Some(until) = session.avoids.values().min() {
            self.recheck_at(*until);
        }
        let needs = session.needs(self.quotas.at(application).shim, &self.reserved);
        let kind = self.kind(application, needs);
        let contender = self.contenders.len() - 1;
        self.demands.push(Demand {
            contender,
            kind,
            wants,
        });
    }

    fn kind(&mut self, application: usize, needs: Needs) -> usize {
        let last = self.demands.last().map(|demand| demand.kind);
        let is_same = |kind: &Kind| kind.application == application && *kind.needs == needs;
        if let Some(last) = last.filter(|last| is_same(&self.kinds[*last])) {
            return last;
        }
        let needs = Arc::new(needs);
        let next = self.kinds.len();
        let kind = *self
            .known_kinds
            .entry((application, Arc::clone(&needs)))
            .or_insert(next);
        if kind == next {
            self.kinds.push(Kind {
                application,
                needs,
                full: false,
                hopeless: false,
                stuck: false,
            });
        }
        kind
    }

    /// Puts all demands into the order of the policies; to be called when everything is known.
    pub(super) fn line_up(&mut self) {
        let demands = self.demands.iter().enumerate();
        let queued = demands.map(|(at, demand)| (Reverse(self.place(demand.contender)), at));
        self.queue = queued.collect();
    }

    fn place(&self, contender: usize) -> Place {
        policy::place(&self.policies, &self.contenders[contender].claim, &self.total)
    }

    /// The next demand, unless nobody who is left could get anything.
    pub(super) fn next(&mut self) -> Option<usize> {
        while self.stuck < self.kinds.len() {
            let (_, at) = self.queue.pop()?;
            if !self.kinds[self.demands[at].kind].stuck {
                return Some(at);
            }
        }
        None
    }

    pub(super) fn demand(&self, at: usize) -> Demand {
        self.demands[at]
    }

    /// The demand got one executor, or the promise of one.
    pub(super) fn served(&mut self, at: usize) {
        let demand = &mut self.demands[at];
        demand.wants -= 1;
        let (contender, wants_more) = (demand.contender, demand.wants > 0);
        self.change(contender, Claim::with_one_more);
        if wants_more {
            self.queue.push((Reverse(self.place(contender)), at));
        }
    }

    /// The session at `place` has to give an executor of that size.
    pub(super) fn gives(&mut self, place: usize, given: &Resources) {
        self.change(place, |claim| claim.without(given));
        self.quotas.at(self.contenders[place].application).leave();
        self.stuck = 0;
        for kind in &mut self.kinds {
            kind.stuck = false;
        }
    }

    fn change(&mut self, contender: usize, change: impl FnOnce(Claim) -> Claim) {
        let is_ranked = !self.by_right.is_empty();
        if is_ranked {
            self.by_right.remove(&(Reverse(self.place(contender)), contender));
        }
        let claim = &mut self.contenders[contender].claim;
        *claim = change(*claim);
        if is_ranked {
            self.by_right.insert((Reverse(self.place(contender)), contender));
        }
    }

    /// Whether `holder` has to give an executor of that size to `taker` although it has work.
    pub(super) fn gives_way(&self, taker: &Claim, holder: &Claim, given: &Resources) -> bool {
        policy::gives_way(&self.policies, taker, holder, given, &self.total)
    }

    /// To be called before [`Pass::by_right`].
    pub(super) fn rank(&mut self) {
        if self.by_right.is_empty() {
            let all = (0..self.contenders.len()).map(|at| (Reverse(self.place(at)), at));
            self.by_right = all.collect();
        }
    }

    /// All sessions, those with the least right to what they have first.
    pub(super) fn by_right(&self) -> impl Iterator<Item = &Contender> {
        self.by_right.iter().map(|(_, at)| &self.contenders[*at])
    }

    /// Sessions that hold executors that they have no use for.
    pub(super) fn with_idle(&self) -> impl Iterator<Item = &Contender> {
        self.with_idle.iter().map(|at| &self.contenders[*at])
    }

    /// The demand got nothing, and no later one of its kind will.
    pub(super) fn is_stuck(&mut self, at: usize) {
        let kind = &mut self.kinds[self.demands[at].kind];
        kind.stuck = true;
        self.stuck += 1;
    }

    /// Sessions that want more than they got.
    pub(super) fn unserved(&self) -> impl Iterator<Item = SessionKey> {
        let unserved = self.demands.iter().filter(|demand| demand.wants > 0);
        unserved.map(|demand| self.contenders[demand.contender].claim.key)
    }

    /// The place of an open session.
    pub(super) fn contender(&self, key: SessionKey) -> Option<usize> {
        self.contenders
            .binary_search_by_key(&key, |contender| contender.claim.key)
            .ok()
    }

    pub(super) fn recheck_at(&self, at: Duration) {
        let earlier = self.recheck.get().map_or(at, |known| known.min(at));
        self.recheck.set(Some(earlier));
    }

    pub(super) fn recheck(&self) -> Option<Duration> {
        self.recheck.get()
    }
}
