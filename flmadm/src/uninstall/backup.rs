//! The backup that an uninstall leaves: copies of conf/ and data/ with modes and owners.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
use crate::prefix::Prefix;

/// Copies `parts` of the installation to a new directory: `PREFIX.backup.TIME`, or `flame-backup.TIME`
/// in `directory`. Gives its path; `None` if there is nothing to keep.
///
/// # Errors
/// Something could not be copied.
pub(super) fn make(prefix: &Prefix, directory: Option<&Path>, parts: &[&str]) -> Outcome<Option<PathBuf>> {
    let parts: Vec<&&str> = parts
        .iter()
        .filter(|part| has_something(&prefix.join(part)))
        .collect();
    if parts.is_empty() {
        return Ok(None);
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
    std::fs::create_dir_all(&parent).map_err(|error| Failure::path("make", &parent, error))?;
    let target = free(&parent, &name);
    // Data of sessions is nobody else's business.
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&target)
        .map_err(|error| Failure::path("make the backup", &target, error))?;
    for part in parts {
        copy(&prefix.join(part), &target.join(part))?;
    }
    Ok(Some(target))
}

fn has_something(path: &Path) -> bool {
    path.read_dir().is_ok_and(|mut entries| entries.next().is_some())
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
fn copy(from: &Path, to: &Path) -> Outcome<()> {
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
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        std::fs::set_permissions(to, std::fs::Permissions::from_mode(metadata.mode() & 0o7777))
            .map_err(failed)?;
    } else if metadata.is_file() {
        std::fs::copy(from, to).map_err(failed)?;
    } else {
        return Ok(());
    }
    let owner = to.symlink_metadata().map_err(failed)?;
    if (owner.uid(), owner.gid()) != (metadata.uid(), metadata.gid()) {
        std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid())).map_err(failed)?;
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
        let first = make(&prefix, None, &["conf", "data"])
            .expect("copied")
            .expect("a backup");
        let second = make(&prefix, None, &["conf", "data"])
            .expect("copied")
            .expect("a backup");
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
        assert_eq!(make(&prefix, None, &["conf"]).expect("nothing to do"), None);
    }
}
