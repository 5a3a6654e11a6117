//! What of an installation outlives it: in place, if that is asked for, or in a backup.

use std::path::{Path, PathBuf};

use crate::backup::{self, Backup, Part};
use crate::cli::UninstallArgs;
use crate::manifest::Manifest;
use crate::prefix::Prefix;

/// What stays in its place.
pub(super) struct Kept(pub(super) Vec<PathBuf>);

impl Kept {
    /// What `args` asks for, as far as it is there.
    pub(super) fn of(args: &UninstallArgs, prefix: &Prefix) -> Self {
        let mut below: Vec<&str> = Vec::new();
        if args.preserve_data {
            below.extend(backup::DATA.map(|part| part.place));
        }
        if args.preserve_config {
            below.push(backup::CONF.place);
        }
        if args.preserve_logs {
            below.push("logs");
        }
        let paths = below.into_iter().map(|below| prefix.join(below));
        Self(paths.filter(|path| path.exists()).collect())
    }

    /// Whether `path` stays.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.0.iter().any(|kept| path.starts_with(kept))
    }

    /// Whether something below `path` stays, and so the directory itself.
    pub(super) fn is_below(&self, path: &Path) -> bool {
        self.0.iter().any(|kept| kept.starts_with(path))
    }

    /// All of `path` that does not stay.
    pub(super) fn rest_of(&self, path: &Path) -> Vec<PathBuf> {
        if self.has(path) {
            return Vec::new();
        }
        if !self.is_below(path) {
            return vec![path.to_path_buf()];
        }
        let entries = path.read_dir().into_iter().flatten().flatten();
        entries.flat_map(|entry| self.rest_of(&entry.path())).collect()
    }

    /// What the manifest lists when everything else is gone.
    pub(super) fn manifest(&self, manifest: &Manifest, prefix: &Prefix) -> Manifest {
        let mut rest = manifest.clone();
        rest.profiles.clear();
        rest.units.clear();
        rest.releases.clear();
        rest.release.clear();
        rest.user = None;
        rest.systemd = false;
        rest.files.retain(|file| self.has(&file.path));
        rest.directories.retain(|record| {
            let path = &record.path;
            self.has(path) || self.is_below(path) || prefix.path().starts_with(path)
        });
        rest
    }
}

/// The backup that `args` asks for, if there is something to keep that does not stay.
pub(super) fn backup(args: &UninstallArgs, prefix: &Prefix) -> Option<Backup> {
    if args.no_backup {
        return None;
    }
    let mut parts: Vec<Part> = Vec::new();
    if !args.preserve_config {
        parts.push(backup::CONF);
    }
    if !args.preserve_data {
        parts.extend(backup::DATA);
    }
    let mut backup = backup::plan(prefix, args.backup_dir.as_deref(), &parts)?;
    // It says what an installation has to have that takes the backup up.
    backup.parts.push(prefix.manifest());
    Some(backup)
}
