//! Services that take tasks as a stream, and those that do so only for a while.

use std::time::Duration;

use flame_rpc::node::{ExecutorPhase, TaskDone, from_agent};

use crate::harness::{Agent, Link, Manager, Watched, order, within};

/// The results of so many tasks, and how many messages brought them. All are acknowledged.
async fn results(link: &mut Link, tasks: usize) -> (Vec<TaskDone>, usize) {
    let (mut results, mut messages) = (Vec::new(), 0);
    while results.len() < tasks {
        let batch = link.batch().await;
        link.ack(batch.sequence).await;
        results.extend(batch.results);
        messages += 1;
    }
    assert_eq!(results.len(), tasks);
    (results, messages)
}

fn output(done: &TaskDone) -> &str {
    let output = done.output.as_deref().unwrap_or_default();
    std::str::from_utf8(output).expect("text")
}

#[tokio::test]
async fn tasks_are_streamed_to_a_service_that_offers_it_and_only_to_it() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    for (executor, behaviour, how) in [
        ("e1", "stream", "stream"),
        ("e2", "ok", "call"),
        ("e3", "stream-refused-late", "call"),
    ] {
        link.bind(order(executor, behaviour)).await;
        assert_eq!(link.run(executor, 1, "how").await, (0, how.to_owned()));
        assert_eq!(link.run(executor, 2, "how").await, (0, how.to_owned()));
    }
    let fail = link.run("e1", 3, "fail").await;
    assert_eq!(fail, (7, "failed as asked".to_owned()));
}

#[tokio::test]
async fn streamed_results_come_in_order_with_the_time_that_the_service_measured() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "stream")).await;
    let inputs: Vec<String> = (1..=1000).map(|task| task.to_string()).collect();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    link.tasks("e1", 1, &inputs).await;
    let (results, messages) = results(&mut link, 1000).await;
    for (task, done) in (1..).zip(&results) {
        assert_eq!((done.task_id, done.attempt, done.duration_us), (task, 1, 5));
        assert_eq!(
            (done.executor_id.as_str(), done.session_id.as_str()),
            ("e1", "session-1")
        );
        assert_eq!(output(done), task.to_string());
    }
    assert!(messages < 500, "{messages}");
}

#[tokio::test]
async fn a_service_that_dies_in_a_streamed_task_loses_it_and_those_behind_it() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "stream")).await;
    // Ahead of the death is more than one read of the socket.
    let ready = "x".repeat(10_000);
    let mut inputs = vec![ready.as_str(); 40];
    inputs.extend(["fine", "die", "never", "never"]);
    link.tasks("e1", 1, &inputs[..41]).await;
    let (first, _) = results(&mut link, 41).await;
    assert_eq!(first.last().map(|done| done.task_id), Some(41));
    link.tasks("e1", 42, &inputs[41..]).await;
    let update = link.update().await;
    assert_eq!((update.phase(), update.running), (ExecutorPhase::Died, true));
    let lost: Vec<u64> = update.lost.iter().map(|task| task.task_id).collect();
    assert_eq!(lost, [42, 43, 44]);
    assert!(update.message.contains("dying as asked"), "{}", update.message);
}

#[tokio::test]
async fn what_a_service_has_streamed_and_not_begun_can_be_recalled() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "stream")).await;
    let flag = agent.path("flag");
    // The last of them is behind what is sent ahead.
    let large = "x".repeat(900_000);
    let until = format!("until:{}", flag.display());
    link.tasks("e1", 1, &[&until, &large]).await;
    link.tasks("e1", 3, &[&large]).await;
    link.tasks("e1", 4, &["unsent"]).await;
    link.recall("e1").await;
    link.recall("e1").await;
    for expected in [vec![2, 3, 4], vec![]] {
        let returned = match link.next_news().await {
            from_agent::Message::Returned(returned) => returned,
            other => panic!("{other:?}"),
        };
        let tasks: Vec<u64> = returned.tasks.iter().map(|task| task.task_id).collect();
        assert_eq!(tasks, expected);
    }
    link.tasks("e1", 5, &["how"]).await;
    std::fs::write(&flag, "").expect("writable");
    let (results, _) = results(&mut link, 2).await;
    assert_eq!([results[0].task_id, results[1].task_id], [1, 5]);
    assert_eq!([output(&results[0]), output(&results[1])], ["seen", "stream"]);
}

#[tokio::test]
async fn a_release_lets_the_streamed_task_finish_and_no_other_begin() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let left = agent.path("left");
    let mut with_leave = order("e1", "stream");
    let leave_file = crate::harness::variable("LEAVE_FILE", &left.display().to_string());
    with_leave
        .spec
        .as_mut()
        .expect("a spec")
        .environments
        .push(leave_file);
    link.bind(with_leave).await;
    let flag = agent.path("flag");
    let until = format!("until:{}", flag.display());
    link.tasks("e1", 1, &[&until, "behind", "last"]).await;
    link.release("e1").await;
    // From here on no task begins.
    let recalled = agent.path("work/executors/node-1/e1/recalled");
    within(async {
        while !recalled.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    std::fs::write(&flag, "").expect("writable");
    let (results, _) = results(&mut link, 1).await;
    assert_eq!(output(&results[0]), "seen");
    let update = link.update().await;
    assert_eq!((update.phase(), update.running), (ExecutorPhase::Released, false));
    let lost: Vec<u64> = update.lost.iter().map(|task| task.task_id).collect();
    assert_eq!(lost, [2, 3]);
    assert!(left.exists(), "OnSessionLeave");
}

#[tokio::test]
async fn a_release_gives_up_a_streamed_task_that_does_not_end() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "stream")).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    let service = Watched::new(pid.parse().expect("a pid")).expect("it lives");
    link.tasks("e1", 2, &["for-ever", "behind"]).await;
    link.release("e1").await;
    let update = link.update().await;
    assert_eq!((update.phase(), update.running), (ExecutorPhase::Released, true));
    let lost: Vec<u64> = update.lost.iter().map(|task| task.task_id).collect();
    assert_eq!(lost, [2, 3]);
    service.gone().await;
}

#[tokio::test]
async fn after_the_end_of_a_stream_tasks_go_on_with_calls() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    for (executor, end, told) in [
        // It ended in order, so the task has not begun, and the call echoes it.
        ("e1", "end-stream", (0, "end-stream")),
        ("e2", "break-stream", (-1, "broken as asked")),
    ] {
        link.bind(order(executor, "stream")).await;
        link.tasks(executor, 1, &["how", end, "how", "pid"]).await;
        let (results, _) = results(&mut link, 4).await;
        assert_eq!([output(&results[0]), output(&results[2])], ["stream", "call"]);
        assert_eq!(results[1].return_code, told.0);
        let said = results[1].message.as_deref().unwrap_or(output(&results[1]));
        assert!(said.contains(told.1), "{said}");
    }
}

#[tokio::test]
async fn a_streaming_service_that_hangs_up_fails_its_task_and_no_other() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "stream")).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    let service = Watched::new(pid.parse().expect("a pid")).expect("it lives");
    link.tasks("e1", 2, &["hang-up", "behind"]).await;
    let batch = link.batch().await;
    let done = &batch.results[0];
    assert_eq!((batch.results.len(), done.task_id, done.return_code), (1, 2, -1));
    let update = link.update().await;
    assert_eq!((update.phase(), update.running), (ExecutorPhase::Died, false));
    assert_eq!((update.lost.len(), update.lost[0].task_id), (1, 3));
    assert!(update.message.contains("no longer answers"), "{}", update.message);
    service.gone().await;
}

#[tokio::test]
async fn a_streamed_output_that_is_too_large_fails_its_task_with_the_limit() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "stream")).await;
    link.tasks("e1", 1, &["how", "large:2000000", "large:900000"])
        .await;
    let (results, _) = results(&mut link, 3).await;
    let message = results[1].message.as_deref().expect("a reason");
    assert_eq!(results[1].return_code, -1);
    assert!(
        message.contains("20000") && message.contains("1048576"),
        "{message}"
    );
    assert_eq!(
        results[2].output.as_ref().map(|output| output.len()),
        Some(900_000)
    );
}
