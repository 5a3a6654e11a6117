//! Calls that come twice make their tasks once.

use flame_core::config::cluster::{Storage, StorageSync};

use super::*;
use crate::core::requests::MAX_REQUESTS;
use crate::store;

fn once(bed: &mut Bed, id: &[u8], count: usize) -> Result<TaskId, CoreError> {
    bed.run(|core, now, fx| core.create_tasks_once("s", id, vec![None; count], now, fx))
}

fn bed() -> Bed {
    let mut bed = Bed::new();
    bed.session("s", spec("app"));
    bed
}

#[test]
fn a_repeated_call_gets_the_first_answer_and_makes_nothing() {
    let mut bed = bed();
    assert_eq!(once(&mut bed, b"one", 3), Ok(1));
    assert_eq!(once(&mut bed, b"two", 2), Ok(4));
    bed.records.clear();
    assert_eq!(once(&mut bed, b"one", 3), Ok(1));
    assert_eq!(once(&mut bed, b"two", 2), Ok(4));
    assert!(bed.records.is_empty(), "{:?}", bed.records);
    assert_eq!(once(&mut bed, b"three", 1), Ok(6));
}

#[test]
fn an_id_means_one_call_of_one_session() {
    let mut bed = bed();
    bed.session("other", spec("app"));
    assert_eq!(once(&mut bed, b"one", 3), Ok(1));
    let other = bed.run(|core, now, fx| core.create_tasks_once("other", b"one", vec![None; 2], now, fx));
    assert_eq!(other, Ok(1), "other sessions have ids of their own");
    match once(&mut bed, b"one", 4) {
        Err(CoreError::Invalid(text)) => assert!(text.contains("for 3 tasks and not for 4"), "{text}"),
        other => panic!("{other:?}"),
    }
    for wrong in [&[][..], &[7; 65][..]] {
        let refused = once(&mut bed, wrong, 1);
        assert!(matches!(refused, Err(CoreError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(once(&mut bed, &[7; 64], 1), Ok(4));
}

#[test]
fn the_latest_calls_of_an_open_session_are_remembered() {
    let mut bed = bed();
    for call in 0..=MAX_REQUESTS as u64 {
        assert_eq!(once(&mut bed, &call.to_be_bytes(), 1), Ok(call + 1));
    }
    assert_eq!(once(&mut bed, &1u64.to_be_bytes(), 1), Ok(2), "still known");
    let next = MAX_REQUESTS as u64 + 2;
    assert_eq!(once(&mut bed, &0u64.to_be_bytes(), 1), Ok(next), "forgotten");
    bed.run(|core, now, fx| core.close_session("s", now, fx))
        .expect("closed");
    let closed = once(&mut bed, &next.to_be_bytes(), 1);
    assert_eq!(
        closed,
        Err(CoreError::Invalid("session s is not open".to_owned()))
    );
}

/// What a killed manager had answered, the next one answers again.
#[test]
fn a_restart_forgets_no_call() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let storage = Storage::Sqlite(directory.path().join("flame.db"));
    let open = || store::open(&storage, StorageSync::Full).expect("opens");
    let mut first = open();
    let mut bed = Bed::with(config(), first.load().expect("loads"));
    bed.session("s", spec("app"));
    for call in 0..MAX_REQUESTS as u64 + 10 {
        assert_eq!(once(&mut bed, &call.to_be_bytes(), 2), Ok(2 * call + 1));
    }
    first.commit(&bed.records).expect("stores");
    drop(first);

    let mut second = open();
    let mut bed = Bed::with(config(), second.load().expect("loads"));
    for call in 10..MAX_REQUESTS as u64 + 10 {
        assert_eq!(once(&mut bed, &call.to_be_bytes(), 2), Ok(2 * call + 1));
    }
    assert!(
        bed.records
            .iter()
            .all(|record| !matches!(record, Record::TaskCreated(_)))
    );
    let new = 2 * (MAX_REQUESTS as u64 + 10) + 1;
    assert_eq!(
        once(&mut bed, &9u64.to_be_bytes(), 2),
        Ok(new),
        "beyond the bound"
    );
    bed.run(|core, now, fx| core.close_session("s", now, fx))
        .expect("closed");
    second.commit(&bed.records).expect("stores");
    let snapshot = second.load().expect("loads");
    assert!(
        snapshot.sessions[0].requests.is_empty(),
        "closed sessions take no more calls"
    );
}
