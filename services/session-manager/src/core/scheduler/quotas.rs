//! What applications may still have in one pass of the scheduler: their `max_instances`.

use std::collections::{BTreeMap, HashMap};

use flame_core::ApplicationName;
use flame_core::state::Shim;
use flame_rpc::v1;

use crate::core::Application;

/// Executors of one application, and how many it may have.
///
/// An executor counts until its process is gone, also while it is on its way out: the limit is
/// there for what processes use outside of Flame, such as licences and connections. Only those of
/// a node that is lost do not count: nobody knows whether they are there, and nobody can end them.
#[derive(Debug)]
pub(super) struct Quota {
    pub(super) shim: Shim,
    limit: usize,
    /// Those that stay, and those that this pass has started.
    staying: usize,
    /// Those on their way out.
    leaving: usize,
    /// Places that this pass has promised.
    promised: usize,
}

/// Whether an application may have one executor more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vacancy {
    /// It may.
    Now,
    /// When one has left.
    Later,
    /// Only if one has to leave.
    None,
}

/// The applications that have executors or want some.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    quotas: Vec<Quota>,
    places: HashMap<ApplicationName, usize>,
    /// The last one that was asked for: many sessions in a row are of the same application.
    last: Option<(ApplicationName, usize)>,
}

impl Quota {
    fn new(application: Option<&Application>) -> Self {
        let spec = application.map(|application| &application.spec);
        let limit = spec.and_then(|spec| spec.max_instances);
        let shim = spec.and_then(|spec| v1::Shim::try_from(spec.shim).ok());
        Self {
            shim: shim.map_or(Shim::Host, Shim::from),
            limit: limit.map_or(usize::MAX, |limit| limit as usize),
            staying: 0,
            leaving: 0,
            promised: 0,
        }
    }

    pub(super) fn vacancy(&self) -> Vacancy {
        if self.staying + self.promised >= self.limit {
            Vacancy::None
        } else if self.staying + self.leaving >= self.limit {
            Vacancy::Later
        } else {
            Vacancy::Now
        }
    }

    /// How many there are.
    pub(super) fn used(&self) -> usize {
        self.staying + self.leaving
    }

    pub(super) fn stay(&mut self, count: usize) {
        self.staying += count;
    }

    pub(super) fn promise(&mut self) {
        self.promised += 1;
    }

    /// One that stayed is on its way out.
    pub(super) fn leave(&mut self) {
        self.staying = self.staying.saturating_sub(1);
        self.leaving += 1;
    }

    /// One more is on its way out.
    pub(super) fn leaves(&mut self) {
        self.leaving += 1;
    }
}

impl Quotas {
    /// The place of an application.
    pub(super) fn place(
        &mut self,
        name: &ApplicationName,
        applications: &BTreeMap<ApplicationName, Application>,
    ) -> usize {
        if let Some((_, place)) = self.last.as_ref().filter(|(last, _)| last == name) {
            return *place;
        }
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => {
                self.quotas.push(Quota::new(applications.get(name)));
                self.places.insert(name.clone(), self.quotas.len() - 1);
                self.quotas.len() - 1
            }
        };
        self.last = Some((name.clone(), place));
        place
    }

    pub(super) fn at(&mut self, place: usize) -> &mut Quota {
        &mut self.quotas[place]
    }

    /// Whether an application could have one more if one of its executors left.
    pub(super) fn is_one_short(&self, place: usize) -> bool {
        let Quota {
            staying,
            promised,
            limit,
            ..
        } = self.quotas[place];
        staying + promised == limit
    }

    pub(super) fn of(&self, name: &ApplicationName) -> Option<&Quota> {
        self.places.get(name).map(|place| &self.quotas[*place])
    }
}
