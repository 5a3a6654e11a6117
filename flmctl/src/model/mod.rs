//! What is shown: the wire's messages as plain values. Their JSON form is a contract with scripts
//! (docs/flmctl.md): add fields, never rename or remove one.

mod explanation;
mod log;
mod payload;
mod state;

use std::collections::BTreeMap;

use bytes::Bytes;
use flame_rpc::v1;
use serde::{Serialize, Serializer};

use crate::format;
pub(crate) use explanation::Explanation;
pub(crate) use log::{Line as LogLine, Note as LogNote};
use payload::{common_data, input, output};
pub(crate) use state::WireState;
use state::state;

/// Unix milliseconds; in JSON RFC 3339 in UTC, or null for "never".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) i64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        format::rfc3339(self.0).serialize(serializer)
    }
}

/// Something that happened to a task or a session.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Event {
    pub(crate) code: i32,
    pub(crate) message: Option<String>,
    pub(crate) creation_time: Time,
}

/// An application.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Application {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) shim: String,
    pub(crate) description: Option<String>,
    pub(crate) labels: Vec<String>,
    pub(crate) image: Option<String>,
    pub(crate) command: Option<String>,
    pub(crate) arguments: Vec<String>,
    pub(crate) environments: BTreeMap<String, String>,
    pub(crate) working_directory: Option<String>,
    pub(crate) max_instances: Option<u32>,
    pub(crate) delay_release_seconds: Option<i64>,
    pub(crate) reusable: bool,
    pub(crate) schema: Schema,
    pub(crate) url: Option<String>,
    pub(crate) installer: Option<String>,
    pub(crate) creation_time: Time,
}

/// JSON Schema documents of an application, as text.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Schema {
    pub(crate) input: Option<String>,
    pub(crate) output: Option<String>,
    pub(crate) common_data: Option<String>,
}

/// A session without its payload.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) application: String,
    pub(crate) state: String,
    pub(crate) priority: u32,
    pub(crate) min_instances: u32,
    pub(crate) max_instances: Option<u32>,
    pub(crate) batch_size: u32,
    pub(crate) resreq: Option<Resources>,
    pub(crate) node_selector: BTreeMap<String, String>,
    pub(crate) task_timeout_ms: Option<u64>,
    pub(crate) tasks: Counts,
    pub(crate) creation_time: Time,
    pub(crate) completion_time: Option<Time>,
    pub(crate) common_data_size: Option<usize>,
    pub(crate) events: Vec<Event>,
}

/// A session with its payload, for `view`: in a list the payloads of all sessions would be too much.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SessionDetails {
    #[serde(flatten)]
    pub(crate) session: Session,
    #[serde(flatten, serialize_with = "common_data")]
    pub(crate) common_data: Option<Bytes>,
}

/// How many tasks of a session are in each state.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Counts {
    pub(crate) pending: i32,
    pub(crate) running: i32,
    pub(crate) succeed: i32,
    pub(crate) failed: i32,
    pub(crate) cancelled: i32,
}

/// A task with its payloads.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) session_id: String,
    pub(crate) state: String,
    pub(crate) creation_time: Time,
    pub(crate) completion_time: Option<Time>,
    #[serde(flatten, serialize_with = "input")]
    pub(crate) input: Option<Bytes>,
    #[serde(flatten, serialize_with = "output")]
    pub(crate) output: Option<Bytes>,
    pub(crate) events: Vec<Event>,
    #[serde(skip)]
    pub(crate) wire_state: v1::TaskState,
}

/// A node.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) hostname: String,
    pub(crate) state: String,
    pub(crate) capacity: Resources,
    pub(crate) allocatable: Resources,
    pub(crate) arch: String,
    pub(crate) os: String,
    pub(crate) addresses: Vec<Address>,
    pub(crate) last_heartbeat_time: Time,
    /// Nothing from a session manager that has no phases.
    pub(crate) phase: Option<String>,
    pub(crate) cordoned: bool,
    pub(crate) cordon_reason: Option<String>,
    pub(crate) draining: bool,
    pub(crate) held_until: Option<Time>,
    pub(crate) executors: u32,
    pub(crate) labels: Vec<String>,
}

/// One address of a node.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Address {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) address: String,
}

/// An executor.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Executor {
    pub(crate) id: String,
    pub(crate) node: String,
    pub(crate) state: String,
    pub(crate) session_id: Option<String>,
    pub(crate) resreq: Resources,
    pub(crate) shim: String,
}

/// Whole CPUs, bytes of memory, whole devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Resources {
    pub(crate) cpu: u64,
    pub(crate) memory: u64,
    pub(crate) gpu: i32,
}

impl From<v1::ResourceRequirement> for Resources {
    fn from(wire: v1::ResourceRequirement) -> Self {
        Self {
            cpu: wire.cpu,
            memory: wire.memory,
            gpu: wire.gpu,
        }
    }
}

impl std::fmt::Display for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // One word, so that columns stay columns.
        let memory = format::size(self.memory).replace(' ', "");
        write!(f, "cpu={},mem={memory},gpu={}", self.cpu, self.gpu)
    }
}

impl From<v1::Event> for Event {
    fn from(wire: v1::Event) -> Self {
        Self {
            code: wire.code,
            message: wire.message,
            creation_time: Time(wire.creation_time),
        }
    }
}

impl From<v1::Application> for Application {
    fn from(wire: v1::Application) -> Self {
        let spec = wire.spec.unwrap_or_default();
        let status = wire.status.unwrap_or_default();
        let schema = spec.schema.unwrap_or_default();
        Self {
            name: name(wire.metadata),
            state: state::<v1::ApplicationState>(status.state),
            shim: state::<v1::Shim>(spec.shim),
            description: spec.description,
            labels: spec.labels,
            image: spec.image,
            command: spec.command,
            arguments: spec.arguments,
            environments: spec
                .environments
                .into_iter()
                .map(|env| (env.name, env.value))
                .collect(),
            working_directory: spec.working_directory,
            max_instances: spec.max_instances,
            delay_release_seconds: spec.delay_release,
            reusable: spec.reusable,
            schema: Schema {
                input: schema.input,
                output: schema.output,
                common_data: schema.common_data,
            },
            url: spec.url,
            installer: spec.installer,
            creation_time: Time(status.creation_time),
        }
    }
}

impl From<v1::Session> for SessionDetails {
    fn from(wire: v1::Session) -> Self {
        let spec = wire.spec.unwrap_or_default();
        let status = wire.status.unwrap_or_default();
        let session = Session {
            id: name(wire.metadata),
            application: spec.application,
            state: state::<v1::SessionState>(status.state),
            priority: spec.priority,
            min_instances: spec.min_instances,
            max_instances: spec.max_instances,
            batch_size: spec.batch_size,
            resreq: spec.resreq.map(Resources::from),
            node_selector: spec.node_selector.into_iter().collect(),
            task_timeout_ms: spec.task_timeout_ms,
            tasks: Counts {
                pending: status.pending,
                running: status.running,
                succeed: status.succeed,
                failed: status.failed,
                cancelled: status.cancelled,
            },
            creation_time: Time(status.creation_time),
            completion_time: status.completion_time.map(Time),
            common_data_size: spec.common_data.as_ref().map(Bytes::len),
            events: status.events.into_iter().map(Event::from).collect(),
        };
        Self {
            session,
            common_data: spec.common_data,
        }
    }
}

impl From<v1::Task> for Task {
    fn from(wire: v1::Task) -> Self {
        let spec = wire.spec.unwrap_or_default();
        let status = wire.status.unwrap_or_default();
        Self {
            id: name(wire.metadata),
            session_id: spec.session_id,
            state: state::<v1::TaskState>(status.state),
            creation_time: Time(status.creation_time),
            completion_time: status.completion_time.map(Time),
            input: spec.input,
            output: spec.output,
            wire_state: status.state(),
            events: status.events.into_iter().map(Event::from).collect(),
        }
    }
}

impl Task {
    /// Whether the task has ended.
    pub(crate) fn is_terminal(&self) -> bool {
        flame_core::state::TaskState::from(self.wire_state).is_terminal()
    }

    /// The error text of a task that failed, from its events.
    pub(crate) fn failure(&self) -> Option<&str> {
        let failed = self
            .events
            .iter()
            .rev()
            .find(|event| event.code == v1::TaskState::Failed as i32);
        failed
            .and_then(|event| event.message.as_deref())
            .filter(|message| !message.is_empty())
    }
}

impl From<v1::Node> for Node {
    fn from(wire: v1::Node) -> Self {
        let mut status = wire.status.unwrap_or_default();
        let info = status.info.take().unwrap_or_default();
        let address = |wire: v1::NodeAddress| Address {
            kind: wire.r#type,
            address: wire.address,
        };
        Self {
            name: name(wire.metadata),
            hostname: wire.spec.unwrap_or_default().hostname,
            state: state::<v1::NodeState>(status.state),
            capacity: status.capacity.unwrap_or_default().into(),
            allocatable: status.allocatable.unwrap_or_default().into(),
            arch: info.arch,
            os: info.os,
            addresses: std::mem::take(&mut status.addresses)
                .into_iter()
                .map(address)
                .collect(),
            last_heartbeat_time: Time(status.last_heartbeat_time),
            phase: (status.phase() != v1::NodePhase::Unspecified)
                .then(|| state::<v1::NodePhase>(status.phase)),
            cordoned: status.cordoned,
            cordon_reason: status.cordon_reason.clone(),
            draining: status.draining,
            held_until: status.held_until.map(Time),
            executors: status.executors,
            labels: status.labels,
        }
    }
}

impl Node {
    /// What there is to say about it beside its state, in words.
    pub(crate) fn condition(&self) -> Option<String> {
        let mut words = Vec::new();
        words.extend(self.phase.clone().filter(|phase| phase != "Ready"));
        if self.draining && self.executors == 0 {
            words.push("drained".to_owned());
        } else if self.draining {
            words.push("draining".to_owned());
        } else if self.cordoned {
            words.push("cordoned".to_owned());
        }
        if self.held_until.is_some() {
            words.push("unstable".to_owned());
        }
        (!words.is_empty()).then(|| words.join(","))
    }
}

impl From<v1::Executor> for Executor {
    fn from(wire: v1::Executor) -> Self {
        let spec = wire.spec.unwrap_or_default();
        let status = wire.status.unwrap_or_default();
        Self {
            id: name(wire.metadata),
            node: spec.node,
            state: state::<v1::ExecutorState>(status.state),
            session_id: status.session_id.filter(|id| !id.is_empty()),
            resreq: spec.resreq.unwrap_or_default().into(),
            shim: state::<v1::Shim>(spec.shim),
        }
    }
}

fn name(metadata: Option<v1::Metadata>) -> String {
    let metadata = metadata.unwrap_or_default();
    if metadata.id.is_empty() {
        metadata.name
    } else {
        metadata.id
    }
}
