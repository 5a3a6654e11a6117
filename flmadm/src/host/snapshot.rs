//! The files of a machine of tests, to be put back after each.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Characters of a file that are shown to people.
const SHOWN: usize = 100;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory(u32),
    File(u32, Vec<u8>),
    Link(PathBuf),
}

/// Everything below a directory.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    root: PathBuf,
    entries: BTreeMap<PathBuf, Entry>,
}

impl Snapshot {
    /// What is here and not, or not so, in `other`; short, for people.
    pub(crate) fn without(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, entry) in &self.entries {
            if other.entries.get(path) != Some(entry) {
                let what = match entry {
                    Entry::File(mode, contents) => {
                        let text = String::from_utf8_lossy(contents);
                        let begin: String = text.chars().take(SHOWN).collect();
                        format!("file {mode:o} {begin:?}")
                    }
                    other => format!("{other:?}"),
                };
                lines.push(format!("{}: {what}", path.display()));
            }
        }
        lines
    }

    /// Whether something is at `path`.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    /// The files below `root` as they are.
    pub(crate) fn of(root: &Path) -> Self {
        let mut entries = BTreeMap::new();
        let mut open = vec![root.to_path_buf()];
        while let Some(directory) = open.pop() {
            for found in fs::read_dir(&directory).expect("read") {
                let path = found.expect("read").path();
                let metadata = path.symlink_metadata().expect("read");
                let mode = metadata.permissions().mode();
                let entry = if metadata.is_dir() {
                    open.push(path.clone());
                    Entry::Directory(mode)
                } else if metadata.is_symlink() {
                    Entry::Link(path.read_link().expect("read"))
                } else {
                    Entry::File(mode, fs::read(&path).expect("read"))
                };
                entries.insert(path, entry);
            }
        }
        let root = root.to_path_buf();
        Self { root, entries }
    }

    /// Makes the files what they were; those that are so already are left alone.
    pub(crate) fn restore(&self) {
        let now = Self::of(&self.root);
        // What is below a directory comes after it, and goes before it.
        for (path, entry) in now.entries.iter().rev() {
            if self.entries.get(path) == Some(entry) {
                continue;
            }
            match entry {
                Entry::Directory(_) if matches!(self.entries.get(path), Some(Entry::Directory(_))) => {}
                Entry::Directory(_) => fs::remove_dir_all(path).expect("removed"),
                _ => fs::remove_file(path).expect("removed"),
            }
        }
        for (path, entry) in &self.entries {
            if now.entries.get(path) == Some(entry) {
                continue;
            }
            match entry {
                Entry::Directory(_) => fs::create_dir_all(path).expect("made"),
                Entry::File(_, contents) => fs::write(path, contents).expect("written"),
                Entry::Link(target) => symlink(target, path).expect("linked"),
            }
            if let Entry::Directory(mode) | Entry::File(mode, _) = entry {
                fs::set_permissions(path, fs::Permissions::from_mode(*mode)).expect("set");
            }
        }
    }
}

#[test]
fn files_are_put_back() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let at = |below: &str| directory.path().join(below);
    fs::create_dir(at("a")).expect("made");
    fs::write(at("a/b"), "text").expect("written");
    symlink("b", at("a/link")).expect("linked");
    let before = Snapshot::of(directory.path());
    fs::remove_file(at("a/link")).expect("removed");
    fs::create_dir_all(at("a/link/x")).expect("made");
    fs::write(at("a/b"), "other").expect("written");
    fs::set_permissions(at("a"), fs::Permissions::from_mode(0o700)).expect("set");
    fs::write(at("new"), "").expect("written");
    before.restore();
    assert_eq!(Snapshot::of(directory.path()).entries, before.entries);
}
