//! `flmadm dev status`: daemons and nodes of a cluster.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use comfy_table::{Table, presets};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::nodes::{self, NodeReport};
use super::running::{self, DaemonReport, DaemonState};
use super::{DevPrefix, installing};
use crate::cli::OutputArg;
use crate::failure::{Failure, Kind, Outcome};
use crate::output::Output;
use crate::status::span;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    at: DevPrefix,
    #[command(flatten)]
    pub(super) output: OutputArg,
}

/// State of a cluster.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Directory of the cluster.
    prefix: PathBuf,
    /// Address of the session manager.
    endpoint: String,
    /// Whether all daemons run and are watched over as they should be, and each agent's node takes tasks.
    active: bool,
    /// Process that watches over the daemons, if there is one.
    supervisor: Option<u32>,
    /// The daemons, in the order in which they are started.
    daemons: Vec<DaemonReport>,
    /// The nodes that the session manager knows.
    nodes: Vec<NodeReport>,
    /// Why it did not say what nodes there are.
    problem: Option<String>,
}

/// Shows the cluster.
///
/// # Errors
/// Nothing is installed (installation), or something does not run (start).
pub(super) fn run(args: &StatusArgs, output: &mut Output<'_>) -> Outcome<()> {
    let cluster = args.at.cluster()?;
    let Some(config) = cluster.config()? else {
        return Err(installing::nothing_installed(&cluster));
    };
    let daemons = running::look(&cluster);
    let (nodes, problem) = match daemons.iter().any(|daemon| daemon.state == DaemonState::Running) {
        true => match nodes::list_now(&config) {
            Ok(nodes) => (nodes, None),
            Err(problem) => (Vec::new(), Some(problem)),
        },
        false => (Vec::new(), None),
    };
    let mut missing: Vec<&str> = daemons
        .iter()
        .filter(|daemon| daemon.state != DaemonState::Running)
        .map(|daemon| daemon.name.as_str())
        .collect();
    let supervisor = cluster.supervisor().map(|handle| handle.pid);
    if missing.is_empty() && supervisor.is_none() && cluster.shape().is_some_and(|shape| shape.supervised) {
        missing.push("the supervisor");
    }
    let agents = daemons.len() - 1;
    let ready = nodes.iter().filter(|node| node.is_ready()).count();
    if missing.is_empty() && ready < agents {
        missing.push("some of the nodes");
    }
    let failure = (!missing.is_empty())
        .then(|| Failure::new(Kind::Start, format!("not active: {}", missing.join(", "))));
    let report = Report {
        prefix: cluster.path().to_path_buf(),
        endpoint: config.endpoint.url(),
        active: failure.is_none(),
        supervisor,
        daemons,
        nodes,
        problem,
    };
    output.json(&report);
    if output.is_for_people() {
        output.line(&text(&report, SystemTime::now()));
    }
    match failure {
        None => Ok(()),
        Some(failure) => {
            Err(failure.hint("flmadm dev up starts the cluster, flmadm dev logs shows what was logged"))
        }
    }
}

fn text(report: &Report, now: SystemTime) -> String {
    let supervisor = match report.supervisor {
        Some(pid) => format!("supervisor {pid}"),
        None => "no supervisor".to_owned(),
    };
    let mut lines = vec![format!(
        "Cluster in {}, endpoint {}, {supervisor}",
        report.prefix.display(),
        report.endpoint
    )];
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["DAEMON", "STATE", "FOR", "PID", "RESTARTS", "LAST EXIT"]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for daemon in &report.daemons {
        table.add_row([
            daemon.name.clone(),
            daemon.state.words().to_owned(),
            or_dash(
                daemon
                    .since
                    .as_deref()
                    .and_then(|since| age(since, now))
                    .map(span),
            ),
            or_dash(daemon.pid.map(|pid| pid.to_string())),
            daemon.restarts.to_string(),
            or_dash(daemon.last_exit.clone()),
        ]);
    }
    lines.extend(table.lines().map(|line| line.trim_end().to_owned()));
    if !report.nodes.is_empty() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["NODE", "STATE"]);
        for node in &report.nodes {
            table.add_row([&node.name, &node.state]);
        }
        lines.extend(table.lines().map(|line| line.trim_end().to_owned()));
    }
    lines.extend(report.problem.iter().map(|problem| format!("Nodes: {problem}")));
    lines.join("\n")
}

fn age(since: &str, now: SystemTime) -> Option<Duration> {
    let since: Timestamp = since.parse().ok()?;
    now.duration_since(SystemTime::from(since)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_in_a_table() {
        let daemon = |name: &str, state, pid, restarts, last_exit: Option<&str>| DaemonReport {
            name: name.to_owned(),
            state,
            pid,
            since: pid.map(|_| "1970-01-01T00:01:00Z".to_owned()),
            restarts,
            last_exit: last_exit.map(str::to_owned),
        };
        let report = Report {
            prefix: "/opt/flame-dev".into(),
            endpoint: "http://127.0.0.1:8080".to_owned(),
            active: false,
            supervisor: Some(9),
            daemons: vec![
                daemon("flame-session-manager", DaemonState::Running, Some(10), 0, None),
                daemon(
                    "flame-node-agent@n1",
                    DaemonState::Running,
                    Some(11),
                    2,
                    Some("signal 9"),
                ),
                daemon(
                    "flame-node-agent@n2",
                    DaemonState::GivenUp,
                    None,
                    5,
                    Some("exit status 1"),
                ),
                daemon("flame-node-agent@n3", DaemonState::Stopped, None, 0, None),
            ],
            nodes: vec![NodeReport {
                name: "host-n1".to_owned(),
                state: "Ready".to_owned(),
            }],
            problem: None,
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(3 * 60);
        crate::golden::check("dev-status.txt", &format!("{}\n", text(&report, now)));
        let silent = Report {
            supervisor: None,
            nodes: Vec::new(),
            problem: Some("nobody answers".to_owned()),
            ..report
        };
        let text = text(&silent, now);
        assert!(
            text.contains("no supervisor") && text.ends_with("Nodes: nobody answers"),
            "{text}"
        );
    }
}
