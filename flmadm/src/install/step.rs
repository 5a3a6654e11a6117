//! The steps of an installation: each knows whether it is done, how to do it, and how to undo it.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
use crate::host::{Account, Host};
use crate::manifest::{AccountRecord, sha256, sha256_of};

/// Ending of the name under which a replaced file waits until the installation is complete.
const REPLACED: &str = ".flmadm-replaced";
/// Ending of a configuration that was replaced because the user said so.
const BACKUP: &str = ".bak";

/// One change of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A directory with a mode, and with an owner other than root if one is named.
    Directory {
        path: PathBuf,
        mode: u32,
        owner: Option<String>,
    },
    /// A file with this text.
    Text { path: PathBuf, text: String, mode: u32 },
    /// Keeps a copy of a file that is about to be replaced.
    Backup { path: PathBuf },
    /// A copy of a program.
    Program {
        from: PathBuf,
        path: PathBuf,
        sha256: String,
    },
    /// A symbolic link.
    Link { path: PathBuf, target: &'static str },
    /// A file that is not wanted any more, and its directory if nothing else is in it.
    Remove { path: PathBuf, directory: PathBuf },
    /// The accounts of services and executors.
    Accounts {
        accounts: Vec<Account>,
        sysusers: String,
        record: AccountRecord,
        store: PathBuf,
    },
    /// Makes systemd read its unit files again.
    Reload,
}

/// Whether a step has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    Needed,
}

/// How a step is undone.
#[derive(Debug)]
pub(crate) enum Undo {
    Nothing,
    /// The path was not there.
    Remove(PathBuf),
    /// The directory was not there.
    RemoveDirectory(PathBuf),
    /// The old file waits beside.
    Restore {
        path: PathBuf,
        saved: PathBuf,
    },
    /// The file with its contents and mode was there, in that directory.
    Write {
        path: PathBuf,
        contents: Vec<u8>,
        mode: u32,
    },
    /// The accounts were not there.
    RemoveAccounts {
        accounts: Vec<Account>,
        record: AccountRecord,
        store: PathBuf,
    },
    Reload,
}

impl Step {
    /// What it is, for programs.
    pub(crate) fn id(&self) -> String {
        match self {
            Self::Directory { path, .. } => format!("directory:{}", path.display()),
            Self::Text { path, .. } => format!("file:{}", path.display()),
            Self::Backup { path } => format!("backup:{}", path.display()),
            Self::Program { path, .. } => format!("program:{}", path.display()),
            Self::Link { path, .. } => format!("link:{}", path.display()),
            Self::Remove { path, .. } => format!("remove:{}", path.display()),
            Self::Accounts { accounts, .. } => format!("user:{}", names(accounts, ",")),
            Self::Reload => "systemd:reload".to_owned(),
        }
    }

    /// What it is, for people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Directory {
                path,
                mode,
                owner: Some(owner),
            } => {
                format!("directory {} ({mode:04o}, {owner})", path.display())
            }
            Self::Directory {
                path,
                mode,
                owner: None,
            } => format!("directory {} ({mode:04o})", path.display()),
            Self::Text { path, .. } => format!("file {}", path.display()),
            Self::Backup { path } => format!("copy of the old {0} as {0}{BACKUP}", path.display()),
            Self::Program { path, .. } => format!("program {}", path.display()),
            Self::Link { path, target } => format!("link {} to {target}", path.display()),
            Self::Remove { path, .. } => format!("removal of {}", path.display()),
            Self::Accounts { accounts, .. } => format!("users and groups {}", names(accounts, ", ")),
            Self::Reload => "systemd reads the units".to_owned(),
        }
    }

    /// Whether it has something to do.
    ///
    /// # Errors
    /// It could not look.
    pub(crate) fn check(&self, host: &dyn Host) -> Outcome<Status> {
        let done = match self {
            Self::Directory { path, mode, owner } => match path.symlink_metadata() {
                Ok(found) if found.is_dir() => {
                    found.mode() & 0o7777 == *mode && self.is_owned(host, owner.as_deref(), &found)?
                }
                Ok(_) if path.is_dir() => true,
                Ok(_) => {
                    return Err(
                        Failure::installation(format!("{} is not a directory", path.display()))
                            .hint("move it away, or choose another --prefix"),
                    );
                }
                Err(_) => false,
            },
            Self::Text { path, text, .. } => sha256_of(path)? == Some(sha256(text.as_bytes())),
            Self::Program { path, sha256, .. } => sha256_of(path)?.as_ref() == Some(sha256),
            Self::Link { path, target } => {
                std::fs::read_link(path).is_ok_and(|found| found == Path::new(target))
            }
            Self::Accounts { accounts, .. } => {
                let mut there = true;
                for account in accounts {
                    there &= account.look_up(host)?.is_some();
                }
                there
            }
            Self::Remove { path, .. } => path.symlink_metadata().is_err(),
            Self::Backup { .. } | Self::Reload => false,
        };
        Ok(if done { Status::Done } else { Status::Needed })
    }

    fn is_owned(&self, host: &dyn Host, owner: Option<&str>, found: &std::fs::Metadata) -> Outcome<bool> {
        let Some(owner) = owner else { return Ok(true) };
        Ok(host
            .user(owner)?
            .is_some_and(|ids| ids.uid == found.uid() && ids.gid == found.gid()))
    }

    /// Does it.
    ///
    /// # Errors
    /// Nothing was changed, except that a directory may have been made with another mode or owner.
    pub(crate) fn apply(&self, host: &dyn Host) -> Outcome<Undo> {
        match self {
            Self::Directory { path, mode, owner } => directory(host, path, *mode, owner.as_deref()),
            Self::Text { path, text, mode } => replacing(path, || {
                Ok(flame_core::fsutil::write_atomic(path, text.as_bytes(), *mode)?)
            }),
            Self::Backup { path } => {
                let backup = with_ending(path, BACKUP);
                let copy = || {
                    let text = std::fs::read(path).map_err(|error| Failure::path("read", path, error))?;
                    Ok(flame_core::fsutil::write_atomic(&backup, &text, 0o644)?)
                };
                replacing(&backup, copy)
            }
            Self::Program { from, path, .. } => replacing(path, || {
                let mut source =
                    std::fs::File::open(from).map_err(|error| Failure::path("read", from, error))?;
                let copied =
                    flame_core::fsutil::replace_atomic(path, 0o755, |to| io::copy(&mut source, to).map(drop));
                Ok(copied?)
            }),
            Self::Link { path, target } => replacing(path, || {
                remove(path)?;
                std::os::unix::fs::symlink(target, path)
                    .map_err(|error| Failure::path("make the link", path, error))
            }),
            Self::Remove { path, directory } => unwanted(path, directory),
            Self::Accounts {
                accounts,
                sysusers,
                record,
                store,
            } => make_accounts(host, accounts, sysusers, record, store),
            Self::Reload => host.systemd()?.reload().map(|()| Undo::Reload),
        }
    }
}

impl Undo {
    /// Puts back what was before.
    ///
    /// # Errors
    /// Something stays as it is now.
    pub(crate) fn undo(self, host: &dyn Host) -> Outcome<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Remove(path) => remove(&path),
            Self::RemoveDirectory(path) => {
                std::fs::remove_dir(&path).map_err(|error| Failure::path("remove", &path, error))
            }
            Self::Restore { path, saved } => {
                std::fs::rename(&saved, &path).map_err(|error| Failure::path("put back", &path, error))
            }
            Self::Write { path, contents, mode } => {
                if let Some(directory) = path.parent() {
                    std::fs::create_dir_all(directory)
                        .map_err(|error| Failure::path("make", directory, error))?;
                }
                Ok(flame_core::fsutil::write_atomic(&path, &contents, mode)?)
            }
            Self::RemoveAccounts {
                accounts: made,
                record,
                store,
            } => {
                for account in made {
                    host.remove_account(&account)?;
                }
                crate::accounts::restore(host.account_directory(), &store, &record)?;
                // Of a later installation that made one more user, it holds what the first one kept.
                if record == AccountRecord::default() {
                    let _ = std::fs::remove_dir(&store);
                } else if store.exists() {
                    std::fs::remove_dir_all(&store)
                        .map_err(|error| Failure::path("remove", &store, error))?;
                }
                Ok(())
            }
            Self::Reload => host.systemd()?.reload(),
        }
    }

    /// Throws away what was kept for undoing.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn forget(&self) -> Outcome<()> {
        match self {
            Self::Restore { saved, .. } => remove(saved),
            _ => Ok(()),
        }
    }
}

fn directory(host: &dyn Host, path: &Path, mode: u32, owner: Option<&str>) -> Outcome<Undo> {
    let made = !path.exists();
    if made {
        let mut builder = std::fs::DirBuilder::new();
        builder
            .mode(mode)
            .create(path)
            .map_err(|error| Failure::path("make", path, error))?;
    }
    let finish = || {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(|error| Failure::path("set the mode of", path, error))?;
        if let Some(owner) = owner {
            let ids = host
                .user(owner)?
                .ok_or_else(|| Failure::installation(format!("there is no user {owner}")))?;
            host.set_owner(path, ids)?;
        }
        Ok(())
    };
    let finished: Outcome<()> = finish();
    match (finished, made) {
        (Ok(()), true) => Ok(Undo::RemoveDirectory(path.to_path_buf())),
        (Ok(()), false) => Ok(Undo::Nothing),
        (Err(failure), true) => match std::fs::remove_dir(path) {
            Ok(()) => Err(failure),
            Err(error) => Err(failure.also(format!("{} stays: {error}", path.display()))),
        },
        (Err(failure), false) => Err(failure),
    }
}

/// Removes the file at `path`, which is small.
fn unwanted(path: &Path, directory: &Path) -> Outcome<Undo> {
    let looked = |error| Failure::path("read", path, error);
    let mode = path.metadata().map_err(looked)?.mode() & 0o7777;
    let contents = std::fs::read(path).map_err(looked)?;
    remove(path)?;
    // Something of the administrator's may be in it.
    let _not_empty = std::fs::remove_dir(directory);
    Ok(Undo::Write {
        path: path.to_path_buf(),
        contents,
        mode,
    })
}

fn names(accounts: &[Account], between: &str) -> String {
    let names: Vec<&str> = accounts.iter().map(|account| account.name()).collect();
    names.join(between)
}

fn make_accounts(
    host: &dyn Host,
    accounts: &[Account],
    sysusers: &str,
    record: &AccountRecord,
    store: &Path,
) -> Outcome<Undo> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(store)
        .map_err(|error| Failure::path("make", store, error))?;
    crate::accounts::save(host.account_directory(), store, record)?;
    host.create_accounts(accounts, sysusers)?;
    Ok(Undo::RemoveAccounts {
        accounts: accounts.to_vec(),
        record: record.clone(),
        store: store.to_path_buf(),
    })
}

/// Runs `change`, which replaces the file at `path`, and keeps the old file until the end.
fn replacing(path: &Path, change: impl FnOnce() -> Outcome<()>) -> Outcome<Undo> {
    if path.symlink_metadata().is_err() {
        return change().map(|()| Undo::Remove(path.to_path_buf()));
    }
    let saved = replaced(path);
    remove(&saved)?;
    // A second name for the old file costs nothing and keeps a running program's contents.
    std::fs::hard_link(path, &saved).map_err(|error| Failure::path("keep the old", path, error))?;
    match change() {
        Ok(()) => Ok(Undo::Restore {
            path: path.to_path_buf(),
            saved,
        }),
        Err(failure) => {
            // A link is removed before it is made anew; the rename puts it back, and does nothing else.
            match std::fs::rename(&saved, path)
                .and_then(|()| remove(&saved).map_err(|_| io::Error::other("leftover")))
            {
                Ok(()) => Err(failure),
                Err(error) => Err(failure.also(format!("{} stays: {error}", saved.display()))),
            }
        }
    }
}

/// Where the file that was at `path` waits while an installation is under way.
pub(crate) fn replaced(path: &Path) -> PathBuf {
    with_ending(path, REPLACED)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn remove(path: &Path) -> Outcome<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::path("remove", path, error)),
        _ => Ok(()),
    }
}
