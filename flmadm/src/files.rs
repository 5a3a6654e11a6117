//! Changes of files that leave nothing behind when they are cut off: what is written lies, until it takes its place,
//! under a name that is known beforehand.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::failure::{Failure, Outcome};
use crate::host::Ids;
use crate::manifest::sha256_of;

/// Ending of the name of a file that is being written.
const DRAFT: &str = ".flmadm-new";

/// What a file has besides its contents.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes {
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner; whoever writes if there is none.
    pub(crate) owner: Option<Ids>,
    /// Time of the last change; now if there is none.
    pub(crate) changed: Option<SystemTime>,
}

impl Attributes {
    /// A new file with these permission bits.
    pub(crate) fn mode(mode: u32) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }

    fn set(self, file: &File) -> io::Result<()> {
        if let Some(ids) = self.owner {
            std::os::unix::fs::fchown(file, Some(ids.uid), Some(ids.gid))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(self.mode))?;
        match self.changed {
            Some(changed) => file.set_modified(changed),
            None => Ok(()),
        }
    }
}

/// Where the next contents of `path` are written.
pub(crate) fn draft(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(DRAFT);
    path.with_file_name(name)
}

/// Makes `path` a file with what `fill` writes: the old file or the new one is there at every moment, and the new one
/// is durable when this returns.
///
/// # Errors
/// The old file is as it was, and no draft is left.
pub(crate) fn write(
    path: &Path,
    attributes: Attributes,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Outcome<()> {
    let draft = draft(path);
    remove(&draft)?;
    let written = (|| {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        fill(&mut file)?;
        attributes.set(&file)?;
        make_durable(&file)?;
        std::fs::rename(&draft, path)?;
        sync_parent(path)
    })();
    written.map_err(|error| {
        let _gone = std::fs::remove_file(&draft);
        Failure::path("write", path, error)
    })
}

/// As [`write`], with a text.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_text(path: &Path, text: &str, mode: u32) -> Outcome<()> {
    write(path, Attributes::mode(mode), |file| {
        io::Write::write_all(file, text.as_bytes())
    })
}

/// Makes `to` a copy of `from` with `attributes`.
///
/// # Errors
/// As [`write`], and if `from` cannot be read.
pub(crate) fn copy(from: &Path, to: &Path, attributes: Attributes) -> Outcome<()> {
    let mut source = File::open(from).map_err(|error| Failure::path("read", from, error))?;
    write(to, attributes, |file| io::copy(&mut source, file).map(drop))
}

/// Makes `path` what its copy `saved` is, with `attributes`. On a disk that is full there may be no room for another
/// copy, so `saved` itself gets this name, too, if it lies on the same file system.
///
/// # Errors
/// As [`copy`].
pub(crate) fn put_back(saved: &Path, path: &Path, attributes: Attributes) -> Outcome<()> {
    if is_same(saved, path, attributes)? {
        return Ok(());
    }
    let draft = draft(path);
    remove(&draft)?;
    if std::fs::hard_link(saved, &draft).is_err() {
        return copy(saved, path, attributes);
    }
    let put = (|| {
        let file = File::open(&draft)?;
        attributes.set(&file)?;
        make_durable(&file)?;
        std::fs::rename(&draft, path)?;
        sync_parent(path)
    })();
    put.map_err(|error| {
        let _gone = std::fs::remove_file(&draft);
        Failure::path("put back", path, error)
    })
}

/// Whether `path` is a file with the contents of `saved` and with `attributes` already: because it was never changed,
/// which must not be tried on a file system that is read-only, or because it is `saved` itself.
fn is_same(saved: &Path, path: &Path, attributes: Attributes) -> Outcome<bool> {
    let failed = |error| Failure::path("read", saved, error);
    let metadata = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_file() => metadata,
        _ => return Ok(false),
    };
    let copy = saved.metadata().map_err(failed)?;
    if (metadata.dev(), metadata.ino()) == (copy.dev(), copy.ino()) {
        return Ok(true);
    }
    let has_attributes = metadata.mode() & 0o7777 == attributes.mode
        && attributes.owner.is_none_or(|ids| ids == owner(&metadata))
        && attributes
            .changed
            .is_none_or(|changed| metadata.modified().is_ok_and(|time| time == changed));
    Ok(has_attributes && metadata.len() == copy.len() && sha256_of(path)? == sha256_of(saved)?)
}

/// Makes `path` a symbolic link, whatever file or link is there: there is no moment without one.
///
/// # Errors
/// What was there is as it was.
pub(crate) fn link(path: &Path, target: &Path) -> Outcome<()> {
    let draft = draft(path);
    remove(&draft)?;
    let made = std::os::unix::fs::symlink(target, &draft)
        .and_then(|()| std::fs::rename(&draft, path))
        .and_then(|()| sync_parent(path));
    made.map_err(|error| {
        let _gone = std::fs::remove_file(&draft);
        Failure::path("make the link", path, error)
    })
}

/// Removes a file or link, if it is there.
///
/// # Errors
/// It is there and cannot be removed.
pub(crate) fn remove(path: &Path) -> Outcome<()> {
    gone(path, std::fs::remove_file(path))
}

/// Removes a directory with all that is in it, if it is there. Links are not followed.
///
/// # Errors
/// Something in it cannot be removed.
pub(crate) fn remove_tree(path: &Path) -> Outcome<()> {
    gone(path, std::fs::remove_dir_all(path))
}

/// Removes a directory unless something is in it. Gives whether it is gone.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn remove_empty(path: &Path) -> Outcome<bool> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        result => gone(path, result).map(|()| true),
    }
}

fn gone(path: &Path, result: io::Result<()>) -> Outcome<()> {
    match result {
        // Of a file system that is read-only the kernel says so first, also of what is not there.
        Err(error)
            if error.kind() == io::ErrorKind::ReadOnlyFilesystem && path.symlink_metadata().is_err() =>
        {
            Ok(())
        }
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(())
        }
        result => result.map_err(|error| Failure::path("remove", path, error)),
    }
}

/// Makes renames in the directory of `path` durable.
///
/// # Errors
/// Those of opening and syncing it.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_directory)
}

/// Makes what is in a file durable. Unit tests have no power cuts, and would do little else.
///
/// # Errors
/// It is not durable.
pub(crate) fn make_durable(file: &File) -> io::Result<()> {
    if cfg!(test) { Ok(()) } else { file.sync_all() }
}

/// Makes renames in `directory` durable.
///
/// # Errors
/// Those of opening and syncing it.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    make_durable(&File::open(directory)?)
}

/// Makes everything below `top` durable.
///
/// # Errors
/// Something cannot be read or synced.
pub(crate) fn sync_tree(top: &Path) -> Outcome<()> {
    for entry in walkdir::WalkDir::new(top).contents_first(true) {
        let entry = entry.map_err(|error| {
            Failure::installation(format!("cannot look at what is in {}", top.display())).because(error)
        })?;
        if !entry.path_is_symlink() {
            let synced = File::open(entry.path()).and_then(|file| make_durable(&file));
            synced.map_err(|error| Failure::path("sync", entry.path(), error))?;
        }
    }
    Ok(())
}

/// Owner of what `metadata` is of.
/// Bytes of all files below `top`; none if it is not there.
///
/// # Errors
/// Something cannot be looked at.
pub(crate) fn size(top: &Path) -> Outcome<u64> {
    if !top.exists() {
        return Ok(0);
    }
    let mut bytes: u64 = 0;
    for entry in walkdir::WalkDir::new(top) {
        let entry = entry.and_then(|entry| entry.metadata());
        let found = entry.map_err(|error| Failure::path("look at", top, error.into()))?;
        bytes = bytes.saturating_add(if found.is_file() { found.len() } else { 0 });
    }
    Ok(bytes)
}

pub(crate) fn owner(metadata: &std::fs::Metadata) -> Ids {
    Ids {
        uid: metadata.uid(),
        gid: metadata.gid(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_links_take_their_place_without_a_trace() {
        let home = tempfile::tempdir().expect("temporary directory");
        let path = home.path().join("file");
        let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        std::fs::write(draft(&path), "left by a crash").expect("written");
        write_text(&path, "one", 0o640).expect("written");
        let attributes = Attributes {
            changed: Some(old),
            ..Attributes::mode(0o600)
        };
        copy(&path, &home.path().join("copy"), attributes).expect("copied");
        let metadata = home.path().join("copy").metadata().expect("there");
        assert_eq!(metadata.modified().expect("a time"), old);
        assert_eq!(metadata.mode() & 0o777, 0o600);
        for target in ["file", "copy"] {
            link(&home.path().join("link"), Path::new(target)).expect("linked");
        }
        assert_eq!(
            home.path().join("link").read_link().expect("a link"),
            Path::new("copy")
        );
        assert_eq!(home.path().read_dir().expect("read").count(), 3);
    }

    #[test]
    fn what_is_put_back_needs_no_room_and_is_not_touched_twice() {
        let home = tempfile::tempdir().expect("temporary directory");
        let (saved, path) = (home.path().join("saved"), home.path().join("file"));
        let attributes = Attributes {
            changed: Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000)),
            ..Attributes::mode(0o640)
        };
        write_text(&path, "new", 0o644).expect("written");
        write_text(&saved, "old", 0o600).expect("written");
        for _ in 0..2 {
            put_back(&saved, &path, attributes).expect("put back");
            let found = path.metadata().expect("there");
            assert_eq!(found.ino(), saved.metadata().expect("there").ino());
            assert_eq!(
                (found.mode() & 0o777, found.modified().ok()),
                (0o640, attributes.changed)
            );
            assert_eq!(home.path().read_dir().expect("read").count(), 2);
        }
        let inode = path.metadata().expect("there").ino();
        copy(&path, &saved, Attributes::mode(0o600)).expect("copied");
        put_back(&saved, &path, attributes).expect("the same already");
        assert_eq!(path.metadata().expect("there").ino(), inode);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let home = tempfile::tempdir().expect("temporary directory");
        let path = home.path().join("file");
        write_text(&path, "old", 0o644).expect("written");
        write(&path, Attributes::mode(0o644), |_| Err(io::Error::other("full"))).expect_err("refused");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "old");
        assert_eq!(home.path().read_dir().expect("read").count(), 1);
    }

    #[test]
    fn what_is_not_there_need_not_be_removed() {
        let home = tempfile::tempdir().expect("temporary directory");
        let missing = home.path().join("missing");
        remove(&missing).expect("nothing to do");
        remove_tree(&missing).expect("nothing to do");
        assert!(remove_empty(&missing).expect("nothing to do"));
        assert!(!remove_empty(home.path().parent().expect("a parent")).expect("looked"));
    }
}
