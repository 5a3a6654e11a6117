//! Copies of the state file, and what can be made of them.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;

use super::*;
use crate::store::restore::{RestoreError, Restored, restore};

/// A state file and a place for backups.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("temporary directory"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn open(&self) -> Box<dyn Store> {
        sqlite(&self.directory)
    }

    /// A store with a session.
    fn begun(&self) -> Box<dyn Store> {
        let mut store = self.open();
        store.load().expect("loads");
        store
            .commit(&[Record::SessionCreated(session(1))])
            .expect("stores");
        store
    }

    /// Backs up `store` to the file `name`.
    fn backup(&self, store: &dyn Store, name: &str) -> PathBuf {
        let mut backup = store.upkeep().expect("opens").backup().expect("copied");
        let mut bytes = Vec::new();
        backup.file.read_to_end(&mut bytes).expect("reads");
        assert_eq!(bytes.len() as u64, backup.size);
        std::fs::write(self.path(name), bytes).expect("written");
        self.path(name)
    }

    fn restore(&self, backup: &Path) -> Result<Restored, RestoreError> {
        restore(&Storage::Sqlite(self.path("flame.db")), backup, ".old")
    }

    /// The names of all files but the state's own and its lock.
    fn others(&self) -> Vec<String> {
        let listed = std::fs::read_dir(self.directory.path()).expect("listed");
        let mut names: Vec<_> = listed
            .map(|entry| entry.expect("listed").file_name().to_string_lossy().into_owned())
            .filter(|name| {
                !["flame.db", "flame.db.lock", "flame.db-wal", "flame.db-shm"].contains(&name.as_str())
            })
            .collect();
        names.sort();
        names
    }
}

fn with_tasks(store: &mut dyn Store, ids: impl IntoIterator<Item = TaskId>) {
    let records: Vec<_> = ids
        .into_iter()
        .flat_map(|id| {
            let end = Arc::new(ended(1, id, TaskState::Succeed));
            [Record::TaskCreated(task(1, id)), Record::TaskFinished(end)]
        })
        .collect();
    store.commit(&records).expect("stores");
}

#[test]
fn a_backup_is_the_state_of_one_moment_although_work_goes_on() {
    let place = Place::new();
    let mut store = place.begun();
    // So large that the copy takes several steps.
    with_tasks(store.as_mut(), 1..=60_000);
    let upkeep = store.upkeep().expect("opens");
    let done = AtomicBool::new(false);
    let (mut backup, last) = std::thread::scope(|scope| {
        let copying = scope.spawn(|| {
            let backup = upkeep.backup();
            done.store(true, Ordering::Release);
            backup.expect("copied")
        });
        let mut last = 60_000;
        while !done.load(Ordering::Acquire) {
            last += 1;
            with_tasks(store.as_mut(), [last]);
        }
        (copying.join().expect("no panic"), last)
    });
    assert!(last > 60_002, "the writer was not held up: {last}");
    assert!(place.others().is_empty(), "{:?}", place.others());
    let mut bytes = Vec::new();
    backup.file.read_to_end(&mut bytes).expect("reads");
    std::fs::write(place.path("copy"), bytes).expect("written");
    let copy = Connection::open(place.path("copy")).expect("opens");
    let text = |pragma| copy.pragma_query_value(None, pragma, |row| row.get::<_, String>(0));
    assert_eq!(text("integrity_check").expect("checked"), "ok");
    assert_eq!(text("journal_mode").expect("read"), "delete", "a plain file");
    let (count, highest): (u64, u64) = copy
        .query_row(
            "SELECT count(*), max(key) & 0xffffffff FROM tasks WHERE state = 2",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .expect("counted");
    assert_eq!(count, highest, "whole transactions, all up to one moment");
    assert!((60_000..=last).contains(&highest));
    assert_eq!(i64::from(backup.format), MIGRATION_COUNT);
}

const MIGRATION_COUNT: i64 = crate::store::sqlite::MIGRATIONS.len() as i64;

#[test]
fn a_restored_state_is_that_of_the_backup_and_the_former_one_is_kept() {
    let place = Place::new();
    let mut store = place.begun();
    with_tasks(store.as_mut(), 1..=3);
    let backup = place.backup(store.as_ref(), "backup");
    with_tasks(store.as_mut(), 4..=5);
    assert!(
        matches!(place.restore(&backup), Err(RestoreError::Locked(_))),
        "it runs"
    );
    drop(store);
    std::fs::set_permissions(place.path("flame.db"), std::fs::Permissions::from_mode(0o640)).expect("set");
    let before = std::fs::read(&backup).expect("reads");
    let restored = place.restore(&backup).expect("restored");
    assert_eq!((restored.sessions, restored.tasks), (1, 3));
    assert_eq!(restored.kept, Some(place.path("flame.db.old")));
    assert_eq!(place.others(), ["backup", "flame.db.old"]);
    assert_eq!(
        std::fs::read(&backup).expect("reads"),
        before,
        "the backup stays what it is"
    );
    let mode = std::fs::metadata(place.path("flame.db"))
        .expect("there")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o640);
    let mut store = place.open();
    let snapshot = store.load().expect("loads");
    assert_eq!(snapshot.sessions[0].last_task, 3);
    assert_eq!(snapshot.restored_generation, restored.generation);
    assert_eq!(snapshot.generation, restored.generation + 1);
    drop(store);
    // A second time within the same second nothing is overwritten.
    let error = place.restore(&backup).expect_err("refused").to_string();
    assert!(error.contains("flame.db.old"), "{error}");
    let kept = Connection::open(place.path("flame.db.old")).expect("opens");
    let count: u64 = kept
        .query_row("SELECT count(*) FROM tasks", [], |row| row.get(0))
        .expect("counted");
    assert_eq!(count, 5);
}

#[test]
fn names_of_nodes_are_free_after_a_restore() {
    let place = Place::new();
    let mut store = place.begun();
    let identity = NodeIdentity {
        node: NodeName::new("n").expect("valid"),
        id: "1".to_owned(),
        hostname: "h".to_owned(),
    };
    store.commit(&[Record::NodeIdentified(identity)]).expect("stored");
    let backup = place.backup(store.as_ref(), "backup");
    drop(store);
    place.restore(&backup).expect("restored");
    let loaded = place.open().load().expect("loads");
    assert_eq!((loaded.identities, loaded.sessions.len()), (Vec::new(), 1));
}

#[test]
fn no_generation_comes_again() {
    let place = Place::new();
    let mut store = place.open();
    let first = store.load().expect("loads").generation;
    let backup = place.backup(store.as_ref(), "backup");
    drop(store);
    let mut last = first;
    for _ in 0..5 {
        last = place.open().load().expect("loads").generation;
    }
    place.restore(&backup).expect("restored");
    let after = place.open().load().expect("loads").generation;
    assert!(
        after > last + 10_000,
        "{after} after {last}: the file may have been a new one"
    );
    for name in ["flame.db", "flame.db.old"] {
        std::fs::remove_file(place.path(name)).expect("removed");
    }
    let lost = place.restore(&backup).expect("restored");
    assert_eq!(lost.kept, None);
    let mode = std::fs::metadata(place.path("flame.db"))
        .expect("there")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    assert!(place.open().load().expect("loads").generation > last + 10_000);
}

#[test]
fn what_a_crash_left_in_the_log_is_kept_and_does_not_get_into_the_restored_file() {
    let place = Place::new();
    let mut store = place.begun();
    let backup = place.backup(store.as_ref(), "backup");
    with_tasks(store.as_mut(), 1..=3);
    // As kill -9 leaves it: with a log that is not part of the file yet.
    for name in ["flame.db", "flame.db-wal"] {
        std::fs::copy(place.path(name), place.path(&format!("crashed-{name}"))).expect("copied");
    }
    drop(store);
    for name in ["flame.db", "flame.db-wal"] {
        std::fs::rename(place.path(&format!("crashed-{name}")), place.path(name)).expect("renamed");
    }
    place.restore(&backup).expect("restored");
    let kept = Connection::open(place.path("flame.db.old")).expect("opens");
    let count = |file: &Connection| -> u64 {
        file.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0))
            .expect("counted")
    };
    assert_eq!(count(&kept), 3);
    assert_eq!(
        count(&Connection::open(place.path("flame.db")).expect("opens")),
        0
    );
}

#[test]
fn a_damaged_present_file_is_replaced_and_kept() {
    let place = Place::new();
    let mut store = place.open();
    store.load().expect("loads");
    let backup = place.backup(store.as_ref(), "backup");
    drop(store);
    std::fs::write(place.path("flame.db"), b"this is no database at all").expect("written");
    place.restore(&backup).expect("restored");
    assert_eq!(place.others(), ["backup", "flame.db.old"]);
    let kept = std::fs::read(place.path("flame.db.old")).expect("reads");
    assert_eq!(kept, b"this is no database at all");
    place.open().load().expect("loads");
}

#[test]
fn what_is_no_backup_is_refused_and_nothing_is_changed() {
    let place = Place::new();
    let mut store = place.begun();
    with_tasks(store.as_mut(), 1..=2_000);
    let good = std::fs::read(place.backup(store.as_ref(), "backup")).expect("reads");
    drop(store);
    let state = std::fs::read(place.path("flame.db")).expect("reads");
    let file = |name: &str, bytes: &[u8]| {
        std::fs::File::create(place.path(name))
            .and_then(|mut file| file.write_all(bytes))
            .expect("written");
        place.path(name)
    };
    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 8192].fill(0xa5);
    let newer = place.path("newer");
    std::fs::copy(place.path("backup"), &newer).expect("copied");
    let connection = Connection::open(&newer).expect("opens");
    connection.pragma_update(None, "user_version", 99).expect("set");
    drop(connection);
    for (backup, reason) in [
        (file("empty", b""), "another kind of file"),
        (
            file("text", b"cluster: {name: flame}\n"),
            "is no backup of Flame's state",
        ),
        (
            file("short", &good[..good.len() / 2]),
            "is no backup of Flame's state",
        ),
        (file("damaged", &damaged), "is no backup of Flame's state"),
        (newer, "has format 99"),
        (place.path("absent"), "cannot read"),
    ] {
        let error = place.restore(&backup).expect_err(reason).to_string();
        assert!(error.contains(reason), "{}: {error}", backup.display());
        assert!(error.contains(&backup.display().to_string()), "{error}");
        assert_eq!(std::fs::read(place.path("flame.db")).expect("reads"), state);
    }
    let left = ["backup", "damaged", "empty", "newer", "short", "text"];
    assert_eq!(place.others(), left);
}

#[test]
fn a_backup_of_an_early_version_is_brought_up_to_date() {
    let place = Place::new();
    let old = Connection::open(place.path("old")).expect("opens");
    old.execute_batch(crate::store::sqlite::MIGRATIONS[0])
        .expect("made");
    old.execute_batch(
        "PRAGMA user_version = 1;
         INSERT INTO sessions VALUES (4, 'done', x'', 1, 10, 20);
         INSERT INTO tasks (session, id, state, created, finished) VALUES (4, 1, 2, 11, 12), (4, 2, 4, 11, 13);",
    )
    .expect("filled");
    drop(old);
    let restored = place.restore(&place.path("old")).expect("restored");
    assert_eq!((restored.sessions, restored.tasks), (1, 2));
    let file = Connection::open(place.path("flame.db")).expect("opens");
    let number = |sql: &str| file.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("read");
    assert_eq!(number("PRAGMA auto_vacuum"), 2, "it can shrink");
    assert_eq!(number("PRAGMA user_version"), MIGRATION_COUNT);
    assert_eq!(number("SELECT value FROM meta WHERE name = 'last_session'"), 4);
    assert_eq!(
        number("SELECT 100 * last_task + 10 * succeeded + cancelled FROM sessions"),
        211
    );
}

#[test]
fn without_a_file_there_is_no_backup_and_no_restore() {
    let store = open(&Storage::None, StorageSync::Full).expect("opens");
    let error = store.upkeep().expect("opens").backup().expect_err("refused");
    assert!(matches!(error, StoreError::NotDurable));
    let error = restore(&Storage::None, Path::new("backup"), ".old").expect_err("refused");
    assert!(matches!(error, RestoreError::NotDurable));
}
