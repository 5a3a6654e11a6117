//! The system's account files: their state before a user is made, so that removing the user can
//! leave no trace.
//!
//! The account tools keep backups (`/etc/passwd-`) and a lock file. After a user is made and removed,
//! the files themselves are as before, but these are not. They are put back only if nobody else has
//! changed an account since.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::failure::{Failure, Outcome};
use crate::files::{self, Attributes};
use crate::manifest::{AccountRecord, sha256_of};

/// Files that hold accounts.
const ACCOUNTS: [&str; 6] = ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"];
/// What the tools leave beside them.
const TRACES: [&str; 7] = [
    "passwd-",
    "group-",
    "shadow-",
    "gshadow-",
    "subuid-",
    "subgid-",
    ".pwd.lock",
];

/// Looks at the account files in `etc`.
///
/// # Errors
/// One cannot be read.
pub(crate) fn look(etc: &Path) -> Outcome<AccountRecord> {
    let mut record = AccountRecord::default();
    for name in ACCOUNTS {
        if let Some(hash) = sha256_of(&etc.join(name))? {
            record.before.insert(name.to_owned(), hash);
        }
    }
    for name in TRACES {
        let list = if etc.join(name).exists() {
            &mut record.saved
        } else {
            &mut record.absent
        };
        list.push(name.to_owned());
    }
    Ok(record)
}

/// Keeps copies of the traces in `store`, a directory that only root may enter: `shadow-` holds secrets.
///
/// # Errors
/// A file cannot be copied.
pub(crate) fn save(etc: &Path, store: &Path, record: &AccountRecord) -> Outcome<()> {
    record
        .saved
        .iter()
        .try_for_each(|name| copy(&etc.join(name), &store.join(name)))
}

/// Puts the traces back if the accounts are as they were. Gives a line for the user if they are not.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn restore(etc: &Path, store: &Path, record: &AccountRecord) -> Outcome<Option<String>> {
    // A restore that was killed may have left the file that it was at.
    for name in &record.saved {
        files::remove(&files::draft(&etc.join(name)))?;
    }
    let now = look(etc)?;
    if now.before != record.before {
        return Ok(Some(format!(
            "the accounts in {} were changed by others since the installation; the backup files of the account \
             tools there are left as they are",
            etc.display()
        )));
    }
    for name in &record.saved {
        copy(&store.join(name), &etc.join(name))?;
    }
    for name in &record.absent {
        files::remove(&etc.join(name))?;
    }
    Ok(None)
}

/// Copies contents, mode and owner.
fn copy(from: &Path, to: &Path) -> Outcome<()> {
    let metadata = from
        .metadata()
        .map_err(|error| Failure::path("look at", from, error))?;
    let attributes = Attributes {
        owner: Some(files::owner(&metadata)),
        ..Attributes::mode(metadata.mode() & 0o7777)
    };
    files::copy(from, to, attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(etc: &Path, name: &str, text: &str) {
        std::fs::write(etc.join(name), text).expect("written");
    }

    #[test]
    fn traces_are_put_back_only_if_nobody_else_changed_accounts() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (etc, store) = (directory.path().join("etc"), directory.path().join("store"));
        std::fs::create_dir(&etc).expect("made");
        std::fs::create_dir(&store).expect("made");
        write(&etc, "passwd", "root");
        write(&etc, "passwd-", "older");
        let record = look(&etc).expect("looked");
        save(&etc, &store, &record).expect("saved");
        // A user is made and removed.
        write(&etc, "passwd-", "root flame");
        write(&etc, "group-", "root flame");
        write(&etc, ".pwd.lock", "");
        assert_eq!(restore(&etc, &store, &record).expect("restored"), None);
        assert_eq!(
            std::fs::read_to_string(etc.join("passwd-")).expect("there"),
            "older"
        );
        assert!(!etc.join("group-").exists() && !etc.join(".pwd.lock").exists());
        // Somebody else made another user meanwhile.
        write(&etc, "passwd", "root other");
        write(&etc, "passwd-", "newer");
        assert!(restore(&etc, &store, &record).expect("looked").is_some());
        assert_eq!(
            std::fs::read_to_string(etc.join("passwd-")).expect("there"),
            "newer"
        );
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = directory.read_dir().expect("read");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("there").file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_copy_that_is_cut_off_lies_under_a_name_that_is_known() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (from, etc) = (directory.path().join("saved"), directory.path().join("etc"));
        std::fs::create_dir(&etc).expect("made");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(rustix::fs::CWD, &from, kind, mode, 0).expect("a pipe");
        std::thread::scope(|scope| {
            let copied = scope.spawn(|| copy(&from, &etc.join("passwd-")));
            let mut half = std::fs::OpenOptions::new()
                .write(true)
                .open(&from)
                .expect("opened");
            // More than a pipe holds: once it is written, some of it was read to be written elsewhere.
            std::io::Write::write_all(&mut half, &[b'x'; 1 << 20]).expect("read by the copy");
            assert_eq!(names(&etc), [".passwd-.flmadm-new"]);
            drop(half);
            copied.join().expect("ended").expect("copied");
        });
        assert_eq!(names(&etc), ["passwd-"]);
    }

    #[test]
    fn what_a_killed_restore_left_is_removed() {
        for passwd_of_others in [false, true] {
            let directory = tempfile::tempdir().expect("temporary directory");
            let (etc, store) = (directory.path().join("etc"), directory.path().join("store"));
            std::fs::create_dir(&etc).expect("made");
            std::fs::create_dir(&store).expect("made");
            write(&etc, "passwd", "root");
            write(&etc, "passwd-", "older");
            let record = look(&etc).expect("looked");
            save(&etc, &store, &record).expect("saved");
            write(&etc, ".passwd-.flmadm-new", "ol");
            if passwd_of_others {
                write(&etc, "passwd", "root other");
            }
            let note = restore(&etc, &store, &record).expect("restored");
            assert_eq!(note.is_some(), passwd_of_others);
            assert_eq!(names(&etc), ["passwd", "passwd-"]);
        }
    }
}
