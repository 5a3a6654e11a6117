//! The agent's one loop: link, executors, signals, watchdog. It alone keeps the books.

mod handover;
mod stopping;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flame_core::config::node::LifeConfig;
use flame_core::{ExecutorId, NodeName, Resources};
use flame_rpc::node::{FromAgent, Heartbeat, Hello, StartExecutor, Welcome, from_agent, to_agent};
use flame_rpc::v1::Shim;
use flame_systemd::notify::Notifier;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep, sleep_until};

use crate::capacity;
use crate::executor::{self, Beginning, Command, Ended, Event, FINISH_LIMIT, Happened, Host, Pool};
use crate::ledger::Ledger;
use crate::life::Life;
use crate::link::{Link, LinkEvent};
use crate::logs::Logs;
use crate::status::{News, StatusLine};
use stopping::Stopping;

/// Events handled between two looks at everything else.
const EVENTS_AT_ONCE: usize = 256;
/// How long results wait for others if their executors have enough to do meanwhile: dozens of
/// results of short tasks, and too short for anybody to notice.
const HOLD: Duration = Duration::from_millis(2);
/// Heartbeats if the manager does not say how often.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(5);
/// Bounds of what the manager may ask for.
const HEARTBEAT_RANGE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(15));
/// Who this node is and what it offers.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its name in the cluster.
    pub node: NodeName,
    /// Its own id, which is kept over restarts.
    pub id: String,
    /// Random per start.
    pub instance: String,
    /// What it has.
    pub capacity: Resources,
    /// What executors may use.
    pub allocatable: Resources,
    /// Executors at a time, if there is a limit of its own.
    pub slots: Option<u32>,
    /// Where it can be reached.
    pub addresses: Vec<String>,
    /// What sessions may select it by, as `key=value`.
    pub labels: Vec<String>,
    /// When it ends.
    pub life: LifeConfig,
}

/// How the agent's run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Asked to stop, and all executors were released.
    Stopped,
    /// About to be started again: its executors go on meanwhile, and with the next run of the agent.
    HandedOver,
    /// Asked to stop a second time: executors were killed.
    Interrupted,
    /// The session manager does not want this node, and asking again is of no use.
    Refused,
}

/// The agent.
pub struct Agent {
    identity: Identity,
    host: Arc<Host>,
    pool: Arc<Pool>,
    /// Executors that were bound in a process that had served another session.
    reused: u64,
    link: Link,
    ledger: Ledger,
    logs: Logs,
    status: StatusLine,
    notifier: Notifier,
    commands: HashMap<ExecutorId, UnboundedSender<Command>>,
    /// Unbounded so that no executor waits for the loop; tasks in hand bound what is in it.
    events: (UnboundedSender<Event>, UnboundedReceiver<Event>),
    heartbeat: Option<Interval>,
    watchdog: Option<Interval>,
    stopping: Option<Stopping>,
    /// A signal has asked for the end.
    signalled: bool,
    /// The agent is about to be started again; until then it waits for what its executors have in hand.
    handover: Option<Pin<Box<Sleep>>>,
    life: Life,
    /// Results wait for others until then, see [`HOLD`].
    held: Option<Pin<Box<Sleep>>>,
}

/// What made the loop turn.
enum Step {
    Events,
    Link(LinkEvent),
    Room,
    HoldOver,
    Heartbeat,
    Watchdog,
    Status,
    Signal,
    PoolEmpty,
    Life,
    StillStopping,
    StopLimit,
    HandoverLimit,
}

impl Agent {
    /// An agent that is ready to run.
    #[must_use]
    pub fn new(identity: Identity, host: Host, link: Link, notifier: Notifier) -> Self {
        let watchdog = notifier.watchdog_interval().map(every);
        Self {
            ledger: Ledger::new(host.max_message_size),
            status: StatusLine::new(notifier, link.url()),
            pool: Pool::new(identity.allocatable),
            life: Life::new(identity.life, Instant::now()),
            reused: 0,
            logs: Logs::new(&host.directories.logs, &identity.node),
            identity,
            host: Arc::new(host),
            link,
            notifier,
            commands: HashMap::new(),
            events: unbounded_channel(),
            heartbeat: None,
            watchdog,
            stopping: None,
            signalled: false,
            handover: None,
            held: None,
        }
    }

    /// Runs until a signal asks for the end.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub async fn run(mut self) -> std::io::Result<Outcome> {
        let outcome = self.work().await;
        self.host.runtime.close().await;
        outcome
    }

    async fn work(&mut self) -> std::io::Result<Outcome> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut arrived = Vec::with_capacity(EVENTS_AT_ONCE);
        self.notifier.ready();
        loop {
            self.send();
            self.status
                .set_counts(self.ledger.live(), self.ledger.tasks_done());
            if self.is_finished() {
                return Ok(self.leave().await);
            }
            if self.is_handed_over() {
                return Ok(Outcome::HandedOver);
            }
            let registered = self.link.outbound().is_some();
            self.life.observe(Instant::now(), registered, self.ledger.live());
            match self.next(&mut arrived, &mut terminate, &mut interrupt).await {
                Step::Events => {
                    for (id, happened) in arrived.drain(..) {
                        self.on_event(&id, happened);
                    }
                }
                Step::Link(event) => self.on_link(event),
                Step::Room | Step::PoolEmpty => {}
                Step::HoldOver => self.send_all(),
                Step::Heartbeat => self.beat(),
                Step::Watchdog => self.notifier.watchdog(),
                Step::Status => self.status.publish(),
                Step::Signal => {
                    if let Some(outcome) = self.on_signal().await {
                        return Ok(outcome);
                    }
                }
                Step::Life => self.on_life(),
                Step::StillStopping => self.still_stopping(),
                Step::StopLimit => {
                    tracing::warn!(
                        executors = self.ledger.live(),
                        "stopping takes too long; what is left is killed"
                    );
                    self.host.runtime.kill_all().await;
                    return Ok(self.leave().await);
                }
                Step::HandoverLimit => return Ok(Outcome::HandedOver),
            }
        }
    }

    async fn next(
        &mut self,
        arrived: &mut Vec<Event>,
        terminate: &mut Signal,
        interrupt: &mut Signal,
    ) -> Step {
        let room = self.link.outbound().cloned();
        let wants_room = room.is_some() && self.ledger.has_unsent() && self.held.is_none();
        let life = self
            .life
            .deadline()
            .filter(|_| self.stopping.is_none() && self.handover.is_none());
        let waits_for_pool = self.stopping.is_some() && !self.pool.is_empty();
        tokio::select! {
            _ = self.events.1.recv_many(arrived, EVENTS_AT_ONCE) => Step::Events,
            event = self.link.next() => Step::Link(event),
            () = wait_for_room(room.as_ref()), if wants_room => Step::Room,
            () = over(self.held.as_mut()) => Step::HoldOver,
            () = over(self.handover.as_mut()) => Step::HandoverLimit,
            () = tick(self.heartbeat.as_mut()) => Step::Heartbeat,
            () = tick(self.watchdog.as_mut()) => Step::Watchdog,
            () = self.status.due() => Step::Status,
            _ = terminate.recv() => Step::Signal,
            _ = interrupt.recv() => Step::Signal,
            () = self.pool.emptied(), if waits_for_pool => Step::PoolEmpty,
            () = at(life) => Step::Life,
            is_over = stopping::turn(self.stopping.as_mut()) => match is_over {
                true => Step::StopLimit,
                false => Step::StillStopping,
            },
        }
    }

    fn on_event(&mut self, id: &ExecutorId, happened: Happened) {
        match happened {
            Happened::Runs { invocation } => self.logs.runs_in(id.as_str(), invocation),
            Happened::Done(done) => {
                self.logs.done(id.as_str(), &done);
                self.ledger.done(id.as_str(), done);
            }
            Happened::Returned(tasks) => {
                self.logs.returned(id.as_str(), &tasks);
                self.ledger.returned(id.as_str(), tasks);
            }
            Happened::Bound { reused } => {
                let (node, session) = (&self.identity.node, self.ledger.session(id.as_str()));
                if reused {
                    self.reused += 1;
                    tracing::debug!(
                        executor = %id, session, %node, reused = self.reused,
                        "executor bound in a process that served before"
                    );
                } else {
                    tracing::debug!(executor = %id, session, %node, "executor bound");
                }
                self.life.worked();
                self.ledger.bound(id.as_str());
            }
            Happened::Ended(ended) => {
                let (node, session) = (&self.identity.node, self.ledger.session(id.as_str()));
                match &ended {
                    Ended::Released { .. } => {
                        tracing::debug!(executor = %id, session, %node, "executor released");
                    }
                    Ended::Died { message, .. } => {
                        tracing::warn!(executor = %id, session, %node, "executor died: {message}");
                    }
                    Ended::BindFailed { code, message } => {
                        tracing::warn!(executor = %id, session, %node, code, "executor not bound: {message}");
                    }
                }
                self.commands.remove(id.as_str());
                self.logs.ended(id.as_str());
                self.ledger.ended(id.as_str(), &ended);
            }
        }
    }

    fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected => {
                let hello = self.hello();
                self.link.open(hello);
            }
            LinkEvent::Welcome(welcome) => self.on_welcome(&welcome),
            LinkEvent::Message(message) => self.on_message(*message),
            LinkEvent::Refused { reason, is_final } => {
                let node = &self.identity.node;
                match (self.status.refused(&reason), is_final) {
                    (News::Nothing, _) => {}
                    (_, true) => tracing::error!(%node, "the session manager refused this node: {reason}"),
                    (_, false) => {
                        tracing::warn!(%node, "the session manager refuses this node for now: {reason}");
                    }
                }
                self.heartbeat = None;
                if is_final {
                    self.refused();
                }
                self.logs.link_down();
            }
            LinkEvent::Down(reason) => {
                let (node, url) = (&self.identity.node, self.link.url());
                match self.status.waiting(&reason) {
                    News::State => {
                        tracing::warn!(%node, "no link to the session manager at {url}; retrying: {reason}");
                    }
                    News::Reason => tracing::info!(%node, "still no link: {reason}"),
                    News::Nothing => {}
                }
                self.heartbeat = None;
                self.logs.link_down();
            }
        }
    }

    fn on_welcome(&mut self, welcome: &Welcome) {
        let asked = match welcome.heartbeat_interval_ms {
            0 => DEFAULT_HEARTBEAT,
            millis => Duration::from_millis(u64::from(millis)),
        };
        self.heartbeat = Some(every(asked.clamp(HEARTBEAT_RANGE.0, HEARTBEAT_RANGE.1)));
        if let Ok(limit @ 1..) = usize::try_from(welcome.max_message_size) {
            self.ledger.limit_messages(limit);
        }
        if let Ok(limit @ 1..) = usize::try_from(welcome.max_executors) {
            self.pool.limit_executors(limit);
        }
        if let Some(out) = self.link.logs() {
            self.logs.link_up(out.clone());
        }
        self.status.registered();
        tracing::info!(
            node = %self.identity.node,
            epoch = welcome.link_epoch,
            "registered with cluster {} at {}",
            welcome.cluster,
            self.link.url()
        );
    }

    fn on_message(&mut self, message: to_agent::Message) {
        match message {
            // It never began: the next Hello says so, by not listing it.
            to_agent::Message::Start(_) | to_agent::Message::Tasks(_) if self.handover.is_some() => {}
            to_agent::Message::Start(order) => self.on_start(order),
            to_agent::Message::Release(order) => match self.commands.get(order.executor_id.as_str()) {
                Some(commands) => {
                    tracing::debug!(executor = order.executor_id, reason = order.reason, "releasing");
                    // If it ends by itself at this moment, its end answers.
                    let give_up = order.give_up;
                    let finish = FINISH_LIMIT;
                    let _ = commands.send(Command::Release { give_up, finish });
                }
                None => self.ledger.repeat(&order.executor_id),
            },
            to_agent::Message::Tasks(batch) => {
                if self.ledger.handed_out(&batch.executor_id, &batch.tasks)
                    && let Some(commands) = self.commands.get(batch.executor_id.as_str())
                {
                    self.logs.handed_out(&batch.executor_id, &batch.tasks);
                    // If it ends at this moment, its end tells that they are lost.
                    let _ = commands.send(Command::Tasks(batch.tasks));
                }
            }
            to_agent::Message::Recall(order) => match self.commands.get(order.executor_id.as_str()) {
                Some(commands) => {
                    // If it ends at this moment, its end tells what is lost.
                    let _ = commands.send(Command::Recall);
                }
                None => self.ledger.repeat(&order.executor_id),
            },
            to_agent::Message::Ack(ack) => self.ledger.acknowledged(ack.sequence),
            to_agent::Message::LeaveAnswer(answer) => self.on_leave_answer(&answer),
            // The link has handled these.
            to_agent::Message::Welcome(_) | to_agent::Message::Refuse(_) => {}
            to_agent::Message::Log(order) => self.logs.order(order),
        }
    }

    fn on_start(&mut self, order: StartExecutor) {
        if self.ledger.knows(&order.executor_id) {
            self.ledger.repeat(&order.executor_id);
            return;
        }
        let id = match ExecutorId::new(&order.executor_id) {
            Ok(id) => id,
            Err(error) => return self.ledger.refused(&order.executor_id, &error.to_string()),
        };
        if self.stopping.is_some() {
            return self.ledger.refused(id.as_str(), "the node agent is stopping");
        }
        self.logs.began(&order);
        self.ledger.started(id.clone(), &order);
        self.begin(id, Beginning::Ordered(Box::new(order)));
    }

    /// Begins the life of an executor that is in the books.
    fn begin(&mut self, id: ExecutorId, beginning: Beginning) {
        let (commands, inbox) = unbounded_channel();
        self.commands.insert(id.clone(), commands);
        // In the background and on this thread, so that the launcher's parent is the main
        // thread, whose end is the end of the agent.
        tokio::spawn(executor::run(
            id,
            beginning,
            self.host.clone(),
            self.pool.clone(),
            inbox,
            self.events.0.clone(),
        ));
    }

    fn hello(&mut self) -> Hello {
        let capacity = self.identity.capacity;
        Hello {
            node: self.identity.node.to_string(),
            agent_instance: self.identity.instance.clone(),
            hostname: capacity::hostname(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capacity: Some(capacity.into()),
            allocatable: Some(self.identity.allocatable.into()),
            arch: std::env::consts::ARCH.to_owned(),
            os: std::env::consts::OS.to_owned(),
            labels: self.identity.labels.clone(),
            shims: vec![Shim::Host.into()],
            addresses: self.identity.addresses.clone(),
            executors: self.ledger.reconnected(),
            node_id: self.identity.id.clone(),
            slots: self.identity.slots.unwrap_or_default(),
            ephemeral: self.identity.life.ephemeral,
        }
    }

    fn beat(&mut self) {
        let directories = &self.host.directories;
        let heartbeat = Heartbeat {
            conditions: capacity::conditions(&[&directories.work, &directories.logs]),
            load_1m_centi: capacity::load_centi(),
            memory_available: capacity::memory_available(),
        };
        if let Some(outbound) = self.link.outbound() {
            // A link without room has other signs of life waiting on it.
            let _ = outbound.try_send(message(from_agent::Message::Heartbeat(heartbeat)));
        }
    }

    /// Sends what has to go now, and sees to it that the rest goes soon.
    fn send(&mut self) {
        if self.ledger.is_urgent() {
            self.send_all();
        } else if self.ledger.has_unsent() && self.held.is_none() && self.link.outbound().is_some() {
            self.held = Some(Box::pin(sleep(HOLD)));
        }
    }

    /// Sends all that there is room for; what is left waits and grows into larger batches.
    fn send_all(&mut self) {
        self.held = None;
        let Some(outbound) = self.link.outbound() else {
            return;
        };
        while self.ledger.has_unsent() {
            match outbound.try_reserve() {
                Ok(room) => {
                    let Some(next) = self.ledger.next_message() else {
                        return;
                    };
                    room.send(message(next));
                }
                // The link's own end follows and starts everything anew.
                Err(TrySendError::Full(()) | TrySendError::Closed(())) => return,
            }
        }
    }
}

fn message(message: from_agent::Message) -> FromAgent {
    FromAgent {
        message: Some(message),
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    // After a pause one tick says it all.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Completes when the link takes another message. A closed one never does; its end is an event.
async fn over(held: Option<&mut Pin<Box<Sleep>>>) {
    match held {
        Some(held) => held.await,
        None => std::future::pending().await,
    }
}

async fn wait_for_room(outbound: Option<&tokio::sync::mpsc::Sender<FromAgent>>) {
    match outbound.map(|outbound| outbound.reserve()) {
        Some(room) => match room.await {
            Ok(_) => {}
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
