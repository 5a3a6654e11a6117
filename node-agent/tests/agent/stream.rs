//! Services that take tasks as a stream, and those that do so only for a while.

use crate::harness::{Agent, Manager, order};
use crate::tasks::{output, results};

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
