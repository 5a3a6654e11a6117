//! What is counted, and which events have a number in the journal.

use flame_core::lifecycle::LifecycleEvent;
use flame_rpc::node::{Draining, Heartbeat, Leave};

use super::*;

fn events(bed: &mut Bed) -> Vec<LifecycleEvent> {
    let notices = std::mem::take(&mut bed.notices);
    notices.into_iter().filter_map(|notice| notice.event).collect()
}

#[test]
fn a_census_counts_what_there_is() {
    let mut bed = Bed::new();
    let link = bed.node("n", 2);
    bed.node("other", 1);
    bed.session("s", spec("app"));
    bed.session("none", spec("app"));
    bed.tasks("s", 5);
    bed.bind_all(link);
    let census = bed.core.census(bed.now);
    let open = OpenSessions {
        sessions: 2,
        waiting: 0,
        pending: 2,
        running: 3,
    };
    assert_eq!((census.open, census.paused), (open, OpenSessions::default()));
    assert_eq!(
        (census.nodes.ready, census.nodes.take_work, census.links),
        (2, 2, 2)
    );
    assert_eq!((census.executors.busy, census.executors.binding), (3, 0));
    assert_eq!((census.allocatable.cpu, census.used.cpu), (3, 3));

    // More sessions than places: one waits.
    bed.session("late", spec("app"));
    bed.tasks("late", 1);
    bed.wait(Duration::from_millis(300));
    let census = bed.core.census(bed.now);
    assert_eq!((census.open.waiting, census.longest_wait_ms), (1, 300));

    bed.run(|core, now, fx| core.close_session("none", now, fx))
        .expect("closed");
    let census = bed.core.census(bed.now);
    assert_eq!((census.open.sessions, census.closed_sessions), (2, 1));
}

#[test]
fn nodes_out_of_service_are_counted_and_told() {
    use LifecycleEvent::*;
    let mut bed = Bed::new();
    bed.node("a", 1);
    bed.node("b", 1);
    bed.run(|core, now, fx| core.cordon_node("a", false, None, now, fx))
        .expect("cordoned");
    let nodes = bed.core.census(bed.now).nodes;
    assert_eq!((nodes.ready, nodes.cordoned, nodes.take_work), (2, 1, 1));
    bed.run(|core, _, fx| core.uncordon_node("a", fx))
        .expect("in service");
    assert_eq!(bed.core.census(bed.now).nodes.cordoned, 0);
    // The link of the other one comes and goes.
    for _ in 0..3 {
        bed.node("b", 1);
    }
    let nodes = bed.core.census(bed.now).nodes;
    assert_eq!((nodes.ready, nodes.unstable, nodes.take_work), (2, 1, 1));
    bed.wait(Duration::from_secs(15));
    let mut told = events(&mut bed);
    // Nobody said anything meanwhile.
    told.retain(|event| !matches!(event, NodeRegistered | NodeSuspect));
    assert_eq!(told, [NodeCordoned, NodeUncordoned, NodeUnstable, NodeStable]);
}

#[test]
fn silent_nodes_are_counted_by_their_state() {
    let mut bed = Bed::new();
    let (talks, _silent) = (bed.node("a", 1), bed.node("b", 1));
    let mut seen = Vec::new();
    for _ in 0..9 {
        bed.wait(Duration::from_secs(5));
        bed.say(talks, from_agent::Message::Heartbeat(Heartbeat::default()));
        let nodes = bed.core.census(bed.now).nodes;
        seen.push((nodes.ready, nodes.suspect, nodes.lost, nodes.take_work));
    }
    seen.dedup();
    assert_eq!(seen, [(2, 0, 0, 2), (1, 1, 0, 1), (1, 0, 1, 1)]);
    let counters = bed.core.census(bed.now).counters;
    assert_eq!((counters.nodes_suspect, counters.nodes_lost), (1, 1));
    bed.say(
        talks,
        from_agent::Message::Leave(Leave {
            reason: "stopped".to_owned(),
        }),
    );
    let census = bed.core.census(bed.now);
    assert_eq!((census.nodes.left, census.nodes.take_work), (1, 0));
}

#[test]
fn tasks_are_counted_when_they_come_go_and_end() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    bed.session("s", spec("app"));
    bed.tasks("s", 2);
    bed.run(|core, now, fx| core.create_tasks("s", vec![None, None], now, fx))
        .expect("created");
    bed.bind_all(link);
    for code in [0, 0, 1] {
        let (executor, task) = bed.handed.remove(0);
        let result = Bed::done(&executor, &task, code);
        // The second one comes too late.
        bed.results(link, vec![result.clone(), result]);
    }
    let (executor, _) = bed.handed[0].clone();
    bed.results(link, vec![Bed::done("unknown", &bed.handed[0].1.clone(), 0)]);
    bed.update(link, &executor, ExecutorPhase::Died, "killed by signal 9");
    let counters = bed.core.census(bed.now).counters;
    assert_eq!((counters.tasks_created, counters.tasks_handed_out), (4, 4));
    assert_eq!(
        (
            counters.tasks_succeeded,
            counters.tasks_failed,
            counters.tasks_cancelled
        ),
        (2, 1, 0)
    );
    assert_eq!(counters.results_refused, 4);
    assert_eq!(counters.requeued(RequeueReason::ServiceDied), 1);
    assert_eq!(counters.executors_died, 1);
    assert_eq!(counters.executors_bound, 1);
    assert!(
        counters.executors_started == 2 && counters.passes > 0,
        "{counters:?}"
    );
}

/// A task whose service died under it for the last time fails and does not wait again.
#[test]
fn what_fails_is_not_counted_as_requeued() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    for _ in 0..3 {
        bed.bind_all(link);
        let executor = bed.handed[0].0.clone();
        bed.update(link, &executor, ExecutorPhase::Died, "killed by signal 9");
    }
    let counters = bed.core.census(bed.now).counters;
    assert_eq!(counters.requeued(RequeueReason::ServiceDied), 2);
    assert_eq!((counters.tasks_failed, counters.executors_died), (1, 3));
}

/// Every way in which a task that was handed out comes back has its reason.
#[test]
fn requeues_are_counted_by_their_reason() {
    type Step = fn(&mut Bed, LinkId, &str);
    let ways: [(RequeueReason, Step); 6] = [
        (RequeueReason::ServiceDied, |bed, link, executor| {
            bed.update(link, executor, ExecutorPhase::Died, "killed by signal 9");
        }),
        (RequeueReason::Released, |bed, link, executor| {
            bed.update(link, executor, ExecutorPhase::Released, "");
        }),
        (RequeueReason::NodeLost, |bed, _, _| {
            bed.wait(Duration::from_secs(15));
            bed.wait(Duration::from_secs(30));
        }),
        (RequeueReason::NodeLeft, |bed, link, _| {
            bed.say(link, from_agent::Message::Leave(Leave::default()));
        }),
        (RequeueReason::AgentRestarted, |bed, _, _| {
            bed.node("n", 1);
        }),
        (RequeueReason::LinkLost, |bed, _, executor| {
            let running = bed.running(executor, &[]);
            bed.connect("n", 1, vec![running]);
        }),
    ];
    for (reason, step) in ways {
        let (mut bed, link) = bound(1, 1);
        let executor = bed.handed[0].0.clone();
        step(&mut bed, link, &executor);
        let counters = bed.core.census(bed.now).counters;
        for other in RequeueReason::ALL {
            let expected = u64::from(other == reason);
            assert_eq!(counters.requeued(other), expected, "{reason:?}: {other:?}");
        }
    }
}

#[test]
fn the_life_of_a_session_and_its_executor_is_told_with_all_names() {
    let (mut bed, link) = bound(1, 1);
    let bound = bed.notices.last().cloned().expect("a line");
    assert_eq!(bound.event, Some(LifecycleEvent::ExecutorBound));
    assert_eq!(
        (bound.session, bound.node, bound.executor.map(|id| id.to_string())),
        (Some(sid("s")), Some(name("n")), Some("e1-1".to_owned()))
    );
    bed.finish_handed(link);
    bed.run(|core, now, fx| core.close_session("s", now, fx))
        .expect("closed");
    bed.release_all(link);
    bed.run(|core, _, fx| core.delete_session("s", fx))
        .expect("deleted");
    use LifecycleEvent::*;
    assert_eq!(
        events(&mut bed),
        [
            NodeRegistered,
            SessionCreated,
            ExecutorBound,
            SessionClosed,
            ExecutorReleased,
            SessionDeleted
        ]
    );
}

#[test]
fn deaths_name_the_task_that_ran() {
    let (mut bed, link) = bound(1, 1);
    let executor = bed.handed[0].0.clone();
    bed.update(link, &executor, ExecutorPhase::Died, "killed by signal 9");
    let died: Vec<_> = bed
        .notices
        .iter()
        .filter(|notice| notice.event == Some(LifecycleEvent::ExecutorDied))
        .collect();
    assert_eq!(died.len(), 1);
    assert_eq!((died[0].task, died[0].level), (Some(1), NoticeLevel::Warn));
}

#[test]
fn the_life_of_a_node_is_told() {
    use LifecycleEvent::*;
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    bed.wait(Duration::from_secs(15));
    bed.say(link, from_agent::Message::Heartbeat(Heartbeat::default()));
    bed.run(|core, _, fx| core.node_disconnected(link, fx));
    for seconds in [15, 30] {
        bed.wait(Duration::from_secs(seconds));
    }
    let link = bed.node("n", 1);
    bed.say(link, from_agent::Message::Draining(Draining::default()));
    bed.say(link, from_agent::Message::Leave(Leave::default()));
    bed.wait(Duration::from_secs(20 * 60));
    assert_eq!(
        events(&mut bed),
        [
            NodeRegistered,
            NodeSuspect,
            NodeRecovered,
            NodeDisconnected,
            NodeSuspect,
            NodeLost,
            NodeRegistered,
            NodeDraining,
            NodeLeft,
            NodeForgotten
        ]
    );
}

#[test]
fn failures_to_bind_pause_a_session_and_are_told() {
    use LifecycleEvent::*;
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    for _ in 0..2 {
        let executor = bed.started.keys().next().expect("started").clone();
        bed.update(link, &executor, ExecutorPhase::BindFailed, "no such file");
        bed.wait(Duration::from_secs(1));
    }
    assert_eq!(
        events(&mut bed)[2..],
        [ExecutorBindFailed, ExecutorBindFailed, SessionPaused]
    );
    let census = bed.core.census(bed.now);
    assert_eq!(
        (
            census.open.sessions,
            census.paused.sessions,
            census.paused.pending
        ),
        (0, 1, 1)
    );
    assert_eq!(census.counters.executors_not_bound, 2);
}
