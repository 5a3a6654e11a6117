//! The system's account files: their state before a user is made, so that removing the user can
//! leave no trace.
//!
//! The account tools keep backups (`/etc/passwd-`) and a lock file. After a user is made and removed,
//! the files themselves are as before, but these are not. They are put back only if nobody else has
//! changed an account since.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::failure::{Failure, Outcome};
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
        remove(&etc.join(name))?;
    }
    Ok(None)
}

fn remove(path: &Path) -> Outcome<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::path("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Copies contents, mode and owner.
fn copy(from: &Path, to: &Path) -> Outcome<()> {
    let contents = std::fs::read(from).map_err(|error| Failure::path("read", from, error))?;
    let metadata = from
        .metadata()
        .map_err(|error| Failure::path("look at", from, error))?;
    flame_core::fsutil::write_atomic(to, &contents, metadata.mode() & 0o7777)?;
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid()))
        .map_err(|error| Failure::path("set the owner of", to, error))
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
}
