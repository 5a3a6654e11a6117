//! What is known of the daemons of a cluster: told by its supervisor, or seen in their pid files.

use std::time::SystemTime;

use flame_core::fsutil::write_atomic;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cluster::{Cluster, Shape};
use super::core::{self, State};
use super::process::Handle;
use crate::failure::{Failure, Outcome};

/// What a daemon does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DaemonState {
    /// Runs.
    Running,
    /// Has failed, and is started again in a moment.
    Waiting,
    /// Has ended in order, or was never started.
    Stopped,
    /// Failed so often, or in such a way, that it is not started again.
    GivenUp,
}

impl DaemonState {
    /// As people read it.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Stopped => "not running",
            Self::GivenUp => "given up",
        }
    }
}

/// A daemon of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct DaemonReport {
    /// flame-session-manager, flame-node-agent or flame-node-agent@nN.
    pub(crate) name: String,
    /// What it does.
    pub(crate) state: DaemonState,
    /// Its process, if it runs.
    pub(crate) pid: Option<u32>,
    /// When that was started (RFC 3339).
    pub(crate) since: Option<String>,
    /// How often its supervisor has started it again.
    pub(crate) restarts: u32,
    /// How it ended last, if it did.
    pub(crate) last_exit: Option<String>,
}

/// How far a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Nodes are waited for.
    Starting,
    /// Nodes take tasks.
    Ready,
    /// Daemons are being ended.
    Ending,
}

/// What a supervisor tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Published {
    pub(super) phase: Phase,
    /// Why it ended, if it was not asked to.
    pub(super) failure: Option<String>,
    pub(super) daemons: Vec<DaemonReport>,
}

impl Published {
    /// Makes it known.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&self, cluster: &Cluster) -> Outcome<()> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Failure::installation("cannot write the cluster's state down").because(error))?;
        Ok(write_atomic(&cluster.state_file(), &text, 0o644)?)
    }

    /// What was told last.
    pub(super) fn read(cluster: &Cluster) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(cluster.state_file()).ok()?).ok()
    }
}

/// A daemon as its supervisor sees it.
pub(super) fn supervised(daemon: &core::Daemon, since: Option<SystemTime>) -> DaemonReport {
    let (state, pid) = match daemon.state {
        State::Running { pid } => (DaemonState::Running, Some(pid)),
        State::Waiting { .. } | State::Starting => (DaemonState::Waiting, None),
        State::Ended => (DaemonState::Stopped, None),
        State::GivenUp => (DaemonState::GivenUp, None),
    };
    DaemonReport {
        name: daemon.name.clone(),
        state,
        pid,
        since: pid.and(since).and_then(text),
        restarts: daemon.restarts,
        last_exit: daemon.last_exit.as_ref().map(ToString::to_string),
    }
}

/// The daemons of a cluster that should run, and what they do.
pub(super) fn look(cluster: &Cluster) -> Vec<DaemonReport> {
    if cluster.supervisor().is_some()
        && let Some(published) = Published::read(cluster)
    {
        return published.daemons;
    }
    let shape = cluster.shape().unwrap_or_default();
    by_pid_files(cluster, &shape)
}

/// The daemons of a cluster without a supervisor.
pub(super) fn by_pid_files(cluster: &Cluster, shape: &Shape) -> Vec<DaemonReport> {
    let daemons = shape.daemons().into_iter().map(|daemon| {
        let pid_file = cluster.pid_file(&daemon.name);
        let found = Handle::read(&pid_file);
        let written = pid_file.metadata().and_then(|file| file.modified()).ok();
        DaemonReport {
            name: daemon.name,
            state: match found {
                Some(_) => DaemonState::Running,
                None => DaemonState::Stopped,
            },
            pid: found.as_ref().map(|handle| handle.pid),
            since: found.and(written).and_then(text),
            restarts: 0,
            last_exit: None,
        }
    });
    daemons.collect()
}

/// Whether all daemons run.
pub(super) fn all_run(daemons: &[DaemonReport]) -> bool {
    daemons.iter().all(|daemon| daemon.state == DaemonState::Running)
}

fn text(time: SystemTime) -> Option<String> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(Timestamp::from_second(seconds.try_into().ok()?).ok()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    use crate::dev::cluster::{NODE_AGENT, SESSION_MANAGER};
    use crate::dev::core::{Core, Exit, Role};
    use crate::dev::process::write_pid_file;

    #[test]
    fn pid_files_say_what_runs() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let cluster = Cluster::new(&directory.path().join("flame")).expect("a cluster");
        let states = || {
            look(&cluster)
                .iter()
                .map(|daemon| (daemon.name.clone(), daemon.state))
                .collect::<Vec<_>>()
        };
        let expected = |manager| {
            [
                (SESSION_MANAGER.to_owned(), manager),
                (NODE_AGENT.to_owned(), DaemonState::Stopped),
            ]
        };
        assert_eq!(states(), expected(DaemonState::Stopped));
        std::fs::create_dir_all(cluster.run_directory()).expect("made");
        write_pid_file(&cluster.pid_file(SESSION_MANAGER), std::process::id()).expect("written");
        assert_eq!(states(), expected(DaemonState::Running));
        let seen = &look(&cluster)[0];
        assert_eq!(seen.pid, Some(std::process::id()));
        assert!(
            seen.since.as_ref().is_some_and(|since| since.ends_with('Z')),
            "{seen:?}"
        );
        assert!(!all_run(&look(&cluster)) && all_run(&look(&cluster)[..1]));
    }

    #[test]
    fn a_dead_supervisor_is_not_believed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let cluster = Cluster::new(&directory.path().join("flame")).expect("a cluster");
        std::fs::create_dir_all(cluster.run_directory()).expect("made");
        let now = Instant::now();
        let mut core = Core::new([(SESSION_MANAGER.to_owned(), Role::SessionManager)], now);
        core.tick(now);
        core.started(0, 7);
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(61);
        let told = supervised(&core.daemons[0], Some(since));
        assert_eq!(
            (told.pid, told.since.as_deref()),
            (Some(7), Some("1970-01-01T00:01:01Z"))
        );
        let published = Published {
            phase: Phase::Ready,
            failure: None,
            daemons: vec![told.clone()],
        };
        published.write(&cluster).expect("written");
        assert_eq!(look(&cluster)[0].state, DaemonState::Stopped);
        write_pid_file(&cluster.pid_file("supervisor"), std::process::id()).expect("written");
        assert_eq!(look(&cluster), [told]);
        core.exited(0, Exit::Signal(9), now);
        let told = supervised(&core.daemons[0], Some(since));
        assert_eq!(
            (told.state, told.pid, told.since),
            (DaemonState::Waiting, None, None)
        );
        assert_eq!(told.last_exit.as_deref(), Some("signal 9"));
    }
}
