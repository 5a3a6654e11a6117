//! What should be on the disk, by the manifest: the only place that knows how it is written down.

use std::path::{Path, PathBuf};

use crate::failure::Outcome;
use crate::host::{Host, Ids};
use crate::installed::Installed;
use crate::manifest::{FileKind, Manifest};
use crate::prefix::Prefix;

/// A file or directory as it was installed.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) path: PathBuf,
    /// What the file is for; a directory has no such record.
    pub(super) kind: Option<FileKind>,
    pub(super) what: What,
    /// Permission bits; of a file that people edit, those that it may have at most.
    pub(super) mode: u32,
    pub(super) owner: Ids,
}

/// What should be there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    Directory,
    /// Contents with this hash.
    File {
        sha256: String,
    },
    /// A configuration: people edit it.
    Edited {
        sha256: String,
    },
    /// A link.
    Link {
        /// Where it leads to.
        target: String,
    },
}

/// Directories that belong to the user of the services, with their modes.
const OF_SERVICES: [(&str, u32); 3] = [("data", 0o700), ("work", 0o750), ("logs", 0o750)];
/// Directories in which there is nothing but what was installed.
const OURS_ALONE: [&str; 2] = ["bin", "sbin"];
/// Where the programs of several releases lie.
const RELEASES: &str = "releases";

/// Everything that the manifest lists.
///
/// # Errors
/// The user of the services cannot be looked up, or the manifest has gone.
pub(super) fn all(host: &dyn Host, prefix: &Prefix, manifest: &Manifest) -> Outcome<Vec<Expected>> {
    // Whoever wrote the manifest wrote the rest.
    let installer = host.sight().owner(&prefix.manifest())?;
    let services = match &manifest.user {
        Some(user) => host.user(&user.name)?.unwrap_or(installer),
        None => installer,
    };
    let mut expected = Vec::new();
    for (below, mode) in OF_SERVICES {
        let path = prefix.join(below);
        if manifest.made(&path) {
            expected.push(Expected {
                path,
                kind: None,
                what: What::Directory,
                mode,
                owner: services,
            });
        }
    }
    for file in &manifest.files {
        let sha256 = file.sha256.clone();
        let (what, mode) = match file.kind {
            FileKind::Program => (What::File { sha256 }, 0o755),
            FileKind::Link => (What::Link { target: sha256 }, 0o777),
            FileKind::Config => (What::Edited { sha256 }, 0o644),
            FileKind::Release | FileKind::Unit | FileKind::Rule | FileKind::DropIn => {
                (What::File { sha256 }, 0o644)
            }
        };
        expected.push(Expected {
            path: file.path.clone(),
            kind: Some(file.kind),
            what,
            mode,
            owner: installer,
        });
    }
    Ok(expected)
}

/// Files beside those that were installed.
///
/// # Errors
/// A directory cannot be read.
pub(super) fn extra(installed: &Installed) -> Outcome<Vec<PathBuf>> {
    let known = |path: &Path| installed.manifest.files.iter().any(|file| file.path == path);
    let mut found = Vec::new();
    for below in OURS_ALONE {
        let directory = installed.prefix.join(below);
        // Links lead to a release, which is looked at below.
        if !directory.is_symlink() {
            files_below(&directory, &mut found);
        }
    }
    files_below(&installed.prefix.join(RELEASES), &mut found);
    found.retain(|path| !known(path));
    found.sort();
    Ok(found)
}

fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in directory.read_dir().into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), found),
            Ok(_) => found.push(entry.path()),
            Err(_) => {}
        }
    }
}
