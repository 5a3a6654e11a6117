//! Everything in one place, under one clock: events happen in the order of their times, and what
//! follows from them are more events. Nothing here depends on anything but the scenario.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use fastrand::Rng;

use super::admin::{Admin, AdminEvent};
use super::agent::{Agent, AgentEvent};
use super::client::{Client, ClientEvent};
use super::judge::Judge;
use super::manager::{Manager, ManagerEvent};
use super::network::{Network, NetworkEvent};
use super::scenario::{FLAP_EVERY, Fault, Scenario, Time};
use super::store::Disk;

/// What is broken, in words.
pub(super) type Checked = Result<(), String>;

/// Lines of a trace that are kept: the end of it is what matters.
const TRACE_LINES: usize = 250;
/// Between two looks at what has to be true of quiet times.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What is left to do when all clients are done, and what everything may take on top of its work:
/// a node that is lost, a bind that is tried again, sessions that take turns.
const SLACK: Duration = Duration::from_secs(240);
/// After the last client is done, everything is put away within this time.
const CLEAN_UP: Duration = Duration::from_secs(30);

pub(super) enum Event {
    Manager(ManagerEvent),
    Network(NetworkEvent),
    Agent(usize, AgentEvent),
    Client(usize, ClientEvent),
    Admin(AdminEvent),
    Fault(usize),
    /// One break of a link that flaps.
    Flap(usize),
    /// All faults are over.
    Calm,
    Look,
}

struct Scheduled {
    at: Time,
    serial: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The heap's largest is what happens first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

/// See the module's text.
pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) now: Time,
    pub(super) rng: Rng,
    pub(super) manager: Manager,
    pub(super) disk: Disk,
    pub(super) network: Network,
    pub(super) agents: Vec<Agent>,
    pub(super) clients: Vec<Client>,
    pub(super) admin: Admin,
    pub(super) judge: Judge,
    /// All faults are over.
    pub(super) calm: bool,
    pub(super) steps: u64,
    /// Of everything that happened: the same for the same scenario.
    pub(super) fingerprint: u64,
    trace: Option<VecDeque<String>>,
    queue: BinaryHeap<Scheduled>,
    serial: u64,
}

impl World {
    pub(super) fn new(scenario: Scenario, traced: bool) -> Self {
        let agents = scenario.nodes.iter().enumerate();
        let agents = agents.map(|(at, plan)| Agent::new(at, plan.clone())).collect();
        let clients = scenario.clients.iter().enumerate();
        let clients = clients.map(|(at, plan)| Client::new(at, plan.clone())).collect();
        let mut world = Self {
            now: Time::ZERO,
            rng: Rng::with_seed(scenario.seed ^ 0x5eed),
            manager: Manager::default(),
            disk: Disk::default(),
            network: Network::default(),
            agents,
            clients,
            admin: Admin::default(),
            judge: Judge::default(),
            calm: false,
            steps: 0,
            fingerprint: 0,
            trace: traced.then(VecDeque::new),
            queue: BinaryHeap::new(),
            serial: 0,
            scenario,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.at(Time::ZERO, Event::Manager(ManagerEvent::Starts));
        for node in 0..self.agents.len() {
            let soon = self.millis(0, 2_000);
            self.after(soon, Event::Agent(node, AgentEvent::Starts));
        }
        for client in 0..self.clients.len() {
            let begins = self.clients[client].plan.begins;
            self.at(begins, Event::Client(client, ClientEvent::Goes));
        }
        for fault in 0..self.scenario.faults.len() {
            self.at(self.scenario.faults[fault].0, Event::Fault(fault));
        }
        for chore in 0..self.scenario.chores.len() {
            let at = self.scenario.chores[chore].0;
            self.at(at, Event::Admin(AdminEvent::Begins(chore)));
        }
        self.at(self.scenario.calm_at(), Event::Calm);
    }

    pub(super) fn at(&mut self, at: Time, event: Event) {
        self.serial += 1;
        let serial = self.serial;
        self.queue.push(Scheduled { at, serial, event });
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    /// A time between so many milliseconds.
    pub(super) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.rng.u64(from * 1_000..=to * 1_000))
    }

    /// A line for the trace, which is only written if somebody will read it.
    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE_LINES {
                trace.pop_front();
            }
            trace.push_back(format!("{:>12.6} {}", now.as_secs_f64(), line()));
        }
    }

    pub(super) fn trace(&self) -> impl Iterator<Item = &String> {
        self.trace.iter().flatten()
    }

    fn is_done(&self) -> bool {
        self.clients.iter().all(Client::is_done) && self.admin.is_done()
    }

    /// Runs until everything has ended, or something is wrong.
    pub(super) fn run(&mut self) -> Checked {
        let work: Duration = self.clients.iter().map(|client| client.plan.work()).sum();
        let begins = self.clients.iter().map(|client| client.plan.begins).max();
        let limit = self.scenario.calm_at().max(begins.unwrap_or_default()) + work * 2 + SLACK;
        while !(self.calm && self.is_done()) {
            self.step()?;
            if self.now > limit {
                return Err(self.unfinished());
            }
        }
        let clean = self.now + CLEAN_UP;
        while self.now < clean {
            self.step()?;
        }
        self.nothing_is_left()
    }

    /// Runs until a time.
    pub(super) fn run_until(&mut self, end: Time) -> Checked {
        while self.now < end {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Checked {
        let Some(next) = self.queue.pop() else {
            return Err("nothing will ever happen any more".to_owned());
        };
        self.now = next.at;
        self.steps += 1;
        self.fingerprint = (self.fingerprint ^ next.at.as_nanos() as u64)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(17);
        match next.event {
            Event::Manager(event) => self.on_manager(event),
            Event::Network(event) => self.on_network(event),
            Event::Agent(node, event) => self.on_agent(node, event),
            Event::Client(client, event) => self.on_client(client, event),
            Event::Admin(event) => self.on_admin(event),
            Event::Fault(at) => {
                let fault = self.scenario.faults[at].1.clone();
                self.note(|| format!("FAULT {fault:?}"));
                self.on_fault(fault)
            }
            Event::Flap(node) => {
                let notices = self.millis(0, 100);
                self.cut_link(node, notices, Duration::ZERO);
                Ok(())
            }
            Event::Calm => {
                self.note(|| "all faults are over".to_owned());
                self.calm = true;
                self.after(LOOK_EVERY, Event::Look);
                // Sessions whose binding failed go on when a node is new.
                self.add_node();
                self.on_admin(AdminEvent::Restores)
            }
            Event::Look => {
                self.after(LOOK_EVERY, Event::Look);
                self.look_at_quiet_times()
            }
        }
    }

    fn on_fault(&mut self, fault: Fault) -> Checked {
        let until = self.now + fault.lasts();
        match fault {
            Fault::ManagerKilled { down } => self.kill_manager(down)?,
            Fault::ManagerStalls { .. } => self.manager.stalls_until = until,
            Fault::StoreFails { .. } => self.manager.store_fails_until = until,
            Fault::StoreSlow { commit, .. } => self.manager.store_slow = (until, commit),
            Fault::LinkCut {
                node,
                manager_notices,
                agent_notices,
            } => self.cut_link(node, manager_notices, agent_notices),
            Fault::LinkStalls { node, .. } => self.stall_link(node, until),
            Fault::Unreachable { node, time } => {
                self.agents[node].unreachable_until = until;
                self.cut_link(node, time, time.min(Duration::from_secs(3)));
            }
            Fault::Flapping { node, times } => {
                for time in 0..times {
                    self.after(FLAP_EVERY * time, Event::Flap(node));
                }
            }
            Fault::AgentKilled { node, down } => self.kill_agent(node, down),
            Fault::AgentStopped { node, down } => self.stop_agent(node, down),
            Fault::ServiceDies { node } => self.some_service_dies(node),
            Fault::BindFails { node, .. } => self.agents[node].bind_fails_until = until,
            Fault::NodeSlow { node, .. } => self.agents[node].slow_until = until,
            Fault::ClockJumps { seconds } => self.manager.wall_offset += seconds * 1_000,
            Fault::ClientCut { client } => self.cut_client(client),
        }
        Ok(())
    }

    fn unfinished(&self) -> String {
        let mut text = "not everything has ended long after the last fault:".to_owned();
        for client in self.clients.iter().filter(|client| !client.is_done()) {
            text.push_str(&format!("\n  {}", client.progress()));
        }
        if !self.admin.is_done() {
            text.push_str(&format!("\n  administrator: {:?}", self.admin));
        }
        if let Some(process) = &self.manager.process {
            text.push_str(&format!("\n  manager: {}", process.in_words()));
        }
        text
    }
}
