//! `flmadm dev down`: ends the cluster, whatever is left of it, and with --clean removes it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use rustix::process::Signal;
use schemars::JsonSchema;
use serde::Serialize;

use super::DevPrefix;
use super::cluster::{Cluster, DaemonSpec};
use super::core::{Role, STOP_LIMIT};
use super::leftovers;
use super::process::{Handle, await_end};
use super::running::{self, DaemonState};
use crate::cli::{Cli, Command, OutputArg};
use crate::failure::{Failure, Kind, Outcome};
use crate::host::Host;
use crate::manifest::Manifest;
use crate::output::Output;
use crate::uninstall;

/// What a supervisor needs besides the time of its daemons.
const SUPERVISOR_MARGIN: Duration = Duration::from_secs(10);
/// What is killed is gone within this time, unless a disk or a network hangs.
const KILL_LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct DownArgs {
    #[command(flatten)]
    pub(super) at: DevPrefix,
    /// Remove the installation, its data and logs, too
    #[arg(long)]
    clean: bool,
    #[command(flatten)]
    pub(super) output: OutputArg,
}

/// What was ended and removed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Directory of the cluster.
    prefix: PathBuf,
    /// Daemons that were stopped.
    stopped: Vec<String>,
    /// Processes that had outlived their daemons and were killed: pid and command line.
    killed: Vec<String>,
    /// Whether the installation was removed.
    removed: bool,
    /// What stays in the directory because it is not of the cluster.
    kept: Vec<PathBuf>,
}

/// What a stop has ended.
#[derive(Debug, Default)]
pub(super) struct Stopped {
    pub(super) daemons: Vec<String>,
    pub(super) killed: Vec<String>,
}

/// Ends the cluster.
///
/// # Errors
/// A process does not end, or something cannot be removed.
pub(super) fn run(host: &dyn Host, args: &DownArgs, output: &mut Output<'_>) -> Outcome<()> {
    let cluster = args.at.cluster()?;
    let stopped = end(&cluster, output)?;
    let (removed, kept) = match args.clean {
        true => clean(host, &cluster, output)?,
        false => (false, Vec::new()),
    };
    let shown = cluster.path().display();
    match (removed, stopped.daemons.is_empty() && stopped.killed.is_empty()) {
        (true, _) => output.line(&format!("The cluster in {shown} was removed.")),
        (false, false) => output.line(&format!("The cluster in {shown} is stopped.")),
        (false, true) => output.line(&format!("Nothing runs in {shown}.")),
    }
    for path in &kept {
        output.line(&format!(
            "Kept, because it is not of the cluster: {}",
            path.display()
        ));
    }
    output.json(&Report {
        prefix: cluster.path().to_path_buf(),
        stopped: stopped.daemons,
        killed: stopped.killed,
        removed,
        kept,
    });
    Ok(())
}

/// Ends the cluster and says what it does.
///
/// # Errors
/// A process does not end.
pub(super) fn end(cluster: &Cluster, output: &mut Output<'_>) -> Outcome<Stopped> {
    if !cluster.run_directory().exists() && leftovers::find(cluster.path()).is_empty() {
        return Ok(Stopped::default());
    }
    // One that is starting has the lock until it is ready.
    let mut stopped = Stopped {
        daemons: end_supervisor(cluster)?,
        killed: Vec::new(),
    };
    let lock = cluster.lock()?;
    let rest = stop(cluster)?;
    drop(lock);
    stopped.daemons.extend(rest.daemons);
    stopped.killed.extend(rest.killed);
    for name in &stopped.daemons {
        output.progress(&format!("stopped {name}"));
    }
    if !stopped.killed.is_empty() {
        eprintln!("processes that outlived the daemons were killed:");
        stopped.killed.iter().for_each(|line| eprintln!("  {line}"));
    }
    Ok(stopped)
}

/// Ends everything of the cluster, for whoever has the lock.
///
/// # Errors
/// A process does not end.
pub(super) fn stop(cluster: &Cluster) -> Outcome<Stopped> {
    let mut stopped = Stopped {
        daemons: end_supervisor(cluster)?,
        killed: Vec::new(),
    };
    let daemons = cluster.started_daemons();
    // Agents first, so that they can hand their work back in an orderly way.
    for role in [Role::NodeAgent, Role::SessionManager] {
        let of_role = daemons.iter().filter(|daemon| daemon.role == role);
        stopped.daemons.extend(end_daemons(cluster, of_role)?);
    }
    stopped.killed = leftovers::end(cluster.path())?;
    for daemon in &daemons {
        remove_if_there(&cluster.pid_file(&daemon.name))?;
    }
    for directory in cluster.socket_directories() {
        remove_tree_if_there(&directory)?;
    }
    remove_if_there(&cluster.pid_file("supervisor"))?;
    remove_if_there(&cluster.state_file())?;
    Ok(stopped)
}

/// Ends the supervisor, which ends its daemons; gives those that ran.
fn end_supervisor(cluster: &Cluster) -> Outcome<Vec<String>> {
    let Some(supervisor) = cluster.supervisor() else {
        return Ok(Vec::new());
    };
    let daemons = running::look(cluster);
    let ran = daemons
        .into_iter()
        .filter(|daemon| daemon.state == DaemonState::Running)
        .map(|daemon| daemon.name)
        .rev()
        .collect();
    supervisor.signal(Signal::TERM);
    let supervisor = [supervisor];
    if await_end(&supervisor, 2 * STOP_LIMIT + SUPERVISOR_MARGIN)? {
        return Ok(ran);
    }
    eprintln!("the supervisor did not end within its time: killing it");
    kill(&supervisor)?;
    Ok(ran)
}

/// Ends daemons side by side; gives those that ran.
fn end_daemons<'a>(cluster: &Cluster, daemons: impl Iterator<Item = &'a DaemonSpec>) -> Outcome<Vec<String>> {
    let mut names = Vec::new();
    let mut handles = Vec::new();
    for daemon in daemons {
        if let Some(handle) = Handle::read(&cluster.pid_file(&daemon.name)) {
            handle.signal(Signal::TERM);
            names.push(daemon.name.clone());
            handles.push(handle);
        }
    }
    if !await_end(&handles, STOP_LIMIT)? {
        eprintln!(
            "{} did not end within {} s: killing what is left",
            names.join(", "),
            STOP_LIMIT.as_secs()
        );
        kill(&handles)?;
    }
    Ok(names)
}

fn kill(handles: &[Handle]) -> Outcome<()> {
    for handle in handles {
        handle.signal(Signal::KILL);
    }
    if await_end(handles, KILL_LIMIT)? {
        return Ok(());
    }
    let pids: Vec<String> = handles.iter().map(|handle| handle.pid.to_string()).collect();
    Err(
        Failure::new(Kind::Start, format!("processes do not end: {}", pids.join(", ")))
            .hint("they wait for a disk or a network that hangs; try again later"),
    )
}

/// Removes the installation and what the cluster has made; gives whether there was one, and what stays.
fn clean(host: &dyn Host, cluster: &Cluster, output: &mut Output<'_>) -> Outcome<(bool, Vec<PathBuf>)> {
    let there = cluster.path().exists();
    remove_tree_if_there(&cluster.run_directory())?;
    if Manifest::load(&cluster.prefix)?.is_some() {
        let words = ["flmadm", "uninstall", "--force", "--no-backup", "--prefix"];
        let prefix = cluster.prefix.text();
        let cli = Cli::try_parse_from(words.into_iter().chain([prefix.as_str()]))
            .map_err(|error| Failure::arguments("uninstall cannot be asked").because(error))?;
        if let Command::Uninstall(args) = cli.command {
            let mut sink = std::io::sink();
            uninstall::run(host, &args, &mut Output::new(args.output, &mut sink))?;
            output.progress("removed programs, configuration, data and logs");
        }
    }
    // Only if nothing is in it.
    let _ = std::fs::remove_dir(cluster.path());
    let mut kept: Vec<PathBuf> = std::fs::read_dir(cluster.path())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    kept.sort();
    Ok((there, kept))
}

fn remove_if_there(path: &std::path::Path) -> Outcome<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::path("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn remove_tree_if_there(path: &std::path::Path) -> Outcome<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::path("remove", path, error))
        }
        _ => Ok(()),
    }
}
