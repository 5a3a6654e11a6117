//! `manifest.toml`: everything that an installation made, so that uninstall removes exactly that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flame_core::{HostNames, InstanceName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Outcome};
use crate::prefix::Prefix;
use crate::profile::Profile;
use crate::scope::Scope;
use crate::unit_files::{RECOVERY, is_template};

/// Version of the manifest's format: 2 has releases.
pub(crate) const FORMAT: u32 = 2;

/// What an installation consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Version of this file's format, see [`FORMAT`].
    pub(crate) format: u32,
    /// Version of Flame that is current.
    pub(crate) version: String,
    /// Name of the current release's directory in `releases/`; empty if there is none.
    #[serde(default)]
    pub(crate) release: String,
    /// Names of all releases that are there, oldest first.
    #[serde(default)]
    pub(crate) releases: Vec<String>,
    /// The installation's own directory.
    pub(crate) prefix: PathBuf,
    /// Its name, if it is one of several on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<InstanceName>,
    /// Whose service manager runs its units.
    #[serde(default, skip_serializing_if = "Scope::is_system")]
    pub(crate) scope: Scope,
    /// Whether it has systemd units.
    pub(crate) systemd: bool,
    /// Its parts; empty after an uninstall that preserved something.
    pub(crate) profiles: Vec<Profile>,
    /// Names of its units, in the order in which they are started.
    #[serde(default)]
    pub(crate) units: Vec<String>,
    /// The user that the services run as.
    #[serde(default)]
    pub(crate) user: Option<UserRecord>,
    /// Directories that the installation made, parents before children.
    #[serde(default)]
    pub(crate) directories: Vec<DirectoryRecord>,
    /// Files and links.
    #[serde(default)]
    pub(crate) files: Vec<FileRecord>,
}

/// A directory that install made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DirectoryRecord {
    pub(crate) path: PathBuf,
    /// Whether everything in it is the installation's, as in `data/`. Otherwise it is removed only if empty.
    pub(crate) contents: bool,
}

/// A file that install made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) path: PathBuf,
    pub(crate) kind: FileKind,
    /// Hash of the contents as installed, in hexadecimal; of a link, where it leads to.
    pub(crate) sha256: String,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FileKind {
    /// A program of a release.
    Program,
    /// Another file of a release.
    Release,
    Link,
    Config,
    Unit,
    /// A rule for polkit.
    Rule,
    /// A drop-in of a unit, written from the settings of agents.
    DropIn,
}

/// The user of the services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserRecord {
    pub(crate) name: String,
    /// What the account files were like before the installation made the user; `None` if it was there.
    pub(crate) created: Option<AccountRecord>,
}

/// The account files (`/etc/passwd` and its like) before a user was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccountRecord {
    /// Hash of each file that was there, by name.
    pub(crate) before: BTreeMap<String, String>,
    /// Backup and lock files of the account tools that were there; copies lie below the prefix.
    pub(crate) saved: Vec<String>,
    /// Those that were not.
    pub(crate) absent: Vec<String>,
}

impl Manifest {
    /// The manifest of the installation at `prefix`, if there is one.
    ///
    /// # Errors
    /// It cannot be read, or is no manifest of this prefix.
    pub(crate) fn load(prefix: &Prefix) -> Outcome<Option<Self>> {
        let path = prefix.manifest();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::path("read", &path, error)),
        };
        let broken = |why: String| {
            Failure::installation(format!("{} is broken: {why}", path.display()))
                .hint("restore it from a backup; it says what belongs to the installation")
        };
        let table: toml::Table = toml::from_str(&text).map_err(|error| broken(error.to_string()))?;
        let format = table.get("format").and_then(toml::Value::as_integer).unwrap_or(1);
        if format != i64::from(FORMAT) {
            return Err(Failure::installation(format!(
                "the installation in {} was made by another version of flmadm (format {format}, and not {FORMAT})",
                prefix.path().display()
            ))
            .hint(format!(
                "that installation's own program can remove it: {}",
                prefix.join("sbin/flmadm").display()
            )));
        }
        let manifest: Self = table.try_into().map_err(|error| broken(error.to_string()))?;
        if manifest.prefix != prefix.path() {
            return Err(broken(format!("it belongs to {}", manifest.prefix.display())));
        }
        Ok(Some(manifest))
    }

    /// The manifest of the installation that the backup in `directory` is of, if it is there.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub(crate) fn of_backup(directory: &Path) -> Outcome<Option<Self>> {
        let path = directory.join("manifest.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::path("read", &path, error)),
        };
        toml::from_str(&text).map(Some).map_err(|error| {
            Failure::installation(format!("{} is broken", path.display()))
                .because(error)
                .hint("remove it from the backup, and choose the profiles yourself, e.g. --all")
        })
    }

    /// The profiles of the installation that the backup in `directory` is of.
    ///
    /// # Errors
    /// The backup does not say.
    pub(crate) fn profiles_of_backup(directory: &Path) -> Outcome<Vec<Profile>> {
        match Self::of_backup(directory)? {
            Some(manifest) => Ok(manifest.profiles),
            None => Err(
                Failure::installation(format!("{} has no manifest.toml", directory.display()))
                    .hint("name the directory that an uninstall has left, or choose profiles"),
            ),
        }
    }

    /// The text of the file.
    ///
    /// # Errors
    /// A path is not UTF-8.
    pub(crate) fn text(&self) -> Outcome<String> {
        let body = toml::to_string(&Self {
            format: FORMAT,
            ..self.clone()
        })
        .map_err(|error| Failure::installation("cannot write down what is installed").because(error))?;
        Ok(format!(
            "# Written by flmadm; uninstall needs it. Do not change it.\n{body}"
        ))
    }

    /// What its units, users and directories outside of the prefix are called.
    pub(crate) fn names(&self) -> HostNames {
        HostNames::new(self.instance.clone())
    }

    /// Whether there are programs, and not only what an uninstall preserved.
    pub(crate) fn is_installed(&self) -> bool {
        !self.profiles.is_empty()
    }

    /// Whether the installation made this directory.
    pub(crate) fn made(&self, path: &Path) -> bool {
        self.directories.iter().any(|directory| directory.path == path)
    }

    /// The units that can be looked at: a template is a file for many.
    pub(crate) fn loadable(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.units
            .iter()
            .map(String::as_str)
            .filter(|unit| !is_template(unit))
    }

    /// The units that can be enabled: a slice comes with what is in it.
    pub(crate) fn installable(&self) -> impl Iterator<Item = &str> {
        self.loadable().filter(|unit| !unit.ends_with(".slice"))
    }

    /// The services among the units that run all the time.
    pub(crate) fn services(&self) -> impl DoubleEndedIterator<Item = &str> {
        let recovery = self.names().own(RECOVERY);
        self.loadable()
            .filter(move |unit| unit.ends_with(".service") && *unit != recovery)
    }
}

/// Hash of `bytes` in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// `bytes` in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hash of the file at `path` in hexadecimal; `None` if there is none.
///
/// # Errors
/// It cannot be read.
pub(crate) fn sha256_of(path: &Path) -> Outcome<Option<String>> {
    let failed = |error| Failure::path("read", path, error);
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).map_err(failed)? {
            0 => break,
            length => hasher.update(&buffer[..length]),
        }
    }
    Ok(Some(hex(&hasher.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let prefix = Prefix::new(&directory.path().join("flame")).expect("a prefix");
        assert_eq!(Manifest::load(&prefix).expect("looked"), None);
        let manifest = Manifest {
            instance: None,
            scope: Scope::System,
            format: FORMAT,
            version: "1.2.3".to_owned(),
            release: "1.2.3".to_owned(),
            releases: vec!["1.2.2".to_owned(), "1.2.3".to_owned()],
            prefix: prefix.path().to_owned(),
            systemd: true,
            profiles: crate::profile::ALL.to_vec(),
            units: vec!["flame.target".to_owned()],
            user: Some(UserRecord {
                name: "flame".to_owned(),
                created: Some(AccountRecord::default()),
            }),
            directories: vec![DirectoryRecord {
                path: prefix.join("data"),
                contents: true,
            }],
            files: vec![FileRecord {
                path: prefix.join("bin/x"),
                kind: FileKind::Program,
                sha256: sha256(b"x"),
            }],
        };
        std::fs::create_dir(prefix.path()).expect("made");
        std::fs::write(prefix.manifest(), manifest.text().expect("text")).expect("written");
        assert_eq!(Manifest::load(&prefix).expect("read"), Some(manifest));
        std::fs::write(prefix.manifest(), "version = [").expect("written");
        assert!(Manifest::load(&prefix).is_err());
    }

    #[test]
    fn a_file_and_its_bytes_have_one_hash() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("file");
        std::fs::write(&path, b"flame").expect("written");
        assert_eq!(sha256_of(&path).expect("read"), Some(sha256(b"flame")));
        assert_eq!(sha256_of(Path::new("/nonexistent")).expect("looked"), None);
    }
}
