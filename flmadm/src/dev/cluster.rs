//! What is where in a cluster of plain processes, and which daemons it has.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use flame_core::config::ClusterConfig;
use flame_core::fsutil::{resolve, write_atomic};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::core::Role;
use super::process::Handle;
use crate::failure::{Failure, Outcome};
use crate::manifest::Manifest;
use crate::prefix::Prefix;

/// Longest socket directory: a unix socket's path has at most 107 bytes, and executors have names.
const SOCKET_DIRECTORY_MAX: usize = 60;
/// Where short socket directories are made: the path has to be the same for everybody who asks.
const SHORT_DIRECTORIES: &str = "/tmp";
/// Name of the directory of an agent's sockets; those of several have their names after it.
const SOCKETS: &str = "executors";
/// Name of the session manager's program.
pub(super) const SESSION_MANAGER: &str = "flame-session-manager";
/// Name of the node agent's program.
pub(super) const NODE_AGENT: &str = "flame-node-agent";

/// A cluster's directory.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) prefix: Prefix,
}

/// How a cluster was started; `restart` starts it the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    /// Number of node agents.
    pub(super) nodes: u16,
    /// What each node offers, if that was said.
    pub(super) resources: Option<String>,
    /// Whether somebody watches over the daemons.
    pub(super) supervised: bool,
}

/// A daemon of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DaemonSpec {
    /// `flame-session-manager`, `flame-node-agent` or `flame-node-agent@nN`.
    pub(super) name: String,
    pub(super) role: Role,
    /// The agent's own name, if there are several.
    pub(super) agent: Option<String>,
}

impl DaemonSpec {
    /// Name of the program.
    pub(super) fn program(&self) -> &'static str {
        match self.role {
            Role::SessionManager => SESSION_MANAGER,
            Role::NodeAgent => NODE_AGENT,
        }
    }

    fn of(name: &str) -> Option<Self> {
        let agent = match name.split_once('@') {
            _ if name == SESSION_MANAGER || name == NODE_AGENT => None,
            Some((NODE_AGENT, agent)) => Some(agent.to_owned()),
            _ => return None,
        };
        Some(Self {
            name: name.to_owned(),
            role: if name == SESSION_MANAGER {
                Role::SessionManager
            } else {
                Role::NodeAgent
            },
            agent,
        })
    }
}

impl Shape {
    /// The daemons, in the order in which they are started.
    pub(super) fn daemons(&self) -> Vec<DaemonSpec> {
        let agents = match self.nodes {
            0 | 1 => vec![NODE_AGENT.to_owned()],
            // An agent's name is no number.
            count => (1..=count)
                .map(|number| format!("{NODE_AGENT}@n{number}"))
                .collect(),
        };
        std::iter::once(SESSION_MANAGER.to_owned())
            .chain(agents)
            .filter_map(|name| DaemonSpec::of(&name))
            .collect()
    }
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            nodes: 1,
            resources: None,
            supervised: true,
        }
    }
}

impl Cluster {
    /// The cluster at `path`, which need not be there.
    ///
    /// # Errors
    /// `path` cannot be a prefix.
    pub(super) fn new(path: &Path) -> Outcome<Self> {
        let absolute = std::path::absolute(path)
            .map_err(|error| Failure::arguments("the prefix cannot be used").because(error))?;
        // However a prefix is written, it is the same cluster.
        let given = Prefix::new(&absolute)?;
        let prefix = Prefix::new(&resolve(given.path()))?;
        Ok(Self { prefix })
    }

    pub(super) fn path(&self) -> &Path {
        self.prefix.path()
    }

    /// Where pids and the like are.
    pub(super) fn run_directory(&self) -> PathBuf {
        self.prefix.join("run")
    }

    pub(super) fn pid_file(&self, name: &str) -> PathBuf {
        self.run_directory().join(format!("{name}.pid"))
    }

    /// What the supervisor tells of the daemons.
    pub(super) fn state_file(&self) -> PathBuf {
        self.run_directory().join("state.json")
    }

    fn shape_file(&self) -> PathBuf {
        self.run_directory().join("shape.json")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.prefix.join("logs").join(format!("{name}.log"))
    }

    /// The supervisor, if it lives.
    pub(super) fn supervisor(&self) -> Option<Handle> {
        Handle::read(&self.pid_file("supervisor"))
    }

    /// The configuration of the installation; `None` if nothing is installed.
    ///
    /// # Errors
    /// It is broken.
    pub(super) fn config(&self) -> Outcome<Option<ClusterConfig>> {
        if !Manifest::load(&self.prefix)?.is_some_and(|manifest| manifest.is_installed()) {
            return Ok(None);
        }
        let config = ClusterConfig::load(&self.prefix.config()).map_err(|error| {
            Failure::installation("the cluster's configuration cannot be used")
                .because(error)
                .hint("mend it, then start again")
        })?;
        Ok(Some(config))
    }

    /// How the cluster was started last.
    pub(super) fn shape(&self) -> Option<Shape> {
        serde_json::from_slice(&std::fs::read(self.shape_file()).ok()?).ok()
    }

    /// Remembers how the cluster is started.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn remember(&self, shape: &Shape) -> Outcome<()> {
        let text = serde_json::to_vec(shape)
            .map_err(|error| Failure::installation("cannot write the cluster's shape down").because(error))?;
        Ok(write_atomic(&self.shape_file(), &text, 0o644)?)
    }

    /// Daemons that have a pid file, agents first: in the order in which they are stopped.
    pub(super) fn started_daemons(&self) -> Vec<DaemonSpec> {
        let entries = std::fs::read_dir(self.run_directory()).into_iter().flatten();
        let mut found: Vec<DaemonSpec> = entries
            .filter_map(|entry| DaemonSpec::of(entry.ok()?.file_name().to_str()?.strip_suffix(".pid")?))
            .collect();
        found.sort_by_key(|daemon| (daemon.role == Role::SessionManager, daemon.name.clone()));
        found
    }

    /// The socket directory of an agent.
    pub(super) fn socket_directory(&self, daemon: &DaemonSpec) -> PathBuf {
        let below = match &daemon.agent {
            None => SOCKETS.to_owned(),
            Some(agent) => format!("{SOCKETS}-{agent}"),
        };
        let long = self.run_directory().join(&below);
        if long.as_os_str().len() <= SOCKET_DIRECTORY_MAX {
            return long;
        }
        self.short_directory().join(below)
    }

    /// All directories of sockets that are there.
    pub(super) fn socket_directories(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.run_directory()).into_iter().flatten();
        let is_one = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name == SOCKETS || name.starts_with(&format!("{SOCKETS}-")))
        };
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(is_one)
            .chain(Some(self.short_directory()).filter(|path| is_ours(path)))
            .collect()
    }

    /// Where the sockets of a long prefix are.
    fn short_directory(&self) -> PathBuf {
        let digest = Sha256::digest(self.prefix.text().as_bytes());
        let short: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Path::new(SHORT_DIRECTORIES).join(format!("flame-{short}"))
    }

    /// Makes the socket directory of an agent.
    ///
    /// # Errors
    /// It cannot be made, or somebody else has made it.
    pub(super) fn make_socket_directory(&self, daemon: &DaemonSpec) -> Outcome<PathBuf> {
        let directory = self.socket_directory(daemon);
        let short = self.short_directory();
        if directory.starts_with(&short) {
            let made = std::fs::DirBuilder::new().mode(0o700).create(&short);
            if let Err(error) = made
                && error.kind() != std::io::ErrorKind::AlreadyExists
            {
                return Err(Failure::path("make", &short, error));
            }
            // Anybody may make a directory there before us.
            if !is_ours(&short) {
                return Err(
                    Failure::installation(format!("{} belongs to somebody else", short.display()))
                        .hint("choose a shorter --prefix, so that the sockets have room in it"),
                );
            }
        }
        std::fs::create_dir_all(&directory).map_err(|error| Failure::path("make", &directory, error))?;
        Ok(directory)
    }

    /// Waits until nobody else starts or stops this cluster; it is ours while the file lives. Makes the directory.
    ///
    /// # Errors
    /// The directory cannot be made or locked.
    pub(super) fn lock(&self) -> Outcome<File> {
        let directory = self.run_directory();
        let path = directory.join("lock");
        loop {
            std::fs::create_dir_all(&directory).map_err(|error| Failure::path("make", &directory, error))?;
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(|error| Failure::path("make", &path, error))?;
            file.lock().map_err(|error| Failure::path("lock", &path, error))?;
            let ours = file
                .metadata()
                .map_err(|error| Failure::path("look at", &path, error))?;
            // Whoever had it may have removed it with everything else.
            if path.metadata().is_ok_and(|there| there.ino() == ours.ino()) {
                return Ok(file);
            }
        }
    }
}

/// Whether it is a directory, and this user's.
fn is_ours(path: &Path) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(nodes: u16) -> Vec<String> {
        let shape = Shape {
            nodes,
            ..Shape::default()
        };
        shape.daemons().into_iter().map(|daemon| daemon.name).collect()
    }

    #[test]
    fn several_agents_have_names_of_their_own() {
        assert_eq!(names(1), [SESSION_MANAGER, NODE_AGENT]);
        assert_eq!(
            names(2),
            [SESSION_MANAGER, "flame-node-agent@n1", "flame-node-agent@n2"]
        );
        let agent = &Shape {
            nodes: 2,
            ..Shape::default()
        }
        .daemons()[2];
        assert_eq!(
            (agent.program(), agent.agent.as_deref()),
            (NODE_AGENT, Some("n2"))
        );
        assert_eq!(DaemonSpec::of("supervisor"), None);
        assert_eq!(DaemonSpec::of("flame-session-manager@1"), None);
    }

    #[test]
    fn sockets_of_a_long_prefix_are_elsewhere() {
        let agent = &Shape::default().daemons()[1];
        let short = Cluster::new(Path::new("/opt/flame-dev")).expect("a cluster");
        assert_eq!(
            short.socket_directory(agent),
            Path::new("/opt/flame-dev/run/executors")
        );
        let long = Cluster::new(&Path::new("/opt").join("x".repeat(80))).expect("a cluster");
        let directory = long.socket_directory(agent);
        assert!(
            directory.as_os_str().len() <= SOCKET_DIRECTORY_MAX,
            "{directory:?}"
        );
        let other = Cluster::new(&Path::new("/opt").join("x".repeat(81))).expect("a cluster");
        assert_ne!(other.socket_directory(agent), directory);
    }

    #[test]
    fn agents_are_stopped_before_the_session_manager() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let cluster = Cluster::new(&directory.path().join("flame")).expect("a cluster");
        assert!(cluster.started_daemons().is_empty());
        std::fs::create_dir_all(cluster.run_directory()).expect("made");
        for name in [
            "supervisor",
            SESSION_MANAGER,
            "flame-node-agent@n2",
            "flame-node-agent@n1",
            "n1",
        ] {
            std::fs::write(cluster.pid_file(name), "").expect("written");
        }
        let names: Vec<String> = cluster
            .started_daemons()
            .into_iter()
            .map(|daemon| daemon.name)
            .collect();
        assert_eq!(
            names,
            ["flame-node-agent@n1", "flame-node-agent@n2", SESSION_MANAGER]
        );
    }

    #[test]
    fn a_lock_that_was_removed_is_made_anew() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let cluster = Cluster::new(&directory.path().join("flame")).expect("a cluster");
        let first = cluster.lock().expect("locked");
        let second = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| cluster.lock().expect("locked"));
            std::fs::remove_dir_all(cluster.run_directory()).expect("removed");
            drop(first);
            waiting.join().expect("no panic")
        });
        let there = cluster.run_directory().join("lock").metadata().expect("there");
        assert_eq!(there.ino(), second.metadata().expect("open").ino());
    }

    #[test]
    fn the_shape_is_remembered() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let cluster = Cluster::new(&directory.path().join("flame")).expect("a cluster");
        assert_eq!(cluster.shape(), None);
        let _lock = cluster.lock().expect("locked");
        let shape = Shape {
            nodes: 3,
            resources: Some("cpu=1".to_owned()),
            supervised: false,
        };
        cluster.remember(&shape).expect("written");
        assert_eq!(cluster.shape(), Some(shape));
    }
}
