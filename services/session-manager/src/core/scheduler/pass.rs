//! What one pass of the scheduler works with. What can be looked up by its place in a list is: a
//! pass over thousands of sessions has no time for copies of what they are.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use flame_core::config::cluster::{Placement, Policy};
use flame_core::{ApplicationName, ExecutorId, Resources};

use super::policy::{self, Claim, Place};
use super::quotas::Quotas;
use super::rooms::{Needs, Rooms};
use super::{Counted, wanted};
use crate::core::{Application, Executor, Now, Session, SessionKey};

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
    /// By key.
    pub(super) contenders: Vec<Contender>,
    pub(super) kinds: Vec<Kind>,
    pub(super) quotas: Quotas,
    pub(super) rooms: Rooms,
    pub(super) recheck: Option<Duration>,
    demands: Vec<Demand>,
    queue: BinaryHeap<Queued>,
    known_kinds: HashMap<(usize, Arc<Needs>), usize>,
    /// How many kinds are stuck.
    stuck: usize,
}

impl Pass {
    pub(super) fn new(placement: Placement) -> Self {
        Self {
            total: Resources::default(),
            contenders: Vec::new(),
            kinds: Vec::new(),
            quotas: Quotas::default(),
            rooms: Rooms::new(placement),
            recheck: None,
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
            has_idle: session.pending.is_empty() && !session.idle.is_empty(),
        });
        let most = row.max_instances.map_or(usize::MAX, |max| max as usize);
        // Like the limit of an application, that of a session counts processes, also those that
        // are on their way out.
        let most = most.saturating_sub(session.executors.len() - have);
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
        let needs = session.needs(self.quotas.at(application).shim);
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
    pub(super) fn line_up(&mut self, policies: &[Policy]) {
        let (contenders, total) = (&self.contenders, &self.total);
        let queued = self.demands.iter().enumerate().map(|(at, demand)| {
            let claim = &contenders[demand.contender].claim;
            (Reverse(policy::place(policies, claim, total)), at)
        });
        self.queue = queued.collect();
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
    pub(super) fn served(&mut self, at: usize, policies: &[Policy]) {
        let demand = &mut self.demands[at];
        demand.wants -= 1;
        let claim = &mut self.contenders[demand.contender].claim;
        *claim = claim.with_one_more();
        if demand.wants > 0 {
            let place = policy::place(policies, claim, &self.total);
            self.queue.push((Reverse(place), at));
        }
    }

    /// The demand got nothing, and no later one of its kind will.
    pub(super) fn is_stuck(&mut self, at: usize) {
        let kind = &mut self.kinds[self.demands[at].kind];
        kind.stuck = true;
        self.stuck += 1;
    }

    /// Something has become free.
    pub(super) fn something_leaves(&mut self) {
        self.stuck = 0;
        for kind in &mut self.kinds {
            kind.stuck = false;
        }
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

    pub(super) fn recheck_at(&mut self, at: Duration) {
        self.recheck = Some(self.recheck.map_or(at, |known| known.min(at)));
    }
}
