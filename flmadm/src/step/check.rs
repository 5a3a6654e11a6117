//! Whether a step has something to do.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Status, Step};
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::manifest::{sha256, sha256_of};

impl Step {
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
pub(super) fn with_links(host: &dyn Host, units: &[String], enabled: bool) -> Outcome<Vec<String>> {
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
