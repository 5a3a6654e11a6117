//! The same checks for every engine, and what only the durable one can do.

use std::time::Duration;

use bytes::Bytes;
use flame_core::state::{SessionState, TaskState};
use flame_core::{ApplicationName, Resources, SessionId};

use super::*;

mod backup;
mod upkeep;

fn session(key: SessionKey) -> SessionRow {
    SessionRow {
        key,
        id: SessionId::new(&format!("s{key}")).expect("valid"),
        application: ApplicationName::new("app").expect("valid"),
        common_data: Some(Bytes::from_static(b"common")),
        min_instances: 1,
        max_instances: Some(3),
        priority: 7,
        resources: Resources {
            cpu: 2,
            memory: 5,
            gpu: 1,
        },
        node_labels: ["zone=a".to_owned()].into(),
        task_timeout: Some(Duration::from_millis(1500)),
        state: SessionState::Open,
        created: 11,
        completed: None,
    }
}

fn task(session: SessionKey, id: TaskId) -> TaskRow {
    TaskRow {
        session,
        id,
        state: TaskState::Pending,
        created: 20,
        started: None,
        finished: None,
        sequence: None,
        input: Some(Bytes::from(id.to_string())),
        output: None,
        message: None,
    }
}

fn ended(session: SessionKey, id: TaskId, state: TaskState) -> TaskRow {
    TaskRow {
        state,
        started: Some(21),
        finished: Some(22),
        sequence: Some(id),
        output: Some(Bytes::from_static(b"out")),
        message: (state == TaskState::Failed).then(|| "why".to_owned()),
        ..task(session, id)
    }
}

/// Lets the store delete what is to be deleted; returns in how many slices.
fn tidy(store: &mut dyn Store) -> usize {
    let upkeep = store.upkeep().expect("opens");
    let mut slices = 0;
    while upkeep.size().expect("measured").untidy {
        store.commit(&[Record::Tidied]).expect("tidied");
        slices += 1;
    }
    slices
}

/// The end of a session whose only task failed.
fn closed(session: SessionKey, time: i64) -> Record {
    Record::SessionClosed {
        session,
        time,
        last_task: 1,
        succeeded: 0,
        failed: 1,
        cancelled: 0,
    }
}

fn sqlite(directory: &tempfile::TempDir) -> Box<dyn Store> {
    open(
        &Storage::Sqlite(directory.path().join("flame.db")),
        StorageSync::Full,
    )
    .expect("opens")
}

fn each_engine(check: impl Fn(Box<dyn Store>)) {
    let directory = tempfile::tempdir().expect("temporary directory");
    check(open(&Storage::None, StorageSync::Full).expect("opens"));
    check(sqlite(&directory));
}

#[test]
fn ended_tasks_are_read_back_in_pages_and_open_ones_are_not() {
    each_engine(|mut store| {
        store.load().expect("loads");
        let mut records = vec![
            Record::SessionCreated(session(1)),
            Record::SessionCreated(session(2)),
        ];
        records.extend((1..=5).map(|id| Record::TaskCreated(task(1, id))));
        records.extend([1, 2, 4].map(|id| Record::TaskFinished(Arc::new(ended(1, id, TaskState::Succeed)))));
        store.commit(&records).expect("stores");
        let reader = store.reader().expect("opens");
        assert_eq!(
            reader.task(1, 2).expect("reads"),
            Some(ended(1, 2, TaskState::Succeed))
        );
        assert_eq!(reader.task(1, 3).expect("reads"), None);
        assert_eq!(reader.task(2, 1).expect("reads"), None);
        let ids = |after, limit| -> Vec<_> {
            reader
                .tasks(1, after, limit)
                .expect("reads")
                .iter()
                .map(|task| task.id)
                .collect()
        };
        assert_eq!(ids(0, 2), [1, 2]);
        assert_eq!(ids(2, 2), [4]);
        store.commit(&[Record::SessionRemoved(1)]).expect("stores");
        tidy(store.as_mut());
        assert_eq!(reader.task(1, 2).expect("reads"), None);
    });
}

#[test]
fn sqlite_brings_everything_back() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let application = Application {
        name: ApplicationName::new("app").expect("valid"),
        spec: flame_rpc::v1::ApplicationSpec {
            command: Some("/bin/x".to_owned()),
            ..Default::default()
        },
        created: 5,
        version: 2,
        builtin: true,
    };
    let event = SessionEvent {
        code: 1001,
        message: "failed".to_owned(),
        time: 9,
    };
    let mut store = sqlite(&directory);
    let first = store.load().expect("loads").generation;
    store
        .commit(&[
            Record::ApplicationPut(application.clone()),
            Record::SessionCreated(session(1)),
            Record::SessionCreated(session(2)),
            closed(2, 33),
            Record::SessionEvent(1, event.clone()),
            Record::TaskCreated(task(1, 1)),
            Record::TaskCreated(task(1, 2)),
            Record::TaskCreated(task(1, 3)),
            Record::TaskFinished(Arc::new(ended(1, 3, TaskState::Failed))),
        ])
        .expect("stores");
    drop(store);
    let snapshot = sqlite(&directory).load().expect("loads");
    assert_eq!(snapshot.generation, first + 1);
    assert_eq!(snapshot.applications, [application]);
    let [one, two] = snapshot.sessions.as_slice() else {
        panic!("two sessions")
    };
    assert_eq!(
        (&one.row, one.last_task, one.failed, one.succeeded),
        (&session(1), 3, 1, 0)
    );
    assert_eq!(one.open, [task(1, 1), task(1, 2)]);
    assert_eq!(one.events, [event]);
    assert_eq!(
        (two.row.state, two.row.completed),
        (SessionState::Closed, Some(33))
    );
}

#[test]
fn a_batch_is_stored_as_a_whole_or_not_at_all() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut store = sqlite(&directory);
    store.load().expect("loads");
    store
        .commit(&[Record::SessionCreated(session(1))])
        .expect("stores");
    // The second record breaks the uniqueness of session keys.
    let batch = [
        Record::TaskCreated(task(1, 1)),
        Record::SessionCreated(session(1)),
    ];
    store.commit(&batch).expect_err("refused");
    let snapshot = store.load().expect("loads");
    assert_eq!(snapshot.sessions.first().map(|s| s.open.len()), Some(0));
}

#[test]
fn a_file_of_a_later_version_is_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    drop(sqlite(&directory));
    let path = directory.path().join("flame.db");
    let connection = rusqlite::Connection::open(&path).expect("opens");
    connection
        .pragma_update(None, "user_version", 99)
        .expect("writes");
    drop(connection);
    let error = open(&Storage::Sqlite(path), StorageSync::Full)
        .err()
        .expect("refused")
        .to_string();
    assert!(
        error.contains("has format 99") && error.contains(&format!("up to {}", sqlite::MIGRATIONS.len())),
        "{error}"
    );
}

#[test]
fn a_second_process_on_the_same_file_is_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let _first = sqlite(&directory);
    let second = open(
        &Storage::Sqlite(directory.path().join("flame.db")),
        StorageSync::Full,
    );
    assert!(matches!(second, Err(StoreError::InUse { .. })));
}

#[test]
fn what_is_no_state_file_is_refused_with_its_path() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("flame.db");
    std::fs::write(
        &path,
        "this is no database, but long enough to be looked at as one".repeat(20),
    )
    .expect("writes");
    for storage in [path, directory.path().join("missing/flame.db")] {
        let error = open(&Storage::Sqlite(storage.clone()), StorageSync::Full)
            .err()
            .expect("refused")
            .to_string();
        assert!(error.contains(&storage.display().to_string()), "{error}");
    }
}

#[test]
fn ends_are_read_back_in_their_order() {
    each_engine(|mut store| {
        store.load().expect("loads");
        let mut records = vec![Record::SessionCreated(session(1))];
        records.extend((1..=4).map(|id| Record::TaskCreated(task(1, id))));
        for (sequence, id) in [(1, 3), (2, 1), (3, 4)] {
            let row = TaskRow {
                sequence: Some(sequence),
                ..ended(1, id, TaskState::Succeed)
            };
            records.push(Record::TaskFinished(Arc::new(row)));
        }
        store.commit(&records).expect("stores");
        let reader = store.reader().expect("opens");
        let ends = |after, limit| -> Vec<_> {
            reader
                .ends(1, after, limit)
                .expect("reads")
                .iter()
                .map(|task| task.id)
                .collect()
        };
        assert_eq!(ends(0, 2), [3, 1]);
        assert_eq!(ends(2, 2), [4]);
        assert!(ends(3, 2).is_empty() && ends(u64::from(u32::MAX), 2).is_empty());
    });
}

/// Format 1 did not number the ends.
#[test]
fn a_file_of_the_first_format_is_brought_up_to_date() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("flame.db");
    let old = rusqlite::Connection::open(&path).expect("opens");
    old.execute_batch(sqlite::MIGRATIONS[0]).expect("made");
    old.execute_batch(
        "INSERT INTO sessions VALUES (1, 's1', x'', 1, 10, 20), (2, 's2', x'', 1, 10, 20);
         INSERT INTO tasks VALUES
            (1, 1, 2, 10, 11, 19, x'01', zeroblob(5000), NULL), (1, 2, 3, 10, 11, 12, NULL, NULL, 'why'),
            (1, 3, 0, 10, NULL, NULL, NULL, NULL, NULL), (2, 1, 2, 10, 11, 12, NULL, NULL, NULL);
         PRAGMA user_version = 1;",
    )
    .expect("filled");
    drop(old);
    let store = open(&Storage::Sqlite(path), StorageSync::Full).expect("opens");
    let reader = store.reader().expect("opens");
    let ends = |key| -> Vec<_> {
        let rows = reader.ends(key, 0, 10).expect("reads");
        rows.iter().map(|task| (task.sequence, task.id)).collect()
    };
    assert_eq!(ends(1), [(Some(1), 2), (Some(2), 1)]);
    assert_eq!(ends(2), [(Some(1), 1)]);
    let kept = reader.task(1, 1).expect("reads").expect("is there");
    assert_eq!(kept.input.as_deref(), Some(&[1][..]));
    assert_eq!(kept.output.map(|output| output.len()), Some(5000));
}

#[test]
fn payloads_of_all_sizes_are_kept_and_go_with_their_session() {
    each_engine(|mut store| {
        store.load().expect("loads");
        store
            .commit(&[Record::SessionCreated(session(1))])
            .expect("stores");
        let sizes = [0, 1, 1024, 1025, 300_000];
        let payload = |size: usize, byte: u8| Some(Bytes::from(vec![byte; size]));
        for (id, size) in (1..).zip(sizes) {
            let created = TaskRow {
                input: payload(size, 1),
                ..task(1, id)
            };
            let finished = TaskRow {
                input: payload(size, 1),
                output: payload(sizes[4 - (id as usize - 1)], 2),
                ..ended(1, id, TaskState::Succeed)
            };
            let records = [
                Record::TaskCreated(created),
                Record::TaskFinished(Arc::new(finished.clone())),
            ];
            store.commit(&records).expect("stores");
            let reader = store.reader().expect("opens");
            assert_eq!(reader.task(1, id).expect("reads"), Some(finished.clone()));
            assert_eq!(
                reader.ends(1, id - 1, 1).expect("reads"),
                [finished],
                "{size} bytes"
            );
        }
        let payloads: u64 = sizes.iter().map(|size| 2 * *size as u64).sum();
        let upkeep = store.upkeep().expect("opens");
        assert!(upkeep.session_size(1).expect("measured") >= payloads);
        store.commit(&[Record::SessionRemoved(1)]).expect("stores");
        tidy(store.as_mut());
        assert!(upkeep.session_size(1).expect("measured") < 1024);
    });
}

/// Nodes stay out of service over a restart, each for the latest reason.
#[test]
fn cordons_are_kept_until_they_are_taken_back() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let cordon = |node: &str, drain, reason: Option<&str>| Cordon {
        node: NodeName::new(node).expect("valid"),
        drain,
        reason: reason.map(str::to_owned),
        since: 5,
    };
    let mut store = sqlite(&directory);
    let records = [
        Record::NodeCordoned(cordon("a", false, None)),
        Record::NodeCordoned(cordon("b", true, Some("a new kernel"))),
        Record::NodeCordoned(cordon("a", true, Some("a new disk"))),
        Record::NodeCordoned(cordon("c", false, None)),
        Record::NodeUncordoned(NodeName::new("c").expect("valid")),
    ];
    store.commit(&records).expect("stored");
    drop(store);
    let loaded = sqlite(&directory).load().expect("loads").cordons;
    let expected = [
        cordon("a", true, Some("a new disk")),
        cordon("b", true, Some("a new kernel")),
    ];
    assert_eq!(loaded, expected);
}

#[test]
fn identities_are_kept_until_their_nodes_are_forgotten() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let name = |node: &str| NodeName::new(node).expect("valid");
    let identity = |node: &str, id: &str| NodeIdentity {
        node: name(node),
        id: id.to_owned(),
        hostname: format!("host of {id}"),
    };
    let records = [
        Record::NodeIdentified(identity("a", "1")),
        Record::NodeIdentified(identity("b", "2")),
        Record::NodeForgotten(name("b")),
        Record::NodeIdentified(identity("b", "3")),
        Record::NodeIdentified(identity("c", "4")),
        Record::NodeForgotten(name("c")),
    ];
    sqlite(&directory).commit(&records).expect("stored");
    let loaded = sqlite(&directory).load().expect("loads").identities;
    assert_eq!(loaded, [identity("a", "1"), identity("b", "3")]);
}

/// Logs are looked for there, also after a restart.
#[test]
fn nodes_of_sessions_are_kept_as_long_as_the_session() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let name = |node: &str| NodeName::new(node).expect("valid");
    let ran_on = |session, node: Option<&str>| Record::SessionRanOn {
        session,
        node: node.map(name),
    };
    let rows = || {
        let path = directory.path().join("flame.db");
        let connection = rusqlite::Connection::open(path).expect("opens");
        let count = connection.query_row("SELECT count(*) FROM session_nodes", [], |row| row.get(0));
        count.expect("counted")
    };
    let mut store = sqlite(&directory);
    store
        .commit(&[
            Record::SessionCreated(session(1)),
            Record::SessionCreated(session(2)),
            Record::SessionCreated(session(3)),
            ran_on(1, Some("b")),
            ran_on(2, Some("a")),
            ran_on(1, Some("a")),
            ran_on(2, None),
            closed(1, 33),
        ])
        .expect("stored");
    let loaded = |store: &mut Box<dyn Store>| -> Vec<RanOn> {
        let sessions = store.load().expect("loads").sessions;
        sessions.into_iter().map(|session| session.ran_on).collect()
    };
    let known = |nodes: &[&str], complete| RanOn {
        nodes: nodes.iter().map(|node| name(node)).collect(),
        complete,
    };
    let expected = [known(&["a", "b"], true), known(&["a"], false), known(&[], true)];
    assert_eq!(loaded(&mut store), expected);
    let all: u64 = rows();
    assert_eq!(all, 3);
    store.commit(&[Record::SessionRemoved(1)]).expect("removed");
    tidy(store.as_mut());
    assert_eq!(loaded(&mut store), expected[1..]);
    assert_eq!(rows(), 1, "they go with their session");
}

/// Format 7 did not say where sessions ran: all nodes are asked about those.
#[test]
fn of_sessions_of_an_older_format_the_nodes_are_not_known() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let old = rusqlite::Connection::open(directory.path().join("flame.db")).expect("opens");
    for migration in &sqlite::MIGRATIONS[..7] {
        old.execute_batch(migration).expect("made");
    }
    let spec = prost::Message::encode_to_vec(&session(1).spec());
    old.execute(
        "INSERT INTO sessions (key, id, spec, state, created) VALUES (1, 's1', ?, 0, 11)",
        [spec],
    )
    .expect("filled");
    old.pragma_update(None, "user_version", 7).expect("written");
    drop(old);
    let mut store = sqlite(&directory);
    store
        .commit(&[Record::SessionCreated(session(2))])
        .expect("stored");
    let sessions = store.load().expect("loads").sessions;
    let complete: Vec<bool> = sessions.iter().map(|session| session.ran_on.complete).collect();
    assert_eq!(complete, [false, true]);
}
