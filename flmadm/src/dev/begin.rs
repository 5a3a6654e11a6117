//! Starting what is installed: watched over by ourselves, by somebody in the background, or by nobody.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use flame_core::config::ClusterConfig;

use super::cluster::{Cluster, SESSION_MANAGER, Shape};
use super::running::{self, DaemonState, Phase, Published};
use super::supervise::{self, Told};
use super::up::tell_ready;
use super::{down, launch, leftovers, log_file, nodes, ports, unsupervised};
use crate::failure::{Failure, Kind, Outcome};
use crate::output::Output;

/// How often it is looked how far a supervisor in the background is.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How a cluster is to be started.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) shape: Shape,
    pub(super) in_background: bool,
    pub(super) ready_within: Duration,
}

/// Starts what is installed, for whoever has the lock.
///
/// # Errors
/// It does not start.
pub(super) fn begin(
    cluster: &Cluster,
    config: &ClusterConfig,
    wish: &Wish,
    lock: File,
    output: &mut Output<'_>,
) -> Outcome<()> {
    if wish.shape.supervised {
        // What a supervisor that was killed has left would be in the way.
        for line in down::stop(cluster)?.killed {
            output.progress(&format!("killed what was left: {line}"));
        }
    }
    let manager_runs = running::by_pid_files(cluster, &wish.shape)
        .iter()
        .any(|daemon| daemon.name == SESSION_MANAGER && daemon.state == DaemonState::Running);
    if !manager_runs {
        ports::check(config)?;
    }
    cluster.remember(&wish.shape)?;
    if !wish.shape.supervised {
        let nodes = unsupervised::start(cluster, &wish.shape, config, wish.ready_within)?;
        tell_ready(cluster, config, nodes, output, false);
        return Ok(());
    }
    if !wish.in_background {
        return in_foreground(cluster, config, wish, lock, output);
    }
    in_background(cluster, wish)?;
    tell_ready(
        cluster,
        config,
        nodes::list_now(config).unwrap_or_default(),
        output,
        false,
    );
    Ok(())
}

fn in_foreground(
    cluster: &Cluster,
    config: &ClusterConfig,
    wish: &Wish,
    lock: File,
    output: &mut Output<'_>,
) -> Outcome<()> {
    let follows = output.is_for_people();
    let longest = wish
        .shape
        .daemons()
        .iter()
        .map(|daemon| daemon.name.len())
        .max()
        .unwrap_or(0);
    let mut show = |told: Told<'_>| match told {
        Told::Did(text) => output.line(&format!("{:longest$} | {text}", "flmadm")),
        Told::Logged { daemon, line } => output.line(&format!("{daemon:longest$} | {line}")),
        Told::Ready(nodes) => tell_ready(cluster, config, nodes.to_vec(), output, true),
    };
    supervise::watch(
        cluster,
        &wish.shape,
        wish.ready_within,
        Some(lock),
        follows,
        &mut show,
    )
}

/// Leaves a supervisor in the background and waits until it says that nodes are ready.
fn in_background(cluster: &Cluster, wish: &Wish) -> Outcome<()> {
    let log = cluster.log("supervisor");
    let failed = |error| Failure::new(Kind::Start, "cannot start the supervisor").because(error);
    log_file::bound(&log).map_err(|error| Failure::path("cut", &log, error))?;
    if let Some(directory) = log.parent() {
        std::fs::create_dir_all(directory).map_err(|error| Failure::path("make", directory, error))?;
    }
    let opened = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|error| Failure::path("write", &log, error))?;
    let mut supervisor = Command::new(launch::OURSELVES)
        .arg0("flmadm")
        .args(["dev", "supervise", "--prefix"])
        .arg(cluster.path())
        .args(["--timeout", &wish.ready_within.as_secs().to_string()])
        // It is none of its own processes.
        .env_remove(leftovers::MARK)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(opened.try_clone().map_err(failed)?)
        .stderr(opened)
        .spawn()
        .map_err(failed)?;
    loop {
        // In this order: what it writes at its end is read.
        let ended = supervisor.try_wait().map_err(failed)?;
        let published = Published::read(cluster);
        if let Some(status) = ended {
            let said = published.and_then(|published| published.failure);
            return Err(match said {
                Some(why) => Failure::new(Kind::Start, why),
                None => Failure::new(Kind::Start, format!("the supervisor ended ({status})"))
                    .hint(format!("see {}", log.display())),
            });
        }
        if published.is_some_and(|published| published.phase == Phase::Ready) {
            return Ok(());
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}
