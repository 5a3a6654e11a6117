//! The id of this node: made once, and kept in a file, so that the session manager can tell a node that
//! comes back from another one with its name.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use flame_core::NodeName;
use flame_core::fsutil::{Draft, WriteError};
use uuid::Uuid;

/// Name of the file.
const FILE: &str = "node-id";
/// A file of that many bytes holds no id.
const MAX_BYTES: u64 = 64;

/// Why there is no id.
#[derive(Debug, thiserror::Error)]
pub enum NodeIdError {
    /// The file is there and cannot be read.
    #[error(
        "cannot read the node's id in {path}: {source}; make it readable for the agent, or remove it to have this \
         node registered as a new one", path = path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is there and holds something else.
    #[error(
        "{path} holds no id of a node ({reason}); restore it from a backup, or remove it to have this node \
         registered as a new one", path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A new one cannot be kept.
    #[error("cannot make {path} for the node's id: {source}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A new one cannot be kept.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl NodeIdError {
    /// Whether it is the file that is wrong, and not the place for it.
    #[must_use]
    pub fn is_about_the_file(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Damaged { .. })
    }
}

/// Where the id of `node` is: in the directory that systemd names in STATE_DIRECTORY (`state`), else below
/// `home`.
#[must_use]
pub fn path(state: Option<&Path>, home: &Path, node: &NodeName) -> PathBuf {
    let directory = match state {
        Some(state) => state.to_path_buf(),
        None => home.join("work/nodes"),
    };
    directory.join(node.as_str()).join(FILE)
}

/// The id in `path`, if there is one.
///
/// # Errors
/// There is a file without an id.
pub fn read(path: &Path) -> Result<Option<String>, NodeIdError> {
    let failed = |source| NodeIdError::Read {
        path: path.to_path_buf(),
        source,
    };
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.size(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let damaged = |reason: String| NodeIdError::Damaged {
        path: path.to_path_buf(),
        reason,
    };
    if size > MAX_BYTES {
        return Err(damaged(format!("it has {size} bytes")));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    match Uuid::try_parse(text.trim()) {
        Ok(id) => Ok(Some(id.to_string())),
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// The id in `path`; a new one if there is none.
///
/// # Errors
/// There is a file without an id, or a new one cannot be kept.
pub fn read_or_make(path: &Path) -> Result<String, NodeIdError> {
    if let Some(id) = read(path)? {
        return Ok(id);
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| NodeIdError::Directory {
            path: directory.to_path_buf(),
            source,
        })?;
    let id = Uuid::new_v4().to_string();
    let mut draft = Draft::of(path)?;
    draft.fill(|file| io::Write::write_all(file, format!("{id}\n").as_bytes()))?;
    draft.create(0o600)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_id_is_made_once_and_kept() {
        let home = tempfile::tempdir().expect("temporary directory");
        let node = NodeName::new("n").expect("valid");
        let path = path(None, home.path(), &node);
        assert_eq!(path, home.path().join("work/nodes/n/node-id"));
        assert_eq!(read(&path).expect("nothing there"), None);
        let id = read_or_make(&path).expect("made");
        assert_eq!(read_or_make(&path).expect("kept"), id);
        assert_eq!(read(&path).expect("kept"), Some(id));
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn systemd_may_say_where_it_is() {
        let node = NodeName::new("n").expect("valid");
        let path = path(Some(Path::new("/var/lib/flame")), Path::new("/h"), &node);
        assert_eq!(path, Path::new("/var/lib/flame/n/node-id"));
    }

    #[test]
    fn a_file_that_holds_something_else_is_no_reason_for_a_new_identity() {
        let home = tempfile::tempdir().expect("temporary directory");
        let path = home.path().join("node-id");
        for contents in ["", "not an id", &"a".repeat(100)] {
            std::fs::write(&path, contents).expect("written");
            let error = read_or_make(&path).expect_err(contents);
            assert!(error.is_about_the_file());
            let text = error.to_string();
            assert!(
                text.contains(path.to_str().expect("text")) && text.contains("remove it"),
                "{text}"
            );
        }
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("a directory in its place");
        assert!(read_or_make(&path).expect_err("no file").is_about_the_file());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let error = read_or_make(Path::new("/proc/flame/node-id")).expect_err("no place");
        assert!(!error.is_about_the_file());
        assert!(error.to_string().contains("/proc/flame"), "{error}");
    }
}
