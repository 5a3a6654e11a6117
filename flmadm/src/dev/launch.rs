//! How a daemon is started: by a process that first leaves our session and ties itself to our life.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use flame_core::resources::Resources;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, setsid};

use super::cluster::{Cluster, DaemonSpec, Shape};
use super::core::Role;
use super::leftovers::MARK;
use crate::failure::{Failure, Kind, Outcome};
use crate::node_config;

/// Ourselves, also when the file that we were started from has been replaced.
pub(super) const OURSELVES: &str = "/proc/self/exe";
/// What nodes offer, for all agents of this environment.
const RESOURCES: &str = "FLAME_NODE_RESOURCES";
/// What would give several agents one name.
const NAMES: [&str; 2] = ["FLAME_NODE_NAME", "FLAME_AGENT"];

/// What `flmadm dev launch` is told.
#[derive(Debug, Args)]
pub(super) struct LaunchArgs {
    /// Process with which the program ends
    #[arg(long, value_name = "PID")]
    tied_to: Option<i32>,
    /// Program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Becomes the program. It has its own session, so that Ctrl-C in a terminal does not reach it.
///
/// # Errors
/// It cannot be started.
pub(super) fn run(args: &LaunchArgs) -> Outcome<()> {
    let failed = |what: &str| Failure::new(Kind::Start, format!("cannot {what}"));
    if let Some(parent) = args.tied_to {
        set_parent_process_death_signal(Some(Signal::TERM))
            .map_err(|error| failed("tie the program to its supervisor").because(error))?;
        // It may have ended before it was tied to.
        if getppid() != Pid::from_raw(parent) {
            return Err(failed("start the program: its supervisor has ended"));
        }
    }
    setsid().map_err(|error| failed("leave the session").because(error))?;
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Failure::arguments("there is no program to launch"));
    };
    let error = Command::new(program).args(arguments).exec();
    Err(failed(&format!("run {}", Path::new(program).display())).because(error))
}

/// Starts a daemon that logs to its file; gives its pid. With `tied` it ends when this process does.
///
/// # Errors
/// It cannot be started.
pub(super) fn start(cluster: &Cluster, shape: &Shape, daemon: &DaemonSpec, tied: bool) -> Outcome<u32> {
    let program = cluster.prefix.bin().join(daemon.program());
    if !program.is_file() {
        return Err(
            Failure::new(Kind::Start, format!("there is no {}", program.display()))
                .hint("install it again: flmadm dev up --bin-dir DIR"),
        );
    }
    let work = cluster.prefix.join("work");
    let log = cluster.log(&daemon.name);
    for directory in [Some(work.as_path()), log.parent()].into_iter().flatten() {
        std::fs::create_dir_all(directory).map_err(|error| Failure::path("make", directory, error))?;
    }
    let opened = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|error| Failure::path("write", &log, error))?;
    let again = opened
        .try_clone()
        .map_err(|error| Failure::path("write", &log, error))?;
    let mut command = Command::new(OURSELVES);
    command.arg0("flmadm").args(["dev", "launch"]);
    if tied {
        command.args(["--tied-to", &std::process::id().to_string()]);
    }
    command
        .arg("--")
        .arg(&program)
        .arg("--config")
        .arg(cluster.prefix.config());
    command.args(arguments(
        shape,
        daemon,
        &cluster.prefix.join("conf"),
        std::env::var_os(RESOURCES).is_some(),
    ));
    if daemon.agent.is_some() {
        for name in NAMES {
            command.env_remove(name);
        }
    }
    if daemon.role == Role::NodeAgent {
        command.env("FLAME_SOCKET_DIR", cluster.make_socket_directory(daemon)?);
    }
    let child = command
        .env(MARK, cluster.path())
        .env("FLAME_HOME", cluster.path())
        .current_dir(&work)
        .stdin(Stdio::null())
        .stdout(opened)
        .stderr(again)
        .spawn()
        .map_err(|error| Failure::new(Kind::Start, format!("cannot start {}", daemon.name)).because(error))?;
    Ok(child.id())
}

/// What a daemon is told besides its configuration. What its own file or the environment says of resources holds.
fn arguments(shape: &Shape, daemon: &DaemonSpec, conf: &Path, has_resources: bool) -> Vec<String> {
    let mut arguments = Vec::new();
    if let Some(agent) = &daemon.agent {
        arguments.extend(["--agent".to_owned(), agent.clone()]);
    }
    if daemon.role != Role::NodeAgent {
        return arguments;
    }
    let own_file: PathBuf = match &daemon.agent {
        Some(agent) => conf.join(node_config::further_file(agent)),
        None => conf.join(node_config::FILE),
    };
    let share = || match shape.nodes {
        0 | 1 => None,
        _ if has_resources || own_file.exists() => None,
        nodes => Some(share(available(), u64::from(nodes)).to_string()),
    };
    if let Some(resources) = shape.resources.clone().or_else(share) {
        arguments.extend(["--resources".to_owned(), resources]);
    }
    arguments
}

/// CPUs and memory of this machine.
fn available() -> Resources {
    let system = rustix::system::sysinfo();
    Resources {
        cpu: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
        memory: system.totalram.saturating_mul(u64::from(system.mem_unit)),
        gpu: 0,
    }
}

/// What each of several nodes offers: its share, but a CPU at least, without which nothing runs there.
fn share(all: Resources, nodes: u64) -> Resources {
    Resources {
        cpu: (all.cpu / nodes).max(1),
        memory: all.memory / nodes,
        gpu: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_nodes_share_the_machine() {
        let all = Resources {
            cpu: 4,
            memory: 9 << 30,
            gpu: 0,
        };
        let of = |nodes| {
            let part = share(all, nodes);
            (part.cpu, part.memory)
        };
        assert_eq!(of(2), (2, 9 << 29));
        assert_eq!(of(9), (1, 1 << 30));
    }

    #[test]
    fn what_somebody_said_of_resources_holds() {
        let conf = tempfile::tempdir().expect("temporary directory");
        let told = |nodes, resources: Option<&str>, has_resources| {
            let shape = Shape {
                nodes,
                resources: resources.map(str::to_owned),
                supervised: true,
            };
            let agent = shape.daemons()[1].clone();
            arguments(&shape, &agent, conf.path(), has_resources)
        };
        assert!(told(1, None, false).is_empty());
        assert_eq!(told(1, Some("cpu=3"), true), ["--resources", "cpu=3"]);
        assert_eq!(told(2, None, true), ["--agent", "n1"]);
        assert_eq!(told(2, Some("cpu=3"), false)[2..], ["--resources", "cpu=3"]);
        let shared = told(2, None, false);
        let read: Resources = shared[3].parse().expect("resources");
        assert!(read.cpu >= 1 && read.memory > 0, "{shared:?}");
        std::fs::write(conf.path().join("node-agent@n1.toml"), "").expect("written");
        assert_eq!(told(2, None, false), ["--agent", "n1"]);
    }

    #[test]
    fn the_session_manager_is_told_nothing() {
        let shape = Shape {
            nodes: 2,
            resources: Some("cpu=3".to_owned()),
            supervised: true,
        };
        assert!(arguments(&shape, &shape.daemons()[0], Path::new("/nonexistent"), false).is_empty());
    }
}
