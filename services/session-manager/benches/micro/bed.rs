//! Plays the clients and the agents around a core.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use flame_core::config::cluster::{Limits, Placement, Policy, Retention};
use flame_core::state::Shim;
use flame_core::{ApplicationName, NodeName, Resources, SessionId};
use flame_rpc::node::{
    ExecutorPhase, ExecutorUpdate, ResultBatch, TaskDone, TaskItem, from_agent, to_agent::Message,
};
use flame_rpc::v1::{ApplicationSpec, ExecutorState, SessionSpec};
use flame_session_manager::core::{Core, CoreConfig, Effects, LinkId, NodeHello, Now};
use flame_session_manager::store::{Record, Snapshot};

/// CPUs of a node, and so its executors.
pub(crate) const NODE_CPUS: u64 = 10;

/// Microseconds in a task: so short that tasks are handed out in advance.
const SHORT_TASK: u64 = 20;
/// So long that they are not.
const LONG_TASK: u64 = 10_000_000;

/// A core with its surroundings.
pub(crate) struct Bed {
    core: Core,
    now: Now,
    /// Tasks in the agents' hands.
    handed: Vec<(LinkId, String, TaskItem)>,
    /// Executors that agents were told to end and have not.
    releasing: Vec<(LinkId, String)>,
    /// Executors that serve, in the order in which they came.
    bound: VecDeque<(LinkId, String)>,
    /// Microseconds in a task.
    task_us: u64,
    records: Vec<Record>,
    results: u64,
}

impl Bed {
    /// One with an application and nothing else.
    pub(crate) fn new() -> Self {
        let config = CoreConfig {
            default_resources: size(1),
            policies: vec![Policy::Priority, Policy::Drf],
            placement: Placement::Pack,
            limits: Limits {
                // A session that is closed leaves nothing.
                max_sessions: Some(0),
                max_executors: 1 << 20,
                max_message_size: 1 << 20,
            },
            retention: Retention::default(),
            bind_retries: 5,
            task_retries: 3,
        };
        let snapshot = Snapshot {
            generation: 1,
            ..Snapshot::default()
        };
        let mut bed = Self {
            core: Core::new(config, snapshot),
            now: Now {
                wall: 1_000,
                mono: Duration::from_secs(100),
            },
            handed: Vec::new(),
            releasing: Vec::new(),
            bound: VecDeque::new(),
            task_us: SHORT_TASK,
            records: Vec::new(),
            results: 0,
        };
        let name = ApplicationName::new("app").expect("valid");
        bed.apply(|core, now, fx| core.register_application(&name, ApplicationSpec::default(), now, fx))
            .expect("registered");
        bed
    }

    /// One whose tasks take long.
    pub(crate) fn of_long_tasks() -> Self {
        Self {
            task_us: LONG_TASK,
            ..Self::new()
        }
    }

    /// Applies a command without the scheduler.
    pub(crate) fn apply<T>(&mut self, command: impl FnOnce(&mut Core, Now, &mut Effects) -> T) -> T {
        let mut fx = Effects::default();
        let result = command(&mut self.core, self.now, &mut fx);
        self.take(fx);
        result
    }

    /// Does what became possible, as the engine does after each batch of commands.
    pub(crate) fn settle(&mut self) {
        self.timed_settle();
    }

    /// The same; says how long the core took, without what is played around it.
    pub(crate) fn timed_settle(&mut self) -> Duration {
        let mut fx = Effects::default();
        let began = Instant::now();
        self.core.settle(self.now, &mut fx);
        let time = began.elapsed();
        self.take(fx);
        time
    }

    /// Opens session `s<number>`.
    pub(crate) fn session(&mut self, number: usize) -> String {
        let id = SessionId::new(&format!("s{number}")).expect("valid");
        let spec = SessionSpec {
            application: "app".to_owned(),
            resreq: Some(size(1).into()),
            ..SessionSpec::default()
        };
        self.apply(|core, now, fx| core.create_session(&id, spec, now, fx))
            .expect("created");
        id.to_string()
    }

    /// Closes a session.
    pub(crate) fn close(&mut self, session: &str) {
        self.apply(|core, now, fx| core.close_session(session, now, fx))
            .expect("closed");
    }

    /// Adds empty tasks with one command.
    pub(crate) fn tasks(&mut self, session: &str, count: usize) {
        self.apply(|core, now, fx| core.create_tasks(session, vec![None; count], now, fx))
            .expect("created");
    }

    /// Adds empty tasks with a command for each.
    pub(crate) fn single_tasks(&mut self, session: &str, count: usize) {
        for _ in 0..count {
            self.apply(|core, now, fx| core.create_task(session, None, now, fx))
                .expect("created");
        }
    }

    /// Nodes that have room for `executors` connect.
    pub(crate) fn nodes(&mut self, executors: u64) {
        for link in 1..=executors.div_ceil(NODE_CPUS) {
            let name = NodeName::new(&format!("n{link}")).expect("valid");
            let hello = NodeHello {
                name: name.clone(),
                agent_instance: "instance".to_owned(),
                hostname: name.to_string(),
                capacity: size(NODE_CPUS),
                allocatable: size(NODE_CPUS),
                arch: "x86_64".to_owned(),
                os: "linux".to_owned(),
                shims: vec![Shim::Host],
                labels: Default::default(),
                addresses: Vec::new(),
                id: String::new(),
                slots: None,
                ephemeral: false,
            };
            self.apply(|core, now, fx| core.node_connected(link, "bench", hello, Vec::new(), now, fx));
        }
    }

    /// Starts the executors and runs what there is, so that later tasks find everything ready.
    pub(crate) fn warm_up(&mut self) {
        self.settle(); // starts
        self.settle(); // hands out
        self.finish();
    }

    /// The agents work until nothing is in their hands; returns how many tasks ended.
    pub(crate) fn finish(&mut self) -> usize {
        let mut ended = 0;
        while !self.handed.is_empty() {
            ended += self.finish_handed();
        }
        ended
    }

    /// The agents finish everything that they have, and get what is next; returns how much that was.
    fn finish_handed(&mut self) -> usize {
        let handed = std::mem::take(&mut self.handed);
        let count = handed.len();
        let mut batches: Vec<(LinkId, Vec<TaskDone>)> = Vec::new();
        for (link, executor, task) in handed {
            let done = TaskDone {
                executor_id: executor,
                task_id: task.task_id,
                attempt: task.attempt,
                duration_us: self.task_us,
                ..TaskDone::default()
            };
            match batches.last_mut().filter(|(last, _)| *last == link) {
                Some((_, results)) => results.push(done),
                None => batches.push((link, vec![done])),
            }
        }
        for (link, results) in batches {
            self.results += 1;
            let sequence = self.results;
            let message = from_agent::Message::Results(ResultBatch { sequence, results });
            self.apply(|core, now, fx| core.node_message(link, message, now, fx));
        }
        self.now.mono += Duration::from_micros(SHORT_TASK);
        self.settle();
        count
    }

    /// The process of the executor that serves longest is gone.
    pub(crate) fn lose_executor(&mut self) {
        let (link, executor) = self.bound.pop_front().expect("there is one");
        self.handed.retain(|(_, holder, _)| *holder != executor);
        self.gone(link, executor);
    }

    /// Executors that gave way end their tasks and go, and what they did is replaced by new tasks.
    pub(crate) fn let_go(&mut self) {
        let mut draining = HashMap::new();
        for executor in self.core.list_executors().executors {
            let status = executor.status.expect("always set");
            if status.state() == ExecutorState::ExecutorUnbinding {
                let id = executor.metadata.expect("always set").id;
                draining.insert(id, status.session_id.expect("it serves one"));
            }
        }
        let all = std::mem::take(&mut self.handed).into_iter();
        let (ending, others) = all.partition(|(_, executor, _)| draining.contains_key(executor));
        self.handed = ending;
        self.finish_handed();
        self.handed.extend(others);
        for session in draining.values() {
            self.tasks(session, 1);
        }
        for (link, executor) in std::mem::take(&mut self.releasing) {
            self.bound.retain(|(_, id)| *id != executor);
            self.gone(link, executor);
        }
        self.settle(); // starts
        self.settle(); // hands out
    }

    fn gone(&mut self, link: LinkId, executor_id: String) {
        self.update(link, executor_id, ExecutorPhase::Released);
    }

    /// What there is to store since the last time.
    pub(crate) fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    fn take(&mut self, fx: Effects) {
        self.records.extend(fx.records);
        for (link, order) in fx.orders {
            match order.message {
                Some(Message::Start(start)) => {
                    self.bound.push_back((link, start.executor_id.clone()));
                    self.update(link, start.executor_id, ExecutorPhase::Bound);
                }
                Some(Message::Release(release)) => self.releasing.push((link, release.executor_id)),
                Some(Message::Tasks(batch)) => {
                    let executor = batch.executor_id;
                    let tasks = batch.tasks.into_iter();
                    self.handed
                        .extend(tasks.map(|task| (link, executor.clone(), task)));
                }
                _ => {}
            }
        }
    }

    fn update(&mut self, link: LinkId, executor_id: String, phase: ExecutorPhase) {
        let update = ExecutorUpdate {
            executor_id,
            phase: phase.into(),
            ..ExecutorUpdate::default()
        };
        let message = from_agent::Message::Executor(update);
        self.apply(|core, now, fx| core.node_message(link, message, now, fx));
    }
}

fn size(cpu: u64) -> Resources {
    Resources {
        cpu,
        memory: cpu,
        gpu: 0,
    }
}
