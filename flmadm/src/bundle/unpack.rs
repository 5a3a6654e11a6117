//! Writes the files of a verified bundle into a new directory.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flame_core::fsutil::sync_directory;

use super::archive::Sink;
use super::manifest::{BundleFile, BundleManifest, parents};
use super::refusal::Refusal;

/// Mode of the directories of a release.
const DIRECTORY_MODE: u32 = 0o755;
/// Mode while a directory is being filled: nobody else looks at what is not complete.
const PRIVATE: u32 = 0o700;

/// A directory that is being filled; dropped before it is finished, it is removed.
pub(super) struct Unpacker<'a> {
    directory: &'a Path,
    /// What the manifest must be, as it was checked.
    text: &'a [u8],
    made: BTreeSet<PathBuf>,
    open: Option<(File, PathBuf, u32)>,
    finished: bool,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Refusal {
    let path = path.to_path_buf();
    move |source| Refusal::Unpack { path, source }
}

impl<'a> Unpacker<'a> {
    /// # Errors
    /// The directory is there, or cannot be made.
    pub(super) fn new(directory: &'a Path, text: &'a [u8]) -> Result<Self, Refusal> {
        DirBuilder::new()
            .mode(PRIVATE)
            .create(directory)
            .map_err(failed(directory))?;
        Ok(Self {
            directory,
            text,
            made: BTreeSet::new(),
            open: None,
            finished: false,
        })
    }

    /// Makes the directory visible with all that is in it.
    ///
    /// # Errors
    /// It cannot be synced.
    pub(super) fn finish(mut self) -> Result<(), Refusal> {
        let all = self.made.iter().map(PathBuf::as_path).chain([self.directory]);
        for directory in all {
            // Exactly this mode, whatever the umask is.
            let mode = Permissions::from_mode(DIRECTORY_MODE);
            std::fs::set_permissions(directory, mode).map_err(failed(directory))?;
            sync_directory(directory).map_err(failed(directory))?;
        }
        self.finished = true;
        Ok(())
    }

    fn make_parents(&mut self, path: &str) -> Result<(), Refusal> {
        let mut parents: Vec<&str> = parents(path).collect();
        parents.reverse();
        for parent in parents {
            let directory = self.directory.join(parent);
            if !self.made.contains(&directory) {
                DirBuilder::new()
                    .mode(PRIVATE)
                    .create(&directory)
                    .map_err(failed(&directory))?;
                self.made.insert(directory);
            }
        }
        Ok(())
    }
}

impl Sink for Unpacker<'_> {
    fn manifest(&mut self, _: &BundleManifest, text: &[u8]) -> Result<(), Refusal> {
        match text == self.text {
            true => Ok(()),
            false => Err(Refusal::Changed),
        }
    }

    fn begin(&mut self, file: &BundleFile) -> Result<(), Refusal> {
        self.make_parents(&file.path)?;
        let path = self.directory.join(&file.path);
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path))?;
        self.open = Some((opened, path, file.mode));
        Ok(())
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        match &mut self.open {
            Some((file, path, _)) => file.write_all(bytes).map_err(failed(path)),
            None => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), Refusal> {
        let Some((file, path, mode)) = self.open.take() else {
            return Ok(());
        };
        file.set_permissions(Permissions::from_mode(mode))
            .map_err(failed(&path))?;
        file.sync_all().map_err(failed(&path))
    }
}

impl Drop for Unpacker<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed either is not there or shows up in the way of the next attempt.
            let _ = std::fs::remove_dir_all(self.directory);
        }
    }
}
