//! The session manager's state machine: applications, sessions, tasks, nodes, executors and the
//! scheduler. It does no I/O, has no clock and no randomness: every method is given the time and
//! leaves what has to happen in [`Effects`]. The shell (`crate::engine`) makes the effects real.

mod applications;
mod cancel;
mod census;
mod close;
mod cordon;
mod counters;
mod departure;
mod error;
mod executors;
mod identity;
mod idle;
mod logs;
mod model;
mod nodes;
mod planted;
mod prefetch;
mod recent;
mod reconcile;
mod requests;
mod retention;
mod scheduler;
mod sessions;
mod stability;
mod tasks;
#[cfg(test)]
mod tests;
mod timeout;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use flame_core::config::cluster::{Limits, Placement, Policy, Retention};
use flame_core::lifecycle::{LifecycleEvent, Severity};
use flame_core::{ApplicationName, ExecutorId, NodeName, Resources, SessionId, TaskId};
use flame_rpc::{node, v1};

pub use cancel::{Cancel, ended_otherwise};
pub use census::{Census, ExecutorCensus, NodeCensus, OpenSessions};
pub use cordon::Cordon;
pub use counters::{Counters, RequeueReason};
pub use error::CoreError;
pub(crate) use identity::Identities;
pub use identity::NodeIdentity;
pub use logs::{LogPlace, LogPlaces, RanOn};
pub use model::{Application, NodeHello, SessionEvent, SessionKey, SessionRow, TaskRow};
pub(crate) use model::{Executor, ExecutorState, MAX_EVENTS, MAX_TASKS, Node, Session, TaskPhase};
pub(crate) use planted::{Bug as PlantedBug, planted};
pub use requests::RequestRow;
pub(crate) use requests::Requests;
pub(crate) use retention::{CLOSED_EVENTS, is_small};
pub use sessions::SessionProgress;
pub(crate) use sessions::node_labels;
pub(crate) use stability::Stability;

use crate::store::{Record, Snapshot};

/// Number of a link between an agent and this process; a later link has a higher number.
pub type LinkId = u64;

/// A moment: the wall clock for what people read, the monotonic clock for what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Unix milliseconds. May jump.
    pub wall: i64,
    /// Time since some fixed moment. Never goes back.
    pub mono: Duration,
}

/// What the core is told once.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// Executor size of a session that names none.
    pub default_resources: Resources,
    /// Scheduling policies, the first one first.
    pub policies: Vec<Policy>,
    /// Which of several nodes gets an executor.
    pub placement: Placement,
    /// Bounds on sessions and executors.
    pub limits: Limits,
    /// For how long closed sessions are kept.
    pub retention: Retention,
    /// Failures to bind after which a session gets no new executors.
    pub bind_retries: u32,
    /// How often a service may die under one task before the task counts as the reason.
    pub task_retries: u32,
}

/// What has to happen because of a command.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be made durable, in this order, before anything in `answers`, `updates` or a reply leaves.
    pub records: Vec<Record>,
    /// Messages to agents that need not wait: orders that are harmless if this process forgets them.
    pub orders: Vec<(LinkId, node::ToAgent)>,
    /// Messages to agents that promise something, so they wait for the records.
    pub answers: Vec<(LinkId, node::ToAgent)>,
    /// Tasks that have ended: news for those who watch them.
    pub updates: Vec<Arc<TaskRow>>,
    /// Tasks that were handed out: news, too, but few want to know. See [`Core::live_row`].
    pub handed_out: Vec<TaskKey>,
    /// Sessions in which no more tasks will end.
    pub closed: Vec<SessionKey>,
    /// Links to end after what was sent on them.
    pub hang_up: Vec<LinkId>,
    /// What an administrator wants to read in the log.
    pub notices: Vec<Notice>,
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// How bad it is.
    pub level: NoticeLevel,
    /// A sentence.
    pub text: String,
    /// What it reports, if that is an event with a number.
    pub event: Option<LifecycleEvent>,
    /// The session it is about.
    pub session: Option<SessionId>,
    /// The node it is about.
    pub node: Option<NodeName>,
    /// The executor it is about.
    pub executor: Option<ExecutorId>,
    /// The task of that session it is about.
    pub task: Option<TaskId>,
}

impl Notice {
    /// It is about `executor`, its session and its node.
    fn concerns(&mut self, executor: &Executor) -> &mut Self {
        self.session = Some(executor.session_id.clone());
        self.node = Some(executor.node.clone());
        self.executor = Some(executor.id.clone());
        self
    }
}

/// How bad a [`Notice`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeLevel {
    /// A thing done that is not worth a line unless somebody looks closely.
    Debug,
    /// A thing done.
    Info,
    /// Something went wrong and was mended.
    Warn,
}

impl Effects {
    fn notice(&mut self, level: NoticeLevel, text: impl Into<String>) -> &mut Notice {
        let notice = Notice {
            level,
            text: text.into(),
            event: None,
            session: None,
            node: None,
            executor: None,
            task: None,
        };
        let at = self.notices.len();
        self.notices.push(notice);
        &mut self.notices[at]
    }

    /// A line about something that monitoring may look for.
    fn event(&mut self, event: LifecycleEvent, text: impl Into<String>) -> &mut Notice {
        let level = match event.severity() {
            Severity::Debug => NoticeLevel::Debug,
            Severity::Info => NoticeLevel::Info,
            Severity::Warning | Severity::Error => NoticeLevel::Warn,
        };
        let notice = self.notice(level, text);
        notice.event = Some(event);
        notice
    }

    fn order(&mut self, link: LinkId, message: node::to_agent::Message) {
        self.orders.push((
            link,
            node::ToAgent {
                message: Some(message),
            },
        ));
    }

    fn answer(&mut self, link: LinkId, message: node::to_agent::Message) {
        self.answers.push((
            link,
            node::ToAgent {
                message: Some(message),
            },
        ));
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    applications: BTreeMap<ApplicationName, Application>,
    sessions: BTreeMap<SessionKey, Session>,
    session_keys: HashMap<SessionId, SessionKey>,
    /// Sessions that take tasks: there may be far more that are closed.
    open: BTreeSet<SessionKey>,
    closed: retention::Closed,
    nodes: BTreeMap<NodeName, Node>,
    /// Nodes that are out of service, also those that are not known at the moment.
    cordons: BTreeMap<NodeName, Cordon>,
    /// Which machine has which name, also those that are not known at the moment.
    identities: Identities,
    links: HashMap<LinkId, NodeName>,
    executors: HashMap<ExecutorId, Executor>,
    /// Those that take no more tasks and whose places will be free.
    leaving: BTreeSet<ExecutorId>,
    /// Sessions whose pending tasks may find an executor.
    touched: BTreeSet<SessionKey>,
    /// Something changed that the scheduler has to look at.
    dirty: bool,
    /// When the scheduler has to look again although nothing changed.
    recheck_at: Option<Duration>,
    /// When executors that have tasks in advance are looked at, see `prefetch.rs`.
    stall_check_at: Option<Duration>,
    /// When to look whether tasks are over their time.
    deadlines: timeout::Deadlines,
    /// When to look whether executors have been idle for too long.
    idle_checks: idle::IdleChecks,
    recent: recent::Recent,
    counters: Counters,
    generation: u32,
    attempts: Attempts,
    /// No node has been silent for too long before that.
    timers_at: Duration,
    /// The last pass of the scheduler left a session without executors that it wants.
    unserved: bool,
    /// Executors of this generation and earlier ones know things that this state does not.
    restored_generation: u32,
    last_executor: u64,
    last_session: SessionKey,
}

impl Core {
    /// The state that `snapshot` describes. Tasks that ran are pending again: their agents
    /// report them when they reconnect, see `reconcile.rs`.
    #[must_use]
    pub fn new(config: CoreConfig, snapshot: Snapshot) -> Self {
        let mut core = Self {
            config,
            applications: BTreeMap::new(),
            sessions: BTreeMap::new(),
            session_keys: HashMap::new(),
            open: BTreeSet::new(),
            closed: retention::Closed::default(),
            nodes: BTreeMap::new(),
            cordons: BTreeMap::new(),
            identities: Identities::new(snapshot.identities),
            links: HashMap::new(),
            executors: HashMap::new(),
            leaving: BTreeSet::new(),
            touched: BTreeSet::new(),
            dirty: true,
            recheck_at: None,
            stall_check_at: None,
            deadlines: timeout::Deadlines::new(),
            idle_checks: idle::IdleChecks::new(),
            recent: recent::Recent::default(),
            counters: Counters::default(),
            generation: snapshot.generation,
            attempts: Attempts::new(snapshot.generation),
            timers_at: Duration::ZERO,
            unserved: false,
            restored_generation: snapshot.restored_generation,
            last_executor: 0,
            last_session: snapshot.last_session,
        };
        core.applications = snapshot
            .applications
            .into_iter()
            .map(|app| (app.name.clone(), app))
            .collect();
        core.cordons = snapshot
            .cordons
            .into_iter()
            .map(|cordon| (cordon.node.clone(), cordon))
            .collect();
        for stored in snapshot.sessions {
            let in_store = stored.common_data_in_store;
            let mut session = Session::restored(stored);
            if session.is_open() {
                core.open.insert(session.row.key);
            } else {
                core.closed.insert(&mut session, in_store);
            }
            core.last_session = core.last_session.max(session.row.key);
            core.session_keys.insert(session.row.id.clone(), session.row.key);
            core.sessions.insert(session.row.key, session);
        }
        core
    }

    /// Does what became possible through the commands since the last call: hands out tasks,
    /// starts and releases executors. To be called after each batch of commands, and at the
    /// time that [`Core::next_deadline`] names.
    pub fn settle(&mut self, now: Now, fx: &mut Effects) {
        self.settle_what_is_due(now, fx);
        if self.wants_pass(now) {
            self.pass(now, fx);
        }
    }

    /// The part of [`Core::settle`] that comes before the scheduler.
    pub fn settle_what_is_due(&mut self, now: Now, fx: &mut Effects) {
        self.forget_old_sessions(now, fx);
        let timers_are_due = self.timers_are_due(now);
        if timers_are_due {
            self.check_nodes(now, fx);
        }
        self.end_overdue(now, fx);
        self.recall_from_stalled(now, fx);
        for key in std::mem::take(&mut self.touched) {
            self.dispatch(key, now, fx);
        }
        // After the hand-outs: an executor for which a task waits is not idle.
        self.release_idle(now, fx);
        if timers_are_due {
            self.timers_at = self.next_timer(now);
        }
    }

    /// Whether [`Core::settle`] looks at what depends on the time alone, such as who is silent.
    #[must_use]
    pub fn timers_are_due(&self, now: Now) -> bool {
        self.timers_at <= now.mono
    }

    /// Whether something changed that the scheduler has to look at.
    #[must_use]
    pub fn wants_pass(&self, now: Now) -> bool {
        self.dirty || self.recheck_is_due(now)
    }

    /// The part of [`Core::settle`] that is the scheduler's: on its own, so that the shell, which has
    /// a clock, can tell how long it takes.
    pub fn pass(&mut self, now: Now, fx: &mut Effects) {
        self.dirty = false;
        self.counters.passes += 1;
        self.schedule(now, fx);
    }

    /// When [`Core::settle`] has to be called even if nothing happens, on the monotonic clock.
    #[must_use]
    pub fn next_deadline(&self, now: Now) -> Option<Duration> {
        [self.timers_at]
            .into_iter()
            .filter(|at| *at < Duration::MAX)
            .chain(self.recheck_at)
            .chain(self.stall_check_at)
            .chain(self.time_deadline())
            .chain(self.idle_deadline())
            .chain(self.retention_deadline(now))
            .min()
    }

    fn next_timer(&self, now: Now) -> Duration {
        let nodes = self.nodes.values().filter_map(|node| node.next_deadline(now));
        let nodes = nodes.chain(self.identities.deadline());
        nodes.min().unwrap_or(Duration::MAX)
    }

    /// Something may be due at `at` on the monotonic clock; zero: it has to be looked up.
    fn timer(&mut self, at: Duration) {
        self.timers_at = self.timers_at.min(at);
    }

    /// Task `task` as it is, if it has not ended.
    #[must_use]
    pub fn live_row(&self, (session, id): TaskKey) -> Option<TaskRow> {
        self.sessions.get(&session)?.live_row(id)
    }

    /// Numbers for the daemon's STATUS line.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let open = self.open.iter().filter_map(|key| self.sessions.get(key));
        let mut summary = Summary {
            ready_nodes: self.nodes.values().filter(|node| node.takes_work()).count(),
            nodes: self.nodes.len(),
            executors: self.executors.len(),
            ..Summary::default()
        };
        for session in open {
            summary.open_sessions += 1;
            summary.pending += session.pending.len();
            summary.running += session.live.len() - session.pending.len();
        }
        summary
    }

    fn session_key(&self, id: &str) -> Result<SessionKey, CoreError> {
        self.session_keys
            .get(id)
            .copied()
            .ok_or_else(|| CoreError::NotFound(format!("session {id} not found")))
    }

    fn session(&self, id: &str) -> Result<&Session, CoreError> {
        let key = self.session_key(id)?;
        self.sessions
            .get(&key)
            .ok_or_else(|| CoreError::NotFound(format!("session {id} not found")))
    }
}

/// Numbers for the hand-outs of tasks. None ever comes again, also not after a restart.
#[derive(Debug)]
struct Attempts(u64);

impl Attempts {
    /// Bits that count within one life of the process: a year of a million hand-outs a second. The
    /// bits above are the generation: room for 16 million starts.
    const COUNTER_BITS: u32 = 40;

    fn new(generation: u32) -> Self {
        Self(u64::from(generation) << Self::COUNTER_BITS)
    }

    /// Of which life of the process an attempt is.
    fn generation(attempt: u64) -> u64 {
        attempt >> Self::COUNTER_BITS
    }

    fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

/// See [`Core::summary`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Nodes that get work.
    pub ready_nodes: usize,
    /// All nodes that are known.
    pub nodes: usize,
    /// Executors in any state.
    pub executors: usize,
    /// Sessions that take tasks.
    pub open_sessions: usize,
    /// Tasks that wait.
    pub pending: usize,
    /// Tasks that were handed out.
    pub running: usize,
}

/// A task, or where to find it.
#[derive(Debug, Clone)]
pub enum Found {
    /// It has not ended, or has done so lately.
    AtHand(Arc<TaskRow>),
    /// It has ended, so it is in the store; if it is not there, it never was.
    InStore(SessionKey),
}

/// Live tasks of a session; the others are in the store.
#[derive(Debug, Clone)]
pub struct LiveTasks {
    /// Where the ended ones are.
    pub key: SessionKey,
    /// In the order of their ids.
    pub tasks: Vec<TaskRow>,
}

fn metadata(name: &str) -> Option<v1::Metadata> {
    Some(v1::Metadata {
        id: name.to_owned(),
        name: name.to_owned(),
    })
}

/// A task's place: its session and its number there.
pub type TaskKey = (SessionKey, TaskId);
