//! What the launcher is told: the process to become. Written by the agent, read once.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The process that the launcher becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Program: a path, or a name that is searched for in the PATH of `environment`.
    pub command: String,
    /// Its arguments, without the program itself.
    pub arguments: Vec<String>,
    /// Its complete environment; nothing is inherited.
    pub environment: BTreeMap<String, String>,
    /// Where it starts.
    pub working_directory: PathBuf,
    /// The agent's process id, if the process shall not outlive the agent.
    pub parent: Option<u32>,
}

/// What the launcher does in a unit of systemd: some preparations, and then the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitSpec {
    /// The process to become. Without it, the launcher stands by until the agent tells it.
    pub service: Option<Service>,
    /// User id of the agent, who must reach the service's socket although nobody else may.
    pub agent: u32,
    /// A directory that the executor has for itself, and that has to be made.
    pub own_directory: PathBuf,
}

/// A process in a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The process to become.
    pub process: Spec,
    /// What the process is called in the journal.
    pub identifier: String,
}

/// Why there is no spec.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file could not be read or written.
    #[error("cannot {action} the spec {path}: {source}", path = path.display())]
    File {
        /// "read" or "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has something else in it.
    #[error("{path} is no executor spec: {source}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl Spec {
    /// Reads the spec at `path`.
    ///
    /// # Errors
    /// [`SpecError`] names the file.
    pub fn read(path: &Path) -> Result<Self, SpecError> {
        read(path)
    }

    /// Writes a new file at `path` that only its owner can read: environments carry secrets.
    ///
    /// # Errors
    /// [`SpecError`] names the file, also if it exists already.
    pub fn write(&self, path: &Path) -> Result<(), SpecError> {
        let text = json(self, path)?;
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(&text))
            .map_err(at("write", path))
    }
}

impl UnitSpec {
    /// Reads the spec at `path`.
    ///
    /// # Errors
    /// [`SpecError`] names the file.
    pub fn read(path: &Path) -> Result<Self, SpecError> {
        read(path)
    }

    /// Writes the file at `path` that only its owner can read, or replaces it: one that an earlier
    /// run of the agent left there was for an executor that is gone.
    ///
    /// # Errors
    /// [`SpecError`] names the file.
    pub fn write(&self, path: &Path) -> Result<(), SpecError> {
        let text = json(self, path)?;
        flame_core::fsutil::write_atomic(path, &text, 0o600).map_err(|error| at("write", path)(error.source))
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, SpecError> {
    let text = std::fs::read(path).map_err(at("read", path))?;
    serde_json::from_slice(&text).map_err(|source| SpecError::Content {
        path: path.to_path_buf(),
        source,
    })
}

fn json<T: Serialize>(spec: &T, path: &Path) -> Result<Vec<u8>, SpecError> {
    serde_json::to_vec(spec).map_err(|source| SpecError::Content {
        path: path.to_path_buf(),
        source,
    })
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpecError {
    let path = path.to_path_buf();
    move |source| SpecError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn spec() -> Spec {
        Spec {
            command: "/bin/sh".to_owned(),
            arguments: vec!["-c".to_owned(), "echo \"$A\"\n".to_owned()],
            environment: [("A".to_owned(), "ä \"quoted\" $x".to_owned())].into(),
            working_directory: "/tmp".into(),
            parent: Some(7),
        }
    }

    #[test]
    fn a_spec_is_read_as_it_was_written_and_nobody_else_can_read_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("spec");
        spec().write(&path).expect("writable");
        assert_eq!(Spec::read(&path).expect("readable"), spec());
        let mode = std::fs::metadata(&path).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = spec().write(&path).expect_err("never written over").to_string();
        assert!(again.starts_with("cannot write the spec "), "{again}");
    }

    #[test]
    fn the_spec_of_a_unit_replaces_what_was_left_there() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("0");
        let service = Service {
            process: spec(),
            identifier: "app".to_owned(),
        };
        let first = UnitSpec {
            service: Some(service),
            agent: 990,
            own_directory: "/var/tmp/one".into(),
        };
        let second = UnitSpec {
            service: None,
            own_directory: "/var/tmp/two".into(),
            ..first.clone()
        };
        for spec in [first, second] {
            spec.write(&path).expect("writable");
            assert_eq!(UnitSpec::read(&path).expect("readable"), spec);
        }
        let mode = std::fs::metadata(&path).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Spec::read(&path).is_err(), "the two are not mixed up");
    }

    #[test]
    fn what_is_no_spec_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("spec");
        let missing = Spec::read(&path).expect_err("missing").to_string();
        assert!(missing.contains(&path.display().to_string()), "{missing}");
        for text in ["", "{}", "[]", "{\"command\": 1}"] {
            std::fs::write(&path, text).expect("writable");
            let error = Spec::read(&path).expect_err(text).to_string();
            assert!(error.contains("is no executor spec"), "{error}");
        }
    }
}
