//! Daemons that nobody watches over: started once, found again by their pid files. What tests that kill daemons need.

use std::time::Duration;

use flame_core::config::ClusterConfig;

use super::cluster::{Cluster, DaemonSpec, Shape};
use super::nodes::{self, NodeReport};
use super::process::{Handle, write_pid_file};
use super::supervise::last_lines;
use super::{down, launch};
use crate::failure::{Failure, Kind, Outcome};

/// How often it is looked whether the daemons that were started still live.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Starts the daemons that do not run and waits until nodes are ready. If they are not, everything is stopped.
///
/// # Errors
/// A daemon ended, or nodes are not ready in time.
pub(super) fn start(
    cluster: &Cluster,
    shape: &Shape,
    config: &ClusterConfig,
    limit: Duration,
) -> Outcome<Vec<NodeReport>> {
    let daemons = shape.daemons();
    for daemon in &daemons {
        let pid_file = cluster.pid_file(&daemon.name);
        if Handle::read(&pid_file).is_none() {
            let pid = launch::start(cluster, shape, daemon, false)?;
            write_pid_file(&pid_file, pid)?;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Start, "cannot wait for nodes").because(error))?;
    let answer = runtime.block_on(async {
        tokio::select! {
            nodes = nodes::await_ready(config, daemons.len() - 1, limit) => nodes,
            name = first_to_end(cluster, &daemons) => Err(format!("{name} ended")),
        }
    });
    let why = match answer {
        Ok(nodes) => return Ok(nodes),
        Err(why) => why,
    };
    let mut text = why;
    for daemon in &daemons {
        text.push('\n');
        text.push_str(&last_lines(cluster, daemon));
    }
    let failure = Failure::new(Kind::Start, text);
    match down::stop(cluster) {
        Ok(_) => Err(failure),
        Err(problem) => Err(failure.also(problem.report())),
    }
}

async fn first_to_end(cluster: &Cluster, daemons: &[DaemonSpec]) -> String {
    loop {
        for daemon in daemons {
            if Handle::read(&cluster.pid_file(&daemon.name)).is_none() {
                return daemon.name.clone();
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
