//! Binding: what a service gets, and every way in which it can go wrong.

use std::time::{Duration, Instant};

use flame_rpc::node::{ExecutorPhase, StartExecutor};

use crate::harness::{Agent, Manager, order, variable};

#[tokio::test]
async fn a_session_is_bound_run_and_released() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, hello) = manager.welcome().await;
    assert_eq!(hello.node, "node-1");
    let capacity = hello.capacity.expect("capacity");
    assert_eq!((capacity.cpu, capacity.memory), (3, 5 << 30));
    assert!(!hello.agent_instance.is_empty() && !hello.hostname.is_empty() && hello.executors.is_empty());

    let mut wanted = order("e1", "ok");
    let left = agent.path("left").display().to_string();
    if let Some(spec) = &mut wanted.spec {
        spec.environments.push(variable("LEAVE_FILE", &left));
        spec.environments.push(variable("EXPANDED", "${FLAME_HOME}/x"));
    }
    link.bind(wanted).await;
    assert_eq!(agent.list("work/executors/node-1"), ["e1"]);
    assert_eq!(
        agent.list("work/sockets"),
        ["e1.sock"],
        "the spec is gone once it is read"
    );

    assert_eq!(link.run("e1", 1, "hello").await, (0, "hello".to_owned()));
    assert_eq!(link.run("e1", 2, "fail").await, (7, "failed as asked".to_owned()));
    let (code, message) = link.run("e1", 3, "status").await;
    assert_eq!(code, -1);
    assert!(message.contains("task exploded"), "{message}");
    for (task, name, value) in [
        (4, "FLAME_SESSION_ID", "session-1".to_owned()),
        (
            5,
            "FLAME_INSTANCE_ENDPOINT",
            agent.path("work/sockets/e1.sock").display().to_string(),
        ),
        (6, "NOTIFY_SOCKET", "<unset>".to_owned()),
        (7, "EXPANDED", agent.path("x").display().to_string()),
        (8, "TMPDIR", agent.path("work/app/tmp").display().to_string()),
    ] {
        assert_eq!(link.run("e1", task, &format!("env:{name}")).await, (0, value));
    }
    let (code, message) = link.run("e1", 9, "large:1048000").await;
    assert_eq!(code, -1, "{message}");
    assert!(message.contains("max_message_size"), "{message}");

    link.release("e1").await;
    let update = link.update().await;
    assert_eq!((update.phase(), update.lost.len()), (ExecutorPhase::Released, 0));
    assert!(agent.path("left").exists(), "OnSessionLeave came first");
    assert_eq!(agent.list("work/executors/node-1"), [""; 0]);
    assert_eq!(agent.list("work/sockets"), [""; 0]);
    assert_eq!(
        agent.list("logs/executors"),
        ["e1.err", "e1.out", "e1.run", "e1.tasks"]
    );
}

#[tokio::test]
async fn tasks_of_one_batch_run_in_order() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let inputs: Vec<String> = (1..=500).map(|task| format!("input {task}")).collect();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    link.tasks("e1", 1, &inputs).await;
    let (mut seen, mut sequence) = (Vec::new(), 0);
    while seen.len() < inputs.len() {
        let batch = link.batch().await;
        assert_eq!(batch.sequence, sequence + 1);
        sequence = batch.sequence;
        seen.extend(batch.results);
    }
    for (done, task) in seen.iter().zip(1..) {
        assert_eq!((done.task_id, done.attempt, done.return_code), (task, 1, 0));
        assert_eq!(done.output.as_deref(), Some(format!("input {task}").as_bytes()));
        assert_eq!(
            (done.executor_id.as_str(), done.session_id.as_str()),
            ("e1", "session-1")
        );
    }
}

#[tokio::test]
async fn every_failure_to_bind_has_its_code_and_its_reason() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let with = |change: fn(&mut StartExecutor)| {
        let mut order = order("other", "ok");
        change(&mut order);
        order
    };
    let cases: [(StartExecutor, i32, &[&str]); 12] = [
        (
            order("e1", "die-early"),
            11,
            &["exited with status 3", "first line\nno database"],
        ),
        (order("e2", "crash-early"), 11, &["signal 6 (SIGABRT)"]),
        (order("e3", "refuse"), 12, &["I refuse"]),
        (order("e4", "enter-status"), 12, &["enter exploded"]),
        (
            order("e5", "die-in-enter"),
            12,
            &["exited with status 4", "dying in enter"],
        ),
        (
            with(|order| order.spec.as_mut().expect("spec").installer = Some("python".to_owned())),
            10,
            &["app", "python"],
        ),
        (
            with(|order| order.spec.as_mut().expect("spec").command = Some("/nonexistent/x".to_owned())),
            11,
            &[
                "status 127",
                "cannot start /nonexistent/x",
                "No such file or directory",
            ],
        ),
        (
            with(|order| order.spec.as_mut().expect("spec").command = None),
            11,
            &["application app has no command"],
        ),
        (
            with(|order| {
                order.spec.as_mut().expect("spec").working_directory = Some("/nonexistent".to_owned());
            }),
            11,
            &["working directory /nonexistent"],
        ),
        (
            with(|order| order.spec.as_mut().expect("spec").shim = 1),
            11,
            &["host shim"],
        ),
        (with(|order| order.spec = None), 19, &["no application"]),
        (
            with(|order| order.executor_id = "../x".to_owned()),
            19,
            &["executor id \"../x\""],
        ),
    ];
    for (order, code, parts) in cases {
        let id = order.executor_id.clone();
        link.start(order).await;
        let update = link.update().await;
        assert_eq!(update.executor_id, id);
        assert_eq!(
            (update.phase(), update.code),
            (ExecutorPhase::BindFailed, code),
            "{}",
            update.message
        );
        for part in parts {
            assert!(update.message.contains(part), "{part:?} in {:?}", update.message);
        }
    }
    assert_eq!(agent.list("work/executors/node-1"), [""; 0]);
    assert_eq!(agent.list("work/sockets"), [""; 0]);
    link.bind(order("good", "ok")).await;
}

#[tokio::test]
async fn a_service_that_takes_too_long_to_begin_is_ended_and_its_last_words_are_told() {
    let mut manager = Manager::start().await;
    let settings = "[runtime]\nstart_timeout = \"1s\"\nenter_timeout = \"2s\"\n";
    let agent = Agent::start_with(manager.address, settings);
    let (mut link, _) = manager.welcome().await;
    for (behaviour, code, words, limit) in [
        (
            "never-listen",
            11,
            "the service did not listen on FLAME_INSTANCE_ENDPOINT within 1 s",
            1,
        ),
        ("hang-in-enter", 12, "OnSessionEnter did not return within 2 s", 2),
    ] {
        let began = Instant::now();
        link.start(order(behaviour, behaviour)).await;
        let update = link.update().await;
        assert_eq!(
            (update.phase(), update.code),
            (ExecutorPhase::BindFailed, code),
            "{}",
            update.message
        );
        assert!(began.elapsed() >= Duration::from_secs(limit));
        let last: Vec<String> = (6..=25).map(|line| format!("line {line} of 25")).collect();
        let expected = format!("{words}; its last lines on standard error:\n{}", last.join("\n"));
        assert_eq!(update.message, expected);
    }
    // Their processes are gone, and nothing of them is left.
    assert_eq!(agent.list("work/sockets"), [""; 0]);
    assert_eq!(agent.children(), [""; 0]);
}

#[tokio::test]
async fn a_service_that_prints_more_than_a_pipe_holds_is_not_blocked() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "chatter")).await;
    let written = std::fs::metadata(agent.path("logs/executors/e1.out")).expect("kept");
    assert!(written.len() > 1 << 20, "{}", written.len());
}

#[tokio::test]
async fn an_executor_can_be_released_while_it_starts() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.start(order("e1", "never-listen")).await;
    link.release("e1").await;
    let update = link.update().await;
    assert_eq!(update.phase(), ExecutorPhase::Released);
    assert_eq!(agent.list("work/sockets"), [""; 0]);
}

#[tokio::test]
async fn repeated_and_unknown_orders_are_harmless() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    link.bind(order("e1", "ok")).await;
    assert_eq!(link.run("e1", 2, "pid").await.1, pid, "still the same process");
    link.release("never").await;
    let update = link.update().await;
    assert_eq!(
        (update.executor_id.as_str(), update.phase()),
        ("never", ExecutorPhase::Released)
    );
    link.tasks("never", 7, &["x"]).await;
    let update = link.update().await;
    assert_eq!((update.lost.len(), update.lost[0].task_id), (1, 7));
    for _ in 0..2 {
        link.release("e1").await;
        assert_eq!(link.update().await.phase(), ExecutorPhase::Released);
    }
}
