//! How steps are undone. What is needed for it is written down before the step is done, so an undo works whether
//! the step was done, half done or not begun, and also a second time.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::accounts;
use crate::failure::{Failure, Outcome};
use crate::files::{self, Attributes};
use crate::host::{Account, Host, Ids};
use crate::manifest::AccountRecord;

/// What was at a path before a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "kebab-case")]
pub(crate) enum Was {
    Nothing,
    File {
        /// A copy of it.
        saved: PathBuf,
        mode: u32,
        owner: Ids,
        /// Time of the last change since 1970.
        changed: Duration,
    },
    Link {
        target: PathBuf,
    },
}

/// A service before anything was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceBefore {
    pub(crate) unit: String,
    /// Whether it ran.
    pub(crate) active: bool,
    /// Id of that run.
    pub(crate) invocation: Option<String>,
}

/// How a step is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case")]
pub(crate) enum Undo {
    Nothing,
    /// A file or link is made what it was.
    Path {
        path: PathBuf,
        was: Was,
    },
    /// A directory that was not there is removed, with what is in it if that is all the installation's.
    RemoveDirectory {
        path: PathBuf,
        contents: bool,
    },
    /// A directory gets its mode and owner back.
    Directory {
        path: PathBuf,
        mode: u32,
        owner: Ids,
    },
    /// Trees that were not there are removed.
    RemoveTrees {
        paths: Vec<PathBuf>,
    },
    /// Accounts that were not there are removed.
    RemoveAccounts {
        accounts: Vec<Account>,
        record: AccountRecord,
        store: PathBuf,
    },
    /// What was moved away is moved back.
    MoveBack {
        /// From where, to where; in the order in which it was done.
        moves: Vec<(PathBuf, PathBuf)>,
        /// Directory that was made for it.
        into: PathBuf,
    },
    /// Units lose the links that they did not have.
    Disable {
        units: Vec<String>,
    },
    /// Units get the links that they had.
    Enable {
        units: Vec<String>,
    },
    /// A service that did not run is stopped, with the executors that it has started.
    Stop {
        unit: String,
        /// Patterns of the executors' units.
        executors: Vec<String>,
    },
    /// systemd reads its files again, and services run as they did.
    Services {
        /// In the order in which they are started.
        services: Vec<ServiceBefore>,
        /// What a first installation must not leave.
        traces: Option<Traces>,
    },
}

/// What services and executors leave outside of the prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Traces {
    /// Directories of theirs that last until the next boot.
    pub(crate) directories: Vec<PathBuf>,
    /// Where systemd keeps properties that were set until the next boot.
    pub(crate) control: PathBuf,
    /// Templates of executors' units.
    pub(crate) executors: Vec<String>,
    /// Units whose failure systemd remembers.
    pub(crate) units: Vec<String>,
}

impl Traces {
    /// Removes them.
    ///
    /// # Errors
    /// Something stays.
    pub(crate) fn remove(&self, host: &dyn Host) -> Outcome<()> {
        for directory in &self.directories {
            files::remove_tree(directory)?;
        }
        // The limits of each slot, and the directory if nobody else has any.
        if let Ok(entries) = std::fs::read_dir(&self.control) {
            for entry in entries.flatten() {
                let is_ours = entry.file_name().to_str().is_some_and(|name| {
                    let of = |template: &String| {
                        let begin = template.split_once('@').map_or("", |(begin, _)| begin);
                        name.strip_prefix(begin).is_some_and(|rest| rest.starts_with('@'))
                    };
                    name.ends_with(".service.d") && self.executors.iter().any(of)
                });
                if is_ours {
                    files::remove_tree(&entry.path())?;
                }
            }
            files::remove_empty(&self.control)?;
        }
        let systemd = host.systemd()?;
        self.units.iter().try_for_each(|unit| systemd.reset_failed(unit))
    }
}

impl Was {
    /// Looks at `path`, and keeps a copy of a file as `saved`.
    ///
    /// # Errors
    /// It cannot be read or kept, or is neither file nor link.
    pub(crate) fn look(path: &Path, saved: &Path) -> Outcome<Self> {
        let failed = |error| Failure::path("look at", path, error);
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(error) => return Err(failed(error)),
        };
        if metadata.is_symlink() {
            return Ok(Self::Link {
                target: path.read_link().map_err(failed)?,
            });
        }
        if !metadata.is_file() {
            return Err(
                Failure::installation(format!("{} is in the way: it is no file", path.display()))
                    .hint("look at what it is and move it away"),
            );
        }
        files::copy(path, saved, Attributes::mode(0o600))?;
        use std::os::unix::fs::MetadataExt;
        Ok(Self::File {
            saved: saved.to_path_buf(),
            mode: metadata.mode() & 0o7777,
            owner: files::owner(&metadata),
            changed: metadata
                .modified()
                .ok()
                .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
                .unwrap_or_default(),
        })
    }

    fn restore(&self, path: &Path) -> Outcome<()> {
        files::remove(&files::draft(path))?;
        match self {
            Self::Nothing => files::remove(path),
            Self::Link { target } => {
                if path.read_link().is_ok_and(|found| found == *target) {
                    return Ok(());
                }
                make_parent(path)?;
                files::link(path, target)
            }
            Self::File {
                saved,
                mode,
                owner,
                changed,
            } => {
                let attributes = Attributes {
                    mode: *mode,
                    owner: Some(*owner),
                    changed: Some(SystemTime::UNIX_EPOCH + *changed),
                };
                make_parent(path)?;
                files::put_back(saved, path, attributes)
            }
        }
    }
}

/// Makes the directory of `path` if it went with its last file.
fn make_parent(path: &Path) -> Outcome<()> {
    match path.parent().filter(|directory| !directory.exists()) {
        Some(directory) => {
            std::fs::create_dir_all(directory).map_err(|error| Failure::path("make", directory, error))
        }
        None => Ok(()),
    }
}

impl Undo {
    /// Makes things what they were. Gives a line for people about what it left, if anything.
    ///
    /// # Errors
    /// They are not; it can be tried again.
    pub(crate) fn undo(&self, host: &dyn Host) -> Outcome<Option<String>> {
        match self {
            Self::Nothing => {}
            Self::Path { path, was } => was.restore(path)?,
            Self::RemoveDirectory { path, contents: true } => files::remove_tree(path)?,
            Self::RemoveDirectory {
                path,
                contents: false,
            } => {
                if !files::remove_empty(path)? {
                    return Ok(Some(format!(
                        "{} stays: there is something of somebody else's in it",
                        path.display()
                    )));
                }
            }
            Self::Directory { path, mode, owner } => restore_directory(host, path, *mode, *owner)?,
            Self::RemoveTrees { paths } => paths.iter().try_for_each(|path| files::remove_tree(path))?,
            Self::RemoveAccounts {
                accounts,
                record,
                store,
            } => return remove_accounts(host, accounts, record, store),
            Self::MoveBack { moves, into } => move_back(moves, into)?,
            Self::Disable { units } => {
                let names: Vec<&str> = units.iter().map(String::as_str).collect();
                host.systemd()?.disable(&names)?;
            }
            Self::Enable { units } => {
                let names: Vec<&str> = units.iter().map(String::as_str).collect();
                host.systemd()?.enable(&names)?;
            }
            Self::Stop { unit, executors } => stop(host, unit, executors)?,
            Self::Services { services, traces } => {
                return run_as_before(host, services, traces.as_ref());
            }
        }
        Ok(None)
    }
}

/// Stops a service, and with it the executors whose units match one of `executors`.
///
/// # Errors
/// One of them does not stop.
pub(crate) fn stop(host: &dyn Host, unit: &str, executors: &[String]) -> Outcome<()> {
    let systemd = host.systemd()?;
    if systemd.status(unit)?.active_state == "activating" {
        systemd.kill(unit);
    }
    systemd.stop(unit)?;
    for pattern in executors {
        for instance in systemd.loaded(pattern)? {
            systemd.stop(&instance)?;
        }
    }
    Ok(())
}

/// Gives a directory its mode and owner back, unless it has them: it may be read-only.
fn restore_directory(host: &dyn Host, path: &Path, mode: u32, owner: Ids) -> Outcome<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if host.sight().owner(path)? != owner {
        host.set_owner(path, owner)?;
    }
    let failed = |error| Failure::path("set the mode of", path, error);
    match path.metadata().map_err(failed)?.mode() & 0o7777 == mode {
        true => Ok(()),
        false => std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(failed),
    }
}

fn remove_accounts(
    host: &dyn Host,
    made: &[Account],
    record: &AccountRecord,
    store: &Path,
) -> Outcome<Option<String>> {
    for account in made {
        if account.look_up(host)?.is_some() {
            host.remove_account(account)?;
        }
    }
    // Of a later installation that made one more user, the store holds what the first one kept.
    if *record == AccountRecord::default() {
        files::remove_empty(store)?;
        return Ok(None);
    }
    let note = match store.exists() {
        true => accounts::restore(host.account_directory(), store, record)?,
        false => None,
    };
    files::remove_tree(store)?;
    Ok(note)
}

fn move_back(moves: &[(PathBuf, PathBuf)], into: &Path) -> Outcome<()> {
    for (from, to) in moves.iter().rev() {
        if to.symlink_metadata().is_ok() {
            std::fs::rename(to, from)
                .and_then(|()| files::sync_parent(from))
                .map_err(|error| Failure::path("move back", from, error))?;
        }
    }
    files::remove_empty(into).map(drop)
}

/// Makes systemd read its files again, and services run that ran. Gives a line about those that do not: their files
/// are what they were, so there is nothing more to undo.
fn run_as_before(
    host: &dyn Host,
    services: &[ServiceBefore],
    traces: Option<&Traces>,
) -> Outcome<Option<String>> {
    let systemd = host.systemd()?;
    systemd.reload()?;
    let mut failed = Vec::new();
    for before in services.iter().filter(|service| service.active) {
        let now = systemd.status(&before.unit)?;
        if now.is_active() && now.invocation_id == before.invocation {
            continue;
        }
        // One that never became ready has nothing that it could put in order, and need not even listen.
        if ["activating", "deactivating"].contains(&now.active_state.as_str()) {
            systemd.kill(&before.unit);
        }
        let started = systemd
            .reset_failed(&before.unit)
            .and_then(|()| systemd.restart(&before.unit));
        // The others shall run nevertheless.
        if started.is_err() {
            failed.push(before.unit.as_str());
        }
    }
    if let Some(traces) = traces {
        traces.remove(host)?;
    }
    Ok((!failed.is_empty()).then(|| {
        let units = failed.join(" ");
        format!("{units} ran before and does not start now; see: flmadm logs, flmadm start")
    }))
}
