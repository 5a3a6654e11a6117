//! A consistent copy of the SQLite file, made beside it while it is written to.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup as Copying, StepResult};

use super::sqlite::{beside, io, open_to_read};
use super::{Backup, StoreError};

/// The copy's name is that of the state file with this suffix, until it is complete.
const SUFFIX: &str = ".backup-tmp";
/// Pages that are copied in one go (4 MiB).
const STEP_PAGES: i32 = 1024;
/// Wait between two steps: the disk and the processors belong to the work.
const STEP_PAUSE: Duration = Duration::from_millis(5);
/// Bytes that have to stay free for the work that goes on.
const RESERVE: u64 = 64 << 20;

/// Removes what a backup left that did not come to its end.
pub(super) fn remove_leftover(path: &Path) {
    let copy = beside(path, SUFFIX);
    for suffix in ["", "-journal", "-wal", "-shm"] {
        // Usually there is none.
        let _absent = std::fs::remove_file(beside(&copy, suffix));
    }
}

/// Copies the state file at `path`. One copy at a time.
pub(super) fn copy(path: &Path) -> Result<Backup, StoreError> {
    let failed = io("make a backup");
    let source = open_to_read(path)?;
    check_room(path, &source)?;
    remove_leftover(path);
    let name = beside(path, SUFFIX);
    let at = |action| {
        let path = name.display().to_string();
        move |source| StoreError::Copy { action, path, source }
    };
    // Nobody else may read it; SQLite takes an empty file for a new database.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&name)
        .map_err(at("create"))?;
    let copied = fill(&source, &name).map_err(&failed);
    let opened = File::open(&name).map_err(at("open"));
    // With no name left, the copy ends with its last reader, whatever happens to this process.
    std::fs::remove_file(&name).map_err(at("remove"))?;
    let format = copied?;
    let file = opened?;
    let size = file.metadata().map_err(at("read"))?.len();
    Ok(Backup { file, size, format })
}

/// Copies page by page within one read transaction, so that the copy is the state of one moment,
/// and writers need not wait.
fn fill(source: &Connection, name: &Path) -> rusqlite::Result<u32> {
    let mut target = Connection::open(name)?;
    // The copy is worthless after a crash anyway.
    target.pragma_update(None, "synchronous", "OFF")?;
    let snapshot = source.unchecked_transaction()?;
    let format = snapshot.pragma_query_value(None, "user_version", |row| row.get(0))?;
    {
        let copying = Copying::new(&snapshot, &mut target)?;
        while copying.step(STEP_PAGES)? != StepResult::Done {
            std::thread::sleep(STEP_PAUSE);
        }
    }
    drop(snapshot);
    // One plain file that needs nothing beside it.
    target.pragma_update(None, "journal_mode", "DELETE")?;
    target.close().map_err(|(_, error)| error)?;
    Ok(format)
}

/// Refuses a copy that would take the room that the work needs.
fn check_room(path: &Path, source: &Connection) -> Result<(), StoreError> {
    let failed = io("measure the state");
    let number = |name| source.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let bytes = number("page_count").map_err(&failed)? * number("page_size").map_err(&failed)?;
    let needed = bytes + RESERVE;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let stat = rustix::fs::statvfs(directory).map_err(|error| StoreError::Copy {
        action: "measure the free space beside",
        path: path.display().to_string(),
        source: error.into(),
    })?;
    let free = stat.f_bavail * stat.f_frsize;
    if free < needed {
        return Err(StoreError::NoRoom {
            path: path.display().to_string(),
            needed,
            free,
        });
    }
    Ok(())
}
