//! What the supervisor decides: which daemon is started, signalled, given up, and when all is over. No I/O, no clock.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// Pause before a daemon is started again for the first time; it doubles with every failure that follows soon.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A daemon that fails more often than `START_LIMIT` within this time is given up.
const START_WINDOW: Duration = Duration::from_secs(60);
/// See [`START_WINDOW`]. With the pauses it takes six seconds to get there, enough for a port to become free.
const START_LIMIT: usize = 5;
/// How long a daemon has to end in order: an agent lets short tasks finish.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Exit status of a daemon whose configuration cannot be used: another start would not help.
const EXIT_CONFIG: i32 = 78;

/// What a daemon does in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing works without it; it is started again whenever it ends.
    SessionManager,
    /// One of several; one that ends with status 0 was asked to, and stays down.
    NodeAgent,
}

impl Role {
    /// Agents end before the session manager, so that they can hand their work back.
    const ENDING: [Self; 2] = [Self::NodeAgent, Self::SessionManager];
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exit {
    /// With this exit status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// It could not be started.
    Unstarted(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unstarted(why) => write!(f, "not started: {why}"),
        }
    }
}

/// Life of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Will be started then.
    Waiting { due: Instant },
    /// A start was asked for; there is no answer yet.
    Starting,
    /// Runs.
    Running { pid: u32 },
    /// Has ended in order.
    Ended,
    /// Failed too often, or in a way that another start does not mend.
    GivenUp,
}

/// A daemon that is watched over.
#[derive(Debug, Clone)]
pub(super) struct Daemon {
    pub(super) name: String,
    role: Role,
    pub(super) state: State,
    /// How often it was started again.
    pub(super) restarts: u32,
    /// How it ended last.
    pub(super) last_exit: Option<Exit>,
    failures: VecDeque<Instant>,
}

/// What the supervisor has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Start the daemon with that number and tell [`Core::started`] or [`Core::exited`].
    Start(usize),
    /// Ask that process to end.
    Terminate(u32),
    /// End that process.
    Kill(u32),
    /// Tell it to the user.
    Say(String),
    /// Show the last lines that the daemon with that number has logged.
    ShowLog(usize),
    /// All daemons have ended. The text says why, if nobody asked for it.
    Over(Option<String>),
}

/// What the whole cluster does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Up {
        ready: bool,
    },
    /// Daemons of this place in [`Role::ENDING`] are ending.
    Ending {
        place: usize,
        kill_at: Option<Instant>,
        why: Option<String>,
    },
    Over,
}

/// The supervisor's knowledge.
#[derive(Debug, Clone)]
pub(super) struct Core {
    pub(super) daemons: Vec<Daemon>,
    stage: Stage,
}

impl Core {
    /// A cluster of these daemons, which are all to be started.
    pub(super) fn new(daemons: impl IntoIterator<Item = (String, Role)>, now: Instant) -> Self {
        let daemons = daemons.into_iter().map(|(name, role)| Daemon {
            name,
            role,
            state: State::Waiting { due: now },
            restarts: 0,
            last_exit: None,
            failures: VecDeque::new(),
        });
        Self {
            daemons: daemons.collect(),
            stage: Stage::Up { ready: false },
        }
    }

    /// Whether the cluster is ending, or over.
    pub(super) fn is_ending(&self) -> bool {
        !matches!(self.stage, Stage::Up { .. })
    }

    /// The nodes take tasks. From now on an agent that is given up does not end the others.
    pub(super) fn ready(&mut self) {
        if let Stage::Up { ready } = &mut self.stage {
            *ready = true;
        }
    }

    /// When something is due, see [`Core::tick`].
    pub(super) fn next_due(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Up { .. } => self
                .daemons
                .iter()
                .filter_map(|daemon| match daemon.state {
                    State::Waiting { due } => Some(due),
                    _ => None,
                })
                .min(),
            Stage::Ending { kill_at, .. } => *kill_at,
            Stage::Over => None,
        }
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        match &mut self.stage {
            Stage::Up { .. } => {
                for (index, daemon) in self.daemons.iter_mut().enumerate() {
                    if matches!(daemon.state, State::Waiting { due } if due <= now) {
                        daemon.state = State::Starting;
                        effects.push(Effect::Start(index));
                    }
                }
            }
            Stage::Ending { kill_at, .. } if kill_at.is_some_and(|kill_at| kill_at <= now) => {
                *kill_at = None;
                self.kill(&mut effects);
            }
            Stage::Ending { .. } | Stage::Over => {}
        }
        effects
    }

    /// The daemon with that number was started.
    pub(super) fn started(&mut self, index: usize, pid: u32) {
        if let Some(daemon) = self.daemons.get_mut(index) {
            daemon.restarts += u32::from(daemon.last_exit.is_some());
            daemon.state = State::Running { pid };
        }
    }

    /// The number of the daemon that runs as `pid`.
    pub(super) fn with_pid(&self, pid: u32) -> Option<usize> {
        self.daemons
            .iter()
            .position(|daemon| daemon.state == State::Running { pid })
    }

    /// The daemon with that number has ended, or could not be started.
    pub(super) fn exited(&mut self, index: usize, exit: Exit, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(daemon) = self.daemons.get_mut(index) else {
            return effects;
        };
        daemon.last_exit = Some(exit.clone());
        if self.stage == Stage::Over {
            return effects;
        }
        if matches!(self.stage, Stage::Ending { .. }) {
            daemon.state = State::Ended;
            effects.push(Effect::Say(format!("stopped {}", daemon.name)));
            self.advance(now, &mut effects);
            return effects;
        }
        self.fallen(index, &exit, now, &mut effects);
        effects
    }

    /// Ends everything, because somebody asked for it or because of `why`. Asked again, it waits no longer
    /// for those that are ending.
    pub(super) fn end(&mut self, why: Option<String>, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        match &mut self.stage {
            Stage::Up { .. } => {
                for daemon in &mut self.daemons {
                    if matches!(daemon.state, State::Waiting { .. } | State::Starting) {
                        daemon.state = State::Ended;
                    }
                }
                self.stage = Stage::Ending {
                    place: 0,
                    kill_at: Some(now + STOP_LIMIT),
                    why,
                };
                self.terminate(&mut effects);
                self.advance(now, &mut effects);
            }
            Stage::Ending { kill_at, .. } => {
                *kill_at = None;
                self.kill(&mut effects);
            }
            Stage::Over => {}
        }
        effects
    }

    /// A daemon ended by itself while the cluster is up.
    fn fallen(&mut self, index: usize, exit: &Exit, now: Instant, effects: &mut Vec<Effect>) {
        let daemon = &mut self.daemons[index];
        let name = daemon.name.clone();
        if daemon.role == Role::NodeAgent && *exit == Exit::Status(0) {
            daemon.state = State::Ended;
            effects.push(Effect::Say(format!("{name} ended in order and stays down")));
        } else if *exit == Exit::Status(EXIT_CONFIG) {
            let why = format!("{name} cannot use its configuration ({exit})");
            self.give_up(index, why, now, effects);
        } else {
            daemon
                .failures
                .retain(|failure| now.duration_since(*failure) < START_WINDOW);
            daemon.failures.push_back(now);
            let failures = daemon.failures.len();
            if failures > START_LIMIT {
                let seconds = START_WINDOW.as_secs();
                let why = format!("{name} ended {failures} times within {seconds} s, at last with {exit}");
                self.give_up(index, why, now, effects);
            } else {
                let pause = pause(failures);
                daemon.state = State::Waiting { due: now + pause };
                effects.push(Effect::Say(format!(
                    "{name} ended ({exit}) and is started again in {:.1} s",
                    pause.as_secs_f32()
                )));
            }
        }
        let is_down = |daemon: &Daemon| matches!(daemon.state, State::Ended | State::GivenUp);
        if !self.is_ending() && self.daemons.iter().all(is_down) {
            effects.extend(self.end(None, now));
        }
    }

    fn give_up(&mut self, index: usize, why: String, now: Instant, effects: &mut Vec<Effect>) {
        let ready = self.stage == Stage::Up { ready: true };
        let daemon = &mut self.daemons[index];
        daemon.state = State::GivenUp;
        let essential = daemon.role == Role::SessionManager || !ready;
        effects.push(Effect::Say(format!("{why}: given up")));
        effects.push(Effect::ShowLog(index));
        if essential {
            effects.extend(self.end(Some(why), now));
        }
    }

    /// Goes on to the next daemons if those that are ending have ended.
    fn advance(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        loop {
            let Stage::Ending { place, kill_at, why } = &mut self.stage else {
                return;
            };
            let role = Role::ENDING[*place];
            let mut running = self.daemons.iter().filter(|daemon| is_running(daemon));
            if running.any(|daemon| daemon.role == role) {
                return;
            }
            if *place + 1 == Role::ENDING.len() {
                effects.push(Effect::Over(why.take()));
                self.stage = Stage::Over;
                return;
            }
            *place += 1;
            *kill_at = Some(now + STOP_LIMIT);
            self.terminate(effects);
        }
    }

    /// Asks those whose turn it is to end.
    fn terminate(&self, effects: &mut Vec<Effect>) {
        let Stage::Ending { place, .. } = &self.stage else {
            return;
        };
        for daemon in &self.daemons {
            if let State::Running { pid } = daemon.state
                && daemon.role == Role::ENDING[*place]
            {
                effects.push(Effect::Terminate(pid));
            }
        }
    }

    /// Ends those whose turn it is, and that were asked before.
    fn kill(&self, effects: &mut Vec<Effect>) {
        let Stage::Ending { place, .. } = &self.stage else {
            return;
        };
        for daemon in &self.daemons {
            if let State::Running { pid } = daemon.state
                && daemon.role == Role::ENDING[*place]
            {
                effects.push(Effect::Say(format!("{} has not ended: killing it", daemon.name)));
                effects.push(Effect::Kill(pid));
            }
        }
    }
}

fn is_running(daemon: &Daemon) -> bool {
    matches!(daemon.state, State::Running { .. })
}

/// The pause after so many failures within the window.
fn pause(failures: usize) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(LONGEST_PAUSE)
}
