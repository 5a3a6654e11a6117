//! Backups of conf/ and data/ with modes and owners: made by an uninstall, taken up by an installation.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
use crate::host::Ids;
use crate::prefix::Prefix;

/// A part of an installation that a backup has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its directory below the prefix.
    pub(crate) place: &'static str,
    /// Its directory in a backup.
    pub(crate) name: &'static str,
}

/// The configuration.
pub(crate) const CONF: Part = Part {
    place: "conf",
    name: "conf",
};
/// The state of the session manager, and the ids of this machine's nodes, by which a session manager knows them again:
/// it refuses another node of the same name.
pub(crate) const DATA: [Part; 2] = [
    Part {
        place: "data",
        name: "data",
    },
    Part {
        place: "work/nodes",
        name: "nodes",
    },
];

/// A backup that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backup {
    /// What is copied.
    pub(crate) parts: Vec<PathBuf>,
    /// The new directory.
    pub(crate) to: PathBuf,
}

/// The backup of `parts` of an installation to a new directory: `PREFIX.backup.TIME`, or `flame-backup.TIME` in
/// `directory`. `None` if there is nothing to keep.
pub(crate) fn plan(prefix: &Prefix, directory: Option<&Path>, parts: &[Part]) -> Option<Backup> {
    let parts: Vec<PathBuf> = parts
        .iter()
        .map(|part| prefix.join(part.place))
        .filter(|part| has_something(part))
        .collect();
    if parts.is_empty() {
        return None;
    }
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let (parent, name) = match directory {
        Some(directory) => (directory.to_path_buf(), format!("flame-backup.{time}")),
        None => {
            let name = prefix.path().file_name().unwrap_or_default().to_string_lossy();
            (
                prefix.path().parent().unwrap_or(Path::new("/")).to_path_buf(),
                format!("{name}.backup.{time}"),
            )
        }
    };
    Some(Backup {
        parts,
        to: free(&parent, &name),
    })
}

/// Copies `parts` to the new directory `to`, durably.
///
/// # Errors
/// Something could not be copied; what was copied is left.
pub(crate) fn make(parts: &[PathBuf], to: &Path) -> Outcome<()> {
    // Data of sessions is nobody else's business.
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(to)
        .map_err(|error| Failure::path("make the backup", to, error))?;
    for part in parts {
        copy(part, &to.join(part.file_name().unwrap_or_default()), None)?;
    }
    crate::sums::write(to)?;
    crate::files::sync_tree(to)
}

/// Where what is in the directory `from` will be in `to`.
///
/// # Errors
/// `from` cannot be read, or `to` has something of that name.
pub(crate) fn restored(from: &Path, to: &Path) -> Outcome<Vec<PathBuf>> {
    let failed = |error| Failure::path("read the backup", from, error);
    let mut paths = Vec::new();
    for entry in from.read_dir().map_err(failed)? {
        let path = to.join(entry.map_err(failed)?.file_name());
        if path.symlink_metadata().is_ok() {
            return Err(
                Failure::installation(format!("{} is there already", path.display())).hint(
                    "a backup is taken up by a new installation only; uninstall this one first, or move the file away",
                ),
            );
        }
        paths.push(path);
    }
    paths.sort();
    Ok(paths)
}

/// Copies what is in the directory `from` into `to`, for `owner` if there is one: users may have other numbers than when
/// the backup was made.
///
/// # Errors
/// Something could not be copied; what was copied is left.
pub(crate) fn restore(from: &Path, to: &Path, owner: Option<Ids>) -> Outcome<()> {
    for path in restored(from, to)? {
        copy(&from.join(path.file_name().unwrap_or_default()), &path, owner)?;
    }
    crate::files::sync_tree(to)
}

fn has_something(path: &Path) -> bool {
    path.is_file() || path.read_dir().is_ok_and(|mut entries| entries.next().is_some())
}

/// Two uninstalls in one second must not share a backup.
fn free(parent: &Path, name: &str) -> PathBuf {
    let numbered = (1..).map(|number| parent.join(format!("{name}.{number}")));
    let mut names = std::iter::once(parent.join(name)).chain(numbered);
    names
        .find(|path| path.symlink_metadata().is_err())
        .unwrap_or_else(|| parent.join(name))
}

/// Copies a tree; links stay links, sockets and the like are left out.
fn copy(from: &Path, to: &Path, owner: Option<Ids>) -> Outcome<()> {
    let metadata = from
        .symlink_metadata()
        .map_err(|error| Failure::path("look at", from, error))?;
    let failed = |error| Failure::path("copy to", to, error);
    if metadata.is_symlink() {
        let target = std::fs::read_link(from).map_err(|error| Failure::path("read", from, error))?;
        std::os::unix::fs::symlink(target, to).map_err(failed)?;
    } else if metadata.is_dir() {
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(to)
            .map_err(failed)?;
        for entry in from
            .read_dir()
            .map_err(|error| Failure::path("read", from, error))?
        {
            let entry = entry.map_err(|error| Failure::path("read", from, error))?;
            copy(&entry.path(), &to.join(entry.file_name()), owner)?;
        }
        std::fs::set_permissions(to, std::fs::Permissions::from_mode(metadata.mode() & 0o7777))
            .map_err(failed)?;
    } else if metadata.is_file() {
        std::fs::copy(from, to).map_err(failed)?;
    } else {
        return Ok(());
    }
    let owner = owner.unwrap_or(crate::files::owner(&metadata));
    if crate::files::owner(&to.symlink_metadata().map_err(failed)?) != owner {
        std::os::unix::fs::lchown(to, Some(owner.uid), Some(owner.gid)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_holds_modes_and_links_and_is_never_shared() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let prefix = Prefix::new(&directory.path().join("flame")).expect("a prefix");
        std::fs::create_dir_all(prefix.join("data/deep")).expect("made");
        std::fs::create_dir_all(prefix.join("conf")).expect("made");
        std::fs::write(prefix.join("data/deep/file"), "kept").expect("written");
        std::fs::set_permissions(
            prefix.join("data/deep/file"),
            std::fs::Permissions::from_mode(0o600),
        )
        .expect("set");
        std::os::unix::fs::symlink("deep/file", prefix.join("data/link")).expect("linked");
        let made = || {
            let backup = plan(&prefix, None, &[CONF, DATA[0], DATA[1]]).expect("something to keep");
            make(&backup.parts, &backup.to).expect("copied");
            backup.to
        };
        let (first, second) = (made(), made());
        assert_ne!(first, second);
        assert!(
            !first.join("conf").exists(),
            "an empty directory is nothing to keep"
        );
        assert_eq!(
            std::fs::read_to_string(second.join("data/link")).expect("read"),
            "kept"
        );
        let mode = first.join("data/deep/file").metadata().expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(plan(&prefix, None, &[CONF]), None);
        let again = directory.path().join("again");
        std::fs::create_dir(&again).expect("made");
        restore(&first.join("data"), &again, None).expect("restored");
        assert_eq!(
            std::fs::read_to_string(again.join("deep/file")).expect("there"),
            "kept"
        );
        restore(&first.join("data"), &again, None).expect_err("there already");
    }
}
