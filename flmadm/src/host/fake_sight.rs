//! What unit tests want to be seen of the fake machine.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flame_rpc::v1;
use flame_systemd::manager::UnitStatus;

use super::Ids;
use super::sight::{EachEntry, JournalQuery, Manager, Program, Sight};
use crate::failure::{Failure, Kind, Outcome};

/// Changes what systemd says of a unit.
type Change = Box<dyn Fn(&mut UnitStatus)>;

/// What is seen. Public fields are switches of the tests.
#[derive(Default)]
pub(crate) struct FakeSight {
    /// Processes whose program is an old one.
    pub(crate) old: BTreeSet<u32>,
    /// Addresses that take connections.
    pub(crate) open: BTreeSet<String>,
    /// Nodes of the session manager, if it answers.
    pub(crate) nodes: Option<Vec<v1::Node>>,
    /// Owners of files that are not root's.
    pub(crate) owners: RefCell<BTreeMap<PathBuf, Ids>>,
    /// Entries of the journal; without any, it may not be read.
    pub(crate) journal: Option<Vec<String>>,
    /// What was looked for in it.
    pub(crate) queries: RefCell<Vec<JournalQuery>>,
    /// Variables of units.
    pub(crate) variables: Vec<String>,
    changes: BTreeMap<String, Change>,
    pub(super) enabled: RefCell<BTreeSet<String>>,
}

impl FakeSight {
    /// From now on `change` is done to what systemd says of `unit`.
    pub(crate) fn change(&mut self, unit: &str, change: impl Fn(&mut UnitStatus) + 'static) {
        self.changes.insert(unit.to_owned(), Box::new(change));
    }

    /// systemd says again what is so.
    pub(crate) fn forget_changes(&mut self) {
        self.changes.clear();
    }

    /// Does what tests want to the state of a unit.
    pub(crate) fn adjust(&self, status: &mut UnitStatus) {
        if status.exists() {
            let enabled = self.enabled.borrow().contains(&status.name);
            status.unit_file_state = if enabled { "enabled" } else { "disabled" }.to_owned();
        }
        if let Some(change) = self.changes.get(&status.name) {
            change(status);
        }
    }

    /// The units are enabled, or not.
    pub(crate) fn set_enabled(&self, units: &[&str], enabled: bool) {
        for unit in units {
            match enabled {
                true => drop(self.enabled.borrow_mut().insert((*unit).to_owned())),
                false => drop(self.enabled.borrow_mut().remove(*unit)),
            }
        }
    }

    /// Units that are enabled.
    pub(crate) fn enabled(&self) -> Vec<String> {
        self.enabled.borrow().iter().cloned().collect()
    }

    /// Variables of a unit.
    pub(crate) fn environment(&self, unit: &str) -> Vec<String> {
        assert!(unit.ends_with(".service"), "{unit}");
        self.variables.clone()
    }
}

impl Sight for FakeSight {
    fn program(&self, pid: u32, _: &Path, _: Option<u64>) -> Program {
        match self.old.contains(&pid) {
            true => Program::Old,
            false => Program::Current,
        }
    }

    fn answering(&self, addresses: &[String], _: Duration) -> Vec<bool> {
        addresses
            .iter()
            .map(|address| self.open.contains(address))
            .collect()
    }

    fn nodes(&self, _: &Manager, _: Duration) -> Result<Vec<v1::Node>, String> {
        self.nodes.clone().ok_or_else(|| "nobody answers".to_owned())
    }

    fn host_name(&self) -> String {
        "solo".to_owned()
    }

    fn owner(&self, path: &Path) -> Outcome<Ids> {
        let metadata = path.symlink_metadata();
        metadata.map_err(|error| Failure::path("look at", path, error))?;
        let owner = self.owners.borrow().get(path).copied();
        Ok(owner.unwrap_or(Ids { uid: 0, gid: 0 }))
    }

    fn journal(&self, query: &JournalQuery, each: EachEntry<'_>) -> Outcome<()> {
        self.queries.borrow_mut().push(query.clone());
        let Some(entries) = &self.journal else {
            return Err(Failure::new(Kind::Systemd, "the journal may not be read"));
        };
        for entry in entries {
            if each(entry.as_bytes()) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}
