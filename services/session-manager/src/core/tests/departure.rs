//! Nodes that ask whether they may leave, ephemeral ones, and nodes with other labels than before.

use super::*;

fn connect(
    bed: &mut Bed,
    link: LinkId,
    change: impl FnOnce(&mut NodeHello),
    running: Vec<node::RunningExecutor>,
) {
    let mut hello = Bed::hello("n", 4);
    change(&mut hello);
    bed.run(|core, now, fx| core.node_connected(link, "test", hello, running, now, fx));
}

fn ask(bed: &mut Bed, link: LinkId) -> bool {
    let request = node::LeaveRequest {
        reason: "idle".to_owned(),
    };
    bed.say(link, from_agent::Message::LeaveRequest(request));
    bed.leave_answers.pop().expect("answered")
}

#[test]
fn an_idle_node_may_leave_and_gets_nothing_from_then_on() {
    let mut bed = Bed::new();
    let link = bed.node("n", 2);
    assert!(ask(&mut bed, link));
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    assert!(bed.started.is_empty());
    assert!(ask(&mut bed, link), "asked again, the answer is the same");
    // Its answer may be lost with the link; on a new one it is a node like others.
    bed.node("n", 2);
    assert_eq!(bed.started.len(), 1);
}

#[test]
fn a_node_that_was_just_given_work_may_not_leave() {
    let mut bed = Bed::new();
    let link = bed.node("n", 2);
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    assert!(!ask(&mut bed, link), "the order crosses the question");
    bed.bind_all(link);
    bed.finish(link, 0);
    assert_eq!(bed.ended.len(), 1, "and nothing has changed for it");
}

#[test]
fn an_ephemeral_node_serves_one_session_and_is_forgotten() {
    let mut bed = Bed::new();
    bed.session("a", spec("app"));
    bed.session("b", spec("app"));
    bed.tasks("a", 3);
    bed.tasks("b", 3);
    let ephemeral = |hello: &mut NodeHello| {
        hello.id = "id".to_owned();
        hello.ephemeral = true;
    };
    connect(&mut bed, 1, ephemeral, Vec::new());
    bed.wait(Duration::ZERO);
    let sessions = |bed: &Bed| -> Vec<_> {
        bed.started
            .values()
            .map(|start| start.session_id.clone())
            .collect()
    };
    assert_eq!(sessions(&bed), ["a"; 3], "room for four, and three are wanted");
    assert_eq!(bed.codes("b"), ["node_reserved"]);
    // The same agent comes back without the manager, which was started anew.
    bed.tasks("a", 1);
    let running: Vec<_> = bed.started.keys().map(|id| bed.running(id, &[])).collect();
    connect(&mut bed, 2, ephemeral, running);
    assert!(sessions(&bed).iter().all(|session| session == "a"));
    bed.bind_all(2);
    while !bed.handed.is_empty() {
        bed.finish(2, 0);
    }
    bed.run(|core, now, fx| core.close_session("a", now, fx))
        .expect("closed");
    assert!(!ask(&mut bed, 2), "its executors are not gone");
    for executor in bed.releasing.clone() {
        bed.update(2, &executor, ExecutorPhase::Released, "");
    }
    assert_eq!(sessions(&bed), [""; 0], "not even now for the other one");
    assert!(ask(&mut bed, 2));
    bed.say(2, from_agent::Message::Leave(node::Leave::default()));
    assert!(bed.core.get_node("n").is_err(), "forgotten");
    connect(&mut bed, 3, |hello| hello.id = "another".to_owned(), Vec::new());
    assert_eq!(bed.refusals, [], "its name is free");
    assert_eq!(sessions(&bed), ["b"; 3]);
}

#[test]
fn a_node_has_as_many_executors_as_it_has_slots() {
    let mut bed = Bed::new();
    bed.session("s", spec("app"));
    bed.tasks("s", 4);
    connect(&mut bed, 1, |hello| hello.slots = Some(2), Vec::new());
    assert_eq!(bed.started.len(), 2);
    let codes = bed.codes("s");
    assert!(codes.contains(&"node_slots".to_owned()), "{codes:?}");
}

#[test]
fn executors_end_whose_session_does_not_select_the_node_any_more() {
    let mut bed = Bed::new();
    let labels = |labels: &[&str]| Arc::new(labels.iter().map(|label| (*label).to_owned()).collect());
    connect(
        &mut bed,
        1,
        |hello| hello.labels = labels(&["zone=a", "gpu=yes"]),
        Vec::new(),
    );
    for (session, key, value) in [
        ("idle", "gpu", "yes"),
        ("busy", "gpu", "yes"),
        ("stays", "zone", "a"),
    ] {
        let selecting = SessionSpec {
            node_selector: [(key.to_owned(), value.to_owned())].into(),
            ..spec("app")
        };
        bed.session(session, selecting);
        bed.tasks(session, 1);
    }
    bed.bind_all(1);
    let of = |bed: &Bed, session: &str| {
        let mut started = bed.started.values();
        let found = started.find(|start| start.session_id == session);
        found.expect("started").executor_id.clone()
    };
    let (idle, busy, stays) = (of(&bed, "idle"), of(&bed, "busy"), of(&bed, "stays"));
    let at = bed.handed.iter().position(|(executor, _)| *executor == idle);
    bed.finish(1, at.expect("handed out"));
    let report = |bed: &Bed, id: &str| {
        let tasks = bed.handed.iter().filter(|(executor, _)| executor == id);
        let tasks: Vec<_> = tasks.map(|(_, task)| task.clone()).collect();
        bed.running(id, &tasks)
    };
    let running = [&idle, &busy, &stays].map(|id| report(&bed, id)).to_vec();
    connect(&mut bed, 2, |hello| hello.labels = labels(&["zone=a"]), running);
    assert_eq!(bed.releasing, [idle], "the busy one finishes its task");
    let at = bed.handed.iter().position(|(executor, _)| *executor == busy);
    bed.finish(2, at.expect("still handed out"));
    assert!(bed.releasing.contains(&busy));
    assert!(!bed.releasing.contains(&stays));
}
