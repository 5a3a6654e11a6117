//! Closed sessions: what stays of them, and for how long.

use bytes::Bytes;
use flame_core::config::cluster::Retention;

use super::*;
use crate::core::retention::CLOSED_EVENTS;

const HOUR: Duration = Duration::from_secs(60 * 60);

fn kept_for(retention: Retention, max_sessions: Option<usize>) -> Bed {
    let mut config = config();
    config.retention = retention;
    config.limits.max_sessions = max_sessions;
    let snapshot = Snapshot {
        generation: 1,
        ..Snapshot::default()
    };
    Bed::with(config, snapshot)
}

fn closed_session(bed: &mut Bed, id: &str) {
    bed.session(id, spec("app"));
    close(bed, id);
}

fn close(bed: &mut Bed, id: &str) {
    bed.run(|core, now, fx| core.close_session(id, now, fx))
        .expect("closed");
}

fn sessions(bed: &Bed) -> Vec<String> {
    let listed = bed.core.list_sessions().sessions;
    let id = |session: v1::Session| session.metadata.expect("has an id").id;
    listed.into_iter().map(id).collect()
}

fn removed(bed: &Bed) -> Vec<SessionKey> {
    let key = |record: &Record| match record {
        Record::SessionRemoved(key) => Some(*key),
        _ => None,
    };
    bed.records.iter().filter_map(key).collect()
}

#[test]
fn sessions_go_in_the_order_in_which_they_were_closed() {
    let mut bed = kept_for(Retention::default(), Some(2));
    for id in ["a", "b", "c", "open"] {
        bed.session(id, spec("app"));
    }
    for id in ["c", "a", "b"] {
        bed.wait(HOUR);
        close(&mut bed, id);
    }
    assert_eq!(sessions(&bed), ["a", "b", "open"]);
    assert_eq!(removed(&bed), [3]);
}

#[test]
fn old_sessions_go_without_anybody_asking() {
    let max_age = Some(10 * HOUR);
    let mut bed = kept_for(
        Retention {
            max_age,
            max_size: None,
        },
        None,
    );
    assert_eq!(bed.core.next_deadline(bed.now), None, "nothing is to be done");
    closed_session(&mut bed, "a");
    let at = bed.now.mono + 10 * HOUR;
    assert_eq!(bed.core.next_deadline(bed.now), Some(at));
    bed.wait(HOUR);
    closed_session(&mut bed, "b");
    bed.session("open", spec("app"));
    bed.wait(9 * HOUR - Duration::from_millis(1));
    assert_eq!(sessions(&bed), ["a", "b", "open"]);
    assert_eq!(bed.core.next_deadline(bed.now), Some(at));
    bed.wait(Duration::from_millis(1));
    assert_eq!(sessions(&bed), ["b", "open"]);
    bed.wait(HOUR);
    assert_eq!(sessions(&bed), ["open"]);
    bed.wait(100 * HOUR);
    assert_eq!(sessions(&bed), ["open"], "an open session is never old");
}

#[test]
fn a_clock_that_is_set_back_removes_nothing() {
    let max_age = Some(HOUR);
    let mut bed = kept_for(
        Retention {
            max_age,
            max_size: None,
        },
        None,
    );
    closed_session(&mut bed, "a");
    bed.now.wall -= 1_000_000_000;
    bed.run(|_, _, _| ());
    assert_eq!(sessions(&bed), ["a"]);
    assert_eq!(bed.core.next_deadline(bed.now), Some(bed.now.mono + HOUR));
}

#[test]
fn a_thousand_surplus_sessions_are_removed_a_few_at_a_time() {
    let mut bed = kept_for(Retention::default(), None);
    for number in 0..1000 {
        closed_session(&mut bed, &format!("s{number}"));
    }
    bed.core.config.limits.max_sessions = Some(10);
    let mut turns = 0;
    while bed.core.next_deadline(bed.now) == Some(bed.now.mono) {
        let before = removed(&bed).len();
        bed.run(|_, _, _| ());
        assert!(removed(&bed).len() - before <= 256);
        turns += 1;
    }
    assert_eq!((sessions(&bed).len(), turns), (10, 4));
    assert_eq!(removed(&bed), (1..=990).collect::<Vec<_>>());
}

#[test]
fn too_much_state_removes_as_many_sessions_as_it_takes() {
    let max_size = Some(1000);
    let mut bed = kept_for(
        Retention {
            max_age: None,
            max_size,
        },
        None,
    );
    for id in ["a", "b", "c"] {
        closed_session(&mut bed, id);
    }
    bed.session("open", spec("app"));
    assert!(bed.core.sessions_to_free_space(1000, 9).is_empty());
    assert_eq!(bed.core.sessions_to_free_space(1001, 2), [1, 2]);
    assert_eq!(bed.core.sessions_to_free_space(1500, 9), [1, 2, 3]);
    let sizes = [(1, 300), (4, 300), (99, 300), (2, 200), (3, 100)];
    bed.run(|core, _, fx| core.free_space(1500, &sizes, fx));
    assert_eq!(
        sessions(&bed),
        ["c", "open"],
        "what is open or gone frees nothing"
    );
    assert_eq!(removed(&bed), [1, 2]);
}

#[test]
fn little_of_a_closed_session_stays_in_memory() {
    let mut bed = kept_for(Retention::default(), None);
    let with_data = |size: usize| SessionSpec {
        common_data: Some(Bytes::from(vec![7; size])),
        ..spec("app")
    };
    bed.session("large", with_data(1025));
    bed.session("small", with_data(1024));
    bed.tasks("large", 50);
    for _ in 0..MAX_EVENTS {
        bed.run(|core, now, fx| core.session_event(1, 1001, "it failed".to_owned(), now, fx));
    }
    assert_eq!(bed.core.common_data_in_store("large"), None);
    let answer = bed.run(|core, now, fx| core.close_session("large", now, fx));
    let shown = |session: v1::Session| session.spec.expect("shown").common_data.map(|data| data.len());
    assert_eq!(
        shown(answer.expect("closed")),
        Some(1025),
        "the answer has everything"
    );
    close(&mut bed, "small");
    let kept = &bed.core.sessions[&1];
    assert_eq!(
        (kept.events.len(), kept.live.len(), kept.pending.len()),
        (CLOSED_EVENTS, 0, 0)
    );
    assert_eq!(kept.cancelled, 50);
    assert_eq!(bed.core.common_data_in_store("large"), Some(1));
    assert_eq!(bed.core.common_data_in_store("small"), None);
    let listed = bed.core.list_sessions().sessions.into_iter().map(shown);
    assert_eq!(listed.collect::<Vec<_>>(), [None, Some(1024)]);
    bed.run(|core, _, fx| core.delete_session("large", fx))
        .expect("deleted");
    bed.session("large", spec("app"));
    assert_eq!(
        bed.core.common_data_in_store("large"),
        None,
        "it is another session"
    );
}

#[test]
fn a_restart_knows_which_sessions_are_closed() {
    let mut old = kept_for(Retention::default(), None);
    for id in ["a", "b"] {
        closed_session(&mut old, id);
    }
    old.session("open", spec("app"));
    let mut snapshot = Snapshot {
        last_session: 7,
        ..old.stored(0)
    };
    for session in &mut snapshot.sessions {
        session.common_data_in_store = session.row.key == 2;
    }
    let mut limited = config();
    limited.limits.max_sessions = Some(1);
    let mut bed = Bed::with(limited, snapshot);
    bed.run(|_, _, _| ());
    assert_eq!(sessions(&bed), ["b", "open"]);
    assert_eq!(bed.core.common_data_in_store("b"), Some(2));
    bed.session("new", spec("app"));
    let key = bed.core.session_progress("new").expect("made").key;
    assert_eq!(key, 8, "the key of a removed session does not come again");
}

#[test]
fn executors_of_the_state_before_a_restore_are_released() {
    let mut old = kept_for(Retention::default(), None);
    old.session("s", spec("app"));
    old.tasks("s", 1);
    let snapshot = Snapshot {
        generation: 9,
        restored_generation: 7,
        ..old.stored(1)
    };
    let mut bed = Bed::with(config(), snapshot);
    let reported = |id: &str, tasks| node::RunningExecutor {
        executor_id: id.to_owned(),
        session_id: "s".to_owned(),
        application: "app".to_owned(),
        session_number: 1,
        bound: true,
        tasks,
        ..node::RunningExecutor::default()
    };
    // Task 1 may be another one in the state that is gone.
    let attempt = node::TaskAttempt {
        task_id: 1,
        attempt: 7 << 40 | 5,
    };
    let executors = vec![
        reported("e7-1", vec![attempt]),
        reported("e3-2", Vec::new()),
        reported("odd", Vec::new()),
        reported("e8-1", Vec::new()),
    ];
    bed.connect("n", 2, executors);
    assert_eq!(bed.releasing, ["e7-1", "e3-2", "odd"]);
    let [(executor, task)] = bed.handed.as_slice() else {
        panic!("the task is handed out anew")
    };
    assert_eq!((executor.as_str(), task.attempt >> 40), ("e8-1", 9));
}
