//! Releases: the programs and texts of one version, side by side in `releases/`, of which one is the current.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Outcome};
use crate::files;
use crate::manifest::{hex, sha256, sha256_of};
use crate::prefix::Prefix;
use crate::profile::Profile;

/// Says in a release's directory what it holds.
pub(crate) const RECORD: &str = "release.toml";
/// Is in a release's directory once the release has worked.
pub(crate) const GOOD: &str = "good";
/// Digits of the hash that tells two releases of one version apart.
const DIGITS: usize = 8;
/// Programs are for everybody.
pub(crate) const PROGRAM: u32 = 0o755;
/// Texts, too.
pub(crate) const TEXT: u32 = 0o644;

/// Where the contents of a file come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    Text(String),
    /// It is a link, to this.
    Link(&'static str),
}

/// A file of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReleaseFile {
    /// Path below the release's directory.
    pub(crate) path: String,
    pub(crate) source: Source,
    pub(crate) mode: u32,
    /// Hash of the contents; of a link, where it leads to, as in the manifest.
    pub(crate) sha256: String,
}

impl ReleaseFile {
    /// A copy of the file `from`. One that is not there has no hash: in a dry run before the first build there is
    /// nothing to hash yet.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn copy(path: String, from: PathBuf, mode: u32) -> Outcome<Self> {
        Ok(Self {
            path,
            sha256: sha256_of(&from)?.unwrap_or_default(),
            source: Source::File(from),
            mode,
        })
    }

    /// A text.
    pub(crate) fn text(path: String, text: String) -> Self {
        Self {
            path,
            sha256: sha256(text.as_bytes()),
            source: Source::Text(text),
            mode: TEXT,
        }
    }

    /// A link.
    pub(crate) fn link(path: String, target: &'static str) -> Self {
        Self {
            path,
            sha256: target.to_owned(),
            source: Source::Link(target),
            mode: 0,
        }
    }

    /// Whether `place` is what this file is.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn is_at(&self, place: &Path) -> Outcome<bool> {
        match self.source {
            Source::Link(target) => Ok(place.read_link().is_ok_and(|found| found == Path::new(target))),
            _ => {
                let mode = place
                    .symlink_metadata()
                    .ok()
                    .filter(std::fs::Metadata::is_file)
                    .map(|found| found.permissions().mode() & 0o7777);
                Ok(mode == Some(self.mode) && sha256_of(place)?.as_ref() == Some(&self.sha256))
            }
        }
    }

    /// Makes `place` this file, not durably yet.
    fn make(&self, place: &Path) -> Outcome<()> {
        let failed = |error| Failure::path("write", place, error);
        match &self.source {
            Source::Link(target) => return std::os::unix::fs::symlink(target, place).map_err(failed),
            Source::Text(text) => std::fs::write(place, text).map_err(failed)?,
            Source::File(from) => {
                let mut to = std::fs::File::create_new(place).map_err(failed)?;
                if copy_hashed(from, &mut to)? != self.sha256 {
                    return Err(Failure::installation(format!(
                        "{} was changed while it was installed",
                        from.display()
                    ))
                    .hint("try again when nobody builds there"));
                }
            }
        }
        std::fs::set_permissions(place, std::fs::Permissions::from_mode(self.mode)).map_err(failed)
    }
}

/// Copies and gives the hash of what was copied.
fn copy_hashed(from: &Path, to: &mut std::fs::File) -> Outcome<String> {
    let mut source = std::fs::File::open(from).map_err(|error| Failure::path("read", from, error))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let copied: io::Result<()> = (|| {
        loop {
            match source.read(&mut buffer)? {
                0 => return Ok(()),
                length => {
                    hasher.update(&buffer[..length]);
                    to.write_all(&buffer[..length])?;
                }
            }
        }
    })();
    copied.map_err(|error| Failure::path("copy", from, error))?;
    Ok(hex(&hasher.finalize()))
}

/// What a release's directory says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// Version of Flame.
    pub(crate) version: String,
    /// Hash over the names, modes and hashes of all its files.
    pub(crate) content: String,
    /// Parts of an installation that it has programs for.
    pub(crate) profiles: Vec<Profile>,
    /// Unit files, in the order in which units are started.
    pub(crate) units: Vec<String>,
    /// Hash of each file but this one, by path; of a link, where it leads to.
    pub(crate) files: std::collections::BTreeMap<String, String>,
}

impl Record {
    /// What the release in `directory` says; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn load(directory: &Path) -> Outcome<Option<Self>> {
        let path = directory.join(RECORD);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::path("read", &path, error)),
        };
        toml::from_str(&text).map(Some).map_err(|error| {
            Failure::installation(format!("{} is broken", path.display()))
                .because(error)
                .hint("remove the release's directory, or install the release again")
        })
    }
}

/// A release that is to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    /// Name of its directory.
    pub(crate) id: String,
    pub(crate) record: Record,
    /// Its files, the record among them.
    pub(crate) files: Vec<ReleaseFile>,
}

impl Release {
    /// The release of `version` with `files`, under a name that no other contents have below `prefix`.
    ///
    /// # Errors
    /// A release that is there cannot be read.
    pub(crate) fn new(
        prefix: &Prefix,
        version: &str,
        profiles: &[Profile],
        units: Vec<String>,
        mut files: Vec<ReleaseFile>,
    ) -> Outcome<Self> {
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let listed: String = files
            .iter()
            .map(|file| format!("{} {:o} {}\n", file.path, file.mode, file.sha256))
            .collect();
        let record = Record {
            version: version.to_owned(),
            content: sha256(listed.as_bytes()),
            profiles: profiles.to_vec(),
            units,
            files: files
                .iter()
                .map(|file| (file.path.clone(), file.sha256.clone()))
                .collect(),
        };
        let id = free_id(prefix, &record)?;
        let text = toml::to_string(&record)
            .map_err(|error| Failure::installation("cannot write down the release").because(error))?;
        files.push(ReleaseFile::text(RECORD.to_owned(), text));
        Ok(Self { id, record, files })
    }

    /// Makes the release's directory `place`, wholly or not at all.
    ///
    /// # Errors
    /// A file cannot be copied; the draft may be left.
    pub(crate) fn make(&self, place: &Path) -> Outcome<()> {
        let draft = files::draft(place);
        files::remove_tree(&draft)?;
        std::fs::create_dir(&draft).map_err(|error| Failure::path("make", &draft, error))?;
        for file in &self.files {
            let path = draft.join(&file.path);
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)
                    .map_err(|error| Failure::path("make", directory, error))?;
            }
            file.make(&path)?;
        }
        for directory in self.directories() {
            set_readable(&draft.join(directory))?;
        }
        files::sync_tree(&draft)?;
        std::fs::rename(&draft, place)
            .and_then(|()| files::sync_parent(place))
            .map_err(|error| Failure::path("make", place, error))
    }

    /// Directories below the release's, parents before children, with the empty path for the release's own.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = self
            .files
            .iter()
            .flat_map(|file| Path::new(&file.path).ancestors().skip(1))
            .map(Path::to_path_buf)
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

/// Whatever the umask is, everybody may look into a release.
fn set_readable(directory: &Path) -> Outcome<()> {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))
        .map_err(|error| Failure::path("set the mode of", directory, error))
}

/// The version; with a part of the hash if there is another release of the same version already, as of a tree in which
/// somebody works.
fn free_id(prefix: &Prefix, record: &Record) -> Outcome<String> {
    let is_free = |id: &str| -> Outcome<bool> {
        let directory = prefix.release(id);
        if directory.symlink_metadata().is_err() {
            return Ok(true);
        }
        Ok(Record::load(&directory)?.is_some_and(|found| found.content == record.content))
    };
    if is_free(&record.version)? {
        return Ok(record.version.clone());
    }
    Ok(format!("{}-{}", record.version, &record.content[..DIGITS]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(prefix: &Prefix, version: &str, text: &str) -> Release {
        let files = vec![
            ReleaseFile::text("share/doc/text".to_owned(), text.to_owned()),
            ReleaseFile::link("bin/flmadm".to_owned(), "../sbin/flmadm"),
        ];
        Release::new(prefix, version, &[Profile::Client], Vec::new(), files).expect("a release")
    }

    #[test]
    fn two_contents_of_one_version_have_two_names() {
        let home = tempfile::tempdir().expect("temporary directory");
        let prefix = Prefix::new(&home.path().join("flame")).expect("a prefix");
        std::fs::create_dir_all(prefix.releases()).expect("made");
        let first = release(&prefix, "1.0.0", "one");
        assert_eq!(first.id, "1.0.0");
        first.make(&prefix.release(&first.id)).expect("made");
        assert_eq!(release(&prefix, "1.0.0", "one"), first);
        let second = release(&prefix, "1.0.0", "two");
        assert_eq!(second.id, format!("1.0.0-{}", &second.record.content[..8]));
        assert_eq!(release(&prefix, "1.1.0", "two").id, "1.1.0");
        let found = Record::load(&prefix.release("1.0.0")).expect("read");
        assert_eq!(found, Some(first.record.clone()));
        for file in &first.files {
            assert!(
                file.is_at(&prefix.release("1.0.0").join(&file.path))
                    .expect("looked")
            );
        }
        assert_eq!(prefix.releases().read_dir().expect("read").count(), 1);
        assert_eq!(
            first.directories(),
            ["", "bin", "share", "share/doc"].map(PathBuf::from)
        );
    }

    #[test]
    fn a_program_that_changes_meanwhile_is_not_installed() {
        let home = tempfile::tempdir().expect("temporary directory");
        let from = home.path().join("from");
        std::fs::write(&from, "one").expect("written");
        let file = ReleaseFile::copy("bin/x".to_owned(), from.clone(), PROGRAM).expect("read");
        std::fs::write(&from, "two").expect("written");
        file.make(&home.path().join("to")).expect_err("changed");
    }
}
