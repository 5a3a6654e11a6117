//! Files that are either old or new, never half written.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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
    let at = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| WriteError { action, path, source }
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::Builder::new()
        .prefix(".flame-")
        .tempfile_in(directory)
        .map_err(at("create a file in", directory))?;
    fill(temporary.as_file_mut()).map_err(at("write", path))?;
    temporary
        .as_file()
        .set_permissions(Permissions::from_mode(mode))
        .map_err(at("set the permissions of", path))?;
    temporary.as_file().sync_all().map_err(at("sync", path))?;
    temporary
        .persist(path)
        .map_err(|error| at("replace", path)(error.error))?;
    sync_directory(directory).map_err(at("sync", directory))
}

/// Makes renames in `directory` durable.
///
/// # Errors
/// Those of opening and syncing it.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
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
    fn a_missing_directory_is_named() {
        let error = write_atomic(Path::new("/nonexistent/dir/file"), b"", 0o644).expect_err("no directory");
        assert_eq!(error.to_string(), "cannot create a file in /nonexistent/dir");
    }
}
