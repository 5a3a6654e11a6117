//! What a step does.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{BACKUP, Step, with_ending};
use crate::accounts;
use crate::failure::{Failure, Outcome};
use crate::files::{self, Attributes};
use crate::host::{Account, Host};
use crate::manifest::AccountRecord;
use crate::transaction::stop;

impl Step {
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
pub(super) fn moves(paths: &[PathBuf], into: &Path) -> Vec<(PathBuf, PathBuf)> {
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
