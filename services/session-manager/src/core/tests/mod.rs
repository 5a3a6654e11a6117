//! The core's rules, one test each. `Bed` plays the clients, the agents and the clock.

mod cancel;
mod census;
mod clients;
mod cordon;
mod defects;
mod departure;
mod explain;
mod failures;
mod identity;
mod logs;
mod nodes;
mod notices;
mod prefetch;
mod requests;
mod retention;
mod scheduling;
mod sim;

use std::collections::BTreeMap;

use flame_core::config::cluster::{Limits, Placement, Policy};
use flame_core::state::{Shim, TaskState};
use flame_rpc::node::{
    ExecutorPhase, ExecutorUpdate, ResultBatch, StartExecutor, TaskDone, TaskItem, from_agent,
    to_agent::Message,
};
use flame_rpc::v1::{ApplicationSpec, SessionSpec};

use super::*;
use crate::store::{Record, StoredSession};

pub(super) struct Bed {
    pub(super) core: Core,
    pub(super) now: Now,
    /// Executors that were started and not released, as the agents see them.
    pub(super) started: BTreeMap<String, StartExecutor>,
    /// Executors that agents were told to release and have not.
    pub(super) releasing: Vec<String>,
    /// Tasks in the agents' hands: (executor, task).
    pub(super) handed: Vec<(String, TaskItem)>,
    pub(super) records: Vec<Record>,
    pub(super) ended: Vec<(TaskId, TaskState, Option<String>)>,
    pub(super) acks: Vec<u64>,
    /// Lines about events that have a number.
    pub(super) notices: Vec<Notice>,
    /// Executors whose tasks in advance were asked for.
    pub(super) recalled: Vec<String>,
    /// Executors that were to end without waiting for what they run.
    pub(super) given_up: Vec<String>,
    /// Agents that the core did not want.
    pub(super) refusals: Vec<node::Refuse>,
    /// Whether agents that asked might leave.
    pub(super) leave_answers: Vec<bool>,
    last_link: LinkId,
}

pub(super) fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("valid")
}

pub(super) fn sid(text: &str) -> SessionId {
    SessionId::new(text).expect("valid")
}

pub(super) fn spec(application: &str) -> SessionSpec {
    let resreq = Some(
        Resources {
            cpu: 1,
            memory: 1,
            gpu: 0,
        }
        .into(),
    );
    SessionSpec {
        application: application.to_owned(),
        resreq,
        ..SessionSpec::default()
    }
}

pub(super) fn config() -> CoreConfig {
    CoreConfig {
        default_resources: Resources {
            cpu: 1,
            memory: 1,
            gpu: 0,
        },
        policies: vec![Policy::Priority, Policy::Drf],
        placement: Placement::Pack,
        limits: Limits {
            max_sessions: None,
            max_executors: 128,
            max_message_size: 1 << 20,
        },
        retention: Retention::default(),
        bind_retries: 2,
        task_retries: 3,
    }
}

/// A node "n" with so many processors, and session "s" with so many tasks, whose executors are bound.
fn bound(cpu: u64, tasks: usize) -> (Bed, LinkId) {
    let mut bed = Bed::new();
    let link = bed.node("n", cpu);
    bed.session("s", spec("app"));
    bed.tasks("s", tasks);
    bed.bind_all(link);
    (bed, link)
}

impl Bed {
    pub(super) fn new() -> Self {
        Self::with(
            config(),
            Snapshot {
                generation: 1,
                ..Snapshot::default()
            },
        )
    }

    /// What the next session manager finds in the store: all sessions with their tasks up to
    /// `last_task`, of which none has ended.
    fn stored(&self, last_task: TaskId) -> Snapshot {
        let stored = |session: &Session| StoredSession {
            row: session.row.clone(),
            common_data_in_store: false,
            events: Vec::new(),
            last_task,
            open: (1..=last_task).filter_map(|id| session.live_row(id)).collect(),
            succeeded: 0,
            failed: 0,
            cancelled: 0,
            requests: Vec::new(),
            ran_on: session.ran_on.clone(),
        };
        Snapshot {
            generation: 2,
            applications: self.core.applications.values().cloned().collect(),
            sessions: self.core.sessions.values().map(stored).collect(),
            ..Snapshot::default()
        }
    }

    pub(super) fn with(config: CoreConfig, snapshot: Snapshot) -> Self {
        let mut bed = Self {
            core: Core::new(config, snapshot),
            now: Now {
                wall: 1_000,
                mono: Duration::from_secs(100),
            },
            started: BTreeMap::new(),
            releasing: Vec::new(),
            handed: Vec::new(),
            records: Vec::new(),
            ended: Vec::new(),
            acks: Vec::new(),
            notices: Vec::new(),
            recalled: Vec::new(),
            given_up: Vec::new(),
            refusals: Vec::new(),
            leave_answers: Vec::new(),
            last_link: 0,
        };
        if bed.core.applications.is_empty() {
            bed.application("app", ApplicationSpec::default());
        }
        bed
    }

    /// Runs a command, settles, and takes the effects as agents and watchers would.
    pub(super) fn run<T>(&mut self, command: impl FnOnce(&mut Core, Now, &mut Effects) -> T) -> T {
        let mut fx = Effects::default();
        let result = command(&mut self.core, self.now, &mut fx);
        self.core.settle(self.now, &mut fx);
        for (_, message) in fx.orders.into_iter().chain(fx.answers) {
            match message.message.expect("never empty") {
                Message::Start(start) => {
                    assert!(
                        self.started.insert(start.executor_id.clone(), start).is_none(),
                        "started twice"
                    );
                }
                Message::Release(release) => {
                    if release.give_up {
                        self.given_up.push(release.executor_id.clone());
                    }
                    if !self.releasing.contains(&release.executor_id) {
                        self.releasing.push(release.executor_id);
                    }
                }
                Message::Tasks(batch) => {
                    self.handed.extend(
                        batch
                            .tasks
                            .into_iter()
                            .map(|task| (batch.executor_id.clone(), task)),
                    );
                }
                Message::Recall(recall) => self.recalled.push(recall.executor_id),
                Message::Ack(ack) => self.acks.push(ack.sequence),
                Message::LeaveAnswer(answer) => self.leave_answers.push(answer.granted),
                Message::Refuse(refuse) => self.refusals.push(refuse),
                Message::Welcome(_) | Message::Log(_) => {}
            }
        }
        let ended = fx.updates.iter().filter(|row| row.state.is_terminal());
        self.ended
            .extend(ended.map(|row| (row.id, row.state, row.message.clone())));
        self.records.extend(fx.records);
        self.notices.extend(fx.notices);
        self.core.check();
        result
    }

    pub(super) fn application(&mut self, name: &str, spec: ApplicationSpec) {
        let name = ApplicationName::new(name).expect("valid");
        self.run(|core, now, fx| core.register_application(&name, spec, now, fx))
            .expect("registered");
    }

    pub(super) fn session(&mut self, id: &str, spec: SessionSpec) {
        self.run(|core, now, fx| core.create_session(&sid(id), spec, now, fx))
            .expect("created");
    }

    pub(super) fn tasks(&mut self, session: &str, count: usize) {
        self.run(|core, now, fx| {
            for _ in 0..count {
                core.create_task(session, None, now, fx).expect("created");
            }
        });
    }

    pub(super) fn hello(name: &str, cpu: u64) -> NodeHello {
        let resources = Resources {
            cpu,
            memory: 1 << 40,
            gpu: 0,
        };
        NodeHello {
            name: self::name(name),
            agent_instance: "instance".to_owned(),
            hostname: name.to_owned(),
            capacity: resources,
            allocatable: resources,
            arch: "x86_64".to_owned(),
            os: "linux".to_owned(),
            shims: vec![Shim::Host],
            labels: Default::default(),
            addresses: Vec::new(),
            id: String::new(),
            slots: None,
            ephemeral: false,
        }
    }

    /// A node connects, with what still runs there.
    pub(super) fn connect(&mut self, name: &str, cpu: u64, running: Vec<node::RunningExecutor>) -> LinkId {
        self.last_link += 1;
        let link = self.last_link;
        self.run(|core, now, fx| core.node_connected(link, "test", Self::hello(name, cpu), running, now, fx));
        link
    }

    pub(super) fn node(&mut self, name: &str, cpu: u64) -> LinkId {
        self.connect(name, cpu, Vec::new())
    }

    pub(super) fn say(&mut self, link: LinkId, message: from_agent::Message) {
        self.run(|core, now, fx| core.node_message(link, message, now, fx));
    }

    pub(super) fn update(&mut self, link: LinkId, executor: &str, phase: ExecutorPhase, message: &str) {
        let lost: Vec<_> = self
            .handed
            .extract_if(.., |(id, _)| phase != ExecutorPhase::Bound && id == executor)
            .collect();
        let update = ExecutorUpdate {
            executor_id: executor.to_owned(),
            phase: phase.into(),
            code: if phase == ExecutorPhase::BindFailed { 12 } else { 0 },
            message: message.to_owned(),
            running: !lost.is_empty(),
            lost: lost.iter().map(|(_, task)| attempt(task)).collect(),
        };
        if phase != ExecutorPhase::Bound {
            self.started.remove(executor);
            self.releasing.retain(|id| id != executor);
        }
        self.say(link, from_agent::Message::Executor(update));
    }

    /// What an agent says in its Hello of an executor that has `tasks` in hand.
    pub(super) fn running(&self, executor: &str, tasks: &[TaskItem]) -> node::RunningExecutor {
        let start = &self.started[executor];
        node::RunningExecutor {
            executor_id: executor.to_owned(),
            session_id: start.session_id.clone(),
            application: start.application.clone(),
            resreq: start.resreq,
            session_number: start.session_number,
            bound: true,
            tasks: tasks.iter().map(attempt).collect(),
        }
    }

    /// All executors that were started say that they are bound.
    pub(super) fn bind_all(&mut self, link: LinkId) {
        let ids: Vec<_> = self
            .started
            .keys()
            .filter(|id| !self.releasing.contains(id))
            .cloned()
            .collect();
        for id in ids {
            self.update(link, &id, ExecutorPhase::Bound, "");
        }
    }

    /// All executors that were told to end have ended.
    pub(super) fn release_all(&mut self, link: LinkId) {
        for id in self.releasing.clone() {
            self.update(link, &id, ExecutorPhase::Released, "");
        }
    }

    pub(super) fn done(executor: &str, task: &TaskItem, return_code: i32) -> TaskDone {
        TaskDone {
            executor_id: executor.to_owned(),
            task_id: task.task_id,
            attempt: task.attempt,
            return_code,
            // So long that nothing is given in advance.
            duration_us: 10_000_000,
            message: (return_code != 0).then(|| "it broke".to_owned()),
            ..TaskDone::default()
        }
    }

    pub(super) fn results(&mut self, link: LinkId, results: Vec<TaskDone>) {
        self.say(
            link,
            from_agent::Message::Results(ResultBatch { sequence: 7, results }),
        );
    }

    /// One of the tasks in the agents' hands is finished.
    pub(super) fn finish(&mut self, link: LinkId, at: usize) {
        let (executor, task) = self.handed.remove(at);
        self.results(link, vec![Self::done(&executor, &task, 0)]);
    }

    /// The agents finish the tasks that they have now; returns how many of which session.
    pub(super) fn finish_handed(&mut self, link: LinkId) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for (executor, task) in std::mem::take(&mut self.handed) {
            let session = self.started[&executor].session_id.clone();
            *count.entry(session).or_default() += 1;
            self.results(link, vec![Self::done(&executor, &task, 0)]);
        }
        count
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.wall += i64::try_from(time.as_millis()).expect("short");
        self.run(|_, _, _| ());
    }

    pub(super) fn sessions_of_executors(&self) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for (id, start) in &self.started {
            if !self.releasing.contains(id) {
                *count.entry(start.session_id.clone()).or_default() += 1;
            }
        }
        count
    }
}

pub(super) fn attempt(task: &TaskItem) -> node::TaskAttempt {
    node::TaskAttempt {
        task_id: task.task_id,
        attempt: task.attempt,
    }
}

impl Core {
    /// What must be true after every step.
    fn check(&self) {
        self.check_books();
        for node in self.nodes.values() {
            assert!(
                node.hello.allocatable.covers(&node.used),
                "node {} is overcommitted",
                node.hello.name
            );
        }
    }

    /// What the core knows in two places is the same. An executor that has ended is listed until
    /// its results are acknowledged, and so may be adopted beside the one that has its place.
    fn check_books(&self) {
        for node in self.nodes.values() {
            let held = node.executors.iter().fold(Resources::default(), |sum, id| {
                sum.plus(&self.executors[id].resources)
            });
            assert_eq!(
                held, node.used,
                "what node {} gives away is what its executors hold",
                node.hello.name
            );
        }
        for executor in self.executors.values() {
            assert!(self.nodes[&executor.node].executors.contains(&executor.id));
            for (task, attempt) in &executor.tasks {
                let phase = &self.sessions[&executor.session].live[task].phase;
                let expected = TaskPhase::Running {
                    executor: executor.id.clone(),
                    attempt: *attempt,
                };
                assert_eq!(*phase, expected);
            }
        }
        let leaving = self.executors.values().filter(|executor| executor.is_leaving());
        let leaving: BTreeSet<_> = leaving.map(|executor| executor.id.clone()).collect();
        assert_eq!(leaving, self.leaving);
        for session in self.sessions.values() {
            let mut fresh = Session::new(session.row.clone());
            fresh.executors = session.executors.clone();
            let counted = fresh.count(&self.executors);
            assert_eq!(session.counted.unwrap_or(counted), counted, "{}", session.row.id);
        }
        let open = self.sessions.values().filter(|session| session.is_open());
        assert!(open.map(|session| session.row.key).eq(self.open.iter().copied()));
        for session in self.sessions.values() {
            for (id, task) in &session.live {
                assert_eq!(
                    task.phase == TaskPhase::Pending,
                    session.pending.contains(id),
                    "task {id}"
                );
                if let TaskPhase::Running { executor, attempt } = &task.phase {
                    assert_eq!(self.executors[executor].tasks.get(id), Some(attempt), "task {id}");
                }
            }
            assert!(session.pending.iter().all(|id| session.live.contains_key(id)));
            for id in &session.idle {
                let executor = &self.executors[id];
                assert!(executor.tasks.is_empty(), "{id} is idle");
                assert!(
                    matches!(
                        executor.state,
                        ExecutorState::Bound {
                            idle_since: Some(_),
                            ..
                        }
                    ),
                    "{id} is idle"
                );
                assert_eq!(
                    session.idle.iter().filter(|other| *other == id).count(),
                    1,
                    "{id} is listed once"
                );
            }
        }
    }
}
