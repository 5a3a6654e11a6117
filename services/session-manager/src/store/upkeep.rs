//! Looking after the SQLite file: how large it is, and the removal of what is not needed any more
//! in slices that hold nobody up.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::sqlite::{io, open_to_read, place, places_after};
use super::{Backup, StateSize, StoreError, Upkeep, backup};
use crate::core::SessionKey;

/// Tasks that are deleted in one go: a few milliseconds' worth.
const SLICE_TASKS: usize = 2_000;
/// Bytes of input and output that are deleted in one go.
const SLICE_BYTES: u64 = 16 << 20;
/// Pages that are given back to the file system in one go.
const SLICE_PAGES: u32 = 1024;
/// A file with fewer free pages (16 MiB) does not shrink: work needs them again in a moment.
const MIN_FREE_PAGES: u64 = 4096;
/// Bytes that a task takes beside its payload, about: its row and its place in the index.
const TASK_OVERHEAD: u64 = 64;

/// See [`Upkeep`].
#[derive(Debug)]
pub(super) struct SqliteUpkeep {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl SqliteUpkeep {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            path: path.to_path_buf(),
            connection: Mutex::new(open_to_read(path)?),
        })
    }
}

/// Numbers about the file's pages.
#[derive(Debug, Clone, Copy)]
struct Pages {
    count: u64,
    free: u64,
    size: u64,
    /// Free pages can be given back one by one.
    incremental: bool,
}

impl Pages {
    fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
        Ok(Self {
            count: number("page_count")?,
            free: number("freelist_count")?,
            size: number("page_size")?,
            incremental: number("auto_vacuum")? == 2,
        })
    }

    /// More than a quarter of the file is free, and that is much.
    fn can_shrink(&self) -> bool {
        self.incremental && self.free > MIN_FREE_PAGES && self.free > self.count / 4
    }
}

fn oldest_removed(connection: &Connection) -> rusqlite::Result<Option<SessionKey>> {
    connection
        .prepare_cached("SELECT session FROM removed_sessions ORDER BY session LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()
}

impl Upkeep for SqliteUpkeep {
    fn size(&self) -> Result<StateSize, StoreError> {
        let failed = io("measure the state");
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = Pages::of(&connection).map_err(&failed)?;
        let removed = oldest_removed(&connection).map_err(&failed)?;
        Ok(StateSize {
            used: (pages.count - pages.free.min(pages.count)) * pages.size,
            untidy: removed.is_some() || pages.can_shrink(),
        })
    }

    fn session_size(&self, session: SessionKey) -> Result<u64, StoreError> {
        let failed = io("measure a session");
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = "SELECT coalesce((SELECT sum(coalesce(length(input), 0) + coalesce(length(output), 0) \
                       + coalesce(length(message), 0) + ?3) FROM tasks WHERE key > ?1 AND key < ?2), 0) \
                   + coalesce((SELECT sum(length(data)) FROM large_inputs WHERE key > ?1 AND key < ?2), 0) \
                   + coalesce((SELECT sum(length(data)) FROM large_outputs WHERE key > ?1 AND key < ?2), 0)";
        let mut statement = connection.prepare_cached(sum).map_err(&failed)?;
        let (from, to) = places_after(session, 0);
        statement
            .query_row(params![from, to, TASK_OVERHEAD], |row| row.get(0))
            .map_err(&failed)
    }

    fn backup(&self) -> Result<Backup, StoreError> {
        backup::copy(&self.path)
    }
}

/// Deletes a slice of what removed sessions left; if nothing is left, shrinks the file by a slice.
pub(super) fn tidy(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    match oldest_removed(transaction)? {
        Some(session) => delete_slice(transaction, session),
        None if Pages::of(transaction)?.can_shrink() => shrink(transaction),
        None => Ok(()),
    }
}

fn shrink(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare(&format!("PRAGMA incremental_vacuum({SLICE_PAGES})"))?;
    // Each step gives back one page.
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

fn delete_slice(transaction: &Transaction<'_>, session: SessionKey) -> rusqlite::Result<()> {
    if let Some(last) = end_of_slice(transaction, session)? {
        for sql in [
            "DELETE FROM large_inputs WHERE key >= ? AND key <= ?",
            "DELETE FROM large_outputs WHERE key >= ? AND key <= ?",
            "DELETE FROM tasks WHERE key >= ? AND key <= ?",
        ] {
            transaction
                .prepare_cached(sql)?
                .execute(params![place(session, 0), last])?;
        }
        return Ok(());
    }
    for sql in [
        "DELETE FROM session_events WHERE session = ?",
        "DELETE FROM requests WHERE session = ?",
        "DELETE FROM session_nodes WHERE session = ?",
        "DELETE FROM removed_sessions WHERE session = ?",
    ] {
        transaction.prepare_cached(sql)?.execute([session])?;
    }
    Ok(())
}

/// The place of the last task of the next slice of `session`, if there is one.
fn end_of_slice(transaction: &Transaction<'_>, session: SessionKey) -> rusqlite::Result<Option<u64>> {
    let mut statement = transaction.prepare_cached(
        "SELECT key, coalesce(length(input), (SELECT length(data) FROM large_inputs AS i WHERE i.key = tasks.key), 0) \
         + coalesce(length(output), (SELECT length(data) FROM large_outputs AS o WHERE o.key = tasks.key), 0) \
         FROM tasks WHERE key > ? AND key < ? ORDER BY key LIMIT ?",
    )?;
    let (from, to) = places_after(session, 0);
    let mut rows = statement.query(params![from, to, SLICE_TASKS])?;
    let (mut last, mut bytes) = (None, 0);
    while let Some(row) = rows.next()? {
        if bytes >= SLICE_BYTES {
            break;
        }
        last = Some(row.get(0)?);
        bytes += row.get::<_, u64>(1)?;
    }
    Ok(last)
}
