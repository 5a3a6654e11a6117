//! The machine as flmadm needs it, behind traits, so that commands can be tested without one.

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod fake_sight;
mod real;
pub(crate) mod sight;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flame_core::HostNames;
use flame_systemd::manager::UnitStatus;

use crate::doctor::facts::Facts;
use crate::failure::Outcome;
use crate::processes::Process;

pub(crate) use real::RealHost;

/// Numeric owner of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Smallest uid of people's accounts, as login.defs(5) has it everywhere.
const FIRST_PERSON: u32 = 1000;

/// An account of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Account {
    /// A user with a group of the same name.
    User(String),
    /// A group without a user.
    Group(String),
}

impl Account {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::User(name) | Self::Group(name) => name,
        }
    }

    /// Its number, if it is there: both kinds have the same ranges.
    pub(crate) fn look_up(&self, host: &dyn Host) -> Outcome<Option<u32>> {
        match self {
            Self::User(name) => Ok(host.user(name)?.map(|ids| ids.uid)),
            Self::Group(name) => host.group(name),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name}"),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// Whether the account with this number is for services and not a person's.
pub(crate) fn is_system(number: u32) -> bool {
    number < FIRST_PERSON
}

/// The machine: accounts, processes, places, and the service manager.
pub(crate) trait Host {
    /// Whether we may change everything.
    fn is_root(&self) -> bool;
    /// Where an administrator's unit files lie.
    fn unit_directory(&self) -> &Path;
    /// Where packages put theirs.
    fn package_unit_directories(&self) -> &[PathBuf];
    /// Where the account files lie.
    fn account_directory(&self) -> &Path;
    /// Where polkit's rules lie.
    fn rules_directory(&self) -> &Path;
    /// Where the node agent and executors of an installation have what lasts until the next boot.
    fn runtime_directories(&self, names: &HostNames) -> [PathBuf; 2];
    /// Where systemd keeps properties that were set until the next boot.
    fn control_directory(&self) -> &Path;
    /// Looks a user up.
    fn user(&self, name: &str) -> Outcome<Option<Ids>>;
    /// Looks up the number of a group.
    fn group(&self, name: &str) -> Outcome<Option<u32>>;
    /// Makes the accounts that `sysusers`, a text as in sysusers.d(5), describes.
    fn create_accounts(&self, accounts: &[Account], sysusers: &str) -> Outcome<()>;
    /// Removes an account; with a user its group.
    fn remove_account(&self, account: &Account) -> Outcome<()>;
    /// Changes the owner of a file or directory.
    fn set_owner(&self, path: &Path, ids: Ids) -> Outcome<()>;
    /// Whether nobody listens on this TCP port.
    fn is_free(&self, port: u16) -> bool;
    /// Processes that run programs in `directory`.
    fn running_from(&self, directory: &Path) -> Vec<Process>;
    /// What can be seen of the machine.
    fn sight(&self) -> &dyn sight::Sight;
    /// What can be known about the machine without changing it.
    fn facts(&self) -> &dyn Facts;
    /// The service manager.
    fn systemd(&self) -> Outcome<&dyn Units>;
}

/// What a look at a unit finds: not yet, or the end of waiting, well or badly.
pub(crate) type Found = Option<Result<(), String>>;

/// The service manager, waiting for what it asks for.
pub(crate) trait Units {
    fn reload(&self) -> Outcome<()>;
    fn enable(&self, units: &[&str]) -> Outcome<()>;
    fn disable(&self, units: &[&str]) -> Outcome<()>;
    fn start(&self, unit: &str) -> Outcome<()>;
    fn restart(&self, unit: &str) -> Outcome<()>;
    fn stop(&self, unit: &str) -> Outcome<()>;
    fn reset_failed(&self, unit: &str) -> Outcome<()>;
    fn status(&self, unit: &str) -> Outcome<UnitStatus>;
    /// Variables that a service has in its environment, as `NAME=value`, by its unit files.
    fn environment(&self, unit: &str) -> Outcome<Vec<String>>;
    /// Names of the loaded units that match `pattern`.
    fn loaded(&self, pattern: &str) -> Outcome<Vec<String>>;
    /// Watches a unit until `look` finds something; `None` if it does not within `limit`.
    fn watch(
        &self,
        unit: &str,
        limit: Duration,
        look: &dyn Fn(&UnitStatus) -> Found,
    ) -> Outcome<Option<Result<(), String>>>;
}
