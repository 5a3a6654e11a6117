//! What is kept of a machine before a step changes it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::apply::moves;
use super::check::with_links;
use super::{BACKUP, Step, with_ending};
use crate::failure::Outcome;
use crate::files;
use crate::host::Host;
use crate::transaction::{Undo, Was};

impl Step {
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
}
