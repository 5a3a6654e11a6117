//! Tasks that are ended early: cancelled, or over their time.

use flame_rpc::node::Returned;

use super::*;

const NOBODY: Option<String> = None;

impl Bed {
    fn cancel(&mut self, id: TaskId) -> Result<Cancel, CoreError> {
        self.run(|core, now, fx| core.cancel_task("s", id, NOBODY, now, fx))
    }

    /// A session whose tasks are so short that they are given in advance: the first `ran` tell so.
    fn short_tasks(cpu: u64, tasks: usize, spec: SessionSpec) -> (Self, LinkId) {
        let mut bed = Self::new();
        let link = bed.node("n", cpu);
        bed.session("s", spec);
        bed.tasks("s", 1);
        bed.bind_all(link);
        let (executor, task) = bed.handed.remove(0);
        let done = TaskDone {
            duration_us: 100,
            ..Self::done(&executor, &task, 0)
        };
        bed.results(link, vec![done]);
        bed.tasks("s", tasks);
        bed.ended.clear();
        (bed, link)
    }

    fn returns(&mut self, link: LinkId, executor: &str, tasks: &[TaskId]) {
        let returned = self
            .handed
            .extract_if(.., |(id, task)| id == executor && tasks.contains(&task.task_id))
            .map(|(_, task)| attempt(&task))
            .collect();
        let returned = Returned {
            executor_id: executor.to_owned(),
            tasks: returned,
        };
        self.say(link, from_agent::Message::Returned(returned));
    }

    fn in_hand(&self, executor: &str) -> Vec<TaskId> {
        let own = self.handed.iter().filter(|(id, _)| id == executor);
        own.map(|(_, task)| task.task_id).collect()
    }
}

fn limited(millis: u64) -> SessionSpec {
    SessionSpec {
        task_timeout_ms: Some(millis),
        max_instances: Some(1),
        ..spec("app")
    }
}

#[test]
fn a_task_that_waits_is_cancelled_and_nobody_notices() {
    let mut bed = Bed::new();
    bed.session("s", spec("app"));
    bed.tasks("s", 2);
    let reason = Some("a typing error".to_owned());
    let cancelled = bed.run(|core, now, fx| core.cancel_task("s", 2, reason, now, fx));
    assert_eq!(cancelled, Ok(Cancel::Changed));
    let expected = (2, TaskState::Cancelled, Some("a typing error".to_owned()));
    assert_eq!(bed.ended, [expected]);
    assert_eq!(
        bed.cancel(2),
        Ok(Cancel::Unchanged),
        "a repeated call changes nothing"
    );
    assert_eq!(bed.ended.len(), 1);
    bed.node("n", 4);
    assert_eq!(bed.started.len(), 1, "only for the task that is left");
}

#[test]
fn a_task_that_runs_ends_at_once_and_its_process_with_it() {
    let (mut bed, link) = bound(1, 2);
    let (executor, task) = bed.handed[0].clone();
    assert_eq!(bed.cancel(task.task_id), Ok(Cancel::Changed));
    assert_eq!(bed.ended.len(), 1, "before the agent has said anything");
    assert_eq!(
        (bed.given_up.as_slice(), bed.releasing.len()),
        (&[executor.clone()][..], 1)
    );
    bed.results(link, vec![Bed::done(&executor, &task, 0)]);
    assert_eq!(bed.ended.len(), 1, "a result that was on its way is refused");
    bed.update(link, &executor, ExecutorPhase::Released, "");
    bed.bind_all(link);
    assert_eq!(bed.finish_handed(link)["s"], 1);
    assert_eq!(bed.ended[1].1, TaskState::Succeed);
    assert_eq!(bed.cancel(task.task_id), Ok(Cancel::Unchanged));
    let refused = bed.cancel(2).expect_err("it has ended").to_string();
    assert_eq!(refused, "task 2 of session s has succeeded already");
    assert_eq!(bed.cancel(77), Ok(Cancel::InStore(1)));
}

#[test]
fn tasks_behind_one_that_is_cancelled_are_requeued_without_blame() {
    let (mut bed, link) = Bed::short_tasks(1, 5, limited(60_000));
    let (executor, running) = bed.handed[0].clone();
    assert_eq!(bed.handed.len(), 5);
    bed.cancel(running.task_id).expect("cancelled");
    assert_eq!(bed.given_up, std::slice::from_ref(&executor));
    // The agent names the cancelled one as the one that ran, as it must.
    bed.update(link, &executor, ExecutorPhase::Died, "killed by signal 15");
    let session = &bed.core.sessions[&1];
    assert_eq!(session.pending.len(), 4);
    assert!(session.live.values().all(|task| task.kills == 0));
    bed.bind_all(link);
    while !bed.handed.is_empty() {
        bed.finish_handed(link);
    }
    let succeeded = bed.ended.iter().filter(|end| end.1 == TaskState::Succeed).count();
    assert_eq!((succeeded, bed.ended.len()), (4, 5));
}

#[test]
fn a_task_in_advance_is_taken_back_and_the_process_lives() {
    let (mut bed, link) = Bed::short_tasks(1, 5, limited(60_000));
    let executor = bed.handed[0].0.clone();
    let ids = bed.in_hand(&executor);
    bed.cancel(ids[3]).expect("cancelled");
    assert_eq!(bed.ended.len(), 1);
    assert_eq!(
        bed.recalled,
        std::slice::from_ref(&executor),
        "it has to say what it has not begun"
    );
    bed.returns(link, &executor, &ids[1..]);
    assert!(bed.given_up.is_empty() && bed.releasing.is_empty());
    while !bed.handed.is_empty() {
        bed.finish_handed(link);
    }
    assert_eq!(bed.ended.len(), 5, "{:?}", bed.ended);
}

#[test]
fn a_task_in_advance_that_has_begun_meanwhile_is_ended_like_a_running_one() {
    let (mut bed, link) = Bed::short_tasks(1, 5, limited(60_000));
    let executor = bed.handed[0].0.clone();
    let ids = bed.in_hand(&executor);
    bed.cancel(ids[1]).expect("cancelled");
    assert!(bed.given_up.is_empty(), "as far as is known it waits");
    let first = bed.handed.remove(0).1;
    bed.results(link, vec![Bed::done(&executor, &first, 0)]);
    bed.returns(link, &executor, &ids[2..]);
    assert_eq!(bed.given_up, [executor], "it was not given back, so it runs");
}

#[test]
fn a_task_in_advance_that_was_finished_meanwhile_harms_nobody() {
    let (mut bed, link) = Bed::short_tasks(1, 5, limited(60_000));
    let executor = bed.handed[0].0.clone();
    let ids = bed.in_hand(&executor);
    bed.cancel(ids[1]).expect("cancelled");
    let done: Vec<_> = bed
        .handed
        .drain(..2)
        .map(|(id, task)| Bed::done(&id, &task, 0))
        .collect();
    bed.results(link, done);
    bed.returns(link, &executor, &ids[2..]);
    assert!(bed.given_up.is_empty() && bed.releasing.is_empty());
    while !bed.handed.is_empty() {
        bed.finish_handed(link);
    }
    assert_eq!(
        bed.ended
            .iter()
            .filter(|end| end.1 == TaskState::Cancelled)
            .count(),
        1
    );
    assert_eq!(bed.ended.len(), 5);
}

/// An answer to an earlier recall says nothing of tasks that were sent after it.
#[test]
fn only_the_answer_to_the_own_recall_counts() {
    let (mut bed, link) = Bed::short_tasks(1, 3, limited(60_000));
    let executor = bed.handed[0].0.clone();
    let ids = bed.in_hand(&executor);
    bed.wait(Duration::from_millis(60));
    assert_eq!(bed.recalled.len(), 1, "it has stalled");
    bed.cancel(ids[2]).expect("cancelled");
    assert_eq!(bed.recalled.len(), 2);
    bed.returns(link, &executor, &[]);
    assert!(bed.given_up.is_empty());
    bed.returns(link, &executor, &ids[1..]);
    assert!(bed.given_up.is_empty());
}

#[test]
fn all_tasks_of_a_session_are_cancelled_and_it_goes_on() {
    let (mut bed, link) = bound(2, 5);
    assert_eq!(
        bed.run(|core, now, fx| core.cancel_tasks("s", NOBODY, now, fx)),
        Ok(5)
    );
    assert_eq!(bed.ended.len(), 5);
    assert_eq!(bed.given_up.len(), 2);
    assert_eq!(
        bed.run(|core, now, fx| core.cancel_tasks("s", NOBODY, now, fx)),
        Ok(0)
    );
    bed.release_all(link);
    bed.handed.clear();
    bed.tasks("s", 1);
    bed.bind_all(link);
    bed.finish_handed(link);
    assert_eq!(bed.ended[5].1, TaskState::Succeed);
}

#[test]
fn a_session_is_closed_although_tasks_run() {
    let (mut bed, _) = Bed::short_tasks(1, 5, limited(60_000));
    let refused = bed.run(|core, now, fx| core.close_session("s", now, fx));
    assert!(matches!(refused, Err(CoreError::Busy(_))));
    for _ in 0..2 {
        let closed = bed.run(|core, now, fx| core.cancel_session("s", NOBODY, now, fx));
        let status = closed.expect("closed").status.expect("set");
        assert_eq!(
            (status.state(), status.cancelled),
            (flame_rpc::v1::SessionState::Closed, 5)
        );
    }
    assert_eq!(bed.given_up.len(), 1, "one order is enough");
}

/// The order to end a process was lost with a link.
#[test]
fn a_process_is_ended_when_its_node_comes_back() {
    let (mut bed, link) = bound(1, 1);
    let (executor, task) = bed.handed.remove(0);
    bed.run(|core, _, fx| core.node_disconnected(link, fx));
    bed.cancel(1).expect("cancelled");
    assert!(bed.given_up.is_empty());
    let running = bed.running(&executor, std::slice::from_ref(&task));
    bed.connect("n", 1, vec![running]);
    assert_eq!(bed.given_up, [executor]);
}

#[test]
fn a_task_that_runs_too_long_fails_and_the_next_has_its_own_time() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    bed.session("s", limited(2_000));
    bed.tasks("s", 2);
    bed.wait(Duration::from_secs(10));
    assert!(bed.ended.is_empty(), "what waits has all the time");
    bed.bind_all(link);
    let executor = bed.handed[0].0.clone();
    bed.wait(Duration::from_millis(1_999));
    assert!(bed.ended.is_empty());
    assert_eq!(
        bed.core.next_deadline(bed.now),
        Some(bed.now.mono + Duration::from_millis(1))
    );
    bed.wait(Duration::from_millis(1));
    let [(1, TaskState::Failed, Some(reason))] = bed.ended.as_slice() else {
        panic!("{:?}", bed.ended)
    };
    assert!(
        reason.contains("task_timeout") && reason.contains("2s"),
        "{reason}"
    );
    assert_eq!(bed.given_up, std::slice::from_ref(&executor));
    bed.update(link, &executor, ExecutorPhase::Released, "");
    bed.bind_all(link);
    assert_eq!(bed.handed[0].1.task_id, 2);
    bed.wait(Duration::from_millis(1_500));
    bed.finish_handed(link);
    assert_eq!(bed.ended[1].1, TaskState::Succeed);
    bed.wait(Duration::from_secs(10));
    assert_eq!(bed.ended.len(), 2);
}

/// Sessions with a long limit may see many executors come and go.
#[test]
fn an_executor_that_is_gone_leaves_no_deadline() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    bed.session("s", limited(3_600_000));
    bed.tasks("s", 1);
    bed.bind_all(link);
    assert_eq!(bed.core.deadlines.len(), 1);
    let executor = bed.handed[0].0.clone();
    bed.update(link, &executor, ExecutorPhase::Died, "killed by signal 9");
    assert!(bed.core.deadlines.is_empty());
}

/// Tasks in advance wait behind each other: that time is not theirs.
#[test]
fn the_time_of_a_task_in_advance_begins_when_the_one_before_it_ends() {
    let (mut bed, link) = Bed::short_tasks(1, 3, limited(1_000));
    for _ in 0..3 {
        bed.wait(Duration::from_millis(40));
        assert_eq!(bed.ended.len(), 3 - bed.handed.len());
        bed.wait(Duration::from_millis(900));
        let (executor, task) = bed.handed.remove(0);
        bed.results(link, vec![Bed::done(&executor, &task, 0)]);
    }
    assert!(
        bed.ended.iter().all(|end| end.1 == TaskState::Succeed),
        "{:?}",
        bed.ended
    );
}

/// Found by the simulation (seed 309): a task in advance that was cancelled ran before it could be
/// taken back, and its time was held against the one behind it.
#[test]
fn the_time_of_a_cancelled_task_that_ran_is_not_that_of_the_next() {
    let (mut bed, link) = Bed::short_tasks(1, 3, limited(1_000));
    let executor = bed.handed[0].0.clone();
    let tasks: Vec<_> = bed.handed.drain(..).map(|(_, task)| task).collect();
    bed.cancel(tasks[1].task_id).expect("cancelled");
    for task in &tasks[..2] {
        bed.wait(Duration::from_millis(900));
        bed.results(link, vec![Bed::done(&executor, task, 0)]);
    }
    bed.wait(Duration::from_millis(900));
    let ends: Vec<_> = bed.ended.iter().map(|end| end.1).collect();
    assert_eq!(ends, [TaskState::Cancelled, TaskState::Succeed]);
    bed.wait(Duration::from_millis(100));
    assert_eq!(bed.ended[2].1, TaskState::Failed);
}

/// Found by the simulation (seed 1022): the process is on its way out, and what waits there has
/// never begun.
#[test]
fn the_time_of_a_cancelled_task_is_not_that_of_those_behind_it() {
    let (mut bed, link) = Bed::short_tasks(1, 3, limited(1_000));
    let executor = bed.handed[0].0.clone();
    bed.wait(Duration::from_millis(900));
    bed.cancel(bed.handed[0].1.task_id).expect("cancelled");
    bed.wait(Duration::from_secs(10));
    assert_eq!(bed.ended.len(), 1, "{:?}", bed.ended);
    bed.update(link, &executor, ExecutorPhase::Released, "");
    bed.bind_all(link);
    while !bed.handed.is_empty() {
        bed.finish_handed(link);
    }
    assert_eq!(bed.core.sessions[&1].succeeded, 3);
}

/// While it is not known whether a withdrawn task runs, nobody else's time is over.
#[test]
fn a_task_behind_one_that_was_withdrawn_may_not_have_begun() {
    let (mut bed, link) = Bed::short_tasks(1, 3, limited(1_000));
    let executor = bed.handed[0].0.clone();
    let tasks: Vec<_> = bed.handed.iter().map(|(_, task)| task.clone()).collect();
    bed.cancel(tasks[1].task_id).expect("cancelled");
    bed.results(link, vec![Bed::done(&executor, &tasks[0], 0)]);
    bed.wait(Duration::from_secs(5));
    assert_eq!(bed.ended.len(), 2, "{:?}", bed.ended);
    bed.returns(link, &executor, &[tasks[1].task_id]);
    bed.wait(Duration::from_secs(1));
    assert_eq!(bed.ended[2].1, TaskState::Failed, "it has run since then");
}

#[test]
fn a_node_that_is_not_connected_may_have_results_that_are_in_time() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    bed.session("s", limited(2_000));
    bed.tasks("s", 1);
    bed.bind_all(link);
    let (executor, task) = bed.handed[0].clone();
    bed.run(|core, _, fx| core.node_disconnected(link, fx));
    bed.wait(Duration::from_secs(5));
    assert!(bed.ended.is_empty());
    let running = bed.running(&executor, std::slice::from_ref(&task));
    let link = bed.connect("n", 1, vec![running]);
    bed.wait(Duration::from_millis(500));
    assert!(bed.ended.is_empty(), "the results come first");
    let (mut late, late_link) = (bed, link);
    late.wait(Duration::from_millis(600));
    assert_eq!(
        late.ended[0].1,
        TaskState::Failed,
        "and if none comes, the time is over"
    );
    late.results(late_link, vec![Bed::done(&executor, &task, 0)]);
    assert_eq!(late.ended.len(), 1);
}

#[test]
fn sessions_that_differ_in_their_limit_are_not_the_same() {
    let mut bed = Bed::new();
    bed.session("s", limited(2_000));
    let refused = bed.run(|core, now, fx| core.open_session(&sid("s"), Some(limited(3_000)), now, fx));
    assert!(
        refused
            .expect_err("differs")
            .to_string()
            .contains("task_timeout differs")
    );
    let none = bed.run(|core, now, fx| core.create_session(&sid("zero"), limited(0), now, fx));
    assert!(matches!(none, Err(CoreError::Invalid(_))));
}

#[test]
fn how_often_a_task_may_kill_its_service_is_configured() {
    let mut config = config();
    config.task_retries = 1;
    let mut bed = Bed::with(config, Snapshot::default());
    let link = bed.node("n", 1);
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    bed.bind_all(link);
    let executor = bed.handed[0].0.clone();
    bed.update(link, &executor, ExecutorPhase::Died, "killed by signal 11");
    let [(1, TaskState::Failed, Some(reason))] = bed.ended.as_slice() else {
        panic!("{:?}", bed.ended)
    };
    assert!(reason.contains("died 1 times"), "{reason}");
}
