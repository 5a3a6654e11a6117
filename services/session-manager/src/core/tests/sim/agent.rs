//! The agents of the nodes and the services they run: what `flame-node-agent` does, without
//! processes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flame_core::Resources;
use flame_rpc::node::{
    ExecutorPhase, Heartbeat, Leave, StartExecutor, TaskDone, TaskItem, from_agent, to_agent::Message,
};

use super::client::Client;
use super::ledger::Ledger;
use super::network::Up;
use super::payload::{Content, Kind};
use super::scenario::{NodePlan, Time};
use super::world::{Checked, Event, World};
use crate::core::{LinkId, SessionKey};

const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a running task may go on after the release of its executor.
const FINISH_LIMIT: Duration = Duration::from_secs(5);
/// How long an agent that stops waits for acknowledgements.
const DELIVERY_LIMIT: Duration = Duration::from_secs(2);
/// Longest way of a message that was sent before the last fault was over.
const LAST_NEWS: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) enum AgentEvent {
    Starts,
    Connects(u64),
    LinkLost,
    Beats(LinkId),
    /// Results that were held back leave.
    Flushes(u64),
    Bound(u64, String),
    TaskEnds(u64, String, u64),
    FinishLimit(u64, String),
    Gone(u64, String),
    DeliveryLimit(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    /// Its process is ending.
    Ending {
        running: bool,
    },
}

#[derive(Debug)]
struct Executor {
    session: SessionKey,
    resources: Resources,
    phase: Phase,
    queue: VecDeque<TaskItem>,
    running: Option<(TaskItem, u64)>,
    /// When it began with that.
    began: Time,
    released: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) name: String,
    pub(super) plan: NodePlan,
    /// Grows with every start.
    pub(super) instance: u64,
    pub(super) up: bool,
    pub(super) link: Option<LinkId>,
    pub(super) linked_at: Time,
    pub(super) unreachable_until: Time,
    pub(super) slow_until: Time,
    pub(super) bind_fails_until: Time,
    ledger: Ledger,
    executors: BTreeMap<String, Executor>,
    failures: u32,
    stopping: Option<Duration>,
    flush_planned: bool,
    runs: u64,
}

impl Agent {
    pub(super) fn new(number: usize, plan: NodePlan) -> Self {
        Self {
            name: format!("n{number}"),
            plan,
            instance: 0,
            up: false,
            link: None,
            linked_at: Time::ZERO,
            unreachable_until: Time::ZERO,
            slow_until: Time::ZERO,
            bind_fails_until: Time::ZERO,
            ledger: Ledger::default(),
            executors: BTreeMap::new(),
            failures: 0,
            stopping: None,
            flush_planned: false,
            runs: 0,
        }
    }

    pub(super) fn has_executors(&self) -> bool {
        !self.executors.is_empty()
    }

    /// Tasks that run, with their sessions, and since when.
    pub(super) fn running(&self) -> impl Iterator<Item = (SessionKey, &TaskItem, Time)> {
        self.executors.values().filter_map(|executor| {
            let (item, _) = executor.running.as_ref()?;
            Some((executor.session, item, executor.began))
        })
    }

    /// What is there although nothing should be.
    pub(super) fn leftovers(&self) -> Option<String> {
        let idle = self.executors.is_empty() && self.ledger.is_empty();
        (!idle).then(|| {
            format!(
                "{} has executors {:?} and {:?}",
                self.name,
                self.executors.keys(),
                self.ledger
            )
        })
    }
}

impl World {
    /// A node that is new.
    pub(super) fn add_node(&mut self) {
        let node = self.agents.len();
        let resources = Resources {
            cpu: 1,
            memory: 1 << 20,
            gpu: 0,
        };
        let plan = NodePlan {
            resources,
            labels: Vec::new(),
        };
        self.agents.push(Agent::new(node, plan));
        // What was said while things went wrong has been heard by then.
        self.after(LAST_NEWS, Event::Agent(node, AgentEvent::Starts));
    }

    pub(super) fn on_agent(&mut self, node: usize, event: AgentEvent) -> Checked {
        let agent = &mut self.agents[node];
        let instance = agent.instance;
        match event {
            AgentEvent::Starts if !agent.up => {
                agent.up = true;
                agent.instance += 1;
                let event = AgentEvent::Connects(instance + 1);
                self.after(Duration::ZERO, Event::Agent(node, event));
            }
            AgentEvent::Connects(of) if of == instance && agent.up => self.connect(node),
            AgentEvent::LinkLost => {
                agent.link = None;
                self.retry_connect(node);
            }
            AgentEvent::Beats(link) if agent.link == Some(link) => {
                self.send_up(
                    link,
                    Up::Message(from_agent::Message::Heartbeat(Heartbeat::default())),
                );
                self.after(HEARTBEAT, Event::Agent(node, AgentEvent::Beats(link)));
            }
            AgentEvent::Flushes(of) if of == instance => {
                agent.flush_planned = false;
                self.flush(node);
            }
            AgentEvent::Bound(of, id) if of == instance => self.bound(node, &id)?,
            AgentEvent::TaskEnds(of, id, run) if of == instance => self.task_ends(node, &id, run),
            AgentEvent::FinishLimit(of, id) if of == instance => {
                if let Some(executor) = agent.executors.get(&id)
                    && executor.running.is_some()
                {
                    self.end_executor(node, &id, true);
                }
            }
            AgentEvent::Gone(of, id) if of == instance => self.executor_gone(node, &id),
            AgentEvent::DeliveryLimit(of) if of == instance => self.leave(node),
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, node: usize) {
        let agent = &self.agents[node];
        if agent.link.is_some() || !agent.up {
            return;
        }
        if agent.unreachable_until > self.now || self.manager.process.is_none() {
            return self.retry_connect(node);
        }
        let link = self.open_link(node);
        let now = self.now;
        let agent = &mut self.agents[node];
        agent.linked_at = now;
        agent.failures = 0;
        agent.link = Some(link);
        let running = agent.ledger.reconnected();
        let mut hello = super::super::Bed::hello(&agent.name, agent.plan.resources.cpu);
        hello.capacity = agent.plan.resources;
        hello.allocatable = agent.plan.resources;
        hello.agent_instance = agent.instance.to_string();
        hello.labels = Arc::new(
            agent
                .plan
                .labels
                .iter()
                .map(|label| (*label).to_owned())
                .collect(),
        );
        self.note(|| format!("node {node} connects with link {link}"));
        self.send_up(link, Up::Hello(Box::new(hello), running));
        self.flush(node);
        self.after(HEARTBEAT, Event::Agent(node, AgentEvent::Beats(link)));
    }

    fn retry_connect(&mut self, node: usize) {
        let agent = &mut self.agents[node];
        let full = FIRST_RETRY
            .saturating_mul(1 << agent.failures.min(10))
            .min(LONGEST_RETRY);
        agent.failures += 1;
        let instance = agent.instance;
        let wait = full.mul_f64(0.5 + 0.5 * self.rng.f64());
        self.after(wait, Event::Agent(node, AgentEvent::Connects(instance)));
    }

    pub(super) fn kill_agent(&mut self, node: usize, down: Duration) {
        let notices = self.millis(0, 2_000);
        self.cut_link(node, notices, Duration::ZERO);
        let agent = &mut self.agents[node];
        if !agent.up {
            return;
        }
        let instance = agent.instance;
        *agent = Agent {
            instance,
            unreachable_until: agent.unreachable_until,
            slow_until: agent.slow_until,
            bind_fails_until: agent.bind_fails_until,
            runs: agent.runs,
            ..Agent::new(node, agent.plan.clone())
        };
        self.after(down, Event::Agent(node, AgentEvent::Starts));
    }

    pub(super) fn stop_agent(&mut self, node: usize, down: Duration) {
        let agent = &mut self.agents[node];
        if !agent.up || agent.stopping.is_some() {
            return;
        }
        agent.stopping = Some(down);
        agent.ledger.stopping();
        let ids: Vec<_> = agent.executors.keys().cloned().collect();
        for id in ids {
            self.release_executor(node, &id);
        }
        self.flush(node);
        self.leave_if_settled(node);
    }

    /// The last step of an orderly stop, if nothing stands against it.
    fn leave_if_settled(&mut self, node: usize) {
        let agent = &self.agents[node];
        if agent.stopping.is_none() || !agent.executors.is_empty() {
            return;
        }
        let instance = agent.instance;
        if agent.link.is_none() || agent.ledger.is_settled() {
            self.leave(node);
        } else {
            self.after(
                DELIVERY_LIMIT,
                Event::Agent(node, AgentEvent::DeliveryLimit(instance)),
            );
        }
    }

    fn leave(&mut self, node: usize) {
        let Some(down) = self.agents[node].stopping else {
            return;
        };
        if let Some(link) = self.agents[node].link {
            let reason = "the node agent was stopped".to_owned();
            self.send_up(link, Up::Message(from_agent::Message::Leave(Leave { reason })));
            self.send_up(link, Up::End);
        }
        self.agents[node].link = None;
        self.kill_agent(node, down);
    }

    /// The process of one executor dies.
    pub(super) fn some_service_dies(&mut self, node: usize) {
        let count = self.agents[node].executors.len();
        if count == 0 {
            return;
        }
        let which = self.rng.usize(0..count);
        let id = self.agents[node].executors.keys().nth(which).cloned();
        if let Some(id) = id {
            self.service_dies(node, &id);
        }
    }

    fn service_dies(&mut self, node: usize, id: &str) {
        let agent = &mut self.agents[node];
        let Some(executor) = agent.executors.remove(id) else {
            return;
        };
        match executor.phase {
            Phase::Starting => {
                agent
                    .ledger
                    .ended(id, ExecutorPhase::BindFailed, "the service process died", false);
            }
            Phase::Serving => {
                let running = executor.running.is_some();
                agent
                    .ledger
                    .ended(id, ExecutorPhase::Died, "the service process died", running);
                if let Some(content) = executor.running.and_then(|(item, _)| Content::read(&item.input)) {
                    self.judge.killed(content.nonce);
                }
            }
            Phase::Ending { running } => {
                agent.ledger.ended(id, ExecutorPhase::Released, "", running);
            }
        }
        self.note(|| format!("node {node}: the process of {id} died"));
        self.flush(node);
        self.leave_if_settled(node);
    }

    pub(super) fn on_order(&mut self, node: usize, message: Message) -> Checked {
        match message {
            Message::Start(order) => self.start_executor(node, order)?,
            Message::Release(order) => match self.agents[node].executors.contains_key(&order.executor_id) {
                true => {
                    self.release_executor(node, &order.executor_id);
                    if order.give_up {
                        self.give_up(node, &order.executor_id);
                    }
                }
                false => self.agents[node].ledger.repeat(&order.executor_id),
            },
            Message::Tasks(batch) => {
                if self.agents[node]
                    .ledger
                    .handed_out(&batch.executor_id, &batch.tasks)
                    && let Some(executor) = self.agents[node].executors.get_mut(&batch.executor_id)
                    && !executor.released
                {
                    executor.queue.extend(batch.tasks);
                    self.run_next(node, &batch.executor_id);
                }
            }
            Message::Recall(order) => self.recall(node, &order.executor_id),
            Message::Ack(ack) => self.agents[node].ledger.acknowledged(ack.sequence),
            Message::Welcome(_) | Message::Refuse(_) | Message::LeaveAnswer(_) | Message::Log(_) => {}
        }
        self.flush(node);
        self.leave_if_settled(node);
        Ok(())
    }

    fn start_executor(&mut self, node: usize, order: StartExecutor) -> Checked {
        let now = self.now;
        let max_executors = self.scenario.max_executors as usize;
        let agent = &mut self.agents[node];
        let id = order.executor_id.clone();
        if agent.ledger.knows(&id) {
            agent.ledger.repeat(&id);
            return Ok(());
        }
        if agent.stopping.is_some() {
            agent.ledger.refused(&id);
            return Ok(());
        }
        let resources = order.resreq.as_ref().map(Resources::from).unwrap_or_default();
        let held = agent
            .executors
            .values()
            .fold(resources, |sum, e| sum.plus(&e.resources));
        if !agent.plan.resources.covers(&held) || agent.executors.len() >= max_executors {
            let (count, has) = (agent.executors.len() + 1, agent.plan.resources);
            return Err(format!(
                "node {node} with {has} is asked to run {count} executors with {held}, the last one {id}"
            ));
        }
        if let Some(missing) = lacks_label(&self.clients, &order.session_id, &agent.plan) {
            return Err(format!(
                "{id} for {} is started on node {node}, which is not {missing}",
                order.session_id
            ));
        }
        agent.ledger.started(&order);
        let executor = Executor {
            session: order.session_number,
            resources,
            phase: Phase::Starting,
            queue: VecDeque::new(),
            running: None,
            began: now,
            released: false,
        };
        agent.executors.insert(id.clone(), executor);
        let slow = if agent.slow_until > now { 5 } else { 1 };
        let instance = agent.instance;
        let time = self.millis(2, 200) * slow;
        self.after(time, Event::Agent(node, AgentEvent::Bound(instance, id)));
        Ok(())
    }

    fn bound(&mut self, node: usize, id: &str) -> Checked {
        let now = self.now;
        let agent = &mut self.agents[node];
        let Some(executor) = agent.executors.get_mut(id) else {
            return Ok(());
        };
        if executor.phase != Phase::Starting {
            return Ok(());
        }
        if agent.bind_fails_until > now {
            agent.executors.remove(id);
            agent
                .ledger
                .ended(id, ExecutorPhase::BindFailed, "OnSessionEnter failed", false);
        } else {
            executor.phase = Phase::Serving;
            agent.ledger.bound(id);
            self.run_next(node, id);
        }
        self.flush(node);
        self.leave_if_settled(node);
        Ok(())
    }

    fn run_next(&mut self, node: usize, id: &str) {
        let spread = 0.5 + self.rng.f64();
        let now = self.now;
        let agent = &mut self.agents[node];
        let Some(executor) = agent.executors.get_mut(id) else {
            return;
        };
        if executor.phase != Phase::Serving || executor.running.is_some() {
            return;
        }
        let Some(item) = executor.queue.pop_front() else {
            return;
        };
        agent.runs += 1;
        let run = agent.runs;
        let slow = if agent.slow_until > now { 5 } else { 1 };
        let content = Content::read(&item.input);
        let length = content.map_or(Duration::ZERO, |content| content.length);
        let hangs = content.is_some_and(|content| content.kind == Kind::Hangs);
        executor.running = Some((item, run));
        executor.began = now;
        if hangs {
            return;
        }
        let event = AgentEvent::TaskEnds(agent.instance, id.to_owned(), run);
        self.after(length.mul_f64(spread) * slow, Event::Agent(node, event));
    }

    fn task_ends(&mut self, node: usize, id: &str, run: u64) {
        let agent = &mut self.agents[node];
        let Some(executor) = agent.executors.get_mut(id) else {
            return;
        };
        let Some((item, _)) = executor.running.take_if(|(_, of)| *of == run) else {
            return;
        };
        let Some(content) = Content::read(&item.input) else {
            return;
        };
        if content.kind == Kind::Poison {
            executor.running = Some((item, run));
            return self.service_dies(node, id);
        }
        let fails = content.kind == Kind::Fails;
        let done = TaskDone {
            executor_id: id.to_owned(),
            task_id: item.task_id,
            attempt: item.attempt,
            return_code: i32::from(fails),
            output: (!fails).then(|| content.output()),
            message: fails.then(|| "it broke".to_owned()),
            duration_us: content.length.as_micros() as u64,
            ..TaskDone::default()
        };
        let released = executor.released;
        agent.ledger.done(done);
        if released {
            self.end_executor(node, id, false);
        } else {
            self.run_next(node, id);
        }
        self.plan_flush(node);
    }

    fn recall(&mut self, node: usize, id: &str) {
        let agent = &mut self.agents[node];
        match agent.executors.get_mut(id) {
            None => agent.ledger.repeat(id),
            // Nobody waits for the answer of one that is released.
            Some(executor) if executor.released => {}
            Some(executor) => {
                let tasks = executor
                    .queue
                    .drain(..)
                    .map(|item| super::super::attempt(&item))
                    .collect();
                agent.ledger.returned(id, tasks);
            }
        }
    }

    /// As asked: what runs may finish, the rest is lost.
    fn release_executor(&mut self, node: usize, id: &str) {
        let agent = &mut self.agents[node];
        let Some(executor) = agent.executors.get_mut(id) else {
            return;
        };
        if executor.released {
            return;
        }
        executor.released = true;
        executor.queue.clear();
        if executor.running.is_some() {
            let event = AgentEvent::FinishLimit(agent.instance, id.to_owned());
            self.after(FINISH_LIMIT, Event::Agent(node, event));
        } else {
            self.end_executor(node, id, false);
        }
    }

    /// Nobody waits for what runs.
    fn give_up(&mut self, node: usize, id: &str) {
        let executor = self.agents[node].executors.get(id);
        if executor.is_some_and(|executor| executor.running.is_some()) {
            self.end_executor(node, id, true);
        }
    }

    /// The process is told to end, and does so within a while.
    fn end_executor(&mut self, node: usize, id: &str, running: bool) {
        let time = self.millis(1, 100);
        let agent = &mut self.agents[node];
        let Some(executor) = agent.executors.get_mut(id) else {
            return;
        };
        executor.phase = Phase::Ending { running };
        executor.running = None;
        let event = AgentEvent::Gone(agent.instance, id.to_owned());
        self.after(time, Event::Agent(node, event));
    }

    fn executor_gone(&mut self, node: usize, id: &str) {
        let agent = &mut self.agents[node];
        if let Some(executor) = agent.executors.remove(id) {
            let running = matches!(executor.phase, Phase::Ending { running: true });
            agent.ledger.ended(id, ExecutorPhase::Released, "", running);
        }
        self.flush(node);
        self.leave_if_settled(node);
    }

    /// Results wait for others, for up to a millisecond.
    fn plan_flush(&mut self, node: usize) {
        let agent = &mut self.agents[node];
        if !agent.flush_planned {
            agent.flush_planned = true;
            let instance = agent.instance;
            let hold = Duration::from_micros(self.rng.u64(0..1_000));
            self.after(hold, Event::Agent(node, AgentEvent::Flushes(instance)));
        }
    }

    fn flush(&mut self, node: usize) {
        while let Some(link) = self.agents[node].link
            && let Some(message) = self.agents[node].ledger.next_message()
        {
            self.send_up(link, Up::Message(message));
        }
    }
}

/// A label that the node of a session has to have and that this one has not.
fn lacks_label(clients: &[Client], session: &str, plan: &NodePlan) -> Option<&'static str> {
    let owner = clients.iter().find(|client| client.session() == session)?;
    let mut labels = owner.plan.labels.iter().copied();
    labels.find(|label| !plan.labels.contains(label))
}

/// An input as the agent got it.
impl Content {
    fn read(input: &Option<Bytes>) -> Option<Self> {
        input.as_ref().and_then(Self::decode)
    }
}
