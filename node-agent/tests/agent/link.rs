//! The link: a manager that comes late, goes away, comes back, or refuses.

use std::process::Command;

use flame_rpc::node::{ExecutorPhase, Refuse, from_agent, to_agent};
use rustix::process::Signal;

use crate::harness::{Agent, Manager, Watched, command, order};

/// A port that was free a moment ago, and whose predecessor is free as well.
fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

#[tokio::test]
async fn a_manager_that_comes_late_is_waited_for_and_logged_once() {
    let address = free_address();
    let mut agent = Agent::start(address);
    agent.logged("no link to the session manager").await;
    let mut manager = Manager::start_at(&address.to_string()).await;
    let (mut link, _) = manager.welcome().await;
    assert!(matches!(link.next().await, from_agent::Message::Heartbeat(_)));
    agent.signal(Signal::TERM);
    assert!(matches!(link.next_news().await, from_agent::Message::Draining(_)));
    assert!(matches!(link.next_news().await, from_agent::Message::Leave(_)));
    drop(link);
    assert_eq!(agent.exit().await.code(), Some(0));
    let log = agent.log();
    assert_eq!(log.matches("no link to the session manager").count(), 1, "{log}");
    assert_eq!(log.matches("registered with cluster test").count(), 1, "{log}");
}

#[tokio::test]
async fn an_agent_without_a_manager_stops_at_once() {
    let mut agent = Agent::start(free_address());
    agent.logged("no link to the session manager").await;
    agent.signal(Signal::INT);
    assert_eq!(agent.exit().await.code(), Some(0));
}

#[tokio::test]
async fn results_without_acknowledgement_come_again_on_the_next_link() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, first) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    let flag = agent.path("flag");
    let input = ["two", &format!("until:{}", flag.display()), "four"];
    link.tasks("e1", 2, &input).await;
    let unacknowledged = link.batch().await;
    assert_eq!(unacknowledged.results[0].task_id, 2);
    drop(link);

    let (mut link, hello) = manager.welcome().await;
    assert_eq!(hello.agent_instance, first.agent_instance);
    assert_eq!(hello.executors.len(), 1);
    let executor = &hello.executors[0];
    assert_eq!(
        (
            executor.executor_id.as_str(),
            executor.session_id.as_str(),
            executor.bound
        ),
        ("e1", "session-1", true)
    );
    let tasks: Vec<u64> = executor.tasks.iter().map(|task| task.task_id).collect();
    assert_eq!(tasks, [2, 3, 4], "1 is acknowledged");
    assert_eq!(link.batch().await, unacknowledged);
    link.ack(unacknowledged.sequence).await;

    std::fs::write(&flag, "").expect("writable");
    let mut seen = Vec::new();
    let mut sequence = unacknowledged.sequence;
    while seen.len() < 2 {
        let batch = link.batch().await;
        assert_eq!(batch.sequence, sequence + 1);
        sequence = batch.sequence;
        seen.extend(batch.results.iter().map(|done| done.task_id));
    }
    assert_eq!(seen, [3, 4]);
    link.ack(sequence).await;
    assert_eq!(
        link.run("e1", 5, "pid").await.1,
        pid,
        "the executor has never been away"
    );
}

#[tokio::test]
async fn an_end_during_an_outage_is_told_with_its_tasks() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    link.tasks("e1", 2, &["for-ever", "behind"]).await;
    // Its answer says that the tasks before it have arrived.
    link.release("never").await;
    assert_eq!(link.update().await.executor_id, "never");
    let service = Watched::new(pid.parse().expect("a pid")).expect("it lives");
    drop(link);
    agent.logged("no link to the session manager").await;
    let pid = rustix::process::Pid::from_raw(pid.parse().expect("a pid")).expect("not 0");
    rustix::process::kill_process(pid, Signal::KILL).expect("it lives");
    service.gone().await;

    let (mut link, hello) = manager.welcome().await;
    let tasks: Vec<u64> = hello.executors[0].tasks.iter().map(|task| task.task_id).collect();
    assert_eq!(tasks, [2, 3]);
    let update = link.update().await;
    assert_eq!(
        (update.phase(), update.running, update.lost.len()),
        (ExecutorPhase::Died, true, 2)
    );
    drop(link);
    let (_link, hello) = manager.welcome().await;
    assert!(hello.executors.is_empty(), "it was told once");
}

#[tokio::test]
async fn a_refusal_for_now_is_a_warning_in_the_log_and_the_agent_goes_on() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start(manager.address);
    let (link, _) = manager.hello().await;
    link.send(to_agent::Message::Refuse(Refuse {
        reason: "the name node-1 is taken".to_owned(),
        ..Refuse::default()
    }))
    .await;
    agent.logged("the name node-1 is taken").await;
    let log = agent.log();
    assert!(
        log.contains("WARN the session manager refuses this node for now"),
        "{log}"
    );
    agent.signal(Signal::TERM);
    assert_eq!(agent.exit().await.code(), Some(0));
}

#[tokio::test]
async fn what_cannot_be_used_ends_the_agent_with_its_own_status() {
    let address = free_address();
    let running = Agent::start(address);
    running.logged("offers").await;
    let broken = running.path("broken.yaml");
    std::fs::write(&broken, "cluster: {name: x, endpiont: y}\n").expect("writable");
    let valid = running.path("flame-cluster.yaml");
    let (broken, valid) = (broken.display().to_string(), valid.display().to_string());
    let elsewhere = running.path("elsewhere");
    std::fs::create_dir(&elsewhere).expect("writable");
    let failure = |command: &mut Command| {
        let output = command.output().expect("it starts");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), log)
    };
    let (code, log) = failure(&mut command(running.home.path(), address));
    assert_eq!(code, Some(73), "{log}");
    assert!(log.contains("another node agent uses"), "{log}");
    let long = elsewhere.join("d".repeat(100));
    for (home, part) in [
        (std::path::Path::new("/proc/nowhere"), "/proc/nowhere"),
        (long.as_path(), "FLAME_SOCKET_DIR"),
    ] {
        let (code, log) = failure(command(&elsewhere, address).env("FLAME_HOME", home));
        assert_eq!(code, Some(73), "{log}");
        assert!(log.contains(part), "{log}");
    }
    for (arguments, expected, part) in [
        (&["--config", &broken][..], 78, "cluster.endpoint"),
        (&["--config", "/nonexistent.yaml"], 78, "/nonexistent.yaml"),
        (&["--config", &valid, "--name", "../x"], 78, "--name"),
        (
            &["--config", &valid, "--resources", "cpu=many"],
            78,
            "--resources: resources.cpu",
        ),
        (&[], 78, "name the configuration with --config"),
        (&["--no-such-flag"], 2, "--no-such-flag"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flame-node-agent"));
        let (code, log) = failure(
            command
                .args(arguments)
                .env("FLAME_HOME", &elsewhere)
                .env("HOME", &elsewhere),
        );
        assert_eq!(code, Some(expected), "{log}");
        assert!(log.contains(part), "{log}");
    }
}
