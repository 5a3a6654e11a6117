//! Puts a backup in the place of the state file while no session manager runs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use flame_core::config::cluster::Storage;
use flame_core::fsutil;
use rusqlite::{Connection, OpenFlags};

use super::StoreError;
use super::sqlite::{MIGRATIONS, beside, lock, meta, migrate};

/// Generations between the last known one and the first after a restore. Attempt numbers begin
/// with the generation, which counts the starts, and agents may still have attempts of starts that
/// neither the backup nor the present file knows, if the file was lost with its disk: so many
/// starts nobody makes between a backup and its use (one a minute for eleven days).
const GENERATION_GAP: u32 = 1 << 14;

/// Attempt numbers have 24 bits for the generation: room for a thousand restores.
const MAX_GENERATION: u32 = (1 << 24) - 1;

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The state file.
    pub path: PathBuf,
    /// Where the state that was there before is now, if there was any.
    pub kept: Option<PathBuf>,
    /// Sessions in the backup.
    pub sessions: u64,
    /// Tasks in the backup.
    pub tasks: u64,
    /// The generation from which the next start counts on.
    pub generation: u32,
}

/// A backup cannot be restored. The state is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no state file to restore to.
    #[error("cannot restore: cluster.storage is none, so there is no state file; set it to sqlite://PATH")]
    NotDurable,
    /// The state file is in use or cannot be locked.
    #[error("cannot restore: {0}; stop the session manager first")]
    Locked(#[source] StoreError),
    /// The backup is no state file of ours.
    #[error("cannot restore: {path} is no backup of Flame's state: {reason}")]
    NoBackup {
        /// The backup.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The backup was made by a later version, or cannot be brought to this version's format.
    #[error("cannot restore: {0}")]
    Format(#[source] StoreError),
    /// The generations are used up.
    #[error("cannot restore: generation {0} of the state is too high")]
    Generation(u32),
    /// A file cannot be read, written or renamed.
    #[error("cannot restore: cannot {action} {path}: {source}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file or directory.
        path: String,
        /// Why.
        source: io::Error,
    },
}

fn at<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> RestoreError + 'a {
    move |source| RestoreError::File {
        action,
        path: path.display().to_string(),
        source,
    }
}

/// Makes `backup` the state of the session manager whose storage is `storage`. What was there is
/// kept under a name with `suffix`, which tells the time. Agents that run executors of the former
/// state are told to end them when they connect.
///
/// # Errors
/// [`RestoreError`]; the state is then as it was.
pub fn restore(storage: &Storage, backup: &Path, suffix: &str) -> Result<Restored, RestoreError> {
    let Storage::Sqlite(path) = storage else {
        return Err(RestoreError::NotDurable);
    };
    let _lock = lock(path).map_err(RestoreError::Locked)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // A copy is checked and changed: the backup stays what it is.
    let mut copy = tempfile::Builder::new()
        .prefix(".flame-restore-")
        .tempfile_in(directory)
        .map_err(at("create a file in", directory))?;
    let mut source = File::open(backup).map_err(at("read", backup))?;
    io::copy(&mut source, copy.as_file_mut()).map_err(at("copy", backup))?;
    let mut restored = prepare(copy.path(), backup, present_generation(path))?;
    restored.path.clone_from(path);
    let owner = fs::metadata(path).or_else(|_| fs::metadata(directory));
    let owner = owner.map_err(at("read", path))?;
    let mode = if owner.is_file() {
        owner.permissions().mode() & 0o777
    } else {
        0o600
    };
    copy.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| give(copy.path(), &owner))
        .and_then(|()| give(&beside(path, ".lock"), &owner))
        .and_then(|()| copy.as_file().sync_all())
        .map_err(at("write", copy.path()))?;
    restored.kept = keep(path, suffix)?;
    copy.persist(path)
        .map_err(|error| at("replace", path)(error.error))?;
    fsutil::sync_directory(directory).map_err(at("sync", directory))?;
    Ok(restored)
}

/// The service's user owns the file, not the administrator who restores it.
fn give(path: &Path, owner: &fs::Metadata) -> io::Result<()> {
    let is = fs::metadata(path)?;
    if (is.uid(), is.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    chown(path, Some(owner.uid()), Some(owner.gid()))
}

/// Checks the copy of `backup` at `copy`, brings it to this version's format, and makes sure that
/// nothing that was started before is taken for its own.
fn prepare(copy: &Path, backup: &Path, present: u32) -> Result<Restored, RestoreError> {
    let no_backup = |reason: String| RestoreError::NoBackup {
        path: backup.display().to_string(),
        reason,
    };
    let unreadable = |error: rusqlite::Error| no_backup(error.to_string());
    let mut connection = Connection::open(copy).map_err(unreadable)?;
    let format: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(unreadable)?;
    if format == 0 {
        return Err(no_backup("it is another kind of file".to_owned()));
    }
    let known = MIGRATIONS.len() as i64;
    if !(1..=known).contains(&format) {
        return Err(RestoreError::Format(StoreError::TooNew {
            path: backup.display().to_string(),
            found: format,
            known,
        }));
    }
    let damage: String = connection
        .pragma_query_value(None, "integrity_check", |row| row.get(0))
        .map_err(unreadable)?;
    if damage != "ok" {
        return Err(no_backup(format!("it is damaged: {damage}")));
    }
    migrate(&mut connection, backup).map_err(RestoreError::Format)?;
    let generation: u32 = meta(&connection, "generation").map_err(unreadable)?;
    let latest = generation.max(present);
    let next = latest
        .checked_add(GENERATION_GAP)
        .filter(|next| *next < MAX_GENERATION)
        .ok_or(RestoreError::Generation(latest))?;
    connection
        .execute(
            "UPDATE meta SET value = ? WHERE name IN ('generation', 'restored_generation')",
            [next],
        )
        .map_err(unreadable)?;
    // Which machine has which name is not for the past to say: a backup may be restored where others
    // have the names. Each node has the name with which it comes first.
    connection
        .execute("DELETE FROM identities", [])
        .map_err(unreadable)?;
    let vacuum: u32 = connection
        .pragma_query_value(None, "auto_vacuum", |row| row.get(0))
        .map_err(unreadable)?;
    if vacuum != 2 {
        // Files of early versions cannot give room back; this is the moment to change that.
        connection
            .execute_batch("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = INCREMENTAL; VACUUM;")
            .map_err(unreadable)?;
    }
    let count = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        connection
            .query_row(&sql, [], |row| row.get(0))
            .map_err(unreadable)
    };
    let restored = Restored {
        path: PathBuf::new(),
        kept: None,
        sessions: count("sessions")?,
        tasks: count("tasks")?,
        generation: next,
    };
    connection
        .pragma_update(None, "journal_mode", "DELETE")
        .map_err(unreadable)?;
    connection.close().map_err(|(_, error)| unreadable(error))?;
    Ok(restored)
}

/// The generation of the file at `path`; 0 if it has none that can be read. What a crash left in
/// the log beside the file goes into the file.
fn present_generation(path: &Path) -> u32 {
    let read = || -> rusqlite::Result<u32> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        meta(&connection, "generation")
    };
    // Whatever is wrong with it: it is about to be replaced, and is kept as it is.
    read().unwrap_or_default()
}

/// Keeps the files of the present state under another name; returns that of the state file. The
/// state file itself stays in its place until it is replaced.
fn keep(path: &Path, suffix: &str) -> Result<Option<PathBuf>, RestoreError> {
    if !path.exists() {
        return Ok(None);
    }
    let kept = beside(path, suffix);
    // Where there are no hard links there are copies.
    fs::hard_link(path, &kept)
        .or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Err(error),
            _ => fs::copy(path, &kept).map(|_| ()),
        })
        .map_err(at("keep the present state as", &kept))?;
    // The log of another file would damage the restored one. Usually there is none any more.
    for log in ["-wal", "-shm"] {
        let name = beside(path, log);
        if name.exists() {
            fs::rename(&name, beside(&kept, log)).map_err(at("rename", &name))?;
        }
    }
    Ok(Some(kept))
}
