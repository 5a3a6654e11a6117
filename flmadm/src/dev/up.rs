//! `flmadm dev up`: installs if needed, starts, and watches over the cluster or leaves somebody who does.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use flame_core::config::{ClusterConfig, Endpoint};
use flame_core::resources::Resources;
use schemars::JsonSchema;
use serde::Serialize;

use super::begin::{self, Wish};
use super::cluster::{Cluster, Shape};
use super::nodes::{self, NodeReport};
use super::running::{self, DaemonReport, DaemonState};
use super::{DevPrefix, installing};
use crate::cli::OutputArg;
use crate::failure::{Failure, Kind, Outcome};
use crate::host::Host;
use crate::output::Output;

/// How long nodes have to be ready: session manager and agent need less than a second, on a busy machine several.
pub(super) const READY_SECONDS: u64 = 30;
#[derive(Debug, Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    at: DevPrefix,
    /// Address of the session manager; the next port is the node link, and the one 1000 above serves metrics
    /// [default: as before, else http://127.0.0.1:8080, or the next free ports if these are taken]
    #[arg(long, value_name = "URL")]
    pub(super) endpoint: Option<Endpoint>,
    /// Number of nodes: each is a node agent with its share of this machine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// What each node offers, as cpu=2,mem=4g [default: this machine, divided by the number of nodes]
    #[arg(long, value_name = "RESOURCES")]
    resources: Option<Resources>,
    /// Directory of the programs to install, or to bring the installation up to date with [default: that of flmadm,
    /// if all are there]
    #[arg(long, value_name = "DIR")]
    pub(super) bin_dir: Option<PathBuf>,
    /// Install the programs that are built already in target/release of --src-dir
    #[arg(long, conflicts_with = "bin_dir")]
    pub(super) skip_build: bool,
    /// Directory of Flame's sources, to build from
    #[arg(long, value_name = "DIR", conflicts_with = "bin_dir")]
    pub(super) src_dir: Option<PathBuf>,
    /// Start what is installed, as it is
    #[arg(long, conflicts_with_all = ["bin_dir", "skip_build", "src_dir"])]
    pub(super) no_install: bool,
    /// Return when the cluster is ready; flmadm dev down ends it
    #[arg(short, long)]
    detach: bool,
    /// Return when the cluster is ready, and leave nobody to start daemons again that end
    #[arg(long)]
    no_supervisor: bool,
    /// Seconds within which nodes have to be ready
    #[arg(long, value_name = "SECONDS", default_value_t = READY_SECONDS)]
    timeout: u64,
    #[command(flatten)]
    pub(super) output: OutputArg,
}

/// A cluster that runs.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Directory of the cluster.
    pub(super) prefix: PathBuf,
    /// Address of the session manager.
    pub(super) endpoint: String,
    /// Whether it was started now; otherwise it ran already, and nothing was changed.
    pub(super) started: bool,
    /// Process that watches over the daemons.
    pub(super) supervisor: Option<u32>,
    /// The daemons.
    pub(super) daemons: Vec<DaemonReport>,
    /// The nodes that the session manager knows.
    pub(super) nodes: Vec<NodeReport>,
}

/// Starts a cluster.
///
/// # Errors
/// It cannot be installed or started.
pub(super) fn run(host: &dyn Host, args: &UpArgs, output: &mut Output<'_>) -> Outcome<()> {
    let cluster = args.at.cluster()?;
    let wish = Wish {
        shape: Shape {
            nodes: args.nodes,
            resources: args.resources.map(|resources| resources.to_string()),
            supervised: !args.no_supervisor,
        },
        in_background: args.detach,
        ready_within: Duration::from_secs(args.timeout),
    };
    if let Some(config) = cluster.config()?
        && runs(&cluster, &config, args, output)?
    {
        return Ok(());
    }
    let config = installing::installed(host, &cluster, args, output)?;
    let lock = cluster.lock()?;
    // Somebody else may have been faster.
    if runs(&cluster, &config, args, output)? {
        return Ok(());
    }
    begin::begin(&cluster, &config, &wish, lock, output)
}

/// Whether the cluster runs already; says so. A part that does not run is only missed if somebody should start it.
fn runs(cluster: &Cluster, config: &ClusterConfig, args: &UpArgs, output: &mut Output<'_>) -> Outcome<bool> {
    let supervisor = cluster.supervisor().map(|handle| handle.pid);
    let daemons = running::look(cluster);
    let any_runs = daemons.iter().any(|daemon| daemon.state == DaemonState::Running);
    // What a supervisor that was killed has left is ending.
    let orphaned = cluster.shape().is_some_and(|shape| shape.supervised);
    if supervisor.is_none() && (!any_runs || orphaned) {
        return Ok(false);
    }
    if let Some(wanted) = args
        .endpoint
        .as_ref()
        .filter(|wanted| **wanted != config.endpoint)
    {
        return Err(Failure::arguments(format!(
            "the cluster in {} runs at {}, not {wanted}",
            cluster.path().display(),
            config.endpoint
        ))
        .hint("end it first with flmadm dev down, or choose another --prefix"));
    }
    if running::all_run(&daemons) {
        let nodes = nodes::list_now(config).unwrap_or_default();
        let report = Report {
            prefix: cluster.path().to_path_buf(),
            endpoint: config.endpoint.url(),
            started: false,
            supervisor,
            daemons,
            nodes,
        };
        output.line(&format!(
            "The cluster in {} runs already, at {}; nothing was changed.",
            report.prefix.display(),
            report.endpoint
        ));
        output.json(&report);
        return Ok(true);
    }
    if supervisor.is_none() {
        return Ok(false);
    }
    let down: Vec<&str> = daemons
        .iter()
        .filter(|daemon| daemon.state != DaemonState::Running)
        .map(|daemon| daemon.name.as_str())
        .collect();
    Err(Failure::new(
        Kind::Start,
        format!("the cluster runs, but without {}", down.join(", ")),
    )
    .hint("flmadm dev logs says why; flmadm dev restart starts everything anew"))
}

/// Says that the cluster is ready, and how it is used.
pub(super) fn tell_ready(
    cluster: &Cluster,
    config: &ClusterConfig,
    nodes: Vec<NodeReport>,
    output: &mut Output<'_>,
    in_foreground: bool,
) {
    let report = Report {
        prefix: cluster.path().to_path_buf(),
        endpoint: config.endpoint.url(),
        started: true,
        supervisor: cluster.supervisor().map(|handle| handle.pid),
        daemons: running::look(cluster),
        nodes,
    };
    output.line(&ready_text(&report, in_foreground));
    output.json(&report);
}

fn ready_text(report: &Report, in_foreground: bool) -> String {
    let ready = report.nodes.iter().filter(|node| node.is_ready()).count();
    let nodes = match ready {
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    };
    let prefix = report.prefix.display();
    let end = match in_foreground {
        true => "Ctrl-C, or ".to_owned(),
        false => String::new(),
    };
    format!(
        "The cluster in {prefix} is ready at {endpoint} with {nodes}.\n\
         To use it:   export FLAME_ENDPOINT={endpoint} PATH={prefix}/bin:$PATH\n\
         To try it:   flmping -t 100\n\
         To see it:   flmadm dev status --prefix {prefix}\n\
         To end it:   {end}flmadm dev down --prefix {prefix}",
        endpoint = report.endpoint,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let node = |name: &str, state: &str| NodeReport {
            name: name.to_owned(),
            state: state.to_owned(),
        };
        Report {
            prefix: "/opt/flame-dev".into(),
            endpoint: "http://127.0.0.1:8080".to_owned(),
            started: true,
            supervisor: Some(7),
            daemons: Vec::new(),
            nodes: vec![
                node("a-1", "Ready"),
                node("a-2", "Ready"),
                node("old", "NotReady"),
            ],
        }
    }

    #[test]
    fn next_steps_are_told() {
        crate::golden::check("dev-up.txt", &format!("{}\n", ready_text(&report(), false)));
        let mut one = report();
        one.nodes.truncate(1);
        let text = ready_text(&one, true);
        assert!(
            text.contains("with 1 node.") && text.contains("Ctrl-C, or flmadm dev down"),
            "{text}"
        );
    }
}
