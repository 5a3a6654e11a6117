//! Files that are either old or new, never half written, and where paths lead to.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Writing a file failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}", path = path.display())]
pub struct WriteError {
    /// The step that failed.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Makes `path` a file with `contents` and permission bits `mode`: written beside it, synced,
/// renamed over it, and the directory synced. A crash leaves the old file or the new one. A
/// running program can be replaced that way, too.
///
/// # Errors
/// [`WriteError`] names the step and the path; the old file is then as it was.
pub fn write_atomic(path: &Path, contents: &[u8], mode: u32) -> Result<(), WriteError> {
    replace_atomic(path, mode, |file| file.write_all(contents))
}

/// As [`write_atomic`], with what `fill` writes as the contents.
///
/// # Errors
/// As [`write_atomic`].
pub fn replace_atomic(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), WriteError> {
    let mut draft = Draft::of(path)?;
    draft.fill(fill)?;
    draft.replace(mode)
}

/// A file that is being written beside the place that it will have. Dropped before it is
/// finished, it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    temporary: NamedTempFile,
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.to_path_buf();
    move |source| WriteError { action, path, source }
}

impl Draft {
    /// An empty draft of the file at `path`.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn of(path: &Path) -> Result<Self, WriteError> {
        let directory = directory(path);
        let temporary = tempfile::Builder::new()
            .prefix(".flame-")
            .tempfile_in(directory)
            .map_err(at("create a file in", directory))?;
        Ok(Self {
            path: path.to_path_buf(),
            temporary,
        })
    }

    /// Writes to the draft.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn fill(&mut self, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), WriteError> {
        write(self.temporary.as_file_mut()).map_err(at("write", &self.path))
    }

    /// Gives the draft to this user and group, by number.
    ///
    /// # Errors
    /// Only root may give files away.
    pub fn set_owner(&mut self, uid: u32, gid: u32) -> Result<(), WriteError> {
        std::os::unix::fs::fchown(self.temporary.as_file(), Some(uid), Some(gid))
            .map_err(at("set the owner of", &self.path))
    }

    /// Puts the draft in its place with permission bits `mode`, whatever is there.
    ///
    /// # Errors
    /// [`WriteError`] names the step and the path; what was there is then as it was.
    pub fn replace(self, mode: u32) -> Result<(), WriteError> {
        self.finish(mode, |temporary, path| {
            temporary.persist(path).map_err(|error| error.error)
        })
    }

    /// Puts the draft in its place with permission bits `mode`, unless something is there.
    ///
    /// # Errors
    /// As [`Draft::replace`], and if there is something.
    pub fn create(self, mode: u32) -> Result<(), WriteError> {
        self.finish(mode, |temporary, path| {
            temporary.persist_noclobber(path).map_err(|error| error.error)
        })
    }

    fn finish(
        self,
        mode: u32,
        persist: impl FnOnce(NamedTempFile, &Path) -> io::Result<File>,
    ) -> Result<(), WriteError> {
        let Self { path, temporary } = self;
        temporary
            .as_file()
            .set_permissions(Permissions::from_mode(mode))
            .map_err(at("set the permissions of", &path))?;
        temporary.as_file().sync_all().map_err(at("sync", &path))?;
        persist(temporary, &path).map_err(at("replace", &path))?;
        let directory = directory(&path);
        sync_directory(directory).map_err(at("sync", directory))
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes renames in `directory` durable.
///
/// # Errors
/// Those of opening and syncing it.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// `path` with its symbolic links followed, as far as it is there and this process may look.
#[must_use]
pub fn resolve(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            return match path.strip_prefix(ancestor) {
                Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
                _ => real,
            };
        }
    }
    path.to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("file");
        for (contents, mode) in [("one", 0o644), ("two", 0o600)] {
            write_atomic(&path, contents.as_bytes(), mode).expect("writable");
            assert_eq!(std::fs::read_to_string(&path).expect("written"), contents);
            assert_eq!(
                std::fs::metadata(&path).expect("written").permissions().mode() & 0o777,
                mode
            );
        }
        assert_eq!(
            std::fs::read_dir(directory.path()).expect("listed").count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("file");
        write_atomic(&path, b"old", 0o644).expect("writable");
        let error = replace_atomic(&path, 0o644, |_| Err(io::Error::other("full"))).expect_err("refused");
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert_eq!(std::fs::read(&path).expect("kept"), b"old");
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_draft_replaces_nothing_that_it_must_not() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("file");
        let draft = |text: &str| {
            let mut draft = Draft::of(&path).expect("made");
            draft
                .fill(|file| file.write_all(text.as_bytes()))
                .expect("writes");
            draft
        };
        draft("first").create(0o600).expect("nothing is there");
        let error = draft("second").create(0o600).expect_err("refused");
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        drop(draft("third"));
        assert_eq!(std::fs::read(&path).expect("kept"), b"first");
        draft("fourth").replace(0o600).expect("replaced");
        assert_eq!(std::fs::read(&path).expect("replaced"), b"fourth");
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 1);
    }

    #[test]
    fn links_are_followed_as_far_as_there_is_something() {
        let home = tempfile::tempdir().expect("temporary directory");
        let directory = home.path().canonicalize().expect("there");
        let (real, link) = (directory.join("real"), directory.join("link"));
        std::fs::create_dir(&real).expect("made");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        for (path, expected) in [
            (link.clone(), real.clone()),
            (link.join("new/file"), real.join("new/file")),
            (link.join("../other"), directory.join("other")),
            ("/nonexistent/x".into(), "/nonexistent/x".into()),
            ("nonexistent".into(), "nonexistent".into()),
        ] {
            assert_eq!(resolve(&path), expected, "{}", path.display());
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = write_atomic(Path::new("/nonexistent/dir/file"), b"", 0o644).expect_err("no directory");
        assert_eq!(error.to_string(), "cannot create a file in /nonexistent/dir");
    }
}
