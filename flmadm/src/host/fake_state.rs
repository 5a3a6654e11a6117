//! The fake machine as it is at one moment: to be compared with another, and to be put back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Ids;
use super::fake::FakeHost;
use super::snapshot::Snapshot;

/// All files, and all that runs.
#[derive(Clone)]
pub(crate) struct State {
    files: Snapshot,
    /// Units that run, with their processes.
    active: BTreeMap<String, u32>,
    instances: Vec<String>,
    enabled: BTreeSet<String>,
    groups: BTreeMap<String, u32>,
    owners: BTreeMap<PathBuf, Ids>,
}

impl State {
    /// How it differs from `other`: what is more, and what is less.
    pub(crate) fn differences(&self, other: &Self) -> [Vec<String>; 2] {
        [self.without(other), other.without(self)]
    }

    fn without(&self, other: &Self) -> Vec<String> {
        let mut lines = self.files.without(&other.files);
        let kinds = [
            ("active", &self.active_units(), &other.active_units()),
            ("enabled", &self.enabled, &other.enabled),
            ("group", &self.group_names(), &other.group_names()),
        ];
        for (kind, ours, theirs) in kinds {
            lines.extend(ours.difference(theirs).map(|name| format!("{kind} {name}")));
        }
        lines
    }

    fn active_units(&self) -> BTreeSet<String> {
        self.active.keys().chain(&self.instances).cloned().collect()
    }

    fn group_names(&self) -> BTreeSet<String> {
        self.groups.keys().cloned().collect()
    }
}

/// The same to whoever uses the machine: processes have other numbers each time, and of owners only those of paths
/// that are there matter.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let owners = |state: &Self| -> Vec<(PathBuf, Ids)> {
            let all = state.owners.iter().map(|(path, ids)| (path.clone(), *ids));
            all.filter(|(path, _)| state.files.has(path)).collect()
        };
        self.files == other.files
            && self.active_units() == other.active_units()
            && self.enabled == other.enabled
            && self.groups == other.groups
            && owners(self) == owners(other)
    }
}

impl FakeHost {
    /// The machine as it is.
    pub(crate) fn state(&self) -> State {
        State {
            files: Snapshot::of(self.directory.path()),
            active: self.active.borrow().clone(),
            instances: self.instances.borrow().clone(),
            enabled: self.sight.enabled.borrow().clone(),
            groups: self.groups.borrow().clone(),
            owners: self.sight.owners.borrow().clone(),
        }
    }

    /// Makes the machine what it was in `state`. It is now as in `now`.
    pub(crate) fn put_back(&self, state: &State, now: &State) {
        if now.files != state.files {
            state.files.restore();
        }
        self.active.replace(state.active.clone());
        self.instances.replace(state.instances.clone());
        self.sight.enabled.replace(state.enabled.clone());
        self.groups.replace(state.groups.clone());
        self.sight.owners.replace(state.owners.clone());
    }
}
