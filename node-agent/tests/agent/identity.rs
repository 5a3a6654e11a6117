//! The node's own id, and what an agent does whose node the session manager does not want.

use std::process::Command;

use flame_rpc::node::{ExecutorPhase, Refuse, to_agent};
use rustix::process::Signal;

use crate::harness::{Agent, Manager, Watched, command, order};

const ID: &str = "work/nodes/node-1/node-id";

fn refusal(is_final: bool) -> to_agent::Message {
    to_agent::Message::Refuse(Refuse {
        reason: "the name node-1 belongs to another node".to_owned(),
        r#final: is_final,
        retry_after_ms: 100,
    })
}

#[tokio::test]
async fn a_node_has_the_same_id_after_each_start_and_each_start_is_another_one() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start(manager.address);
    let (link, first) = manager.welcome().await;
    drop(link);
    let (link, again) = manager.welcome().await;
    assert_eq!(
        (&first.node_id, &first.agent_instance),
        (&again.node_id, &again.agent_instance)
    );
    assert_eq!(first.node_id.len(), 36, "{}", first.node_id);
    drop(link);
    agent.signal(Signal::TERM);
    agent.exit().await;
    agent.start_again(manager.address);
    let (_link, later) = manager.welcome().await;
    assert_eq!(later.node_id, first.node_id);
    assert_ne!(later.agent_instance, first.agent_instance);
}

#[tokio::test]
async fn an_id_that_is_damaged_ends_the_agent_as_configuration_and_a_missing_place_as_a_directory() {
    let manager = Manager::start().await;
    let home = tempfile::tempdir().expect("temporary directory");
    let path = home.path().join(ID);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    std::fs::write(&path, "half an i").expect("written");
    let run = |command: &mut Command| {
        let ended = command.output().expect("it ends");
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        (ended.status.code(), text)
    };
    let (code, text) = run(&mut command(home.path(), manager.address));
    assert_eq!(code, Some(78), "{text}");
    assert!(
        text.contains("node-id holds no id of a node") && text.contains("remove it"),
        "{text}"
    );
    let (code, text) = run(command(home.path(), manager.address).env("STATE_DIRECTORY", "/proc/flame"));
    assert_eq!(code, Some(73), "{text}");
    assert!(text.contains("/proc/flame"), "{text}");
}

#[tokio::test]
async fn a_node_that_is_refused_for_good_ends_as_configuration() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start(manager.address);
    let (link, _) = manager.hello().await;
    link.send(refusal(true)).await;
    assert_eq!(agent.exit().await.code(), Some(78), "{}", agent.log());
    assert!(agent.log().contains("belongs to another node"), "{}", agent.log());
}

#[tokio::test]
async fn a_node_that_may_ask_again_does_so_soon_and_keeps_what_runs() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    drop(link);
    for _ in 0..3 {
        let (link, hello) = manager.hello().await;
        assert_eq!(hello.executors.len(), 1);
        link.send(refusal(false)).await;
    }
    let (mut link, _) = manager.welcome().await;
    assert_eq!(link.run("e1", 1, "a").await.0, 0);
}

#[tokio::test]
async fn what_runs_on_a_node_that_is_refused_for_good_ends_with_it() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let service = link.process("e1").await;
    link.tasks("e1", 2, &["for-ever"]).await;
    drop(link);
    let (link, _) = manager.hello().await;
    link.send(refusal(true)).await;
    assert_eq!(agent.exit().await.code(), Some(78), "{}", agent.log());
    Watched::gone(&service).await;
}

#[tokio::test]
async fn the_file_says_what_the_node_is() {
    let mut manager = Manager::start().await;
    let text = "[node]\nlabels = [\"zone=a\"]\naddresses = [\"10.1.2.3\"]\n\
                [resources]\nreserved_cpu = 1\nreserved_memory = \"1g\"\nslots = 2\n";
    let _agent = Agent::start_with(manager.address, text);
    let (mut link, hello) = manager.welcome().await;
    let resources = |of: Option<flame_rpc::v1::ResourceRequirement>| of.map(|of| (of.cpu, of.memory));
    // The capacity is that of the command line.
    assert_eq!(resources(hello.capacity), Some((3, 5 << 30)));
    assert_eq!(resources(hello.allocatable), Some((2, 4 << 30)));
    assert_eq!((hello.slots, hello.ephemeral), (2, false));
    assert_eq!(hello.labels, ["zone=a"]);
    assert_eq!(hello.addresses, ["10.1.2.3"]);
    link.bind(order("e1", "ok")).await;
}

#[tokio::test]
async fn an_application_works_only_where_it_may() {
    let mut manager = Manager::start().await;
    let agent = Agent::start_with(manager.address, "[runtime]\nwork_directories = [\"/usr\"]\n");
    let (mut link, _) = manager.welcome().await;
    for (executor, directory, phase) in [
        ("e1", "/", ExecutorPhase::BindFailed),
        ("e2", "/usr/lib", ExecutorPhase::Bound),
    ] {
        let mut order = order(executor, "ok");
        let spec = order.spec.as_mut().expect("set");
        spec.working_directory = Some(directory.to_owned());
        link.start(order).await;
        let update = link.update().await;
        assert_eq!(update.phase(), phase, "{} {}", update.message, agent.log());
        if phase == ExecutorPhase::BindFailed {
            assert!(
                update.message.contains("runtime.work_directories"),
                "{}",
                update.message
            );
        }
    }
}

#[tokio::test]
async fn a_check_says_all_that_is_wrong_and_changes_nothing() {
    let manager = Manager::start().await;
    let home = tempfile::tempdir().expect("temporary directory");
    let file = home.path().join("node-agent.toml");
    let check = |text: &str, arguments: &[&str]| {
        std::fs::write(&file, text).expect("written");
        let ended = command(home.path(), manager.address)
            .arg("--check")
            .arg("--node-config")
            .arg(&file)
            .args(arguments)
            .output()
            .expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ended.status.code(), text(&ended.stdout), text(&ended.stderr))
    };
    let (code, out, err) = check("[node]\nnmae = \"a\"\n[life]\nidel = 1\n", &[]);
    assert_eq!((code, out.as_str()), (Some(78), ""));
    assert!(
        err.contains("line 2: unknown key \"node.nmae\"") && err.contains("line 4:"),
        "{err}"
    );
    let (code, out, err) = check("[life]\nidle_timeout = \"10m\"\n", &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("node.name = \"node-1\" (--name)"), "{out}");
    assert!(
        out.contains("life.idle_timeout = \"600s\" (") && out.contains("line 2)"),
        "{out}"
    );
    let (code, out, _) = check("[resources]\nslots = 7\n", &["--output", "json"]);
    assert_eq!(code, Some(0));
    let document: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(document["settings"]["resources.slots"]["value"], 7);
    assert_eq!(document["problems"], serde_json::json!([]));
    assert_eq!(document["node_id"]["id"], serde_json::Value::Null);
    assert!(!home.path().join("work").exists(), "nothing was made");
}
