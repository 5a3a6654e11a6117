//! `flmadm dev up`: installs if needed, starts, and watches over the cluster or leaves somebody who does.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use clap::{Args, Parser};
use flame_core::config::{ClusterConfig, Endpoint};
use flame_core::fsutil::write_atomic;
use flame_core::resources::Resources;
use schemars::JsonSchema;
use serde::Serialize;

use super::cluster::{Cluster, SESSION_MANAGER, Shape};
use super::nodes::{self, NodeReport};
use super::running::{self, DaemonReport, DaemonState, Phase, Published};
use super::supervise::{self, Told};
use super::{DevPrefix, down, launch, log_file, ports, unsupervised};
use crate::cli::{Cli, Command, OutputArg};
use crate::failure::{Failure, Kind, Outcome};
use crate::host::Host;
use crate::install;
use crate::output::Output;
use crate::ports::free_endpoint;

/// How long nodes have to be ready: session manager and agent need less than a second, on a busy machine several.
pub(super) const READY_SECONDS: u64 = 30;
/// How often it is looked how far a supervisor in the background is.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    at: DevPrefix,
    /// Address of the session manager; the next port is the node link, and the one 1000 above serves metrics
    /// [default: as before, else http://127.0.0.1:8080, or the next free ports if these are taken]
    #[arg(long, value_name = "URL")]
    endpoint: Option<Endpoint>,
    /// Number of nodes: each is a node agent with its share of this machine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// What each node offers, as cpu=2,mem=4g [default: this machine, divided by the number of nodes]
    #[arg(long, value_name = "RESOURCES")]
    resources: Option<Resources>,
    /// Directory of the programs to install, or to bring the installation up to date with [default: that of flmadm,
    /// if all are there]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Install the programs that are built already in target/release of --src-dir
    #[arg(long, conflicts_with = "bin_dir")]
    skip_build: bool,
    /// Directory of Flame's sources, to build from
    #[arg(long, value_name = "DIR", conflicts_with = "bin_dir")]
    src_dir: Option<PathBuf>,
    /// Start what is installed, as it is
    #[arg(long, conflicts_with_all = ["bin_dir", "skip_build", "src_dir"])]
    no_install: bool,
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

/// How a cluster is to be started.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) shape: Shape,
    pub(super) in_background: bool,
    pub(super) ready_within: Duration,
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
    let config = installed(host, &cluster, args, output)?;
    let lock = cluster.lock()?;
    // Somebody else may have been faster.
    if runs(&cluster, &config, args, output)? {
        return Ok(());
    }
    begin(&cluster, &config, &wish, lock, output)
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

/// Installs if there is need, and gives the configuration.
fn installed(
    host: &dyn Host,
    cluster: &Cluster,
    args: &UpArgs,
    output: &mut Output<'_>,
) -> Outcome<ClusterConfig> {
    let before = cluster.config()?;
    if args.no_install {
        return match (before, &args.endpoint) {
            (None, _) => Err(nothing_installed(cluster)),
            (Some(config), Some(wanted)) if config.endpoint != *wanted => Err(Failure::arguments(format!(
                "{} is installed for {}, not {wanted}",
                cluster.path().display(),
                config.endpoint
            ))
            .hint("without --no-install its address is changed")),
            (Some(config), _) => Ok(config),
        };
    }
    let update = args.bin_dir.is_some() || args.skip_build || args.src_dir.is_some();
    if let Some(config) = &before
        && let Some(wanted) = args
            .endpoint
            .as_ref()
            .filter(|wanted| **wanted != config.endpoint)
    {
        move_to(cluster, wanted)?;
        output.progress(&format!(
            "changed the endpoint from {} to {wanted}",
            config.endpoint
        ));
    }
    if before.is_none() || update {
        let endpoint = match (&before, &args.endpoint) {
            (Some(_), _) => None,
            (None, Some(endpoint)) => Some(endpoint.url()),
            (None, None) => Some(free_endpoint(host, &cluster.prefix)?),
        };
        install_into(host, cluster, args, endpoint, output)?;
    }
    cluster.config()?.ok_or_else(|| nothing_installed(cluster))
}

/// There is no cluster to start.
pub(super) fn nothing_installed(cluster: &Cluster) -> Failure {
    Failure::installation(format!("nothing is installed in {}", cluster.path().display()))
        .hint("flmadm dev up installs it; --prefix names another directory")
}

fn install_into(
    host: &dyn Host,
    cluster: &Cluster,
    args: &UpArgs,
    endpoint: Option<String>,
    output: &mut Output<'_>,
) -> Outcome<()> {
    // The same words as on the command line, so that what install learns holds here, too.
    let mut words: Vec<std::ffi::OsString> = ["flmadm", "install", "--all", "--no-systemd", "--prefix"]
        .map(Into::into)
        .to_vec();
    words.push(cluster.path().into());
    let mut option = |name: &str, value: Option<std::ffi::OsString>| {
        words.push(name.into());
        words.extend(value);
    };
    if let Some(endpoint) = endpoint {
        option("--endpoint", Some(endpoint.into()));
    }
    if let Some(directory) = &args.src_dir {
        option("--src-dir", Some(directory.into()));
    }
    if args.skip_build {
        option("--skip-build", None);
    }
    let beside = || std::env::current_exe().ok()?.parent().map(PathBuf::from);
    let complete = |directory: &PathBuf| directory.join(SESSION_MANAGER).is_file();
    let built = match (&args.bin_dir, args.skip_build || args.src_dir.is_some()) {
        (Some(directory), _) => Some(directory.clone()),
        (None, true) => None,
        (None, false) => beside().filter(complete),
    };
    if let Some(directory) = built {
        option("--bin-dir", Some(directory.into()));
    }
    let cli = Cli::try_parse_from(words)
        .map_err(|error| Failure::arguments("install cannot be asked").because(error))?;
    let Command::Install(install_args) = cli.command else {
        return Err(Failure::arguments("install cannot be asked"));
    };
    let mut said = Vec::new();
    install::run(
        host,
        &install_args,
        &mut Output::new(install_args.output, &mut said),
    )?;
    output.line(String::from_utf8_lossy(&said).trim_end());
    Ok(())
}

/// Changes the endpoint in the configuration, and nothing else in it.
fn move_to(cluster: &Cluster, wanted: &Endpoint) -> Outcome<()> {
    let path = cluster.prefix.config();
    let text = std::fs::read_to_string(&path).map_err(|error| Failure::path("read", &path, error))?;
    let changed = with_endpoint(&text, wanted).ok_or_else(|| {
        Failure::arguments(format!("the endpoint in {} cannot be changed", path.display()))
            .hint("write it there yourself, then start without --endpoint")
    })?;
    Ok(write_atomic(&path, changed.as_bytes(), 0o644)?)
}

/// `text` with the line that says `endpoint:` first saying something else, if that is all it takes.
fn with_endpoint(text: &str, wanted: &Endpoint) -> Option<String> {
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("endpoint:"))?;
    let indent = &line[..line.len() - line.trim_start().len()];
    let changed = text.replacen(line, &format!("{indent}endpoint: \"{wanted}\""), 1);
    let before = ClusterConfig::parse(text).ok()?;
    let after = ClusterConfig::parse(&changed).ok()?;
    let only = ClusterConfig {
        endpoint: wanted.clone(),
        metrics: after.metrics,
        ..before
    };
    (after == only).then_some(changed)
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
    let mut supervisor = Process::new(launch::OURSELVES)
        .arg0("flmadm")
        .args(["dev", "supervise", "--prefix"])
        .arg(cluster.path())
        .args(["--timeout", &wish.ready_within.as_secs().to_string()])
        // It is none of its own processes.
        .env_remove(super::leftovers::MARK)
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

fn tell_ready(
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

    #[test]
    fn only_the_endpoint_is_changed() {
        let wanted: Endpoint = "http://127.0.0.1:9000".parse().expect("an endpoint");
        let text =
            "# mine\ncluster:\n  name: a\n  endpoint: http://127.0.0.1:8080 # here\n  policies: [drf]\n";
        assert_eq!(
            with_endpoint(text, &wanted).as_deref(),
            Some("# mine\ncluster:\n  name: a\n  endpoint: \"http://127.0.0.1:9000\"\n  policies: [drf]\n")
        );
        for odd in [
            "cache:\n  endpoint: grpc://127.0.0.1:9090\ncluster:\n  name: a\n  endpoint: http://127.0.0.1:8080\n",
            "cluster: {name: a, endpoint: \"http://127.0.0.1:8080\"}\n",
        ] {
            assert_eq!(with_endpoint(odd, &wanted), None, "{odd}");
        }
    }
}
