//! `node-agent.toml`: what a node offers and how its agent behaves. Nothing in it is needed.
//!
//! Each setting has one key, wherever it is said: in the file, in the environment or on the command
//! line. [`Said`] collects what was said and where, and [`Said::check`] makes a [`NodeConfig`] of it or
//! lists everything that is wrong, so that tools and people mend it in one go.

mod effective;
mod file;
mod said;

use std::path::PathBuf;
use std::time::Duration;

use crate::{NodeName, Resources};

pub use file::parse;
pub use said::{Key, Origin, Problem, Problems, Said, Setting};

/// How long tasks that run may take until an agent that was asked to stop ends them.
const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a service may take to listen: interpreters that import large packages from a cold disk take half of it.
const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(60);
/// One, because sessions come one after the other more often than together.
const DEFAULT_STANDBY: u16 = 1;
/// How long OnSessionEnter may take: that is where services load their models.
const DEFAULT_ENTER_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// What the administrator of a node wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Name in the cluster; the host's name if nothing is said.
    pub name: Option<NodeName>,
    /// Labels by which sessions select it, as `key=value`, sorted.
    pub labels: Vec<String>,
    /// Where it can be reached; detected if nothing is said.
    pub addresses: Vec<String>,
    /// CPUs that it has; detected if nothing is said, as all that follow.
    pub cpu: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// GPUs.
    pub gpu: Option<u32>,
    /// What is not for executors.
    pub reserved: Resources,
    /// Executors at a time; if nothing is said, the cluster's limit alone counts.
    pub slots: Option<u32>,
    /// How executors run.
    pub runtime: RuntimeKind,
    /// Sandbox of executors in units.
    pub sandbox: Sandbox,
    /// Below these an application may have its working directory. If there are none, anywhere.
    pub work_directories: Vec<PathBuf>,
    /// Units that wait for an executor, so that it starts at once.
    pub standby: u16,
    /// How long services may take to begin.
    pub patience: Patience,
    /// When the agent ends.
    pub life: LifeConfig,
}

/// How long a service may take until it serves its session. Afterwards its process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until it listens on its socket.
    pub start: Duration,
    /// For OnSessionEnter; `None`: for ever.
    pub enter: Option<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            start: DEFAULT_START_TIMEOUT,
            enter: Some(DEFAULT_ENTER_TIMEOUT),
        }
    }
}

/// When an agent ends, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifeConfig {
    /// How long tasks that run may take when the agent was asked to stop.
    pub drain_timeout: Duration,
    /// It ends when it has had no executor for that long.
    pub idle_timeout: Option<Duration>,
    /// It drains and ends when it has run for that long.
    pub max_lifetime: Option<Duration>,
    /// It serves one session and ends.
    pub ephemeral: bool,
}

/// How executors run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RuntimeKind {
    /// As child processes of the agent.
    #[default]
    Process,
    /// As units of systemd, each in a sandbox.
    Systemd,
}

/// How much of the machine an executor in a unit may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// No network and no devices.
    Strict,
    /// What ordinary programs need.
    #[default]
    Standard,
    /// Everything that its user may use.
    None,
}

impl RuntimeKind {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Systemd => "systemd",
        }
    }
}

impl Sandbox {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Standard => "standard",
            Self::None => "none",
        }
    }
}

impl NodeConfig {
    /// `detected`, but for what the administrator says it is.
    #[must_use]
    pub fn capacity(&self, detected: Resources) -> Resources {
        Resources {
            cpu: self.cpu.unwrap_or(detected.cpu),
            memory: self.memory.unwrap_or(detected.memory),
            gpu: self.gpu.unwrap_or(detected.gpu),
        }
    }

    /// What executors may use of `capacity`.
    ///
    /// # Errors
    /// All that the node has is reserved.
    pub fn allocatable(&self, capacity: Resources) -> Result<Resources, Problem> {
        let problem = |key: Key, has: String| Problem {
            key,
            origin: None,
            reason: format!("everything is reserved: the node has only {has}"),
        };
        if self.reserved.cpu > 0 && self.reserved.cpu >= capacity.cpu {
            return Err(problem(Key::ReservedCpu, format!("{} CPUs", capacity.cpu)));
        }
        if self.reserved.memory > 0 && self.reserved.memory >= capacity.memory {
            return Err(problem(Key::ReservedMemory, crate::size::format(capacity.memory)));
        }
        Ok(capacity.minus(&self.reserved))
    }
}

#[cfg(test)]
mod tests;
