//! Services, agents, links, nodes and the session manager itself die; no task is lost or ends twice.

use flame_rpc::node::{Draining, Heartbeat, Leave};

use super::*;

/// Defect 16: a late result of an old attempt overwrote a newer one.
#[test]
fn only_the_current_attempt_counts() {
    let (mut bed, link) = bound(1, 1);
    let (old_executor, old) = bed.handed[0].clone();
    bed.update(link, &old_executor, ExecutorPhase::Died, "killed by signal 9");
    bed.bind_all(link);
    let (executor, new) = bed.handed[0].clone();
    assert!(new.task_id == old.task_id && new.attempt > old.attempt);
    bed.results(link, vec![Bed::done(&old_executor, &old, 0)]);
    bed.results(link, vec![Bed::done(&executor, &old, 0)]);
    assert!(bed.ended.is_empty());
    bed.results(link, vec![Bed::done(&executor, &new, 0)]);
    bed.results(link, vec![Bed::done(&executor, &new, 1)]);
    assert_eq!(bed.ended, [(1, TaskState::Succeed, None)]);
    assert_eq!(
        bed.acks.len(),
        4,
        "refused results are acknowledged, too, or they would come again for ever"
    );
}

/// Defect 12 and 13: a task that kills its service is not tried for ever.
#[test]
fn a_task_that_kills_its_service_fails_with_the_reason() {
    let (mut bed, link) = bound(1, 1);
    for _ in 0..3 {
        assert!(bed.ended.is_empty());
        let executor = bed.handed[0].0.clone();
        bed.update(link, &executor, ExecutorPhase::Died, "killed by signal 11");
        bed.bind_all(link);
    }
    let [(1, TaskState::Failed, Some(reason))] = bed.ended.as_slice() else {
        panic!("{:?}", bed.ended)
    };
    assert!(
        reason.contains("3 times") && reason.contains("signal 11"),
        "{reason}"
    );
}

#[test]
fn failures_to_bind_are_events_back_off_and_end() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    let executor = bed.started.keys().next().expect("started").clone();
    bed.update(link, &executor, ExecutorPhase::BindFailed, "no such file");
    assert!(bed.started.is_empty(), "not again at once");
    assert_eq!(
        bed.core.next_deadline(bed.now),
        Some(bed.now.mono + Duration::from_millis(100))
    );
    bed.wait(Duration::from_millis(100));
    let executor = bed.started.keys().next().expect("started again").clone();
    bed.update(link, &executor, ExecutorPhase::BindFailed, "no such file");
    bed.wait(Duration::from_secs(10));
    assert!(bed.started.is_empty(), "two failures are enough here");
    let events = bed
        .core
        .get_session("s")
        .expect("there")
        .status
        .expect("set")
        .events;
    let codes: Vec<_> = events.iter().map(|event| event.code).collect();
    assert_eq!(codes, [1001, 1001, 1002]);
    let text = events[0].message.clone().expect("set");
    for part in [
        "failed to bind session",
        &executor[..2],
        "node n",
        "code 12",
        "no such file",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(
        bed.records
            .iter()
            .filter(|record| matches!(record, Record::SessionEvent(..)))
            .count(),
        3
    );
    bed.node("other", 1);
    assert_eq!(bed.started.len(), 1, "a new node may do better");
}

#[test]
fn a_service_that_dies_before_it_did_anything_counts_as_a_failure_to_bind() {
    let (mut bed, link) = bound(1, 0);
    bed.session(
        "idle",
        SessionSpec {
            min_instances: 1,
            ..spec("app")
        },
    );
    bed.bind_all(link);
    let executor = bed.started.keys().next().expect("started").clone();
    bed.update(link, &executor, ExecutorPhase::Died, "exited with status 1");
    assert!(bed.started.is_empty(), "it is not started over and over");
    let events = bed
        .core
        .get_session("idle")
        .expect("there")
        .status
        .expect("set")
        .events;
    assert_eq!(events.len(), 1);
}

#[test]
fn a_silent_node_is_suspect_then_lost_then_forgotten() {
    let (mut bed, link) = bound(2, 4);
    bed.wait(Duration::from_secs(14));
    bed.say(link, from_agent::Message::Heartbeat(Heartbeat::default()));
    bed.wait(Duration::from_secs(15));
    let state = |bed: &Bed| bed.core.get_node("n").map(|node| node.status.expect("set").state);
    assert_eq!(state(&bed), Ok(flame_rpc::v1::NodeState::NotReady.into()));
    assert_eq!(
        bed.core.list_executors().executors.len(),
        2,
        "a suspect keeps what it has"
    );
    bed.wait(Duration::from_secs(30));
    assert!(
        bed.core.list_executors().executors.is_empty(),
        "a lost one does not"
    );
    assert_eq!(bed.core.summary().pending, 4);
    bed.wait(Duration::from_secs(20 * 60));
    assert!(bed.core.get_node("n").is_err());
    // It comes back, with what it still runs: the tasks go on there, nothing is lost.
    let (executor, task) = bed.handed.remove(0);
    let reported = bed.running(&executor, std::slice::from_ref(&task));
    bed.started.clear();
    let link = bed.connect("n", 2, vec![reported]);
    bed.results(link, vec![Bed::done(&executor, &task, 0)]);
    assert_eq!(bed.ended.len(), 1);
}

#[test]
fn a_heartbeat_in_time_makes_a_suspect_ready_again() {
    let (mut bed, link) = bound(1, 1);
    bed.wait(Duration::from_secs(20));
    bed.say(link, from_agent::Message::Heartbeat(Heartbeat::default()));
    assert_eq!(bed.core.summary().ready_nodes, 1);
    assert_eq!(bed.finish_handed(link).len(), 1, "its task was not taken from it");
    assert_eq!(bed.ended.len(), 1);
}

/// Defect 17: the end of an old link harmed the new one.
#[test]
fn what_comes_on_an_old_link_is_ignored() {
    let (mut bed, old) = bound(1, 2);
    let (executor, task) = bed.handed[0].clone();
    let new = bed.connect("n", 1, vec![bed.running(&executor, std::slice::from_ref(&task))]);
    bed.run(|core, _, fx| core.node_disconnected(old, fx));
    bed.results(old, vec![Bed::done(&executor, &task, 0)]);
    assert!(bed.ended.is_empty());
    assert_eq!(bed.core.summary().ready_nodes, 1);
    bed.results(new, vec![Bed::done(&executor, &task, 0)]);
    assert_eq!(bed.ended.len(), 1);
}

#[test]
fn messages_that_were_lost_with_a_link_are_made_good() {
    let (mut bed, link) = bound(2, 3);
    let (first, second) = (bed.handed[0].clone(), bed.handed[1].clone());
    bed.run(|core, _, fx| core.node_disconnected(link, fx));
    // The agent has never seen the second task, and its executor is gone.
    let reported = vec![bed.running(&first.0, std::slice::from_ref(&first.1))];
    bed.started.remove(&second.0);
    bed.handed.clear();
    let link = bed.connect("n", 2, reported);
    assert_eq!(
        bed.started.len(),
        2,
        "a new executor takes the place of the lost one"
    );
    bed.bind_all(link);
    assert_eq!(bed.handed.len(), 1);
    assert_eq!(
        bed.handed[0].1.task_id, second.1.task_id,
        "the older task is first"
    );
    bed.results(link, vec![Bed::done(&first.0, &first.1, 0)]);
    assert_eq!(bed.ended.len(), 1);
}

/// Defect 13: the agent was started anew while the manager believed in its executors.
#[test]
fn an_agent_that_starts_anew_gets_its_tasks_again() {
    let (mut bed, _) = bound(2, 2);
    bed.started.clear();
    bed.handed.clear();
    let link = bed.node("n", 2);
    assert_eq!(bed.started.len(), 2);
    bed.bind_all(link);
    assert_eq!(bed.handed.len(), 2);
    bed.finish_handed(link);
    assert_eq!(bed.ended.len(), 2);
}

#[test]
fn a_node_that_leaves_gives_its_tasks_back() {
    let (mut bed, link) = bound(2, 2);
    bed.say(
        link,
        from_agent::Message::Leave(Leave {
            reason: "stopped".to_owned(),
        }),
    );
    assert_eq!(bed.core.summary().pending, 2);
    assert_eq!(bed.core.summary().ready_nodes, 0);
    bed.started.clear();
    bed.node("other", 2);
    assert_eq!(bed.started.len(), 2);
}

/// A stopping agent was given executors again and again, which counted as failures to bind.
#[test]
fn a_node_that_is_stopping_gets_nothing_new_and_finishes_what_it_has() {
    let (mut bed, link) = bound(2, 4);
    bed.say(
        link,
        from_agent::Message::Draining(Draining {
            reason: "SIGTERM".to_owned(),
        }),
    );
    let before = bed.started.len();
    bed.finish_handed(link);
    assert_eq!(bed.ended.len(), 2);
    assert!(bed.handed.is_empty() && bed.started.len() == before);
    assert_eq!(bed.core.summary().pending, 2);
    bed.node("other", 2);
    assert_eq!(bed.started.len(), before + 2, "another node takes over");
}

/// The session manager starts anew: running executors go on, and their attempts count.
#[test]
fn a_new_manager_adopts_what_runs_and_releases_what_nobody_wants() {
    let (mut old, _) = bound(2, 3);
    let snapshot = old.stored(3);
    let (executor, task) = old.handed.remove(0);
    let mut stranger = old.running(&executor, &[]);
    (stranger.executor_id, stranger.session_id) = ("e1-77".to_owned(), "gone".to_owned());
    let reported = vec![old.running(&executor, std::slice::from_ref(&task)), stranger];

    let mut bed = Bed::with(config(), snapshot);
    assert_eq!(bed.core.summary().pending, 3, "until an agent says otherwise");
    bed.started
        .insert(executor.clone(), old.started[&executor].clone());
    let link = bed.connect("n", 2, reported);
    assert_eq!(bed.releasing, ["e1-77"]);
    assert_eq!((bed.core.summary().running, bed.core.summary().pending), (1, 2));
    bed.results(link, vec![Bed::done(&executor, &task, 0)]);
    assert_eq!(bed.ended, [(task.task_id, TaskState::Succeed, None)]);
    let next = bed.handed.last().expect("the next one");
    assert!(
        next.1.attempt > task.attempt,
        "attempts of a later generation are higher"
    );
}

/// Found by the simulation: the core's alarm was always now while one of two idle executors ended.
#[test]
fn an_executor_that_is_kept_does_not_keep_the_core_awake() {
    let mut bed = Bed::new();
    let link = bed.node("n", 2);
    let quick = ApplicationSpec {
        delay_release: Some(0),
        ..Default::default()
    };
    bed.application("quick", quick);
    let session = SessionSpec {
        min_instances: 1,
        ..spec("quick")
    };
    bed.session("s", session);
    bed.tasks("s", 2);
    bed.bind_all(link);
    assert_eq!(
        bed.handed.len(),
        2,
        "what has just started and has a task is not idle"
    );
    bed.finish_handed(link);
    bed.wait(Duration::ZERO);
    assert_eq!(bed.releasing.len(), 1);
    assert!(
        bed.core
            .next_deadline(bed.now)
            .is_some_and(|at| at > bed.now.mono)
    );
}

/// Found by the simulation: the task waited there until the node was lost.
#[test]
fn nothing_is_handed_out_that_cannot_be_sent() {
    let (mut bed, link) = bound(1, 1);
    bed.finish_handed(link);
    bed.run(|core, _, fx| core.node_disconnected(link, fx));
    bed.tasks("s", 1);
    assert!(bed.handed.is_empty());
    assert_eq!(bed.core.sessions.values().map(Session::running).sum::<usize>(), 0);
    bed.wait(model::SUSPECT_AFTER);
    bed.node("m", 1);
    assert_eq!(
        bed.started.len(),
        2,
        "another one is started when the node is suspect"
    );
}

/// Found by the simulation: what still ran on the node was not known any more.
#[test]
fn a_lost_node_has_to_say_what_it_runs_before_it_counts_again() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    bed.wait(model::SUSPECT_AFTER);
    bed.wait(model::LOST_AFTER);
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    bed.say(link, from_agent::Message::Heartbeat(node::Heartbeat::default()));
    assert!(bed.started.is_empty(), "a message of the old link does not count");
    bed.node("n", 1);
    assert_eq!(bed.started.len(), 1);
}

/// Found by the simulation: an agent that connects again tells of the same death once more.
#[test]
fn a_death_that_is_told_twice_counts_once() {
    let (mut bed, _) = bound(1, 1);
    let (executor, task) = bed.handed[0].clone();
    let running = bed.running(&executor, std::slice::from_ref(&task));
    for _ in 0..4 {
        let link = bed.connect("n", 1, vec![running.clone()]);
        bed.handed = vec![(executor.clone(), task.clone())];
        bed.update(link, &executor, ExecutorPhase::Died, "killed by signal 9");
    }
    assert!(bed.ended.is_empty(), "{:?}", bed.ended);
}

/// Found by the simulation (seed 28559): the task died elsewhere before the first death was told again.
#[test]
fn a_death_that_is_told_again_after_a_later_one_counts_once() {
    let (mut bed, link) = bound(1, 1);
    let (executor, task) = bed.handed[0].clone();
    let first = bed.running(&executor, std::slice::from_ref(&task));
    bed.update(link, &executor, ExecutorPhase::Died, "killed by signal 9");
    bed.bind_all(link);
    let second = bed.handed[0].0.clone();
    bed.update(link, &second, ExecutorPhase::Died, "killed by signal 9");
    assert_eq!(bed.core.sessions[&1].live[&1].kills, 2);
    let link = bed.connect("n", 1, vec![first]);
    bed.handed = vec![(executor.clone(), task)];
    bed.update(link, &executor, ExecutorPhase::Died, "killed by signal 9");
    assert_eq!(bed.core.sessions[&1].live[&1].kills, 2);
    assert!(bed.ended.is_empty(), "{:?}", bed.ended);
}

/// Found by the simulation (seed 4040): the agent still had a result of the session that was
/// deleted, and the new session's task had the same number.
#[test]
fn a_result_for_a_deleted_session_is_not_taken_by_another_of_the_same_id() {
    let (mut bed, link) = bound(1, 1);
    let (executor, task) = bed.handed[0].clone();
    let late = bed.running(&executor, std::slice::from_ref(&task));
    bed.results(link, vec![Bed::done(&executor, &task, 0)]);
    bed.run(|core, now, fx| core.close_session("s", now, fx))
        .expect("closed");
    bed.run(|core, _, fx| core.delete_session("s", fx))
        .expect("deleted");
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    let mut bed = Bed::with(config(), bed.stored(1));
    let link = bed.connect("n1", 1, vec![late]);
    assert_eq!(bed.releasing, [executor.as_str()], "it belongs to nobody");
    bed.results(link, vec![Bed::done(&executor, &task, 0)]);
    assert!(bed.ended.is_empty(), "{:?}", bed.ended);
}

/// Found by the simulation: the task was created, handed out, and lost before it was stored.
#[test]
fn a_result_of_a_task_that_was_never_stored_is_not_that_of_the_next_with_its_number() {
    let (old, _) = bound(2, 2);
    let (executor, lost) = old.handed[1].clone();
    let mut bed = Bed::with(config(), old.stored(1));
    bed.tasks("s", 1);
    let link = bed.connect("n", 1, vec![old.running(&executor, std::slice::from_ref(&lost))]);
    bed.results(link, vec![Bed::done(&executor, &lost, 0)]);
    assert!(bed.ended.is_empty(), "{:?}", bed.ended);
    assert!(bed.core.sessions[&1].live.contains_key(&lost.task_id));
}

/// Found by the simulation: others were started before the old one was heard of.
#[test]
fn an_adopted_executor_counts_for_the_limit_of_its_session() {
    let mut old = Bed::new();
    let limited = SessionSpec {
        max_instances: Some(1),
        ..spec("app")
    };
    let link = old.node("n", 1);
    old.session("s", limited);
    old.tasks("s", 2);
    old.bind_all(link);
    let (executor, task) = old.handed[0].clone();
    let mut bed = Bed::with(config(), old.stored(2));
    bed.node("other", 1);
    assert_eq!(bed.started.len(), 1);
    bed.connect("n", 1, vec![old.running(&executor, std::slice::from_ref(&task))]);
    let staying = bed
        .core
        .executors
        .values()
        .filter(|executor| !executor.is_leaving());
    assert_eq!(staying.count(), 1);
}

/// Found by the simulation: the next look at the node was planned for when it would be lost.
#[test]
fn a_node_that_was_suspect_is_so_again_in_time() {
    let (mut bed, link) = bound(1, 1);
    for _ in 0..2 {
        bed.wait(Duration::from_secs(15));
        assert_eq!(bed.core.nodes["n"].state, flame_core::state::NodeState::Suspect);
        bed.say(link, from_agent::Message::Heartbeat(Heartbeat::default()));
        let deadline = bed.core.next_deadline(bed.now).expect("set");
        assert!(deadline <= bed.now.mono + Duration::from_secs(15));
    }
}

/// Found by the simulation: the task came with the result that made the executor idle.
#[test]
fn an_executor_for_which_a_task_waits_is_not_released_as_idle() {
    let mut bed = Bed::new();
    let quick = ApplicationSpec {
        delay_release: Some(0),
        ..ApplicationSpec::default()
    };
    bed.application("quick", quick);
    let link = bed.node("n", 1);
    bed.session("s", spec("quick"));
    bed.tasks("s", 1);
    bed.bind_all(link);
    let (executor, task) = bed.handed.remove(0);
    let results = vec![Bed::done(&executor, &task, 0)];
    bed.run(|core, now, fx| {
        let batch = ResultBatch { sequence: 1, results };
        core.node_message(link, from_agent::Message::Results(batch), now, fx);
        core.create_task("s", None, now, fx).expect("created");
    });
    assert!(bed.releasing.is_empty());
    assert_eq!(bed.handed[0].0, executor);
}
