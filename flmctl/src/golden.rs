//! What people and programs see, from fixed values of the wire. The snapshots are the documentation
//! of the output; the JSON ones are a contract. To accept a change: `INSTA_UPDATE=always cargo test`.

use bytes::Bytes;
use flame_rpc::v1;
use insta::assert_snapshot;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cli::Format;
use crate::format::Clock;
use crate::model::{Application, Executor, Explanation, Node, Session, SessionDetails, Task};
use crate::printer::Printer;
use crate::{details, table};

const CREATED: i64 = 1_700_000_000_000;

fn printer(format: Format) -> Printer {
    let now = Timestamp::from_millisecond(CREATED + 330_000).unwrap();
    Printer {
        format,
        color: false,
        clock: Clock {
            now,
            zone: TimeZone::UTC,
        },
    }
}

fn metadata(id: &str) -> Option<v1::Metadata> {
    Some(v1::Metadata {
        id: id.to_owned(),
        name: id.to_owned(),
    })
}

fn event(code: i32, message: Option<&str>) -> v1::Event {
    v1::Event {
        code,
        message: message.map(str::to_owned),
        creation_time: CREATED + 1500,
    }
}

fn application() -> v1::Application {
    v1::Application {
        metadata: metadata("counter"),
        spec: Some(v1::ApplicationSpec {
            shim: v1::Shim::Host.into(),
            description: Some("Counts words".into()),
            labels: vec!["cpu".into(), "fast".into()],
            command: Some("/usr/bin/counter".into()),
            arguments: vec!["--depth".into(), "3".into()],
            environments: vec![v1::Environment {
                name: "PORT".into(),
                value: "8080".into(),
            }],
            working_directory: Some("/var/tmp".into()),
            max_instances: Some(4),
            delay_release: Some(60),
            reusable: true,
            schema: Some(v1::ApplicationSchema {
                input: Some(r#"{"type":"string"}"#.into()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        status: Some(v1::ApplicationStatus {
            state: 0,
            creation_time: CREATED,
        }),
    }
}

/// An application of which the server says nothing but the name.
fn bare_application() -> v1::Application {
    v1::Application {
        metadata: metadata("bare"),
        ..Default::default()
    }
}

fn session() -> v1::Session {
    v1::Session {
        metadata: metadata("counter-a1b2c3"),
        spec: Some(v1::SessionSpec {
            application: "counter".into(),
            common_data: Some(Bytes::from_static(b"shared")),
            min_instances: 1,
            max_instances: Some(8),
            batch_size: 1,
            priority: 5,
            resreq: Some(v1::ResourceRequirement {
                cpu: 2,
                memory: 3 << 29,
                gpu: 1,
            }),
            node_selector: [("zone".to_owned(), "a".to_owned())].into(),
            task_timeout_ms: Some(90_000),
        }),
        status: Some(v1::SessionStatus {
            state: v1::SessionState::Open.into(),
            creation_time: CREATED,
            pending: 10,
            running: 2,
            succeed: 30,
            failed: 1,
            cancelled: 0,
            events: vec![event(
                1001,
                Some("failed to bind session on node n1: exit status 1"),
            )],
            ..Default::default()
        }),
    }
}

fn closed_session() -> v1::Session {
    let mut session = session();
    session.metadata = metadata("old");
    let status = session.status.get_or_insert_default();
    status.set_state(v1::SessionState::Closed);
    status.completion_time = Some(CREATED + 30_000);
    session.spec.get_or_insert_default().common_data = None;
    session
}

fn task(id: &str, state: v1::TaskState, output: Option<&'static [u8]>) -> v1::Task {
    v1::Task {
        metadata: metadata(id),
        spec: Some(v1::TaskSpec {
            session_id: "counter-a1b2c3".into(),
            input: Some(Bytes::from_static(b"first line\nsecond line\n")),
            output: output.map(Bytes::from_static),
        }),
        status: Some(v1::TaskStatus {
            state: state.into(),
            creation_time: CREATED,
            completion_time: (state != v1::TaskState::Pending).then_some(CREATED + 1500),
            events: vec![event(0, None), event(state as i32, Some("it is over"))],
        }),
    }
}

fn tasks() -> Vec<Task> {
    let wire = [
        task("1", v1::TaskState::Succeed, Some(b"42")),
        task("2", v1::TaskState::Failed, Some(&[0xff, 0xfe, 0x00])),
        task("10", v1::TaskState::Pending, None),
    ];
    wire.into_iter().map(Task::from).collect()
}

fn node() -> Node {
    Node::from(v1::Node {
        metadata: metadata("n1"),
        spec: Some(v1::NodeSpec {
            hostname: "n1.example".into(),
        }),
        status: Some(v1::NodeStatus {
            state: v1::NodeState::NotReady.into(),
            capacity: Some(v1::ResourceRequirement {
                cpu: 4,
                memory: 8 << 30,
                gpu: 0,
            }),
            allocatable: Some(v1::ResourceRequirement {
                cpu: 3,
                memory: 7 << 30,
                gpu: 0,
            }),
            info: Some(v1::NodeInfo {
                arch: "x86_64".into(),
                os: "linux".into(),
            }),
            addresses: vec![v1::NodeAddress {
                r#type: "InternalIP".into(),
                address: "10.0.0.1".into(),
            }],
            last_heartbeat_time: CREATED + 325_000,
            phase: v1::NodePhase::Suspect.into(),
            cordoned: true,
            draining: true,
            executors: 2,
            held_until: Some(CREATED + 350_000),
            cordon_reason: Some("a new kernel".into()),
            labels: vec!["gpu=a100".into(), "zone=a".into()],
        }),
    })
}

fn explanation() -> Explanation {
    Explanation::from(v1::ExplainSessionResponse {
        session_id: "counter-a1b2c3".into(),
        state: 0,
        pending: 10,
        running: 2,
        executors: 2,
        wanted: 8,
        reasons: vec![
            v1::Reason {
                code: "room_is_held".into(),
                text: "the room for cpu=1,mem=1G,gpu=0 on node n1 is held by session x (3 executors, priority 5)".into(),
                nodes: vec!["n1".into()],
                holders: vec![v1::Holder {
                    session_id: "x".into(),
                    priority: 5,
                    executors: 3,
                    busy: 2,
                }],
                data: [("highest_priority".to_owned(), "5".to_owned())].into(),
            },
            v1::Reason {
                code: "running".into(),
                text: "it runs on 2 of 8 executors that it has use for".into(),
                ..Default::default()
            },
        ],
    })
}

fn executors() -> Vec<Executor> {
    let one = |id: &str, state: v1::ExecutorState, session: Option<&str>| v1::Executor {
        metadata: metadata(id),
        spec: Some(v1::ExecutorSpec {
            node: "n1".into(),
            resreq: Some(v1::ResourceRequirement {
                cpu: 1,
                memory: 1 << 30,
                gpu: 0,
            }),
            shim: 0,
        }),
        status: Some(v1::ExecutorStatus {
            state: state.into(),
            session_id: session.map(str::to_owned),
        }),
    };
    vec![
        Executor::from(one(
            "e1",
            v1::ExecutorState::ExecutorBound,
            Some("counter-a1b2c3"),
        )),
        Executor::from(one("e2", v1::ExecutorState::ExecutorIdle, None)),
    ]
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

fn sessions() -> Vec<Session> {
    [session(), closed_session()]
        .into_iter()
        .map(|wire| SessionDetails::from(wire).session)
        .collect()
}

#[test]
fn tables() {
    let apps = [
        Application::from(application()),
        Application::from(bare_application()),
    ];
    for (name, format) in [("table", Format::Table), ("wide", Format::Wide)] {
        let printer = printer(format);
        assert_snapshot!(
            format!("{name}_applications"),
            table::applications(&apps, &printer)
        );
        assert_snapshot!(format!("{name}_sessions"), table::sessions(&sessions(), &printer));
        assert_snapshot!(format!("{name}_tasks"), table::tasks(&tasks(), &printer));
        assert_snapshot!(format!("{name}_nodes"), table::nodes(&[node()], &printer));
        assert_snapshot!(
            format!("{name}_executors"),
            table::executors(&executors(), &printer)
        );
    }
}

#[test]
fn pages() {
    let clock = printer(Format::Table).clock;
    assert_snapshot!(
        "view_application",
        details::application(&Application::from(application()), &clock)
    );
    assert_snapshot!(
        "view_bare_application",
        details::application(&Application::from(bare_application()), &clock)
    );
    assert_snapshot!(
        "view_session",
        details::session(&SessionDetails::from(session()), &clock)
    );
    assert_snapshot!("view_node", details::node(&node(), &clock));
    for (name, task) in ["view_task_succeed", "view_task_failed", "view_task_pending"]
        .iter()
        .zip(tasks())
    {
        assert_snapshot!(*name, details::task(&task, &clock));
    }
    assert_snapshot!("explain", details::explanation(&explanation()));
    assert_snapshot!("view_executor", details::executor(&executors().remove(0)));
}

#[test]
fn json_documents() {
    assert_snapshot!("json_application", json(&Application::from(application())));
    assert_snapshot!("json_session", json(&SessionDetails::from(session())));
    assert_snapshot!("json_sessions", json(&sessions()));
    assert_snapshot!("json_tasks", json(&tasks()));
    assert_snapshot!("json_node", json(&node()));
    assert_snapshot!("json_explanation", json(&explanation()));
    assert_snapshot!("json_executors", json(&executors()));
}

#[test]
fn colours_are_only_around_the_state() {
    let colored = Printer {
        color: true,
        ..printer(Format::Table)
    };
    let plain = table::executors(&executors(), &printer(Format::Table));
    let shown = table::executors(&executors(), &colored);
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    assert!(shown.contains("\u{1b}[38;5;10mBound"), "{shown:?}");
}

#[test]
fn names_from_the_server_cannot_steer_the_terminal() {
    let mut app = Application::from(application());
    app.name = "\u{1b}[2Jevil\nrow".to_owned();
    let shown = table::applications(&[app], &printer(Format::Wide));
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    assert_eq!(shown.lines().count(), 2, "{shown:?}");
}

#[test]
fn long_payloads_are_cut_on_a_page() {
    let mut task = tasks().remove(0);
    task.input = None;
    task.output = Some(Bytes::from("ü".repeat(10_000)));
    let page = details::task(&task, &printer(Format::Table).clock);
    assert!(page.contains("Output:    19.5 KiB, text\n"), "{page}");
    assert!(
        page.contains("... 15.5 KiB more, see --raw or -o json\n"),
        "{page}"
    );
}
