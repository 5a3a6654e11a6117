//! `manifest.json`, the first entry of a bundle: what the bundle is for, and every file with its size and hash.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use semver::Version;
use serde::{Deserialize, Serialize};

use super::glibc::Glibc;
use super::limits::Limits;
use super::refusal::Refusal;

/// Number of the format that this release writes and reads.
pub(crate) const FORMAT: u32 = 1;
/// Name of the entry.
pub(crate) const NAME: &str = "manifest.json";
/// Kind of system that bundles are for.
pub(crate) const SYSTEM: &str = "linux";
/// Permission bits that a file in a bundle may have: those of programs, and those of everything else.
pub(crate) const PROGRAM_MODE: u32 = 0o755;
/// See [`PROGRAM_MODE`].
pub(crate) const FILE_MODE: u32 = 0o644;
/// Longest path of a file in bytes; every ustar header can hold it.
const MAX_PATH: usize = 150;
/// Digits of a SHA-256 hash in hexadecimal.
const HASH_DIGITS: usize = 64;

/// What a bundle is for, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BundleManifest {
    /// Number of the format.
    pub(crate) format: u32,
    /// Version of Flame, as semver.org has it.
    #[schemars(with = "String")]
    pub(crate) version: Version,
    /// Lowest version of an installation that can be upgraded to this one.
    #[schemars(with = "String")]
    pub(crate) minimum_version: Version,
    /// Kind of system, always linux.
    pub(crate) system: String,
    /// Machine that the programs are for, as `uname -m` names it.
    pub(crate) architecture: String,
    /// Loader that the programs need, which tells their C library; null if they need none.
    pub(crate) interpreter: Option<String>,
    /// Lowest version of the GNU C library that the programs can use; null if they need none.
    pub(crate) glibc: Option<Glibc>,
    /// Every file of the release, by path.
    pub(crate) files: Vec<BundleFile>,
}

/// A file of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BundleFile {
    /// Path below the directory of the release.
    pub(crate) path: String,
    /// Permission bits in octal digits, 0755 or 0644.
    #[serde(with = "octal")]
    #[schemars(with = "String")]
    pub(crate) mode: u32,
    /// Size in bytes.
    pub(crate) size: u64,
    /// SHA-256 hash of the contents in hexadecimal.
    pub(crate) sha256: String,
}

/// The part of every format that says which one it is.
#[derive(Deserialize)]
struct Header {
    format: u32,
}

impl BundleManifest {
    /// Reads and checks the text of a manifest.
    ///
    /// # Errors
    /// It is none, or one that this release does not take.
    pub(crate) fn parse(text: &[u8], limits: &Limits) -> Result<Self, Refusal> {
        let broken = |error: serde_json::Error| Refusal::Manifest(error.to_string());
        let header: Header = serde_json::from_slice(text).map_err(broken)?;
        if header.format != FORMAT {
            return Err(Refusal::Format { found: header.format });
        }
        let manifest: Self = serde_json::from_slice(text).map_err(broken)?;
        manifest.check(limits)?;
        Ok(manifest)
    }

    /// The text of the entry.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub(crate) fn text(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Bytes of all files together.
    pub(crate) fn unpacked_size(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// Whether what the manifest says can be true.
    ///
    /// # Errors
    /// It cannot.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        let broken = |why: String| Err(Refusal::Manifest(why));
        if self.system != SYSTEM {
            return Err(Refusal::ForeignSystem {
                needs: self.system.clone(),
            });
        }
        if self.files.is_empty() {
            return broken("it lists no files".to_owned());
        }
        if self.files.len() > limits.files {
            return broken(format!("it lists more than {} files", limits.files));
        }
        let size = self.unpacked_size();
        if size > limits.unpacked {
            return Err(Refusal::TooLarge {
                what: "the files of the bundle".to_owned(),
                limit: limits.unpacked,
            });
        }
        let mut directories = BTreeSet::new();
        for (file, next) in self.files.iter().zip(self.files.iter().skip(1)) {
            if file.path == next.path {
                return Err(Refusal::Duplicate(file.path.clone()));
            }
            if file.path > next.path {
                return broken(format!("{} is not in order", next.path));
            }
        }
        for file in &self.files {
            file.check()?;
            directories.extend(parents(&file.path));
        }
        match self
            .files
            .iter()
            .find(|file| directories.contains(file.path.as_str()))
        {
            Some(file) => broken(format!("{} is a file and a directory", file.path)),
            None => Ok(()),
        }
    }
}

impl BundleFile {
    fn check(&self) -> Result<(), Refusal> {
        check_path(&self.path)?;
        if self.path == NAME {
            return Err(Refusal::Path(self.path.clone()));
        }
        if ![PROGRAM_MODE, FILE_MODE].contains(&self.mode) {
            return Err(Refusal::Manifest(format!(
                "{} has the mode {:04o}",
                self.path, self.mode
            )));
        }
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if self.sha256.len() != HASH_DIGITS || !self.sha256.bytes().all(is_digit) {
            return Err(Refusal::Manifest(format!(
                "{} has no SHA-256 hash but {:?}",
                self.path, self.sha256
            )));
        }
        Ok(())
    }
}

/// Whether a file of a bundle may have this path: relative, with plain names, and nothing that leads elsewhere.
///
/// # Errors
/// It may not.
pub(crate) fn check_path(path: &str) -> Result<(), Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+@-".contains(c);
    let name = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain);
    if path.len() <= MAX_PATH && path.split('/').all(name) {
        Ok(())
    } else {
        Err(Refusal::Path(path.to_owned()))
    }
}

/// The directories above `path`, innermost first.
pub(crate) fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').rev().map(|(at, _)| &path[..at])
}

/// Permission bits as octal digits.
mod octal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(super) fn serialize<S: Serializer>(mode: &u32, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        let text = String::deserialize(from)?;
        u32::from_str_radix(&text, 8).map_err(|_| D::Error::custom(format!("{text:?} is no mode")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [
            "",
            "/",
            "/etc/passwd",
            "../x",
            "bin/../../x",
            "bin/..",
            "./bin",
            "bin//x",
            "bin/",
            "bin/x\n",
            "bin/x\0",
            "bin\\x",
            "bin/ä",
            &"x".repeat(MAX_PATH + 1),
        ] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
        for path in ["LICENSE", "bin/flmctl", "units/flame-executor@.service", "a/..b"] {
            assert!(check_path(path).is_ok(), "{path:?}");
        }
    }

    #[test]
    fn parents_are_all_directories_above() {
        assert_eq!(parents("a/b/c").collect::<Vec<_>>(), ["a/b", "a"]);
        assert_eq!(parents("a").count(), 0);
    }

    fn manifest(files: &[(&str, u64)]) -> BundleManifest {
        BundleManifest {
            format: FORMAT,
            version: Version::new(1, 0, 0),
            minimum_version: Version::new(0, 1, 0),
            system: SYSTEM.to_owned(),
            architecture: "x86_64".to_owned(),
            interpreter: None,
            glibc: None,
            files: files
                .iter()
                .map(|(path, size)| BundleFile {
                    path: (*path).to_owned(),
                    mode: FILE_MODE,
                    size: *size,
                    sha256: "0".repeat(HASH_DIGITS),
                })
                .collect(),
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let manifest = manifest(&[("bin/a", 1), ("bin/b", 0)]);
        let text = manifest.text().expect("written");
        assert_eq!(
            BundleManifest::parse(&text, &Limits::default()).expect("read"),
            manifest
        );
    }

    #[test]
    fn what_cannot_be_true_is_refused() {
        let limits = Limits::default();
        for (files, part) in [
            (vec![], "lists no files"),
            (vec![("b", 0), ("a", 0)], "a is not in order"),
            (vec![("a", 0), ("a", 0)], "a twice"),
            (vec![("a", 0), ("a/b", 0)], "a is a file and a directory"),
            (
                vec![("a", 0), ("a.x", 0), ("a/b", 0)],
                "a is a file and a directory",
            ),
            (vec![("../a", 0)], "../a"),
            (vec![("manifest.json", 0)], "manifest.json"),
            (vec![("a", u64::MAX), ("b", 2)], "larger than"),
        ] {
            let refusal = manifest(&files).check(&limits).expect_err(part);
            assert!(refusal.to_string().contains(part), "{refusal}");
        }
        for (change, part) in [
            ("\"mode\": \"4755\"", "has the mode 4755"),
            ("\"mode\": \"rwx\"", "no mode"),
            ("\"mode\": \"0644\", \"link\": \"x\"", "unknown field"),
        ] {
            let text = String::from_utf8(manifest(&[("a", 1)]).text().expect("written")).expect("text");
            let text = text.replace("\"mode\": \"0644\"", change);
            let refusal = BundleManifest::parse(text.as_bytes(), &limits).expect_err(part);
            assert!(refusal.to_string().contains(part), "{refusal}");
        }
        let newer = BundleManifest::parse(b"{\"format\": 2, \"other\": []}", &limits).expect_err("newer");
        assert!(matches!(newer, Refusal::Format { found: 2 }), "{newer}");
    }
}
