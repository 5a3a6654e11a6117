//! The steps of a change: each knows whether it is done, how it can be undone, and how to do it.

mod apply;
mod check;
mod prepare;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::Account;
use crate::manifest::AccountRecord;
use crate::python::Environment;
use crate::release::Release;
use crate::transaction::{ServiceBefore, Traces};

/// Ending of a configuration that was replaced because the user said so.
pub(crate) const BACKUP: &str = ".bak";

/// One change of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Remembers which services run; does nothing. As the first step it is the last to be undone.
    Services {
        services: Vec<ServiceBefore>,
        /// What has to go if there were no units before.
        traces: Option<Traces>,
    },
    /// A directory with a mode, and with an owner other than root if one is named.
    Directory {
        path: PathBuf,
        mode: u32,
        owner: Option<String>,
        /// Whether all that will be in it is the installation's.
        contents: bool,
    },
    /// A file with this text.
    Text { path: PathBuf, text: String, mode: u32 },
    /// Keeps a copy of a file that is about to be replaced.
    Backup { path: PathBuf },
    /// A copy of a file.
    Copy {
        from: PathBuf,
        path: PathBuf,
        mode: u32,
        sha256: String,
    },
    /// The directory of a release.
    Release { release: Box<Release>, path: PathBuf },
    /// A symbolic link.
    Link { path: PathBuf, target: PathBuf },
    /// A file that is not wanted any more, and its directory if nothing else is in it.
    Remove {
        path: PathBuf,
        directory: Option<PathBuf>,
    },
    /// The accounts of services and executors.
    Accounts {
        accounts: Vec<Account>,
        sysusers: String,
        record: AccountRecord,
        store: PathBuf,
    },
    /// Makes systemd read its unit files again.
    Reload,
    /// Makes units start at boot.
    Enable { units: Vec<String> },
    /// Makes units no longer start at boot.
    Disable { units: Vec<String> },
    /// Starts a service and waits until it is ready; one that runs is restarted if `restart`.
    Start {
        unit: String,
        restart: bool,
        /// Patterns of the units that it starts itself.
        executors: Vec<String>,
        /// Longest wait until it is ready.
        limit: Duration,
    },
    /// Stops a service, and what it has started.
    Stop { unit: String, executors: Vec<String> },
    /// Copies files and directories into a new directory.
    Save { parts: Vec<PathBuf>, to: PathBuf },
    /// Copies what is in a directory of a backup into an empty one, for an owner if one is named.
    Restore {
        from: PathBuf,
        to: PathBuf,
        owner: Option<String>,
    },
    /// An environment of Python.
    Python { environment: Environment },
    /// Moves files and directories into a new directory on the same file system.
    Trash { paths: Vec<PathBuf>, into: PathBuf },
}

/// Whether a step has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    Needed,
}

impl Step {
    /// What it is, for programs.
    pub(crate) fn id(&self) -> String {
        match self {
            Self::Services { .. } => "systemd:remember".to_owned(),
            Self::Directory { path, .. } => format!("directory:{}", path.display()),
            Self::Text { path, .. } => format!("file:{}", path.display()),
            Self::Backup { path } => format!("backup:{}", path.display()),
            Self::Copy { path, .. } => format!("program:{}", path.display()),
            Self::Release { path, .. } => format!("release:{}", path.display()),
            Self::Link { path, .. } => format!("link:{}", path.display()),
            Self::Remove { path, .. } => format!("remove:{}", path.display()),
            Self::Accounts { accounts, .. } => format!("user:{}", names(accounts, ",")),
            Self::Reload => "systemd:reload".to_owned(),
            Self::Enable { units } => format!("enable:{}", units.join(",")),
            Self::Disable { units } => format!("disable:{}", units.join(",")),
            Self::Start {
                unit, restart: true, ..
            } => format!("restart:{unit}"),
            Self::Start { unit, .. } => format!("start:{unit}"),
            Self::Stop { unit, .. } => format!("stop:{unit}"),
            Self::Save { to, .. } => format!("save:{}", to.display()),
            Self::Restore { to, .. } => format!("restore:{}", to.display()),
            Self::Python { environment } => format!("python:{}", environment.directory.display()),
            Self::Trash { into, .. } => format!("trash:{}", into.display()),
        }
    }

    /// What it is, for people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Services { .. } => "a look at what runs".to_owned(),
            Self::Directory {
                path,
                mode,
                owner: Some(owner),
                ..
            } => {
                format!("directory {} ({mode:04o}, {owner})", path.display())
            }
            Self::Directory { path, mode, .. } => format!("directory {} ({mode:04o})", path.display()),
            Self::Text { path, .. } => format!("file {}", path.display()),
            Self::Backup { path } => format!("copy of the old {0} as {0}{BACKUP}", path.display()),
            Self::Copy { path, .. } => format!("program {}", path.display()),
            Self::Release { path, release } => {
                format!("release {} ({} files)", path.display(), release.files.len())
            }
            Self::Link { path, target } => format!("link {} to {}", path.display(), target.display()),
            Self::Remove { path, .. } => format!("removal of {}", path.display()),
            Self::Accounts { accounts, .. } => format!("users and groups {}", names(accounts, ", ")),
            Self::Reload => "systemd reads the units".to_owned(),
            Self::Enable { units } => format!("start at boot of {}", units.join(" ")),
            Self::Disable { units } => format!("no start at boot of {}", units.join(" ")),
            Self::Start {
                unit, restart: true, ..
            } => format!("restart of {unit}"),
            Self::Start { unit, .. } => format!("start of {unit}"),
            Self::Stop { unit, .. } => format!("stop of {unit}"),
            Self::Save { to, .. } => format!("backup in {}", to.display()),
            Self::Restore { from, to, .. } => format!("{} from {}", to.display(), from.display()),
            Self::Python { environment } => environment.describe(),
            Self::Trash { paths, .. } => format!("removal of {} files and directories", paths.len()),
        }
    }

    /// Whether it only stands for what others change, so that it is left out if they have nothing to do.
    pub(crate) fn is_secondary(&self) -> bool {
        matches!(self, Self::Services { .. } | Self::Reload)
    }
}

fn names(accounts: &[Account], between: &str) -> String {
    let names: Vec<&str> = accounts.iter().map(Account::name).collect();
    names.join(between)
}

pub(crate) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
