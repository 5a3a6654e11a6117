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
    while !agent.log().contains("no link to the session manager") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut manager = Manager::start_at(&address.to_string()).await;
    let (mut link, _) = manager.welcome().await;
    assert!(matches!(link.next().await, from_agent::Message::Heartbeat(_)));
    agent.signal(Signal::TERM);
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
    while !agent.log().contains("no link to the session manager") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
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
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    link.tasks("e1", 2, &["for-ever", "behind"]).await;
    // Its answer says that the tasks before it have arrived.
    link.release("never").await;
    assert_eq!(link.update().await.executor_id, "never");
    let service = Watched::new(pid.parse().expect("a pid")).expect("it lives");
    drop(link);
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
async fn a_refusal_is_an_error_in_the_log_and_the_agent_goes_on() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start(manager.address);
    let (link, _) = manager.hello().await;
    link.send(to_agent::Message::Refuse(Refuse {
        reason: "the name node-1 is taken".to_owned(),
    }))
    .await;
    while !agent.log().contains("the name node-1 is taken") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(agent.log().contains("ERROR"), "{}", agent.log());
    agent.signal(Signal::TERM);
    assert_eq!(agent.exit().await.code(), Some(0));
}

#[tokio::test]
async fn what_cannot_be_used_ends_the_agent_with_its_own_status() {
    let address = free_address();
    let running = Agent::start(address);
    while !running.log().contains("offers") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let broken = running.path("broken.yaml");
    std::fs::write(&broken, "cluster: {name: x, endpiont: y}\n").expect("writable");
    let home = running.home.path();
    let change = |change: &dyn Fn(&mut Command)| {
        let mut command = command(home, address);
        change(&mut command);
        let output = command.output().expect("it starts");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let broken = broken.display().to_string();
    for ((code, log), expected, part) in [
        (change(&|_| {}), 73, "another node agent uses"),
        (
            change(&|command| drop(command.args(["--config", &broken]))),
            2,
            "cannot be used multiple times",
        ),
        (
            change(&|command| drop(command.args(["--resources", "cpu=many"]))),
            2,
            "cannot be used multiple times",
        ),
        (
            change(&|command| drop(command.env("FLAME_HOME", "/proc/nowhere"))),
            73,
            "/proc/nowhere",
        ),
    ] {
        assert_eq!(code, Some(expected), "{log}");
        assert!(log.contains(part), "{log}");
    }
    for (arguments, part) in [
        (["--config", broken.as_str()], "cluster.endpoint"),
        (["--config", "/nonexistent.yaml"], "/nonexistent.yaml"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_flame-node-agent"))
            .args(arguments)
            .output()
            .expect("it starts");
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{log}");
        assert!(log.contains(part), "{log}");
    }
}
