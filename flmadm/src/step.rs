//! The steps of a change: each knows whether it is done, how it can be undone, and how to do it.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::accounts;
use crate::failure::{Failure, Outcome};
use crate::files::{self, Attributes};
use crate::host::{Account, Host};
use crate::manifest::{AccountRecord, sha256, sha256_of};
use crate::python::Environment;
use crate::release::Release;
use crate::transaction::{ServiceBefore, Traces, Undo, Was, stop};

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

    /// Whether it has something to do.
    ///
    /// # Errors
    /// It could not look.
    pub(crate) fn check(&self, host: &dyn Host) -> Outcome<Status> {
        let done = match self {
            Self::Directory {
                path, mode, owner, ..
            } => is_directory(host, path, *mode, owner.as_deref())?,
            Self::Text { path, text, mode } => is_file(path, *mode, &sha256(text.as_bytes()))?,
            Self::Copy {
                path, sha256, mode, ..
            } => is_file(path, *mode, sha256)?,
            Self::Link { path, target } => path.read_link().is_ok_and(|found| found == *target),
            Self::Release { path, .. } => path.is_dir(),
            Self::Accounts { accounts, .. } => {
                let mut there = true;
                for account in accounts {
                    there &= account.look_up(host)?.is_some();
                }
                there
            }
            Self::Remove { path, .. } => path.symlink_metadata().is_err(),
            Self::Enable { units } => with_links(host, units, false)?.is_empty(),
            Self::Disable { units } => with_links(host, units, true)?.is_empty(),
            Self::Start { unit, restart, .. } => !restart && host.systemd()?.status(unit)?.is_active(),
            Self::Python { environment } => environment.is_current(),
            Self::Trash { paths, .. } => paths.is_empty(),
            Self::Backup { .. }
            | Self::Reload
            | Self::Services { .. }
            | Self::Stop { .. }
            | Self::Save { .. }
            | Self::Restore { .. } => false,
        };
        Ok(if done { Status::Done } else { Status::Needed })
    }

    /// How it is undone; what is needed for that is kept, files as `saved`.
    ///
    /// # Errors
    /// It cannot be undone, so it must not be done.
    pub(crate) fn prepare(&self, host: &dyn Host, saved: &Path) -> Outcome<Undo> {
        let path = |path: &Path| {
            Ok(Undo::Path {
                path: path.to_path_buf(),
                was: Was::look(path, saved)?,
            })
        };
        match self {
            Self::Services { services, traces } => Ok(Undo::Services {
                services: services.clone(),
                traces: traces.clone(),
            }),
            Self::Directory { path, contents, .. } => match path.symlink_metadata() {
                Ok(found) if found.is_dir() => Ok(Undo::Directory {
                    path: path.clone(),
                    mode: found.mode() & 0o7777,
                    owner: host.sight().owner(path)?,
                }),
                _ => Ok(Undo::RemoveDirectory {
                    path: path.clone(),
                    contents: *contents,
                }),
            },
            Self::Text { path: at, .. } | Self::Copy { path: at, .. } | Self::Link { path: at, .. } => {
                path(at)
            }
            Self::Remove { path: at, .. } => path(at),
            Self::Backup { path: at } => path(&with_ending(at, BACKUP)),
            Self::Release { path, .. } => Ok(Undo::RemoveTrees {
                paths: vec![files::draft(path), path.clone()],
            }),
            Self::Accounts {
                accounts,
                record,
                store,
                ..
            } => {
                let mut missing = Vec::new();
                for account in accounts {
                    if account.look_up(host)?.is_none() {
                        missing.push(account.clone());
                    }
                }
                Ok(Undo::RemoveAccounts {
                    accounts: missing,
                    record: record.clone(),
                    store: store.clone(),
                })
            }
            Self::Reload => Ok(Undo::Nothing),
            Self::Enable { units } => Ok(Undo::Disable {
                units: with_links(host, units, false)?,
            }),
            Self::Disable { units } => Ok(Undo::Enable {
                units: with_links(host, units, true)?,
            }),
            Self::Start { unit, executors, .. } => Ok(match host.systemd()?.status(unit)?.is_active() {
                // The first step knows that it has to run again, with the files of then.
                true => Undo::Nothing,
                false => Undo::Stop {
                    unit: unit.clone(),
                    executors: executors.clone(),
                },
            }),
            Self::Stop { .. } => Ok(Undo::Nothing),
            Self::Save { to, .. } => Ok(Undo::RemoveTrees {
                paths: vec![to.clone()],
            }),
            Self::Restore { from, to, .. } => Ok(Undo::RemoveTrees {
                paths: crate::backup::restored(from, to)?,
            }),
            Self::Python { environment } => Ok(Undo::RemoveTrees {
                paths: vec![environment.directory.clone()],
            }),
            Self::Trash { paths, into } => Ok(Undo::MoveBack {
                moves: moves(paths, into),
                into: into.clone(),
            }),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// It may be half done.
    pub(crate) fn apply(&self, host: &dyn Host) -> Outcome<()> {
        match self {
            Self::Services { .. } => Ok(()),
            Self::Directory {
                path, mode, owner, ..
            } => directory(host, path, *mode, owner.as_deref()),
            Self::Text { path, text, mode } => files::write_text(path, text, *mode),
            Self::Backup { path } => files::copy(path, &with_ending(path, BACKUP), Attributes::mode(0o644)),
            Self::Copy { from, path, mode, .. } => files::copy(from, path, Attributes::mode(*mode)),
            Self::Release { release, path } => release.make(path),
            Self::Link { path, target } => files::link(path, target),
            Self::Remove { path, directory } => {
                files::remove(path)?;
                if let Some(directory) = directory {
                    // Something of the administrator's may be in it.
                    files::remove_empty(directory)?;
                }
                Ok(())
            }
            Self::Accounts {
                accounts,
                sysusers,
                record,
                store,
            } => make_accounts(host, accounts, sysusers, record, store),
            Self::Reload => host.systemd()?.reload(),
            Self::Enable { units } => {
                let systemd = host.systemd()?;
                let names: Vec<&str> = units.iter().map(String::as_str).collect();
                systemd.enable(&names)?;
                // Enabling made links that the running manager has not read.
                systemd.reload()
            }
            Self::Disable { units } => {
                let names: Vec<&str> = units.iter().map(String::as_str).collect();
                host.systemd()?.disable(&names)
            }
            Self::Start { unit, limit, .. } => start(host, unit, *limit),
            Self::Stop { unit, executors } => stop(host, unit, executors),
            Self::Save { parts, to } => crate::backup::make(parts, to),
            Self::Restore { from, to, owner } => {
                let owner = match owner {
                    Some(name) => host.user(name)?,
                    None => None,
                };
                crate::backup::restore(from, to, owner)
            }
            Self::Python { environment } => environment.make(),
            Self::Trash { paths, into } => trash(paths, into),
        }
    }
}

fn is_directory(host: &dyn Host, path: &Path, mode: u32, owner: Option<&str>) -> Outcome<bool> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => {
            let is_owned = match owner {
                None => true,
                Some(owner) => host.user(owner)? == Some(host.sight().owner(path)?),
            };
            Ok(found.mode() & 0o7777 == mode && is_owned)
        }
        Ok(_) if path.is_dir() => Ok(true),
        Ok(_) => Err(
            Failure::installation(format!("{} is not a directory", path.display()))
                .hint("move it away, or choose another --prefix"),
        ),
        Err(_) => Ok(false),
    }
}

fn is_file(path: &Path, mode: u32, sha256: &str) -> Outcome<bool> {
    let is_plain = path
        .symlink_metadata()
        .is_ok_and(|found| found.is_file() && found.mode() & 0o7777 == mode);
    Ok(is_plain && sha256_of(path)?.as_deref() == Some(sha256))
}

/// Those of `units` that are enabled, or those that are not.
fn with_links(host: &dyn Host, units: &[String], enabled: bool) -> Outcome<Vec<String>> {
    let systemd = host.systemd()?;
    let mut found = Vec::new();
    for unit in units {
        let state = systemd.status(unit)?.unit_file_state;
        if (state == "enabled") == enabled {
            found.push(unit.clone());
        }
    }
    Ok(found)
}

fn start(host: &dyn Host, unit: &str, limit: Duration) -> Outcome<()> {
    let systemd = host.systemd()?;
    match systemd.status(unit)?.active_state.as_str() {
        "inactive" | "failed" => {
            systemd.reset_failed(unit)?;
            systemd.start_within(unit, limit)
        }
        // Also between two failed starts: a plain start would wait for the next of them.
        _ => systemd.restart_within(unit, limit),
    }
}

fn directory(host: &dyn Host, path: &Path, mode: u32, owner: Option<&str>) -> Outcome<()> {
    if !path.exists() {
        let mut builder = std::fs::DirBuilder::new();
        builder
            .mode(mode)
            .create(path)
            .map_err(|error| Failure::path("make", path, error))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|error| Failure::path("set the mode of", path, error))?;
    if let Some(owner) = owner {
        let ids = host
            .user(owner)?
            .ok_or_else(|| Failure::installation(format!("there is no user {owner}")))?;
        host.set_owner(path, ids)?;
    }
    files::sync_parent(path).map_err(|error| Failure::path("sync", path, error))
}

fn names(accounts: &[Account], between: &str) -> String {
    let names: Vec<&str> = accounts.iter().map(Account::name).collect();
    names.join(between)
}

fn make_accounts(
    host: &dyn Host,
    accounts: &[Account],
    sysusers: &str,
    record: &AccountRecord,
    store: &Path,
) -> Outcome<()> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(store)
        .map_err(|error| Failure::path("make", store, error))?;
    accounts::save(host.account_directory(), store, record)?;
    host.create_accounts(accounts, sysusers)
}

/// Where each of `paths` is moved to.
fn moves(paths: &[PathBuf], into: &Path) -> Vec<(PathBuf, PathBuf)> {
    let numbered = paths.iter().enumerate();
    numbered
        .map(|(number, path)| (path.clone(), into.join(number.to_string())))
        .collect()
}

fn trash(paths: &[PathBuf], into: &Path) -> Outcome<()> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(into)
        .map_err(|error| Failure::path("make", into, error))?;
    for (from, to) in moves(paths, into) {
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result
                .and_then(|()| files::sync_parent(&from))
                .map_err(|error| Failure::path("remove", &from, error))?,
        }
    }
    files::sync_parent(into)
        .and_then(|()| files::sync_directory(into))
        .map_err(|error| Failure::path("sync", into, error))
}

pub(crate) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
