//! What the Frontend of the tests answers.

use flame_rpc::v1;

use crate::support::Fake;

fn metadata(id: &str) -> Option<v1::Metadata> {
    Some(v1::Metadata {
        id: id.to_owned(),
        name: id.to_owned(),
    })
}

pub(crate) fn application(name: &str, spec: v1::ApplicationSpec) -> v1::Application {
    let status = v1::ApplicationStatus {
        state: 0,
        creation_time: 1_700_000_000_000,
    };
    v1::Application {
        metadata: metadata(name),
        spec: Some(spec),
        status: Some(status),
    }
}

pub(crate) fn session(id: &str, creation_time: i64, spec: v1::SessionSpec) -> v1::Session {
    let status = v1::SessionStatus {
        creation_time,
        pending: 1,
        succeed: 2,
        ..Default::default()
    };
    v1::Session {
        metadata: metadata(id),
        spec: Some(spec),
        status: Some(status),
    }
}

pub(crate) fn session_of(id: &str, application: &str, creation_time: i64) -> v1::Session {
    let application = application.to_owned();
    session(
        id,
        creation_time,
        v1::SessionSpec {
            application,
            ..Default::default()
        },
    )
}

pub(crate) fn task(id: &str, state: v1::TaskState, spec: v1::TaskSpec) -> v1::Task {
    let status = v1::TaskStatus {
        state: state.into(),
        creation_time: 1_700_000_000_000,
        ..Default::default()
    };
    v1::Task {
        metadata: metadata(id),
        spec: Some(spec),
        status: Some(status),
    }
}

pub(crate) fn node(name: &str) -> v1::Node {
    let resources = Some(v1::ResourceRequirement {
        cpu: 4,
        memory: 8 << 30,
        gpu: 0,
    });
    let status = v1::NodeStatus {
        state: v1::NodeState::Ready.into(),
        capacity: resources,
        allocatable: resources,
        info: Some(v1::NodeInfo {
            arch: "x86_64".into(),
            os: "linux".into(),
        }),
        ..Default::default()
    };
    let spec = v1::NodeSpec {
        hostname: name.to_owned(),
    };
    v1::Node {
        metadata: metadata(name),
        spec: Some(spec),
        status: Some(status),
    }
}

pub(crate) fn executor(id: &str, node: &str, session: Option<&str>) -> v1::Executor {
    let resreq = Some(v1::ResourceRequirement {
        cpu: 1,
        memory: 1 << 30,
        gpu: 0,
    });
    let state = if session.is_some() {
        v1::ExecutorState::ExecutorBound
    } else {
        v1::ExecutorState::ExecutorIdle
    };
    v1::Executor {
        metadata: metadata(id),
        spec: Some(v1::ExecutorSpec {
            node: node.to_owned(),
            resreq,
            shim: 0,
        }),
        status: Some(v1::ExecutorStatus {
            state: state.into(),
            session_id: session.map(str::to_owned),
        }),
    }
}

/// A cluster with a little of everything.
pub(crate) fn filled() -> Fake {
    let fake = Fake::default();
    let mut state = fake.0.lock().unwrap();
    let command = |path: &str| v1::ApplicationSpec {
        command: Some(path.into()),
        ..Default::default()
    };
    state
        .applications
        .insert("flmping".into(), command("/bin/flmping-service"));
    state
        .applications
        .insert("counter".into(), command("/bin/counter"));
    state.sessions = vec![
        session_of("newer", "flmping", 1_700_000_100_000),
        session_of("older", "counter", 1_700_000_000_000),
    ];
    let spec = v1::TaskSpec {
        session_id: "newer".into(),
        input: None,
        output: Some("done".into()),
    };
    let states = [
        ("10", v1::TaskState::Failed),
        ("9", v1::TaskState::Succeed),
        ("1", v1::TaskState::Running),
    ];
    state.tasks = states
        .into_iter()
        .map(|(id, state)| task(id, state, spec.clone()))
        .collect();
    state.nodes = vec![node("n2"), node("n1")];
    state.executors = vec![executor("e2", "n1", None), executor("e1", "n1", Some("newer"))];
    drop(state);
    fake
}

/// First column of a table without its header.
pub(crate) fn first_column(table: &str) -> Vec<&str> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}
