//! One flmadm at a time changes an installation, and one the units of a machine.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};

use crate::failure::{Failure, Outcome};

/// Held while something is changed. Its file goes with it.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

/// What to do while somebody else holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Say so.
    None,
    /// Wait until he is done or dead.
    Forever,
}

impl Lock {
    /// Takes the lock whose file is `path`.
    ///
    /// # Errors
    /// Another process has it, or the file cannot be made.
    pub(crate) fn take(path: &Path, patience: Patience) -> Outcome<Self> {
        let failed = |error: std::io::Error| Failure::path("lock", path, error);
        loop {
            let mut file = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
                .open(path)
                .map_err(failed)?;
            let operation = match patience {
                Patience::None => FlockOperation::NonBlockingLockExclusive,
                Patience::Forever => FlockOperation::LockExclusive,
            };
            match rustix::fs::flock(&file, operation) {
                Ok(()) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(held(&mut file)),
                Err(error) => return Err(failed(error.into())),
            }
            // The one before us has removed its file with its lock; ours must be the one that others find.
            let is_same = path
                .symlink_metadata()
                .ok()
                .zip(file.metadata().ok())
                .is_some_and(|(named, ours)| (named.dev(), named.ino()) == (ours.dev(), ours.ino()));
            if is_same {
                let _only_for_the_message = file
                    .set_len(0)
                    .and_then(|()| writeln!(file, "{}", std::process::id()));
                return Ok(Self {
                    path: path.to_path_buf(),
                    _file: file,
                });
            }
        }
    }
}

impl Lock {
    /// Whether somebody has the lock whose file is `path`, as far as we may look.
    pub(crate) fn is_held(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return false };
        let tried = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared);
        tried == Err(rustix::io::Errno::WOULDBLOCK)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _nobody_else_removes_it = std::fs::remove_file(&self.path);
    }
}

fn held(file: &mut File) -> Failure {
    let mut pid = String::new();
    let _unknown = file.rewind().and_then(|()| file.read_to_string(&mut pid));
    let who = match pid.trim() {
        "" => String::new(),
        pid => format!(" (process {pid})"),
    };
    Failure::installation(format!("another flmadm{who} is at work here"))
        .hint("wait until it is done, then try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_has_it_and_nothing_is_left() {
        let home = tempfile::tempdir().expect("temporary directory");
        let path = home.path().join("lock");
        let lock = Lock::take(&path, Patience::None).expect("free");
        let failure = Lock::take(&path, Patience::None).expect_err("held");
        assert!(Lock::is_held(&path));
        let pid = std::process::id().to_string();
        assert!(failure.report().contains(&pid), "{}", failure.report());
        drop(lock);
        assert!(!path.exists() && !Lock::is_held(&path));
        Lock::take(&path, Patience::None).expect("free again");
    }

    #[test]
    fn a_patient_one_gets_it_in_the_end() {
        let home = tempfile::tempdir().expect("temporary directory");
        let path = home.path().join("lock");
        let lock = Lock::take(&path, Patience::None).expect("free");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| Lock::take(&path, Patience::Forever).is_ok());
            drop(lock);
            assert!(waiting.join().expect("ends"));
        });
    }
}
