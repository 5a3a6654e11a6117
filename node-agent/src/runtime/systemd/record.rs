//! What the agent writes down about each unit that it starts, so that its next run can go on with it.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::profile::Profile;
use crate::runtime::Owner;

/// Ending of the files.
const ENDING: &str = "json";

/// One executor in a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The slot.
    pub slot: u32,
    /// Its sandbox.
    pub profile: Profile,
    /// Who it is for.
    pub owner: Owner,
    /// The GPUs that it has, by the driver's names.
    pub gpus: Vec<String>,
    /// Id of the unit's run; empty until its service is bound. Before, nobody can go on with it.
    pub invocation: String,
}

/// The directory of all records.
#[derive(Debug, Clone)]
pub(super) struct Records(PathBuf);

impl Records {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    fn path(&self, instance: &str) -> PathBuf {
        self.0.join(format!("{instance}.{ENDING}"))
    }

    /// Writes the record of `instance`, or replaces it.
    pub(super) fn write(&self, instance: &str, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec(record)?;
        flame_core::fsutil::write_atomic(&self.path(instance), &text, 0o600).map_err(|error| error.source)
    }

    /// Removes the record of `instance`, if there is one.
    pub(super) fn remove(&self, instance: &str) {
        remove(&self.path(instance));
    }

    /// All instances with a record. One that cannot be read is as good as none, and is removed.
    pub(super) fn all(&self) -> io::Result<Vec<(String, Record)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let path = entry?.path();
            let Some(instance) = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .filter(|_| path.extension().is_some_and(|ending| ending == ENDING))
            else {
                continue;
            };
            match std::fs::read(&path).map(|text| serde_json::from_slice(&text)) {
                Ok(Ok(record)) => found.push((instance.to_owned(), record)),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "{} is no record of an executor", path.display());
                    remove(&path);
                }
                Err(error) => tracing::warn!(%error, "cannot read {}", path.display()),
            }
        }
        Ok(found)
    }
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "cannot remove {}", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flame_core::{ExecutorId, Resources};

    fn record(slot: u32) -> Record {
        Record {
            slot,
            profile: Profile::Standard,
            owner: Owner {
                executor: ExecutorId::new("e1").expect("valid"),
                session: "s".to_owned(),
                session_number: 4,
                application: "a".to_owned(),
                resources: Resources::DEFAULT,
            },
            gpus: vec!["GPU-a".to_owned()],
            invocation: String::new(),
        }
    }

    #[test]
    fn records_are_found_again_and_what_is_none_is_removed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::new(directory.path().to_path_buf());
        assert!(records.all().expect("listed").is_empty());
        records.write("0", &record(0)).expect("writable");
        let started = Record {
            invocation: "ab".to_owned(),
            ..record(1)
        };
        records.write("1", &record(1)).expect("writable");
        records.write("1", &started).expect("replaced");
        std::fs::write(directory.path().join("2.json"), "{").expect("writable");
        let mut all = records.all().expect("listed");
        all.sort_by_key(|(_, record)| record.slot);
        assert_eq!(all, [("0".to_owned(), record(0)), ("1".to_owned(), started)]);
        records.remove("0");
        records.remove("0");
        let left: Vec<_> = std::fs::read_dir(directory.path())
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(left, ["1.json"]);
    }
}
