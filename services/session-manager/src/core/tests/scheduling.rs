//! Who gets executors, where, and who has to give them back.

use super::*;

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected
        .into_iter()
        .map(|(id, count)| (id.to_owned(), count))
        .collect()
}

#[test]
fn one_pass_starts_all_that_fits_and_never_more() {
    let mut bed = Bed::new();
    bed.session("s", spec("app"));
    bed.tasks("s", 10);
    assert!(bed.started.is_empty(), "there is no node");
    let link = bed.node("n", 4);
    assert_eq!(bed.sessions_of_executors(), counts([("s", 4)]));
    bed.bind_all(link);
    assert_eq!(bed.handed.len(), 4, "one task each");
    assert_eq!(bed.finish_handed(link), counts([("s", 4)]));
    assert_eq!(bed.handed.len(), 4, "the next ones follow at once");
}

#[test]
fn instances_are_bounded_by_demand_session_application_and_node() {
    let bounded = |session: SessionSpec, application: ApplicationSpec, max_executors| {
        let mut limited = config();
        limited.limits.max_executors = max_executors;
        let mut bed = Bed::with(limited, Snapshot::default());
        bed.application("bounded", application);
        bed.session(
            "s",
            SessionSpec {
                application: "bounded".to_owned(),
                ..session
            },
        );
        bed.tasks("s", 5);
        bed.node("n", 100);
        bed.started.len()
    };
    let one = |max: Option<u32>| ApplicationSpec {
        max_instances: max,
        ..Default::default()
    };
    assert_eq!(bounded(spec("app"), one(None), 128), 5);
    assert_eq!(
        bounded(
            SessionSpec {
                max_instances: Some(2),
                ..spec("app")
            },
            one(None),
            128
        ),
        2
    );
    assert_eq!(
        bounded(
            SessionSpec {
                min_instances: 7,
                ..spec("app")
            },
            one(None),
            128
        ),
        7
    );
    assert_eq!(bounded(spec("app"), one(Some(3)), 128), 3);
    assert_eq!(bounded(spec("app"), one(None), 4), 4);
}

#[test]
fn higher_priority_is_served_first() {
    let mut bed = Bed::new();
    bed.session("low", spec("app"));
    bed.session(
        "high",
        SessionSpec {
            priority: 5,
            ..spec("app")
        },
    );
    bed.tasks("low", 5);
    bed.tasks("high", 3);
    bed.node("n", 4);
    assert_eq!(bed.sessions_of_executors(), counts([("high", 3), ("low", 1)]));
}

#[test]
fn equal_sessions_share_and_a_new_one_gets_its_share_between_tasks() {
    let mut bed = Bed::new();
    let link = bed.node("n", 4);
    bed.session("first", spec("app"));
    bed.tasks("first", 100);
    bed.bind_all(link);
    assert_eq!(bed.sessions_of_executors(), counts([("first", 4)]));
    bed.session("second", spec("app"));
    bed.tasks("second", 100);
    assert!(bed.releasing.is_empty(), "a running task is not interrupted");
    bed.finish_handed(link);
    bed.release_all(link);
    bed.bind_all(link);
    assert_eq!(bed.sessions_of_executors(), counts([("first", 2), ("second", 2)]));
    for _ in 0..10 {
        assert_eq!(bed.finish_handed(link), counts([("first", 2), ("second", 2)]));
        assert!(bed.releasing.is_empty(), "and so it stays");
    }
}

/// Defect 24: idle executors of two sessions held all CPUs for delay_release.
#[test]
fn idle_executors_give_way_at_once() {
    let mut bed = Bed::new();
    let link = bed.node("n", 2);
    for id in ["a", "b"] {
        bed.session(id, spec("app"));
        bed.tasks(id, 1);
    }
    bed.bind_all(link);
    bed.finish_handed(link);
    bed.session("c", spec("app"));
    bed.tasks("c", 1);
    bed.wait(Duration::from_millis(20));
    assert_eq!(bed.releasing.len(), 1, "one is enough");
    bed.release_all(link);
    assert_eq!(bed.sessions_of_executors().get("c"), Some(&1));
}

#[test]
fn an_executor_without_work_is_released_after_its_delay_and_the_minimum_is_kept() {
    let mut bed = Bed::new();
    let link = bed.node("n", 4);
    bed.application(
        "quick",
        ApplicationSpec {
            delay_release: Some(5),
            ..Default::default()
        },
    );
    bed.session(
        "s",
        SessionSpec {
            min_instances: 1,
            ..spec("quick")
        },
    );
    bed.tasks("s", 3);
    bed.bind_all(link);
    bed.finish_handed(link);
    bed.wait(Duration::from_secs(4));
    assert!(bed.releasing.is_empty());
    bed.wait(Duration::from_secs(1));
    assert_eq!(bed.releasing.len(), 2);
    bed.release_all(link);
    for _ in 0..6 {
        bed.wait(Duration::from_secs(10));
        bed.say(link, from_agent::Message::Heartbeat(node::Heartbeat::default()));
    }
    assert_eq!(bed.sessions_of_executors(), counts([("s", 1)]));
}

/// More sessions than places, all with endless work: each gets its turn.
#[test]
fn nobody_starves_when_there_are_more_sessions_than_places() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    let mut served: BTreeMap<String, usize> = BTreeMap::new();
    for id in ["a", "b", "c"] {
        bed.session(id, spec("app"));
        bed.tasks(id, 1000);
    }
    for second in 0..60 {
        bed.bind_all(link);
        for (id, count) in bed.finish_handed(link) {
            *served.entry(id).or_default() += count;
        }
        bed.wait(Duration::from_millis(250));
        bed.release_all(link);
        if second % 10 == 0 {
            // The agent is heard of, or the node would be lost.
            bed.say(link, from_agent::Message::Heartbeat(node::Heartbeat::default()));
        }
    }
    assert!(
        served.len() == 3 && served.values().all(|count| *count > 10),
        "{served:?}"
    );
}

#[test]
fn large_executors_wait_for_room_instead_of_being_split_or_overcommitted() {
    let mut bed = Bed::new();
    let link = bed.node("n", 4);
    let large = SessionSpec {
        resreq: Some(
            Resources {
                cpu: 3,
                memory: 1,
                gpu: 0,
            }
            .into(),
        ),
        ..spec("app")
    };
    bed.session("small", spec("app"));
    bed.tasks("small", 2);
    bed.bind_all(link);
    bed.session("large", large);
    bed.tasks("large", 1);
    assert_eq!(bed.sessions_of_executors(), counts([("small", 2)]));
    bed.finish_handed(link);
    bed.wait(Duration::from_millis(20));
    bed.release_all(link);
    assert_eq!(bed.sessions_of_executors().get("large"), Some(&1));
}

#[test]
fn an_application_for_another_shim_waits() {
    let mut bed = Bed::new();
    bed.node("n", 4);
    bed.application(
        "wasm",
        ApplicationSpec {
            shim: flame_rpc::v1::Shim::Wasm.into(),
            ..Default::default()
        },
    );
    bed.session("s", spec("wasm"));
    bed.tasks("s", 1);
    bed.wait(Duration::from_secs(10));
    assert!(bed.started.is_empty());
    assert_eq!(
        bed.core
            .get_session("s")
            .expect("there")
            .status
            .expect("set")
            .pending,
        1
    );
}

#[test]
fn executors_are_packed() {
    let mut bed = Bed::new();
    bed.node("big", 8);
    bed.node("small", 2);
    bed.session("s", spec("app"));
    bed.tasks("s", 2);
    let nodes: Vec<_> = bed
        .core
        .list_executors()
        .executors
        .iter()
        .map(|e| e.spec.clone().expect("set").node)
        .collect();
    assert_eq!(nodes, ["small", "small"]);
}

/// Nothing to do means nothing to wake up for but the nodes' own silence.
#[test]
fn an_idle_core_sleeps() {
    let mut bed = Bed::new();
    assert_eq!(bed.core.next_deadline(bed.now), None);
    bed.node("n", 1);
    bed.session("s", spec("app"));
    assert_eq!(
        bed.core.next_deadline(bed.now),
        Some(bed.now.mono + Duration::from_secs(15))
    );
}

/// A node with labels connects.
fn labelled(bed: &mut Bed, name: &str, cpu: u64, labels: &[&str]) -> LinkId {
    let link = 100 + bed.core.nodes.len() as u64;
    let labels: BTreeSet<_> = labels.iter().map(|label| (*label).to_owned()).collect();
    let hello = NodeHello {
        labels: Arc::new(labels),
        ..Bed::hello(name, cpu)
    };
    bed.run(|core, now, fx| core.node_connected(link, "test", hello, Vec::new(), now, fx));
    link
}

fn nodes_of_executors(bed: &Bed) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for executor in bed.core.executors.values() {
        *count.entry(executor.node.to_string()).or_default() += 1;
    }
    count
}

#[test]
fn a_selector_chooses_nodes_by_their_labels() {
    let mut bed = Bed::new();
    labelled(&mut bed, "plain", 4, &[]);
    labelled(&mut bed, "a", 1, &["zone=a"]);
    labelled(&mut bed, "ab", 1, &["zone=a", "disk=ssd"]);
    let selecting = |selector: &[(&str, &str)]| SessionSpec {
        node_selector: selector
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..spec("app")
    };
    bed.session("both", selecting(&[("zone", "a"), ("disk", "ssd")]));
    bed.tasks("both", 5);
    assert_eq!(nodes_of_executors(&bed), counts([("ab", 1)]));
    bed.session("zone", selecting(&[("zone", "a")]));
    bed.tasks("zone", 5);
    assert_eq!(nodes_of_executors(&bed), counts([("a", 1), ("ab", 1)]));
    bed.session("nowhere", selecting(&[("zone", "b")]));
    bed.tasks("nowhere", 5);
    assert_eq!(nodes_of_executors(&bed), counts([("a", 1), ("ab", 1)]));
    let refused =
        bed.run(|core, now, fx| core.create_session(&sid("bad"), selecting(&[("zone", "a b")]), now, fx));
    assert!(matches!(refused, Err(CoreError::Invalid(text)) if text.contains("zone=a b")));
}

#[test]
fn executors_are_spread_if_asked() {
    let config = CoreConfig {
        placement: Placement::Spread,
        ..config()
    };
    let mut bed = Bed::with(config, Snapshot::default());
    for name in ["n1", "n2", "n3"] {
        bed.node(name, 4);
    }
    bed.session("s", spec("app"));
    bed.tasks("s", 6);
    assert_eq!(
        nodes_of_executors(&bed),
        counts([("n1", 2), ("n2", 2), ("n3", 2)])
    );
}

#[test]
fn where_binding_failed_another_node_is_tried_first() {
    let mut bed = Bed::with(
        CoreConfig {
            bind_retries: 9,
            ..config()
        },
        Snapshot::default(),
    );
    let links = BTreeMap::from([("n1", bed.node("n1", 1)), ("n2", bed.node("n2", 2))]);
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    let only = |bed: &Bed| {
        let executor = bed.core.executors.values().next().expect("started");
        (executor.id.to_string(), executor.node.to_string())
    };
    let (first, node) = only(&bed);
    assert_eq!(node, "n1", "packed");
    bed.update(links["n1"], &first, ExecutorPhase::BindFailed, "no");
    let (second, node) = only(&bed);
    assert_eq!(node, "n2", "another one at once");
    bed.update(links["n2"], &second, ExecutorPhase::BindFailed, "no");
    assert!(bed.core.executors.is_empty(), "none is left to try for a while");
    bed.wait(Duration::from_millis(100));
    assert_eq!(only(&bed).1, "n1", "its time is over first");
}

/// An application that may have `max` executors, whatever room there is.
fn limited(bed: &mut Bed, name: &str, max: u32) {
    let spec = ApplicationSpec {
        max_instances: Some(max),
        ..ApplicationSpec::default()
    };
    bed.application(name, spec);
}

fn urgent(application: &str) -> SessionSpec {
    SessionSpec {
        priority: 5,
        ..spec(application)
    }
}

fn on(application: &str, label: (&str, &str)) -> SessionSpec {
    SessionSpec {
        node_selector: [(label.0.to_owned(), label.1.to_owned())].into(),
        ..spec(application)
    }
}

/// A session that came second waited until the first one was done, although it had nothing to do.
#[test]
fn at_the_limit_of_an_application_an_idle_executor_gives_way_at_once() {
    let mut bed = Bed::new();
    let link = bed.node("n", 10);
    limited(&mut bed, "two", 2);
    bed.session("a", spec("two"));
    bed.tasks("a", 2);
    bed.bind_all(link);
    bed.finish_handed(link);
    bed.session("b", spec("two"));
    bed.tasks("b", 1);
    bed.wait(Duration::from_millis(20));
    assert_eq!(bed.releasing.len(), 1, "one is enough");
    assert_eq!(bed.started.len(), 2, "its process still exists");
    bed.release_all(link);
    assert_eq!(bed.sessions_of_executors(), counts([("a", 1), ("b", 1)]));
}

#[test]
fn at_the_limit_of_an_application_its_sessions_share_as_they_share_nodes() {
    let mut bed = Bed::new();
    let link = bed.node("n", 10);
    limited(&mut bed, "four", 4);
    bed.session("first", spec("four"));
    bed.tasks("first", 100);
    bed.bind_all(link);
    bed.session("second", spec("four"));
    bed.tasks("second", 100);
    bed.session("other", spec("app"));
    bed.tasks("other", 3);
    bed.bind_all(link);
    assert!(bed.releasing.is_empty(), "a running task is not interrupted");
    let shared = counts([("first", 4), ("other", 3)]);
    assert_eq!(
        bed.sessions_of_executors(),
        shared,
        "the others are not concerned"
    );
    bed.finish_handed(link);
    bed.release_all(link);
    bed.bind_all(link);
    let only_of_the_application = |mut found: BTreeMap<String, usize>| {
        found.remove("other");
        found
    };
    let half = counts([("first", 2), ("second", 2)]);
    assert_eq!(only_of_the_application(bed.sessions_of_executors()), half);
    for _ in 0..10 {
        assert_eq!(bed.finish_handed(link), half);
        assert!(bed.releasing.is_empty(), "and so it stays");
    }
}

#[test]
fn at_the_limit_of_an_application_the_higher_priority_gets_everything_between_tasks() {
    let mut bed = Bed::new();
    let link = bed.node("n", 10);
    limited(&mut bed, "three", 3);
    bed.session("low", spec("three"));
    bed.tasks("low", 100);
    bed.bind_all(link);
    bed.session("high", urgent("three"));
    bed.tasks("high", 100);
    bed.finish_handed(link);
    assert_eq!(bed.releasing.len(), 3);
    assert_eq!(bed.started.len(), 3, "not one more than the limit");
    bed.release_all(link);
    bed.bind_all(link);
    assert_eq!(bed.sessions_of_executors(), counts([("high", 3)]));
}

#[test]
fn at_the_limit_of_an_application_everybody_gets_a_turn() {
    let mut bed = Bed::new();
    let link = bed.node("n", 10);
    limited(&mut bed, "one", 1);
    let mut served: BTreeMap<String, usize> = BTreeMap::new();
    for id in ["a", "b", "c"] {
        bed.session(id, spec("one"));
        bed.tasks(id, 1000);
    }
    for quarter in 0..60 {
        bed.bind_all(link);
        for (id, count) in bed.finish_handed(link) {
            *served.entry(id).or_default() += count;
        }
        bed.wait(Duration::from_millis(250));
        bed.release_all(link);
        assert!(bed.started.len() <= 1, "at no time two processes");
        if quarter % 10 == 0 {
            bed.say(link, from_agent::Message::Heartbeat(node::Heartbeat::default()));
        }
    }
    assert!(
        served.len() == 3 && served.values().all(|count| *count > 10),
        "{served:?}"
    );
}

/// Nobody gives up a place of the application to one who has no room to use it.
#[test]
fn at_the_limit_of_an_application_no_place_is_given_up_in_vain() {
    let mut bed = Bed::new();
    let link = bed.node("n", 10);
    limited(&mut bed, "one", 1);
    bed.session("a", spec("one"));
    bed.tasks("a", 1000);
    bed.bind_all(link);
    let nowhere = SessionSpec {
        priority: 5,
        ..on("one", ("zone", "b"))
    };
    bed.session("b", nowhere);
    bed.tasks("b", 1);
    for _ in 0..20 {
        assert_eq!(bed.finish_handed(link), counts([("a", 1)]));
        bed.wait(Duration::from_millis(250));
        assert!(bed.releasing.is_empty());
        bed.say(link, from_agent::Message::Heartbeat(node::Heartbeat::default()));
    }
}

/// The room is held by another application, and the place by a session of its own.
#[test]
fn at_the_limit_of_an_application_room_and_place_may_come_from_different_sessions() {
    let mut bed = Bed::new();
    let own = labelled(&mut bed, "own", 1, &["zone=a"]);
    let others = labelled(&mut bed, "others", 1, &["zone=b"]);
    limited(&mut bed, "one", 1);
    bed.session("sibling", on("one", ("zone", "a")));
    bed.session("stranger", on("app", ("zone", "b")));
    bed.tasks("sibling", 100);
    bed.tasks("stranger", 100);
    let links = [("sibling", own), ("stranger", others)];
    let bind = |bed: &mut Bed| {
        for (id, start) in bed.started.clone() {
            let link = links.iter().find(|(session, _)| *session == start.session_id);
            bed.update(
                link.map_or(others, |(_, link)| *link),
                &id,
                ExecutorPhase::Bound,
                "",
            );
        }
    };
    bind(&mut bed);
    assert_eq!(
        bed.sessions_of_executors(),
        counts([("sibling", 1), ("stranger", 1)])
    );
    let taker = SessionSpec {
        priority: 5,
        ..on("one", ("zone", "b"))
    };
    bed.session("taker", taker);
    bed.tasks("taker", 1);
    for (executor, task) in std::mem::take(&mut bed.handed) {
        let session = bed.started[&executor].session_id.clone();
        let link = links
            .iter()
            .find(|(name, _)| *name == session)
            .expect("one of two")
            .1;
        bed.results(link, vec![Bed::done(&executor, &task, 0)]);
    }
    assert_eq!(bed.releasing.len(), 2);
    for id in bed.releasing.clone() {
        assert!(
            !bed.sessions_of_executors().contains_key("taker"),
            "it needs both to be gone"
        );
        let session = bed.started[&id].session_id.clone();
        let link = links
            .iter()
            .find(|(name, _)| *name == session)
            .expect("one of two")
            .1;
        bed.update(link, &id, ExecutorPhase::Released, "");
    }
    assert_eq!(bed.sessions_of_executors(), counts([("taker", 1)]));
}

/// The limit of a session counts processes: one that gives way still runs its task.
#[test]
fn a_session_at_its_limit_is_moved_only_when_its_process_is_gone() {
    let mut bed = Bed::new();
    let narrow = labelled(&mut bed, "narrow", 1, &["zone=a"]);
    let single = SessionSpec {
        max_instances: Some(1),
        ..spec("app")
    };
    bed.session("s", single);
    bed.tasks("s", 100);
    bed.bind_all(narrow);
    let taker = SessionSpec {
        priority: 5,
        ..on("app", ("zone", "a"))
    };
    bed.session("taker", taker);
    bed.tasks("taker", 1);
    let wide = labelled(&mut bed, "wide", 4, &[]);
    assert_eq!(bed.started.len(), 1, "there is room, but its process is not gone");
    bed.finish_handed(narrow);
    assert_eq!(bed.started.len(), 1);
    bed.release_all(narrow);
    assert_eq!(bed.sessions_of_executors(), counts([("s", 1), ("taker", 1)]));
    let nodes = nodes_of_executors(&bed);
    assert_eq!(nodes, counts([("narrow", 1), ("wide", 1)]));
    bed.bind_all(wide);
}

/// A large executor waits for the room of several small ones. Each of them that went made room
/// for another small one, so that it waited for ever.
#[test]
fn small_executors_do_not_take_the_room_that_a_large_one_waits_for() {
    let mut bed = Bed::new();
    let link = bed.node("n", 4);
    bed.session("small", spec("app"));
    bed.tasks("small", 100);
    bed.bind_all(link);
    let resreq = Resources {
        cpu: 3,
        memory: 1,
        gpu: 0,
    };
    let large = SessionSpec {
        resreq: Some(resreq.into()),
        ..urgent("app")
    };
    bed.session("large", large);
    bed.tasks("large", 1);
    let first = bed.handed.len();
    assert_eq!(first, 4);
    for round in 0..8 {
        // One task ends after the other, and each process is gone before the next.
        if bed.sessions_of_executors().contains_key("large") {
            assert!(round <= 4, "all that ran had to end, and nothing else");
            return;
        }
        let (executor, task) = bed.handed.remove(0);
        bed.results(link, vec![Bed::done(&executor, &task, 0)]);
        bed.release_all(link);
        bed.bind_all(link);
    }
    panic!("it never runs: {:?}", bed.sessions_of_executors());
}
