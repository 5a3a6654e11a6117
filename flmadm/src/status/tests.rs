//! The status of the fake machine.

use flame_rpc::v1;

use crate::host::Units;
use crate::host::fake::FakeHost;
use crate::installed::testing::{at, everything, run};
use crate::processes::Process;

use super::*;

const MANAGER: &str = "flame-session-manager.service";
const AGENT: &str = "flame-node-agent.service";

fn start(host: &FakeHost) {
    for unit in [MANAGER, AGENT, "flame.target"] {
        Units::start(host, unit).expect("started");
    }
}

fn lines(host: &FakeHost, now: SystemTime) -> String {
    let report = look(host, &installed::find(&at(host)).expect("found")).expect("looked");
    let text = table::lines(&report, now).join("\n") + "\n";
    text.replace(&host.path("").display().to_string(), "/")
}

#[test]
fn everything_that_is_known_is_shown() {
    let mut host = FakeHost::new();
    host.root = false;
    everything(&host, true);
    start(&host);
    host.instances
        .borrow_mut()
        .extend(["flame-node-agent@gpu.service", "flame-executor@1.service"].map(str::to_owned));
    host.sight
        .open
        .extend(["127.0.0.1:8080", "127.0.0.1:8081"].map(str::to_owned));
    let node = |name: &str| v1::Node {
        metadata: Some(v1::Metadata {
            id: String::new(),
            name: name.to_owned(),
        }),
        status: Some(v1::NodeStatus {
            phase: v1::NodePhase::Ready.into(),
            cordoned: true,
            executors: 1,
            ..v1::NodeStatus::default()
        }),
        ..v1::Node::default()
    };
    host.sight.nodes = Some(vec![node("solo"), node("another")]);
    let time = jiff::Timestamp::now().as_microsecond();
    host.sight.journal = Some(
        ["the disk is full", "the disk is broken\\nand more"]
            .map(|message| {
                format!(
                    r#"{{"__REALTIME_TIMESTAMP":"{time}","_SYSTEMD_UNIT":"{MANAGER}","MESSAGE":"{message}"}}"#
                )
            })
            .to_vec(),
    );
    let now = SystemTime::UNIX_EPOCH + Duration::from_micros(time.unsigned_abs()) + Duration::from_secs(61);
    let since = time.unsigned_abs() - 60_000_000;
    host.sight.change(MANAGER, move |status| {
        status.main_since_us = Some(since);
        status.active_since_us = Some(since);
        status.memory_bytes = Some(3 << 20);
        status.restarts = Some(2);
        status.sub_state = "running".to_owned();
        status.needs_reload = true;
    });
    // The second that was started.
    host.sight.old.insert(101);
    crate::golden::check("status.txt", &lines(&host, now));
    let query = host.sight.queries.borrow_mut().pop().expect("asked");
    assert!(query.errors && query.limit.is_some_and(|limit| limit < Duration::from_secs(1)));
    let (code, out, _) = run(&host, "status -o json");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &report["active"]), (0, &serde_json::json!(true)));
    let agent = report["units"]
        .as_array()
        .expect("units")
        .iter()
        .find(|unit| unit["name"] == AGENT);
    assert_eq!(agent.expect("the agent")["program"], "old");
}

#[test]
fn a_manager_that_is_down_leaves_the_rest() {
    let host = FakeHost::new();
    let installed = everything(&host, true);
    start(&host);
    Units::stop(&host, MANAGER).expect("stopped");
    let (code, out, err) = run(&host, "status");
    assert_eq!(code, 5);
    assert!(
        out.contains("Port frontend 127.0.0.1:8080: does not answer"),
        "{out}"
    );
    assert!(
        err.contains(&format!("not active: {MANAGER}")) && err.contains("flmadm start"),
        "{err}"
    );
    std::fs::write(installed.prefix.config(), "cluster: [").expect("written");
    let (code, out, _) = run(&host, "status");
    assert!(
        code == 5 && out.contains("Note: the ports are not known: "),
        "{out}"
    );
}

#[test]
fn a_manager_that_does_not_answer_is_told() {
    let mut host = FakeHost::new();
    everything(&host, true);
    start(&host);
    host.sight.open.insert("127.0.0.1:8080".to_owned());
    let (code, out, _) = run(&host, "status");
    assert!(
        code == 0 && out.contains("does not say which nodes there are: nobody answers"),
        "{out}"
    );
}

#[test]
fn without_systemd_processes_are_shown() {
    let mut host = FakeHost::new();
    everything(&host, false);
    let (code, _, err) = run(&host, "status");
    assert!(
        code == 5 && err.contains("flmadm dev up --prefix /opt/flame"),
        "{err}"
    );
    host.processes = vec![
        Process {
            pid: 7,
            program: "flame-session-manager".to_owned(),
        },
        Process {
            pid: 8,
            program: "flame-node-agent".to_owned(),
        },
        Process {
            pid: 9,
            program: "flmping".to_owned(),
        },
    ];
    host.sight.old.insert(8);
    let (code, _, _) = run(&host, "status");
    assert_eq!(code, 0);
    crate::golden::check("status-processes.txt", &lines(&host, SystemTime::now()));
}
