//! What happens in one simulation: the cluster, its users, and what goes wrong. All of it follows
//! from the seed; a scenario can be made smaller by leaving parts out (`shrink.rs`).

use std::time::Duration;

use fastrand::Rng;
use flame_core::Resources;
use flame_core::config::cluster::Placement;
use flame_rpc::v1::ApplicationSpec;

/// Time in the simulation, since its start.
pub(super) type Time = Duration;

/// Everything that is decided before the first step.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) placement: Placement,
    pub(super) max_executors: u32,
    pub(super) applications: Vec<ApplicationPlan>,
    pub(super) nodes: Vec<NodePlan>,
    pub(super) clients: Vec<ClientPlan>,
    /// Now and then a message takes long, and with it all behind it.
    pub(super) slow_messages: bool,
    /// In the order of their times.
    pub(super) faults: Vec<(Time, Fault)>,
    /// What an administrator does, in the order of their times.
    pub(super) chores: Vec<(Time, Chore)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ApplicationPlan {
    pub(super) max_instances: Option<u32>,
    /// Seconds.
    pub(super) delay_release: i64,
}

#[derive(Debug, Clone)]
pub(super) struct NodePlan {
    pub(super) resources: Resources,
    pub(super) labels: Vec<&'static str>,
}

/// One session and what its client does with it.
#[derive(Debug, Clone)]
pub(super) struct ClientPlan {
    pub(super) application: usize,
    pub(super) priority: u32,
    pub(super) resources: Resources,
    pub(super) min_instances: u32,
    pub(super) max_instances: Option<u32>,
    /// Labels that its nodes have to have.
    pub(super) labels: Vec<&'static str>,
    pub(super) task_timeout: Option<Duration>,
    pub(super) begins: Time,
    pub(super) waves: Vec<Wave>,
    pub(super) ending: Ending,
    /// How often the session is made, used, closed and deleted under the same id.
    pub(super) lives: u32,
}

/// What a client does when it has created everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Closes the session when all tasks have ended.
    Waits,
    /// Tries to close it at once, so that tasks that wait are cancelled.
    Closes,
    /// Cancels all tasks after a while, and closes the session when they have ended.
    CancelsTasks(Duration),
    /// Closes the session after a while, whatever runs.
    CancelsSession(Duration),
}

/// What an administrator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chore {
    /// Nothing new for a node; drained: what runs there ends, too.
    Cordon { node: usize, drain: bool },
    /// The node is in service again.
    Uncordon { node: usize },
    /// The node is not expected to come back.
    Forget { node: usize },
    /// The application is another version of itself.
    Update {
        application: usize,
        plan: ApplicationPlan,
    },
}

/// Tasks that are created at a time.
#[derive(Debug, Clone)]
pub(super) struct Wave {
    /// Time since the last wave was created.
    pub(super) pause: Duration,
    pub(super) tasks: u32,
    /// Calls among which the tasks are divided, all under way at once.
    pub(super) calls: u32,
    /// One call for each task, none of which can be repeated.
    pub(super) single: bool,
    /// How long one task takes, about.
    pub(super) length: Duration,
    /// Bytes of each output.
    pub(super) output: usize,
    /// One in so many fails; 0: none.
    pub(super) failing: u32,
    /// The first task kills its service.
    pub(super) poison: bool,
    /// One in so many is cancelled; 0: none.
    pub(super) cancelled: u32,
    /// When, after it is known to exist.
    pub(super) cancelled_after: Duration,
    /// Those that are cancelled, and the last one if the session has a time limit, never end by
    /// themselves.
    pub(super) hangs: bool,
}

/// Something that goes wrong.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The session manager is killed, and started again after a while.
    ManagerKilled { down: Duration },
    /// The session manager gets no processor time.
    ManagerStalls { time: Duration },
    /// Commits fail.
    StoreFails { time: Duration },
    /// Commits take that long.
    StoreSlow { time: Duration, commit: Duration },
    /// A link breaks; each side notices at another time.
    LinkCut {
        node: usize,
        manager_notices: Duration,
        agent_notices: Duration,
    },
    /// No message goes through, and then all of them do.
    LinkStalls { node: usize, time: Duration },
    /// The node's links break and it cannot connect.
    Unreachable { node: usize, time: Duration },
    /// The link breaks again and again.
    Flapping { node: usize, times: u32 },
    /// The agent is killed with its executors.
    AgentKilled { node: usize, down: Duration },
    /// The agent stops in order.
    AgentStopped { node: usize, down: Duration },
    /// One executor's process dies.
    ServiceDies { node: usize },
    /// No executor can be bound.
    BindFails { node: usize, time: Duration },
    /// Tasks take five times as long.
    NodeSlow { node: usize, time: Duration },
    /// The manager's wall clock jumps.
    ClockJumps { seconds: i64 },
    /// A client loses its connections.
    ClientCut { client: usize },
}

impl Fault {
    /// For how long after its time it goes on.
    pub(super) fn lasts(&self) -> Duration {
        match self {
            Self::ManagerKilled { down }
            | Self::AgentKilled { down, .. }
            | Self::AgentStopped { down, .. } => *down,
            Self::ManagerStalls { time }
            | Self::StoreFails { time }
            | Self::StoreSlow { time, .. }
            | Self::LinkStalls { time, .. }
            | Self::Unreachable { time, .. }
            | Self::BindFails { time, .. }
            | Self::NodeSlow { time, .. } => *time,
            Self::LinkCut {
                manager_notices,
                agent_notices,
                ..
            } => *(manager_notices.max(agent_notices)),
            Self::Flapping { times, .. } => FLAP_EVERY * *times,
            Self::ServiceDies { .. } | Self::ClockJumps { .. } | Self::ClientCut { .. } => Duration::ZERO,
        }
    }
}

/// Time between two breaks of a link that flaps.
pub(super) const FLAP_EVERY: Duration = Duration::from_millis(700);

/// Until the manager and an agent have told each other of a task, if messages are slow.
const NEWS: Duration = Duration::from_secs(7);

const MIB: u64 = 1 << 20;

/// What nodes may be labelled with.
const LABELS: [&str; 2] = ["zone=a", "disk=ssd"];

fn millis(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// Mostly short, now and then long: so are outages.
fn outage(rng: &mut Rng) -> Duration {
    match rng.u32(0..10) {
        0..5 => millis(rng, 1..1_000),
        5..8 => millis(rng, 1_000..12_000),
        8 => millis(rng, 12_000..40_000),
        _ => millis(rng, 40_000..80_000),
    }
}

impl Scenario {
    /// The scenario of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let labelled = rng.bool();
        let nodes: Vec<_> = (0..rng.usize(1..=4)).map(|_| node(&mut rng, labelled)).collect();
        let applications: Vec<_> = (0..2).map(|_| application(&mut rng)).collect();
        let clients: Vec<_> = (0..rng.usize(1..=6))
            .map(|_| client(&mut rng, &nodes, applications.len()))
            .collect();
        // One in eight shows what happens when nothing goes wrong.
        let count = if rng.u32(0..8) == 0 { 0 } else { rng.usize(1..=12) };
        let span = millis(&mut rng, 5_000..60_000);
        let mut faults: Vec<_> = (0..count)
            .map(|_| {
                let at = Duration::from_millis(rng.u64(0..span.as_millis() as u64));
                (at, fault(&mut rng, nodes.len(), clients.len()))
            })
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        let chores = chores(&mut rng, span, &faults, nodes.len(), applications.len());
        Self {
            seed,
            placement: if rng.bool() {
                Placement::Pack
            } else {
                Placement::Spread
            },
            max_executors: [2, 3, 128][rng.usize(0..3)],
            applications,
            nodes,
            clients,
            slow_messages: true,
            faults,
            chores,
        }
    }

    /// When the last fault is over, and the administrator has nothing more in mind.
    pub(super) fn calm_at(&self) -> Time {
        let over = self.faults.iter().map(|(at, fault)| *at + fault.lasts());
        let chores = self.chores.iter().map(|(at, _)| *at);
        over.chain(chores).max().unwrap_or_default()
    }

    /// How long a task may hold its executor when nothing goes wrong.
    pub(super) fn longest_task(&self) -> Duration {
        let waves = self.clients.iter().flat_map(|client| {
            let limit = client.task_timeout;
            client.waves.iter().map(move |wave| wave.longest_task(limit))
        });
        waves.max().unwrap_or_default()
    }
}

impl ApplicationPlan {
    pub(super) fn spec(&self) -> ApplicationSpec {
        ApplicationSpec {
            max_instances: self.max_instances,
            delay_release: Some(self.delay_release),
            ..ApplicationSpec::default()
        }
    }
}

impl Wave {
    /// Whether its client cancels the task at that place.
    pub(super) fn cancels(&self, task: u32) -> bool {
        self.cancelled > 0 && task % self.cancelled == self.cancelled - 1
    }

    /// Whether the task at that place never ends by itself. Nobody can cancel a task of which it
    /// is not known that it exists.
    pub(super) fn hangs(&self, task: u32, limit: Option<Duration>) -> bool {
        let cancelled = self.cancels(task) && !self.single;
        let limited = limit.is_some() && task + 1 == self.tasks;
        self.hangs && (cancelled || limited)
    }

    /// For how long a task that never ends by itself runs.
    pub(super) fn hang(&self, limit: Option<Duration>) -> Duration {
        limit.unwrap_or(self.cancelled_after) + NEWS
    }

    fn longest_task(&self, limit: Option<Duration>) -> Duration {
        let hangs = (0..self.tasks).any(|task| self.hangs(task, limit));
        let hang = if hangs { self.hang(limit) } else { Duration::ZERO };
        (self.length * 2).max(hang)
    }
}

fn node(rng: &mut Rng, labelled: bool) -> NodePlan {
    NodePlan {
        resources: Resources {
            cpu: rng.u64(1..=6),
            memory: rng.u64(4..=16) * MIB,
            gpu: rng.u32(0..=2),
        },
        labels: LABELS.into_iter().filter(|_| labelled && rng.bool()).collect(),
    }
}

fn application(rng: &mut Rng) -> ApplicationPlan {
    ApplicationPlan {
        max_instances: (rng.u32(0..4) == 0).then(|| rng.u32(1..=4)),
        delay_release: [0, 1, 60][rng.usize(0..3)],
    }
}

fn client(rng: &mut Rng, nodes: &[NodePlan], applications: usize) -> ClientPlan {
    // Whatever it asks for, there is a node that could give it.
    let home = &nodes[rng.usize(0..nodes.len())];
    let part = |rng: &mut Rng, all: u64| {
        if rng.u32(0..4) == 0 {
            rng.u64(1..=all)
        } else {
            1.min(all)
        }
    };
    let resources = Resources {
        cpu: part(rng, home.resources.cpu),
        memory: part(rng, home.resources.memory / MIB) * MIB,
        gpu: if rng.u32(0..4) == 0 {
            rng.u32(0..=home.resources.gpu)
        } else {
            0
        },
    };
    let min_instances = [0, 0, 0, 1, 2][rng.usize(0..5)];
    let max_instances = (rng.u32(0..3) == 0).then(|| rng.u32(min_instances.max(1)..=4));
    let waves: Vec<_> = (0..rng.usize(1..=3)).map(|_| wave(rng)).collect();
    ClientPlan {
        application: rng.usize(0..applications),
        priority: [0, 0, 0, 1, 5][rng.usize(0..5)],
        resources,
        min_instances,
        max_instances,
        labels: home.labels.iter().copied().filter(|_| rng.bool()).collect(),
        task_timeout: (rng.u32(0..4) == 0).then(|| millis(rng, 1..3_000)),
        begins: millis(rng, 0..10_000),
        waves,
        ending: match rng.u32(0..10) {
            0 => Ending::Closes,
            1 => Ending::CancelsTasks(millis(rng, 0..2_000)),
            2 => Ending::CancelsSession(millis(rng, 0..2_000)),
            _ => Ending::Waits,
        },
        lives: if rng.u32(0..5) == 0 { 2 } else { 1 },
    }
}

fn wave(rng: &mut Rng) -> Wave {
    let (length, most) = match rng.u32(0..4) {
        0 => (Duration::from_micros(rng.u64(10..1_000)), 300),
        1 => (millis(rng, 1..50), 150),
        2 => (millis(rng, 50..500), 40),
        _ => (millis(rng, 500..4_000), 12),
    };
    let large = rng.u32(0..16) == 0;
    Wave {
        pause: millis(rng, 0..5_000),
        tasks: if large { 24 } else { rng.u32(1..=most) },
        calls: [1, 1, 3][rng.usize(0..3)],
        single: !large && rng.u32(0..4) == 0,
        length: if large { Duration::from_millis(10) } else { length },
        output: if large { 1 << 20 } else { rng.usize(16..64) },
        failing: [0, 0, 5][rng.usize(0..3)],
        poison: rng.u32(0..12) == 0,
        cancelled: [0, 0, 0, 1, 4, 10][rng.usize(0..6)],
        cancelled_after: match rng.bool() {
            true => Duration::ZERO,
            false => millis(rng, 1..2_000),
        },
        hangs: rng.u32(0..4) == 0,
    }
}

/// Half of the administrators have nothing to do; what the others do is done at any time, but nodes
/// are forgotten while they are away.
fn chores(
    rng: &mut Rng,
    span: Duration,
    faults: &[(Time, Fault)],
    nodes: usize,
    applications: usize,
) -> Vec<(Time, Chore)> {
    let count = if rng.bool() { 0 } else { rng.usize(1..=8) };
    let mut chores = Vec::new();
    for _ in 0..count {
        let chore = chore(rng, nodes, applications);
        chores.push((millis(rng, 0..span.as_millis() as u64), chore));
    }
    for (at, fault) in faults {
        if let Some(node) = fault.node()
            && count > 0
            && rng.u32(0..3) == 0
        {
            let into = fault.lasts().mul_f64(rng.f64()) + millis(rng, 0..2_000);
            chores.push((*at + into, Chore::Forget { node }));
        }
    }
    chores.sort_by_key(|(at, _)| *at);
    chores
}

fn chore(rng: &mut Rng, nodes: usize, applications: usize) -> Chore {
    let node = rng.usize(0..nodes);
    match rng.u32(0..10) {
        0..3 => Chore::Cordon { node, drain: false },
        3..6 => Chore::Cordon { node, drain: true },
        6..8 => Chore::Uncordon { node },
        8 => Chore::Forget { node },
        _ => Chore::Update {
            application: rng.usize(0..applications),
            plan: application(rng),
        },
    }
}

fn fault(rng: &mut Rng, nodes: usize, clients: usize) -> Fault {
    let node = rng.usize(0..nodes);
    match rng.u32(0..18) {
        0..3 => Fault::ManagerKilled {
            down: millis(rng, 1..5_000),
        },
        3 => Fault::ManagerStalls { time: outage(rng) },
        4 => Fault::StoreFails {
            time: millis(rng, 1..8_000),
        },
        5 => Fault::StoreSlow {
            time: millis(rng, 1..10_000),
            commit: millis(rng, 5..500),
        },
        6..8 => Fault::LinkCut {
            node,
            manager_notices: outage(rng),
            agent_notices: millis(rng, 0..3_000),
        },
        8 => Fault::LinkStalls {
            node,
            time: outage(rng),
        },
        9 => Fault::Unreachable {
            node,
            time: outage(rng),
        },
        10 => Fault::Flapping {
            node,
            times: rng.u32(2..10),
        },
        11 => Fault::AgentKilled {
            node,
            down: outage(rng),
        },
        12 => Fault::AgentStopped {
            node,
            down: outage(rng),
        },
        13 => Fault::ServiceDies { node },
        14 => Fault::BindFails {
            node,
            time: millis(rng, 100..8_000),
        },
        15 => Fault::NodeSlow {
            node,
            time: millis(rng, 100..10_000),
        },
        16 => Fault::ClockJumps {
            seconds: [-100_000, -60, -1, 1, 60, 100_000][rng.usize(0..6)],
        },
        _ => Fault::ClientCut {
            client: rng.usize(0..clients),
        },
    }
}

impl Fault {
    /// The node to which it happens.
    pub(super) fn node(&self) -> Option<usize> {
        match self {
            Self::LinkCut { node, .. }
            | Self::LinkStalls { node, .. }
            | Self::Unreachable { node, .. }
            | Self::Flapping { node, .. }
            | Self::AgentKilled { node, .. }
            | Self::AgentStopped { node, .. }
            | Self::ServiceDies { node }
            | Self::BindFails { node, .. }
            | Self::NodeSlow { node, .. } => Some(*node),
            _ => None,
        }
    }

    /// Whether it happens to that client.
    pub(super) fn needs_client(&self, number: usize) -> bool {
        matches!(self, Self::ClientCut { client } if *client == number)
    }
}

impl Chore {
    /// The node that it is about.
    pub(super) fn node(&self) -> Option<usize> {
        match self {
            Self::Cordon { node, .. } | Self::Uncordon { node } | Self::Forget { node } => Some(*node),
            Self::Update { .. } => None,
        }
    }
}
