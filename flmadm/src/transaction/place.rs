//! Where a transaction keeps its journal: beside the prefix, so that nothing of it is left when the prefix is gone.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
use crate::files;
use crate::manifest::sha256;
use crate::prefix::Prefix;

/// How the directory's name begins; then follows what is particular to the prefix.
pub(crate) const NAME: &str = ".flmadm-";
/// Digits of the prefix's hash in names: enough that two prefixes of one machine differ.
const DIGITS: usize = 12;

/// The directory of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// The place for changes of `prefix`: in the nearest directory above it that is there, that `made` does not call
    /// the installation's own, and that may be written to; below the prefix if there is none.
    pub(crate) fn of(prefix: &Prefix, made: &dyn Fn(&Path) -> bool) -> Self {
        let above = prefix.path().ancestors().skip(1);
        let mut fit = above.filter(|path| path.is_dir() && !made(path));
        let nearest = fit.next().filter(|path| is_writable(path));
        Self(nearest.unwrap_or(prefix.path()).join(name(prefix)))
    }

    /// The place that an earlier transaction on `prefix` has left.
    pub(crate) fn left(prefix: &Prefix) -> Option<Self> {
        let name = name(prefix);
        let mut all = prefix.path().ancestors().map(|path| path.join(&name));
        all.find(|path| path.symlink_metadata().is_ok_and(|found| found.is_dir()))
            .map(Self)
    }

    /// Makes the directory, which only its owner may enter: it holds copies of the account files.
    ///
    /// # Errors
    /// It cannot be made, or somebody else's is in the way.
    pub(crate) fn make(&self) -> Outcome<()> {
        if let Ok(found) = self.0.symlink_metadata() {
            use std::os::unix::fs::MetadataExt;
            if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
                return Err(Failure::installation(format!("{} is not ours", self.0.display()))
                    .hint("look at what it is and move it away"));
            }
            return Ok(());
        }
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&self.0)
            .and_then(|()| files::sync_parent(&self.0))
            .map_err(|error| Failure::path("make", &self.0, error))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The journal; without one there was no transaction.
    pub(crate) fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// A copy of the program that writes the journal, and so can read it.
    pub(crate) fn program(&self) -> PathBuf {
        self.0.join("flmadm")
    }

    /// Copy of a file as it was.
    pub(crate) fn saved(&self, number: usize) -> PathBuf {
        self.0.join(format!("saved-{number}"))
    }

    /// Where a bundle is unpacked for a change: beside it, as it is there before the transaction begins.
    pub(crate) fn bundle(&self) -> PathBuf {
        bundle_of(&self.0)
    }

    /// Where a killed command may have unpacked a bundle for a change of `prefix`.
    pub(super) fn bundles(prefix: &Prefix) -> impl Iterator<Item = PathBuf> {
        let name = name(prefix);
        let all: Vec<&Path> = prefix.path().ancestors().collect();
        let bundles: Vec<PathBuf> = all.iter().map(|path| bundle_of(&path.join(&name))).collect();
        bundles
            .into_iter()
            .filter(|path| path.symlink_metadata().is_ok_and(|found| found.is_dir()))
    }

    /// Removes it with all that is in it, the journal first: what is left without one is rubbish.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(crate) fn remove(&self) -> Outcome<()> {
        files::remove(&self.journal())?;
        let _directory_may_be_gone = files::sync_directory(&self.0);
        files::remove_tree(&self.0)
    }
}

fn name(prefix: &Prefix) -> String {
    format!("{NAME}{}", particular(prefix))
}

/// What is particular to `prefix`, short enough for names.
pub(super) fn particular(prefix: &Prefix) -> String {
    let mut hash = sha256(prefix.text().as_bytes());
    hash.truncate(DIGITS);
    hash
}

fn bundle_of(place: &Path) -> PathBuf {
    place.with_extension("bundle")
}

fn is_writable(path: &Path) -> bool {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(path, access).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_outlives_what_the_installation_made() {
        let home = tempfile::tempdir().expect("temporary directory");
        let top = home.path().canonicalize().expect("there");
        let prefix = Prefix::new(&top.join("a/b/flame")).expect("a prefix");
        let before = Place::of(&prefix, &|_| false);
        assert_eq!(before.path().parent(), Some(top.as_path()));
        std::fs::create_dir_all(prefix.path()).expect("made");
        let made = |path: &Path| path.starts_with(top.join("a"));
        assert_eq!(Place::of(&prefix, &made), before);
        assert_eq!(
            Place::of(&prefix, &|_| false).path().parent(),
            Some(top.join("a/b").as_path())
        );
    }

    #[test]
    fn what_is_left_is_found_and_removed() {
        let home = tempfile::tempdir().expect("temporary directory");
        let prefix = Prefix::new(&home.path().join("flame")).expect("a prefix");
        let other = Prefix::new(&home.path().join("flame2")).expect("a prefix");
        assert_eq!(Place::left(&prefix), None);
        let place = Place::of(&prefix, &|_| false);
        place.make().expect("made");
        place.make().expect("there already");
        std::fs::write(place.saved(3), "x").expect("written");
        assert_eq!(Place::left(&prefix), Some(place.clone()));
        assert_eq!(Place::left(&other), None);
        place.remove().expect("removed");
        assert_eq!(Place::left(&prefix), None);
    }

    #[test]
    fn somebody_elses_file_is_not_taken() {
        let home = tempfile::tempdir().expect("temporary directory");
        let prefix = Prefix::new(&home.path().join("flame")).expect("a prefix");
        let place = Place::of(&prefix, &|_| false);
        std::os::unix::fs::symlink(home.path(), place.path()).expect("linked");
        assert_eq!(Place::left(&prefix), None);
        place.make().expect_err("a link");
    }
}
