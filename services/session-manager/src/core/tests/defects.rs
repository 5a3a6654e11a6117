//! Known defects of systems like this one, by their number in `docs/defects.md`. Each test plays the
//! story of the defect; rules that have tests of their own are in the other files.

use flame_rpc::node::Heartbeat;

use super::*;
use crate::core::model::{LOST_AFTER, SUSPECT_AFTER};

/// Longer than an executor has to be idle before another session may have its place.
const MOMENT: Duration = Duration::from_millis(20);

fn heartbeat(bed: &mut Bed, link: LinkId) {
    bed.say(link, from_agent::Message::Heartbeat(Heartbeat::default()));
}

fn busy(bed: &mut Bed, id: &str, tasks: usize, spec: SessionSpec) {
    bed.session(id, spec);
    bed.tasks(id, tasks);
}

/// Runs until nothing is in hand: agents bind, finish and release what they are told to.
fn work(bed: &mut Bed, link: LinkId) {
    bed.bind_all(link);
    while !bed.finish_handed(link).is_empty() {
        bed.release_all(link);
        bed.bind_all(link);
    }
}

/// An executor whose service had crashed failed every task after it as fast as they came.
#[test]
fn defect_12_tasks_after_a_crash_go_to_a_new_process() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    busy(&mut bed, "s", 50, spec("app"));
    bed.bind_all(link);
    let crashed = bed.handed[0].0.clone();
    bed.update(link, &crashed, ExecutorPhase::Died, "killed by signal 11");
    work(&mut bed, link);
    assert_eq!(bed.ended.len(), 50);
    assert!(
        bed.ended.iter().all(|(_, state, _)| *state == TaskState::Succeed),
        "{:?}",
        bed.ended
    );
    assert!(bed.core.list_executors().executors.len() == 1 && !bed.started.contains_key(&crashed));
}

/// The agent was restarted within the grace time, and the same task was started again in a hot
/// loop, for ever.
#[test]
fn defect_13_an_agent_that_restarts_again_and_again_is_no_hot_loop() {
    let mut bed = Bed::new();
    bed.node("n", 1);
    busy(&mut bed, "s", 1, spec("app"));
    let mut hand_outs = 0;
    for _ in 0..20 {
        bed.wait(Duration::from_millis(100));
        bed.started.clear();
        let link = bed.node("n", 1);
        bed.bind_all(link);
        hand_outs += std::mem::take(&mut bed.handed).len();
    }
    assert!(
        hand_outs < 5,
        "{hand_outs} hand-outs in two seconds to a node that does not stay"
    );
    // When it stays, the task runs and ends: it was not the task's fault.
    bed.started.clear();
    let link = bed.node("n", 1);
    bed.wait(Duration::from_secs(14));
    heartbeat(&mut bed, link);
    bed.wait(Duration::from_secs(2));
    work(&mut bed, link);
    assert_eq!(bed.ended, [(1, TaskState::Succeed, None)]);
}

/// After a restart of the manager, a late result of an attempt before it overwrote a newer one.
#[test]
fn defect_16_a_result_from_before_a_restart_does_not_count_after_a_new_attempt() {
    let mut old = Bed::new();
    old.node("n", 1);
    busy(&mut old, "s", 1, spec("app"));
    old.bind_all(1);
    let (executor, task) = old.handed.remove(0);
    let late = old.running(&executor, std::slice::from_ref(&task));
    let mut bed = Bed::with(config(), old.stored(1));
    // The node of the first attempt cannot be reached, so another one gets the task.
    let other = bed.node("other", 1);
    bed.bind_all(other);
    let (newer_executor, newer) = bed.handed.remove(0);
    assert!(newer.task_id == task.task_id && newer.attempt > task.attempt);
    let link = bed.connect("n", 1, vec![late]);
    bed.results(link, vec![Bed::done(&executor, &task, 1)]);
    assert!(bed.ended.is_empty(), "{:?}", bed.ended);
    bed.results(other, vec![Bed::done(&newer_executor, &newer, 0)]);
    bed.results(link, vec![Bed::done(&executor, &task, 1)]);
    assert_eq!(bed.ended, [(1, TaskState::Succeed, None)]);
}

/// Lowest priority came first, and preemption was only a word.
#[test]
fn defect_22_a_higher_priority_takes_all_places_within_one_task() {
    let mut bed = Bed::new();
    let link = bed.node("n", 4);
    busy(&mut bed, "low", 100, spec("app"));
    bed.bind_all(link);
    let high = SessionSpec {
        priority: 5,
        ..spec("app")
    };
    busy(&mut bed, "high", 100, high);
    assert!(bed.releasing.is_empty(), "a running task is not interrupted");
    bed.finish_handed(link);
    bed.release_all(link);
    assert_eq!(
        bed.sessions_of_executors(),
        BTreeMap::from([("high".to_owned(), 4)])
    );
}

/// One new executor per session and tick was all, and idle ones were thrown away at each tick.
#[test]
fn defect_22_all_executors_start_at_once_and_are_used_again() {
    let mut bed = Bed::new();
    let link = bed.node("n", 4);
    busy(&mut bed, "s", 4, spec("app"));
    assert_eq!(bed.started.len(), 4, "in one pass");
    work(&mut bed, link);
    let first: Vec<_> = bed.started.keys().cloned().collect();
    for _ in 0..50 {
        bed.wait(Duration::from_secs(1));
        heartbeat(&mut bed, link);
    }
    assert!(bed.releasing.is_empty(), "{:?}", bed.releasing);
    bed.tasks("s", 4);
    assert_eq!(bed.handed.len(), 4, "without any start");
    assert!(bed.started.keys().eq(&first));
}

/// Executors were created on nodes that were dead.
#[test]
fn defect_23_a_dead_node_gets_nothing() {
    let mut bed = Bed::new();
    bed.node("dead", 4);
    for silence in [SUSPECT_AFTER, LOST_AFTER - SUSPECT_AFTER] {
        bed.wait(silence);
        busy(&mut bed, &format!("s{}", silence.as_secs()), 1, spec("app"));
        bed.wait(MOMENT);
        assert!(bed.started.is_empty(), "{:?}", bed.started);
    }
    bed.node("alive", 4);
    let nodes: BTreeSet<_> = bed
        .core
        .executors
        .values()
        .map(|it| it.node.to_string())
        .collect();
    assert_eq!(nodes, BTreeSet::from(["alive".to_owned()]));
    assert_eq!(bed.started.len(), 2);
}

/// Three executors of one CPU were placed on two CPUs.
#[test]
fn defect_23_three_executors_do_not_fit_on_two_cpus() {
    let mut bed = Bed::new();
    let link = bed.node("n", 2);
    for id in ["a", "b", "c"] {
        busy(&mut bed, id, 1, spec("app"));
    }
    assert_eq!(bed.started.len(), 2);
    bed.bind_all(link);
    assert_eq!(bed.started.len(), 2);
    // Memory is as scarce as processors.
    let large = SessionSpec {
        resreq: Some(
            Resources {
                cpu: 0,
                memory: (1 << 39) + 1,
                gpu: 0,
            }
            .into(),
        ),
        ..spec("app")
    };
    let mut bed = Bed::new();
    bed.node("n", 2);
    busy(&mut bed, "s", 3, large);
    assert_eq!(bed.started.len(), 1);
}

/// Two sessions held all CPUs with idle executors, and a third one waited for delay_release.
#[test]
fn defect_24_three_sessions_with_idle_executors_share_two_cpus() {
    let mut bed = Bed::new();
    let link = bed.node("n", 2);
    for id in ["a", "b", "c"] {
        bed.session(id, spec("app"));
    }
    let ids = ["a", "b", "c"].into_iter().cycle();
    for (round, id) in (1..=30).zip(ids) {
        bed.tasks(id, 1);
        bed.wait(MOMENT);
        bed.release_all(link);
        work(&mut bed, link);
        assert_eq!(bed.ended.len(), round, "the task of session {id} has run");
    }
    assert!(
        bed.now.mono < Duration::from_secs(101),
        "30 tasks in less than a second"
    );
}

/// What was kept of each task made 611 MB after 90,000 of them.
#[test]
fn defect_25_nothing_is_kept_of_a_task_beyond_the_latest() {
    let mut bed = Bed::new();
    let link = bed.node("n", 8);
    bed.session("s", spec("app"));
    for _ in 0..100 {
        bed.tasks("s", 100);
        work(&mut bed, link);
        // What left the core is not what this is about.
        bed.records.clear();
    }
    assert_eq!(bed.ended.len(), 10_000);
    let session = bed.core.session("s").expect("there");
    assert!(session.live.is_empty() && session.pending.is_empty());
    assert!(session.events.is_empty(), "{:?}", session.events);
    assert_eq!(bed.core.recent.excess(), None);
    assert!(
        bed.core.recent.get((1, 1)).is_none(),
        "the first is in the store only"
    );
}

/// A node was declared dead although its heartbeats had come: they waited in the manager's queue,
/// because the machine was busy.
#[test]
fn defect_41_heartbeats_that_waited_in_the_queue_count() {
    let mut bed = Bed::new();
    let link = bed.node("n", 2);
    busy(&mut bed, "s", 2, spec("app"));
    bed.bind_all(link);
    bed.now.mono += LOST_AFTER + LOST_AFTER;
    heartbeat(&mut bed, link);
    assert_eq!(bed.core.summary().ready_nodes, 1);
    assert_eq!(bed.core.counters.nodes_suspect + bed.core.counters.nodes_lost, 0);
    bed.finish_handed(link);
    assert_eq!(bed.ended.len(), 2, "its tasks were not taken from it");
}

/// A node that had been declared dead was refused when it came back, and work that still ran there
/// was killed.
#[test]
fn defect_41_a_node_that_comes_back_goes_on_with_its_work() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    busy(&mut bed, "s", 2, spec("app"));
    bed.bind_all(link);
    let (executor, task) = bed.handed.remove(0);
    let reported = bed.running(&executor, std::slice::from_ref(&task));
    bed.run(|core, _, fx| core.node_disconnected(link, fx));
    bed.wait(SUSPECT_AFTER);
    bed.wait(LOST_AFTER);
    assert_eq!(bed.core.counters.nodes_lost, 1);
    let link = bed.connect("n", 1, vec![reported]);
    assert!(bed.releasing.is_empty(), "{:?}", bed.releasing);
    bed.results(link, vec![Bed::done(&executor, &task, 0)]);
    assert_eq!(bed.ended, [(task.task_id, TaskState::Succeed, None)]);
    work(&mut bed, link);
    assert_eq!(bed.ended.len(), 2);
}

/// These tests can fail: each notices the bug that it is about. (The other ones play against rules for
/// which no bug can be planted.)
#[test]
fn each_story_notices_its_bug() {
    use crate::core::planted::{Bug, plant};
    let stories: [(Bug, fn()); 6] = [
        (
            Bug::ForgottenRequeue,
            defect_12_tasks_after_a_crash_go_to_a_new_process,
        ),
        (
            Bug::ForgottenRequeue,
            defect_13_an_agent_that_restarts_again_and_again_is_no_hot_loop,
        ),
        (
            Bug::OldAttempt,
            defect_16_a_result_from_before_a_restart_does_not_count_after_a_new_attempt,
        ),
        (
            Bug::InvertedPriority,
            defect_22_a_higher_priority_takes_all_places_within_one_task,
        ),
        (Bug::Overcommit, defect_23_three_executors_do_not_fit_on_two_cpus),
        (Bug::Leak, defect_25_nothing_is_kept_of_a_task_beyond_the_latest),
    ];
    for (bug, story) in stories {
        plant(Some(bug));
        let told = std::panic::catch_unwind(story);
        plant(None);
        assert!(told.is_err(), "nothing noticed {bug:?}");
    }
}
