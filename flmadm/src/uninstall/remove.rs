//! Removing files and directories, and nothing that is not in the manifest.

use std::io;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
use crate::manifest::{FileKind, Manifest};
use crate::prefix::Prefix;

/// Removes the files and directories of `manifest`, except those in `preserved`. Gives what stays:
/// what was preserved, and directories that hold something of the user's.
///
/// # Errors
/// Something cannot be removed; the manifest then stays, so that the next run goes on.
pub(super) fn files(prefix: &Prefix, manifest: &Manifest, preserved: &[PathBuf]) -> Outcome<Vec<PathBuf>> {
    let preserved: Vec<PathBuf> = preserved.iter().filter(|path| path.exists()).cloned().collect();
    let is_preserved = |path: &Path| preserved.iter().any(|kept| path.starts_with(kept));
    let inside = |path: &Path| path != prefix.path() && path.starts_with(prefix.path());
    for record in &manifest.files {
        // Units were removed before, with a look at whose they are.
        if record.kind != FileKind::Unit && inside(&record.path) && !is_preserved(&record.path) {
            file(&record.path)?;
            // Left by an installation that was killed.
            file(&crate::install::replaced(&record.path))?;
        }
    }
    let mut kept = preserved.clone();
    for record in manifest
        .directories
        .iter()
        .rev()
        .filter(|record| inside(&record.path))
    {
        if is_preserved(&record.path) {
            continue;
        }
        if record.contents {
            tree(&record.path)?;
        } else if !empty_directory(&record.path)? {
            kept.push(record.path.clone());
        }
    }
    if preserved.iter().any(|path| manifest.made(path)) {
        let rest = rest(manifest, &is_preserved, prefix);
        flame_core::fsutil::write_atomic(&prefix.manifest(), rest.text()?.as_bytes(), 0o644)?;
        return Ok(kept);
    }
    file(&prefix.manifest())?;
    // The prefix and the parents that were made for it, from the inside out.
    for record in manifest
        .directories
        .iter()
        .rev()
        .filter(|record| prefix.path().starts_with(&record.path))
    {
        if !empty_directory(&record.path)? {
            kept.push(record.path.clone());
        }
    }
    Ok(kept)
}

/// What the manifest lists after everything but the preserved is gone.
fn rest(manifest: &Manifest, is_preserved: &dyn Fn(&Path) -> bool, prefix: &Prefix) -> Manifest {
    let mut rest = manifest.clone();
    rest.profiles.clear();
    rest.units.clear();
    rest.user = None;
    rest.systemd = false;
    rest.files.retain(|file| is_preserved(&file.path));
    rest.directories
        .retain(|record| is_preserved(&record.path) || prefix.path().starts_with(&record.path));
    rest
}

/// Removes a file or link, if it is there.
pub(super) fn file(path: &Path) -> Outcome<()> {
    gone(path, std::fs::remove_file(path))
}

/// Removes a directory with all that is in it, if it is there.
pub(super) fn tree(path: &Path) -> Outcome<()> {
    gone(path, std::fs::remove_dir_all(path))
}

/// Removes a directory unless something is in it. Gives whether it is gone.
pub(super) fn empty_directory(path: &Path) -> Outcome<bool> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        result => gone(path, result).map(|()| true),
    }
}

fn gone(path: &Path, result: io::Result<()>) -> Outcome<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::path("remove", path, error)),
        _ => Ok(()),
    }
}
