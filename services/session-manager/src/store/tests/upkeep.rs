//! Sizes, removal in slices, and what stays when a session is gone.

use rusqlite::Connection;

use super::*;

/// A store with session 1, which has `count` ended tasks with `size` bytes of input each.
fn filled(mut store: Box<dyn Store>, count: u64, size: usize) -> Box<dyn Store> {
    store.load().expect("loads");
    let input = Bytes::from(vec![7; size]);
    let mut records = vec![Record::SessionCreated(session(1))];
    for id in 1..=count {
        let row = TaskRow {
            input: Some(input.clone()),
            ..ended(1, id, TaskState::Succeed)
        };
        let open = TaskRow {
            input: Some(input.clone()),
            ..task(1, id)
        };
        records.push(Record::TaskCreated(open));
        records.push(Record::TaskFinished(Arc::new(row)));
    }
    records.push(Record::SessionClosed {
        session: 1,
        time: 30,
        last_task: count,
        succeeded: count,
        failed: 0,
        cancelled: 0,
    });
    store.commit(&records).expect("stores");
    store
}

#[test]
fn a_session_is_deleted_in_slices_while_others_are_stored() {
    each_engine(|store| {
        let mut store = filled(store, 12_000, 10);
        let upkeep = store.upkeep().expect("opens");
        let reader = store.reader().expect("opens");
        assert!(!upkeep.size().expect("measured").untidy);
        store
            .commit(&[Record::SessionRemoved(1), Record::SessionCreated(session(2))])
            .expect("stores");
        let mut slices = 0;
        while upkeep.size().expect("measured").untidy {
            slices += 1;
            let left = reader.tasks(1, 0, 20_000).expect("reads").len();
            store
                .commit(&[
                    Record::Tidied,
                    Record::TaskCreated(task(2, slices)),
                    Record::TaskFinished(Arc::new(ended(2, slices, TaskState::Succeed))),
                ])
                .expect("stores");
            let deleted = left - reader.tasks(1, 0, 20_000).expect("reads").len();
            assert!(deleted <= 5_000, "{deleted} in one slice");
        }
        assert!(slices >= 3, "{slices}");
        assert!(reader.tasks(1, 0, 1).expect("reads").is_empty());
        assert_eq!(reader.tasks(2, 0, 100).expect("reads").len() as u64, slices);
    });
}

#[test]
fn large_payloads_are_deleted_in_smaller_slices() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut store = filled(sqlite(&directory), 40, 2 << 20);
    store.commit(&[Record::SessionRemoved(1)]).expect("stores");
    store.commit(&[Record::Tidied]).expect("tidied");
    let left = store.reader().expect("opens").tasks(1, 0, 100).expect("reads");
    assert_eq!(left.len(), 32, "16 MiB at a time");
}

#[test]
fn the_size_follows_what_is_stored() {
    each_engine(|store| {
        let mut store = filled(store, 100, 100_000);
        let upkeep = store.upkeep().expect("opens");
        let used = upkeep.size().expect("measured").used;
        assert!((10_000_000..12_000_000).contains(&used), "{used}");
        let session = upkeep.session_size(1).expect("measured");
        assert!((10_000_000..=used).contains(&session), "{session}");
        assert_eq!(upkeep.session_size(2).expect("measured"), 0);
        store.commit(&[Record::SessionRemoved(1)]).expect("stores");
        tidy(store.as_mut());
        assert!(upkeep.size().expect("measured").used < 100_000);
    });
}

#[test]
fn deleting_goes_on_after_a_restart_and_the_file_shrinks() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("flame.db");
    let mut store = filled(sqlite(&directory), 5_000, 10_000);
    store.commit(&[Record::SessionRemoved(1)]).expect("stores");
    store.commit(&[Record::Tidied]).expect("tidied");
    drop(store);
    let full = std::fs::metadata(&path).expect("there").len();
    assert!(full > 50_000_000, "{full}");
    let mut store = sqlite(&directory);
    let snapshot = store.load().expect("loads");
    assert!(snapshot.sessions.is_empty());
    assert_eq!(snapshot.last_session, 1);
    assert!(tidy(store.as_mut()) > 2);
    assert!(
        store
            .reader()
            .expect("opens")
            .tasks(1, 0, 1)
            .expect("reads")
            .is_empty()
    );
    drop(store);
    let shrunk = std::fs::metadata(&path).expect("there").len();
    assert!(
        shrunk <= 17 << 20,
        "{shrunk} of {full}: what stays is room for new work"
    );
}

#[test]
fn a_file_of_an_early_version_reuses_its_room() {
    let directory = tempfile::tempdir().expect("temporary directory");
    // Made without auto_vacuum, as the first versions did.
    let file = Connection::open(directory.path().join("flame.db")).expect("opens");
    file.execute_batch("CREATE TABLE other (x); PRAGMA user_version = 0;")
        .expect("made");
    drop(file);
    let mut store = filled(sqlite(&directory), 3_000, 10_000);
    store.commit(&[Record::SessionRemoved(1)]).expect("stores");
    let upkeep = store.upkeep().expect("opens");
    assert!(
        tidy(store.as_mut()) > 1,
        "and it ends, although the file stays as large as it is"
    );
    assert!(upkeep.size().expect("measured").used < 200_000);
}

#[test]
fn a_closed_session_comes_back_small_and_its_common_data_is_read_on_demand() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut store = sqlite(&directory);
    store.load().expect("loads");
    let large = Bytes::from(vec![3; 5000]);
    let row = |key| SessionRow {
        common_data: Some(large.clone()),
        ..session(key)
    };
    let event = |time| SessionEvent {
        code: 1001,
        message: String::new(),
        time,
    };
    let mut records = vec![Record::SessionCreated(row(1)), Record::SessionCreated(row(2))];
    records.extend((0..50).map(|time| Record::SessionEvent(1, event(time))));
    records.extend((0..50).map(|time| Record::SessionEvent(2, event(time))));
    records.push(closed(2, 33));
    store.commit(&records).expect("stores");
    drop(store);
    let mut store = sqlite(&directory);
    let snapshot = store.load().expect("loads");
    let [open, closed] = snapshot.sessions.as_slice() else {
        panic!("two sessions")
    };
    assert_eq!((open.events.len(), closed.events.len()), (50, 10));
    assert_eq!(closed.events.last().expect("kept").time, 49);
    assert_eq!(
        (open.common_data_in_store, closed.common_data_in_store),
        (false, true)
    );
    assert_eq!(
        (&open.row.common_data, &closed.row.common_data),
        (&Some(large.clone()), &None)
    );
    assert_eq!((closed.last_task, closed.failed, closed.succeeded), (1, 1, 0));
    let reader = store.reader().expect("opens");
    assert_eq!(reader.common_data(2).expect("reads"), Some(large));
    assert_eq!(reader.common_data(3).expect("reads"), None);
}

#[test]
fn common_data_is_read_from_every_engine() {
    each_engine(|mut store| {
        store.load().expect("loads");
        store
            .commit(&[Record::SessionCreated(session(1))])
            .expect("stores");
        let reader = store.reader().expect("opens");
        assert_eq!(reader.common_data(1).expect("reads"), session(1).common_data);
        store.commit(&[Record::SessionRemoved(1)]).expect("stores");
        assert_eq!(reader.common_data(1).expect("reads"), None);
    });
}
