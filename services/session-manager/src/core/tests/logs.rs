//! Where logs are looked for, also by a session manager that was started anew.

use super::*;
use crate::core::{LogPlaces, RanOn};

fn places(bed: &Bed) -> Vec<(String, bool, bool)> {
    let LogPlaces { nodes, .. } = bed.core.log_places("s", None).expect("there");
    let place = |place: crate::core::LogPlace| (place.node.to_string(), place.link.is_some(), place.certain);
    nodes.into_iter().map(place).collect()
}

/// As [`places`] has it.
fn place(node: &str, connected: bool, certain: bool) -> (String, bool, bool) {
    (node.to_owned(), connected, certain)
}

#[test]
fn the_nodes_of_a_session_are_known_after_a_restart() {
    let mut old = Bed::new();
    old.session("s", spec("app"));
    old.node("b", 1);
    old.node("a", 1);
    old.tasks("s", 2);
    old.node("idle", 1);
    let expected = [place("a", true, true), place("b", true, true)];
    assert_eq!(places(&old), expected);
    let noted = |record: &&Record| matches!(record, Record::SessionRanOn { node: Some(_), .. });
    assert_eq!(old.records.iter().filter(noted).count(), 2, "each once");

    let mut bed = Bed::with(config(), old.stored(2));
    bed.node("idle", 1);
    let away = [place("a", false, true), place("b", false, true)];
    assert_eq!(places(&bed)[..2], away, "nobody was heard of yet");
    bed.node("b", 1);
    assert_eq!(places(&bed)[1], place("b", true, true));
}

#[test]
fn all_nodes_are_asked_about_a_session_of_which_some_are_not_known() {
    let mut old = Bed::new();
    old.session("s", spec("app"));
    let mut stored = old.stored(0);
    stored.sessions[0].ran_on = RanOn {
        nodes: vec![name("gone")],
        complete: false,
    };
    let mut bed = Bed::with(config(), stored);
    bed.node("n", 1);
    assert_eq!(
        places(&bed),
        [place("gone", false, true), place("n", true, false)]
    );
}

/// The order to start an executor left, and the record of its node was lost with the crash.
#[test]
fn a_node_that_says_that_it_runs_the_session_is_noted() {
    let (old, _) = bound(1, 1);
    let mut stored = old.stored(1);
    stored.sessions[0].ran_on.nodes.clear();
    let (executor, _) = &old.handed[0];
    let running = old.running(executor, &[]);
    let mut bed = Bed::with(config(), stored);
    assert_eq!(places(&bed), []);
    bed.started
        .insert(executor.clone(), old.started[executor].clone());
    bed.connect("n", 1, vec![running]);
    assert_eq!(places(&bed), [place("n", true, true)]);
    let noted = |record: &Record| matches!(record, Record::SessionRanOn { node: Some(_), .. });
    assert!(bed.records.iter().any(noted));
}
