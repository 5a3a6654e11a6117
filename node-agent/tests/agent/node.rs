//! What the agent says of its node: labels, and that it is alive whatever its executors do.

use flame_rpc::node::from_agent::Message;

use crate::harness::{Agent, Manager, command, order};

/// Heartbeats in a row that show that nothing holds them up. They come every 100 ms here.
const BEATS: usize = 5;

/// Labels of the agent that is started with these arguments and this variable.
async fn labels(arguments: &[&str], variable: Option<&str>) -> Vec<String> {
    let mut manager = Manager::start().await;
    let home = tempfile::tempdir().expect("temporary directory");
    let mut command = command(home.path(), manager.address);
    command.args(arguments);
    if let Some(labels) = variable {
        command.env("FLAME_NODE_LABELS", labels);
    }
    let mut agent = command.spawn().expect("the agent starts");
    let (_link, hello) = manager.welcome().await;
    agent.kill().expect("it lives");
    agent.wait().expect("it has ended");
    hello.labels
}

#[tokio::test]
async fn labels_are_those_of_the_options_or_else_of_the_environment() {
    assert_eq!(labels(&[], None).await, [""; 0]);
    assert_eq!(labels(&[], Some("")).await, [""; 0]);
    assert_eq!(
        labels(&[], Some("zone=a, disk=ssd,")).await,
        ["disk=ssd", "zone=a"]
    );
    let options = ["--label", "zone=b", "--label=gpu=a100,rack=7"];
    assert_eq!(
        labels(&options, Some("zone=a,disk=ssd")).await,
        ["gpu=a100", "rack=7", "zone=b"]
    );
}

#[tokio::test]
async fn a_label_that_is_none_ends_the_agent_and_is_named() {
    let manager = Manager::start().await;
    for (label, reason) in [
        (
            "zone",
            "label \"zone\" is not valid: it must be written key=value",
        ),
        (
            "zone=a b",
            "label \"zone=a b\" is not valid: only letters, digits",
        ),
        (
            "zone=a,zone=b",
            "label \"zone=b\" is not valid: another label has the same key",
        ),
    ] {
        let home = tempfile::tempdir().expect("temporary directory");
        let ended = command(home.path(), manager.address)
            .args(["--label", label])
            .output()
            .expect("it ends");
        let text = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(78), "{text}");
        assert!(text.contains("--label: ") && text.contains(reason), "{text}");
    }
}

#[tokio::test]
async fn heartbeats_wait_neither_for_executors_nor_for_acknowledgements() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    link.tasks("e1", 1, &["one", "for-ever", "never"]).await;
    let batch = link.batch().await;
    assert_eq!(batch.results[0].task_id, 1, "and nobody acknowledges it");
    link.start(order("e2", "never-listen")).await;
    let mut beats = 0;
    while beats < BEATS {
        if matches!(link.next().await, Message::Heartbeat(_)) {
            beats += 1;
        }
    }
}
