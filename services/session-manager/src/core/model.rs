//! The things that the core knows, and what can be read off one of them alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flame_core::state::{NodeState, SessionState, Shim, TaskState};
use flame_core::{ApplicationName, ExecutorId, NodeName, Resources, SessionId, TaskId};
use flame_rpc::v1;

use super::scheduler::Counted;
use super::{Cordon, LinkId, Now, RanOn, Requests, Stability, metadata};
use crate::store::StoredSession;

/// Number of a session, in the order of creation over the whole life of the store.
pub type SessionKey = u64;

/// Tasks that a session may have in its life: their numbers have 32 bits in the store.
pub(crate) const MAX_TASKS: u64 = u32::MAX as u64;

/// Session events that are kept; older ones are dropped.
pub(crate) const MAX_EVENTS: usize = 100;

/// Silence after which a node gets no new work: three missed heartbeats.
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_secs(15);
/// Silence after which a node's tasks are given to others.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(45);
/// Silence after which a node is forgotten.
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(20 * 60);

/// How long a session without any executor waits before it may take one from a session that has
/// the same right to it: the length of a turn when there are more sessions than places.
pub(crate) const TURN: Duration = Duration::from_secs(1);

/// A registered application.
#[derive(Debug, Clone, PartialEq)]
pub struct Application {
    /// Its name.
    pub name: ApplicationName,
    /// As registered, with the defaults filled in.
    pub spec: v1::ApplicationSpec,
    /// Unix milliseconds.
    pub created: i64,
    /// Grows with every update.
    pub version: u32,
    /// For a built-in application that no user has changed: as it was built in.
    pub builtin: bool,
}

impl Application {
    /// What no other registration or version of an application of this name has.
    pub(crate) fn revision(&self) -> String {
        format!("{}-{}", self.created, self.version)
    }

    pub(crate) fn delay_release(&self) -> Duration {
        Duration::from_secs(
            self.spec
                .delay_release
                .and_then(|seconds| u64::try_from(seconds).ok())
                .unwrap_or(0),
        )
    }

    pub(crate) fn view(&self) -> v1::Application {
        v1::Application {
            metadata: metadata(self.name.as_str()),
            spec: Some(self.spec.clone()),
            status: Some(v1::ApplicationStatus {
                state: v1::ApplicationState::Enabled.into(),
                creation_time: self.created,
            }),
        }
    }
}

/// What is stored of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRow {
    /// Its number.
    pub key: SessionKey,
    /// Its id.
    pub id: SessionId,
    /// Its application.
    pub application: ApplicationName,
    /// Input that all its tasks share.
    pub common_data: Option<Bytes>,
    /// Executors that are kept even without work.
    pub min_instances: u32,
    /// Most executors at a time.
    pub max_instances: Option<u32>,
    /// A higher number is served first.
    pub priority: u32,
    /// Size of one executor.
    pub resources: Resources,
    /// Labels that its nodes have to have, as `key=value`, in order.
    pub node_labels: Arc<[String]>,
    /// A task that runs longer on one attempt fails.
    pub task_timeout: Option<Duration>,
    /// Whether it takes tasks.
    pub state: SessionState,
    /// Unix milliseconds.
    pub created: i64,
    /// Unix milliseconds.
    pub completed: Option<i64>,
}

impl SessionRow {
    /// What the client asked for, with everything resolved: as it is shown and as it is stored.
    pub(crate) fn spec(&self) -> v1::SessionSpec {
        v1::SessionSpec {
            application: self.application.to_string(),
            common_data: self.common_data.clone(),
            min_instances: self.min_instances,
            max_instances: self.max_instances,
            batch_size: 1,
            priority: self.priority,
            resreq: Some(self.resources.into()),
            node_selector: self
                .node_labels
                .iter()
                .filter_map(|label| label.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            task_timeout_ms: self
                .task_timeout
                .map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Something that happened to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEvent {
    /// One of `flame_core::event`.
    pub code: i32,
    /// For people.
    pub message: String,
    /// Unix milliseconds.
    pub time: i64,
}

/// Everything about a task: what is stored of an ended one, and what is shown of any.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRow {
    /// Its session.
    pub session: SessionKey,
    /// Its number in the session, from 1.
    pub id: TaskId,
    /// Where it is.
    pub state: TaskState,
    /// Unix milliseconds.
    pub created: i64,
    /// First hand-out, Unix milliseconds.
    pub started: Option<i64>,
    /// Unix milliseconds.
    pub finished: Option<i64>,
    /// The how manieth of the session's tasks it was to end, from 1.
    pub sequence: Option<u64>,
    /// From the client.
    pub input: Option<Bytes>,
    /// From the service.
    pub output: Option<Bytes>,
    /// Why it failed or was cancelled.
    pub message: Option<String>,
}

/// A session and its open tasks.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) row: SessionRow,
    pub(crate) events: VecDeque<SessionEvent>,
    pub(crate) last_task: TaskId,
    /// Highest task that was stored when this process began. What an earlier one gave a higher
    /// number is lost, and the number may have been given to another task since.
    pub(crate) last_restored: TaskId,
    /// Tasks that have not ended.
    pub(crate) live: HashMap<TaskId, Task>,
    /// Those of `live` that wait, in the order in which they will run.
    pub(crate) pending: BTreeSet<TaskId>,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) executors: BTreeSet<ExecutorId>,
    /// Bound executors without a task, the longest idle last.
    pub(crate) idle: VecDeque<ExecutorId>,
    /// When its idle executors are looked at, see `idle.rs`.
    pub(crate) idle_check: Option<Duration>,
    /// Failures to bind in a row.
    pub(crate) bind_failures: u32,
    /// Nodes on which binding failed, and until when they are not tried again.
    pub(crate) avoids: BTreeMap<NodeName, Duration>,
    /// Gets no new executors at all.
    pub(crate) paused: bool,
    /// The last pass of the scheduler could not give it any more executors, so it need not be
    /// asked again because of more tasks.
    pub(crate) unserved: bool,
    /// What its executors come to; nothing if that has changed since it was counted.
    pub(crate) counted: Option<Counted>,
    /// Since when it has work but no executor.
    pub(crate) waiting_since: Option<Duration>,
    /// How long its tasks take, the latest counting most; unknown until the first result.
    pub(crate) task_time: Option<Duration>,
    /// Calls that may be repeated.
    pub(crate) requests: Requests,
    /// Where its logs are.
    pub(crate) ran_on: RanOn,
}

/// A task that has not ended.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) input: Option<Bytes>,
    pub(crate) created: i64,
    pub(crate) started: Option<i64>,
    pub(crate) phase: TaskPhase,
    /// How often its service died under it.
    pub(crate) kills: u32,
    /// The latest attempt that ended so: an agent that connects again tells of a death once more.
    pub(crate) last_killed: u64,
}

/// Where an open task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TaskPhase {
    /// Waits for an executor.
    Pending,
    /// Was handed out.
    Running {
        /// To whom.
        executor: ExecutorId,
        /// Only a result with this number counts.
        attempt: u64,
    },
}

impl Session {
    pub(crate) fn new(row: SessionRow) -> Self {
        Self {
            row,
            events: VecDeque::new(),
            last_task: 0,
            last_restored: 0,
            live: HashMap::new(),
            pending: BTreeSet::new(),
            succeeded: 0,
            failed: 0,
            cancelled: 0,
            executors: BTreeSet::new(),
            idle: VecDeque::new(),
            idle_check: None,
            bind_failures: 0,
            avoids: BTreeMap::new(),
            paused: false,
            unserved: false,
            counted: None,
            waiting_since: None,
            task_time: None,
            requests: Requests::default(),
            ran_on: RanOn::none(),
        }
    }

    pub(crate) fn restored(stored: StoredSession) -> Self {
        let mut session = Self::new(stored.row);
        session.ran_on = stored.ran_on;
        session.events = stored.events.into();
        session.last_task = stored.last_task;
        session.last_restored = stored.last_task;
        session.succeeded = stored.succeeded;
        session.failed = stored.failed;
        session.cancelled = stored.cancelled;
        for request in &stored.requests {
            session.requests.remember(request);
        }
        for row in stored.open {
            session.pending.insert(row.id);
            let task = Task {
                input: row.input,
                created: row.created,
                started: None,
                phase: TaskPhase::Pending,
                kills: 0,
                last_killed: 0,
            };
            session.live.insert(row.id, task);
        }
        session
    }

    /// Adds a task that waits.
    pub(crate) fn add_task(&mut self, input: Option<Bytes>, now: Now) -> TaskRow {
        self.last_task += 1;
        let id = self.last_task;
        let task = Task {
            input: input.clone(),
            created: now.wall,
            started: None,
            phase: TaskPhase::Pending,
            kills: 0,
            last_killed: 0,
        };
        self.live.insert(id, task);
        self.pending.insert(id);
        TaskRow {
            session: self.row.key,
            id,
            state: TaskState::Pending,
            created: now.wall,
            started: None,
            finished: None,
            sequence: None,
            input,
            output: None,
            message: None,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.row.state == SessionState::Open
    }

    /// How many of its tasks have ended.
    pub(crate) fn ended(&self) -> u64 {
        self.succeeded + self.failed + self.cancelled
    }

    pub(crate) fn running(&self) -> usize {
        self.live.len() - self.pending.len()
    }

    pub(crate) fn view(&self) -> v1::Session {
        let row = &self.row;
        let count = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
        v1::Session {
            metadata: metadata(row.id.as_str()),
            spec: Some(row.spec()),
            status: Some(v1::SessionStatus {
                state: v1::SessionState::from(row.state).into(),
                creation_time: row.created,
                completion_time: row.completed,
                pending: count(self.pending.len() as u64),
                running: count(self.running() as u64),
                succeed: count(self.succeeded),
                failed: count(self.failed),
                cancelled: count(self.cancelled),
                events: self.events.iter().map(SessionEvent::view).collect(),
            }),
        }
    }

    /// Task `id` as a row, if it has not ended.
    pub(crate) fn live_row(&self, id: TaskId) -> Option<TaskRow> {
        let task = self.live.get(&id)?;
        Some(TaskRow {
            session: self.row.key,
            id,
            state: match task.phase {
                TaskPhase::Pending => TaskState::Pending,
                TaskPhase::Running { .. } => TaskState::Running,
            },
            created: task.created,
            started: task.started,
            finished: None,
            sequence: None,
            input: task.input.clone(),
            output: None,
            message: None,
        })
    }
}

impl SessionEvent {
    fn view(&self) -> v1::Event {
        v1::Event {
            code: self.code,
            message: Some(self.message.clone()),
            creation_time: self.time,
        }
    }
}

/// A process on a node that serves one session.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) id: ExecutorId,
    pub(crate) node: NodeName,
    pub(crate) session: SessionKey,
    pub(crate) session_id: SessionId,
    pub(crate) application: ApplicationName,
    pub(crate) resources: Resources,
    pub(crate) state: ExecutorState,
    /// Tasks in its hands, with their attempts.
    pub(crate) tasks: BTreeMap<TaskId, u64>,
    /// Tasks it has finished.
    pub(crate) done: u64,
    /// When it last finished a task, or was given one while it had none.
    pub(crate) progress: Duration,
    /// How often it was asked to give back the tasks that it has not begun, and has not answered.
    pub(crate) recalls: u32,
    /// Tasks that were taken from it while others were before them, with their attempts: it may
    /// have begun them meanwhile. See `cancel.rs`.
    pub(crate) withdrawn: BTreeMap<TaskId, u64>,
    /// What it runs is not wanted any more, so its process is ended without waiting.
    pub(crate) give_up: bool,
    /// When the time of its tasks is looked at, see `timeout.rs`.
    pub(crate) look_at: Option<Duration>,
}

/// Life of an executor as the session manager sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExecutorState {
    /// Asked for; the node has not said that it is bound.
    Binding,
    /// Takes tasks of its session.
    Bound {
        /// Since when.
        since: Duration,
        /// Since when it has had no task.
        idle_since: Option<Duration>,
    },
    /// Finishes what it has and is then released.
    Draining,
    /// Told to end; its resources are free when the node says so.
    Releasing,
}

impl Executor {
    pub(crate) fn view(&self) -> v1::Executor {
        let state = match &self.state {
            ExecutorState::Binding => v1::ExecutorState::ExecutorBinding,
            ExecutorState::Bound {
                idle_since: Some(_), ..
            } => v1::ExecutorState::ExecutorIdle,
            ExecutorState::Bound { .. } => v1::ExecutorState::ExecutorBound,
            ExecutorState::Draining => v1::ExecutorState::ExecutorUnbinding,
            ExecutorState::Releasing => v1::ExecutorState::ExecutorReleasing,
        };
        v1::Executor {
            metadata: metadata(self.id.as_str()),
            spec: Some(v1::ExecutorSpec {
                node: self.node.to_string(),
                resreq: Some(self.resources.into()),
                shim: v1::Shim::Host.into(),
            }),
            status: Some(v1::ExecutorStatus {
                state: state.into(),
                session_id: Some(self.session_id.to_string()),
            }),
        }
    }
}

/// What an agent says of its node when it connects.
#[derive(Debug, Clone)]
pub struct NodeHello {
    /// Name in the cluster.
    pub name: NodeName,
    /// Id of the machine, which stays over restarts of the agent; empty if it has none.
    pub id: String,
    /// Random per start of the agent.
    pub agent_instance: String,
    /// For people.
    pub hostname: String,
    /// Everything it has.
    pub capacity: Resources,
    /// What executors may use.
    pub allocatable: Resources,
    /// Processor architecture.
    pub arch: String,
    /// Operating system.
    pub os: String,
    /// Shims it can run.
    pub shims: Vec<Shim>,
    /// What sessions may select it by, as `key=value`.
    pub labels: Arc<BTreeSet<String>>,
    /// Where it can be reached.
    pub addresses: Vec<String>,
    /// Executors that it runs at most, if it has a limit of its own.
    pub slots: Option<u32>,
    /// It serves one session, and is forgotten when it leaves.
    pub ephemeral: bool,
}

/// A machine that runs executors.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) hello: NodeHello,
    pub(crate) state: NodeState,
    /// The stream to its agent, if there is one.
    pub(crate) link: Option<LinkId>,
    pub(crate) epoch: u64,
    /// Its agent is stopping.
    pub(crate) draining: bool,
    /// Somebody took it out of service.
    pub(crate) cordon: Option<Cordon>,
    /// Whether its link is stable.
    pub(crate) stability: Stability,
    pub(crate) last_heard: Duration,
    pub(crate) last_heard_wall: i64,
    /// When a message of its agent came, on its present link.
    pub(crate) last_message: Duration,
    /// The last agent that was refused because of this one.
    pub(crate) refused: Option<String>,
    /// The one session that an ephemeral node serves.
    pub(crate) reserved_for: Option<SessionKey>,
    pub(crate) executors: BTreeSet<ExecutorId>,
    /// What its executors hold.
    pub(crate) used: Resources,
}

impl Node {
    /// Whether it may be given executors and tasks.
    pub(crate) fn takes_work(&self) -> bool {
        self.is_ready() && self.cordon.is_none() && !self.stability.is_held()
    }

    /// Whether it could be given work if nobody minded.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == NodeState::Ready && self.link.is_some() && !self.draining
    }

    /// Executors that it may have where `most` are allowed on a node.
    pub(crate) fn slots(&self, most: u32) -> u32 {
        self.hello.slots.map_or(most, |own| own.min(most))
    }

    pub(crate) fn free(&self) -> Resources {
        self.hello.allocatable.minus(&self.used)
    }

    pub(crate) fn next_deadline(&self, now: Now) -> Option<Duration> {
        let limit = match self.state {
            NodeState::Ready => SUSPECT_AFTER,
            NodeState::Suspect => LOST_AFTER,
            NodeState::Lost | NodeState::Left => FORGET_AFTER,
        };
        let silence = self.last_heard + limit;
        let next = self
            .stability
            .held_until()
            .map_or(silence, |held| held.min(silence));
        Some(next.max(now.mono))
    }

    pub(crate) fn view(&self) -> v1::Node {
        let state = if self.is_ready() {
            v1::NodeState::Ready
        } else {
            v1::NodeState::NotReady
        };
        let phase = match self.state {
            NodeState::Ready => v1::NodePhase::Ready,
            NodeState::Suspect => v1::NodePhase::Suspect,
            NodeState::Lost => v1::NodePhase::Lost,
            NodeState::Left => v1::NodePhase::Left,
        };

        let address = |address: &String| v1::NodeAddress {
            r#type: "InternalIP".to_owned(),
            address: address.clone(),
        };
        v1::Node {
            metadata: metadata(self.hello.name.as_str()),
            spec: Some(v1::NodeSpec {
                hostname: self.hello.hostname.clone(),
            }),
            status: Some(v1::NodeStatus {
                state: state.into(),
                capacity: Some(self.hello.capacity.into()),
                allocatable: Some(self.hello.allocatable.into()),
                info: Some(v1::NodeInfo {
                    arch: self.hello.arch.clone(),
                    os: self.hello.os.clone(),
                }),
                addresses: self.hello.addresses.iter().map(address).collect(),
                last_heartbeat_time: self.last_heard_wall,
                phase: phase.into(),
                cordoned: self.cordon.is_some(),
                draining: self.draining || self.cordon.as_ref().is_some_and(|cordon| cordon.drain),
                executors: u32::try_from(self.executors.len()).unwrap_or(u32::MAX),
                held_until: self.stability.held_until_wall(),
                cordon_reason: self.cordon.as_ref().and_then(|cordon| cordon.reason.clone()),
                labels: self.hello.labels.iter().cloned().collect(),
            }),
        }
    }
}
