//! The machine as flmadm needs it, behind traits, so that commands can be tested without one.

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod fake_sight;
#[cfg(test)]
pub(crate) mod fake_state;
mod probe;
mod real;
pub(crate) mod sight;
#[cfg(test)]
pub(crate) mod snapshot;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flame_core::HostNames;
use flame_core::config::ClusterConfig;
use flame_systemd::manager::UnitStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::doctor::facts::Facts;
use crate::failure::Outcome;
use crate::processes::Process;
use crate::scope::Scope;

pub(crate) use real::RealHost;

/// Numeric owner of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Smallest uid of people's accounts, as login.defs(5) has it everywhere.
const FIRST_PERSON: u32 = 1000;

/// An account of the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// Whose service manager this is about.
    fn scope(&self) -> Scope;
    /// Whether we may change everything.
    fn is_root(&self) -> bool;
    /// Whether we may change units of this scope.
    fn rules_units(&self) -> bool {
        self.scope() == Scope::User || self.is_root()
    }
    /// Whether services of the user go on when he has no session, if that can be known.
    fn lingers(&self) -> Option<bool>;
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
    /// Directories in which programs are looked for, as in `PATH`.
    fn search_path(&self) -> OsString;
    /// Processes that run programs in `directory`.
    fn running_from(&self, directory: &Path) -> Vec<Process>;
    /// What can be seen of the machine.
    fn sight(&self) -> &dyn sight::Sight;
    /// What can be known about the machine without changing it.
    fn facts(&self) -> &dyn Facts;
    /// The service manager.
    fn systemd(&self) -> Outcome<&dyn Units>;
    /// The program that a process runs, if that can be known.
    fn program_of(&self, pid: u32) -> Option<PathBuf>;
    /// Where the locks of programs lie until the next boot.
    fn lock_directory(&self) -> PathBuf;
    /// The program that runs, to be kept for cleaning up.
    fn own_program(&self) -> Option<&Path>;
    /// Runs a task through the session manager of this machine and a real executor.
    ///
    /// # Errors
    /// It did not give the right result within `limit`.
    fn probe(&self, config: &ClusterConfig, limit: Duration) -> Outcome<Probed>;
    /// Called before and after every effect of a change. Tests end the program here.
    fn checkpoint(&self);
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Probed {
    /// A task came back with the right result.
    Done,
    /// The session manager answers, but nodes take nothing new at the moment: executors are at work on something else,
    /// or a node is cordoned or has just come back too often.
    Busy,
}

/// What a look at a unit finds: not yet, or the end of waiting, well or badly.
pub(crate) type Found = Option<Result<(), String>>;

/// The service manager, waiting for what it asks for.
pub(crate) trait Units {
    fn reload(&self) -> Outcome<()>;
    fn enable(&self, units: &[&str]) -> Outcome<()>;
    fn disable(&self, units: &[&str]) -> Outcome<()>;
    fn start(&self, unit: &str) -> Outcome<()>;
    /// As [`Units::start`], at most for `limit`.
    fn start_within(&self, unit: &str, limit: Duration) -> Outcome<()>;
    /// As [`Units::restart`], at most for `limit` after the stop.
    fn restart_within(&self, unit: &str, limit: Duration) -> Outcome<()>;
    /// Asks for a start and does not wait.
    fn launch(&self, unit: &str) -> Outcome<()>;
    /// Kills all processes of a unit.
    fn kill(&self, unit: &str);
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
