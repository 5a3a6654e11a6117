//! `flame-node-agent`: command line, configuration, and the process around the agent.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use flame_core::NodeName;
use flame_core::config::ClusterConfig;
use flame_core::lifecycle::LifecycleEvent;
use flame_node_agent::agent::{Agent, Identity, Outcome};
use flame_node_agent::capacity;
use flame_node_agent::directories::{Directories, Wanted};
use flame_node_agent::environment::{Surroundings, of_this_process};
use flame_node_agent::executor::Host;
use flame_node_agent::link::{Link, chain};
use flame_node_agent::runtime::process::ProcessRuntime;
use flame_node_agent::runtime::systemd::{Profile, Settings, SystemdRuntime, Unusable};
use flame_node_agent::runtime::{Runtime, Stop};
use flame_node_agent::socket::SocketWatch;
use flame_systemd::notify::Notifier;

/// Something failed that is nobody's configuration.
const EXIT_FAILURE: u8 = 1;
/// A directory or the launcher cannot be used (EX_CANTCREAT).
const EXIT_DIRECTORIES: u8 = 73;
/// The configuration cannot be used (EX_CONFIG).
const EXIT_CONFIG: u8 = 78;
/// Stopped before the executors were released, as shells say "ended by SIGTERM".
const EXIT_INTERRUPTED: u8 = 143;

/// Runs executors of Flame on this machine, as its session manager asks.
///
/// Exit status: 0 stopped in order, 1 failure, 2 command line, 73 a directory or the launcher cannot be
/// used, 78 configuration, 143 stopped by a second signal.
#[derive(Debug, Parser)]
#[command(name = "flame-node-agent", version)]
struct Arguments {
    /// Configuration [default: $FLAME_HOME/conf/flame-cluster.yaml, else ~/.flame/flame-cluster.yaml]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Name of this node, unique in the cluster [default: the host name]
    #[arg(long, value_name = "NODE", env = "FLAME_NODE_NAME")]
    name: Option<String>,
    /// What this node offers, e.g. cpu=4,mem=8g,gpu=0; what is not named is detected
    #[arg(long, value_name = "RESOURCES", env = "FLAME_NODE_RESOURCES")]
    resources: Option<String>,
    /// Label by which sessions select this node; may be given several times, or several with commas
    #[arg(
        long = "label",
        value_name = "KEY=VALUE",
        env = "FLAME_NODE_LABELS",
        value_delimiter = ','
    )]
    labels: Vec<String>,
    /// How executors run
    #[arg(long, value_enum, env = "FLAME_NODE_RUNTIME", default_value = "process")]
    runtime: RuntimeKind,
    /// Sandbox of executors in units: strict, standard or none; an application's label sandbox=strict makes
    /// its own stricter
    #[arg(long, value_name = "PROFILE", env = "FLAME_NODE_SANDBOX", default_value_t)]
    sandbox: Profile,
}

/// How executors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RuntimeKind {
    /// Child processes of the agent
    Process,
    /// Units of systemd, each in a sandbox
    Systemd,
}

/// Why the agent cannot run, and the status it exits with.
struct Failure(u8, String);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = flame_systemd::logging::init("info") {
        eprintln!("flame-node-agent: {}", chain(&error));
        return ExitCode::from(EXIT_FAILURE);
    }
    // One thread: the agent mostly waits, and a small agent leaves the node to the executors.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(Failure(
            EXIT_FAILURE,
            format!("cannot start the runtime: {error}"),
        )),
    };
    match outcome {
        Ok(Outcome::Stopped) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Ok(Outcome::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        Err(Failure(code, message)) => {
            tracing::error!("{message}");
            ExitCode::from(code)
        }
    }
}

async fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let wanted = Wanted::from_env();
    let (path, config) = load_config(arguments.config.as_deref(), &wanted.home)?;
    let bad = |message: String| Failure(EXIT_CONFIG, message);
    let node = node_name(arguments.name.as_deref()).map_err(bad)?;
    let detected = capacity::detect();
    let capacity = match &arguments.resources {
        Some(text) => capacity::with_overrides(detected, text)
            .map_err(|error| bad(format!("--resources {text}: {error}")))?,
        None => detected,
    };
    let labels = labels(&arguments.labels).map_err(bad)?;
    let endpoint = config
        .endpoint
        .node_link()
        .map_err(|error| bad(format!("{}: {error}", path.display())))?;
    let ca_file = config.tls.as_ref().and_then(|tls| tls.ca_file.as_deref());
    let link = Link::new(endpoint.url(), ca_file, config.limits.max_message_size)
        .map_err(|error| bad(format!("{}: {}", path.display(), chain(&error))))?;

    let unusable = |error: &dyn std::error::Error| Failure(EXIT_DIRECTORIES, chain(error));
    let directories = Arc::new(Directories::prepare(&wanted, &node).map_err(|error| unusable(&error))?);
    let runtime: Box<dyn Runtime> = match arguments.runtime {
        RuntimeKind::Process => {
            Box::new(ProcessRuntime::new(directories.clone()).map_err(|error| unusable(&error))?)
        }
        RuntimeKind::Systemd => Box::new(units(arguments.sandbox).await.map_err(|error| unusable(&error))?),
    };
    let sockets = SocketWatch::start(&directories.sockets).map_err(|error| {
        let directory = directories.sockets.display();
        Failure(EXIT_DIRECTORIES, format!("cannot watch {directory}: {error}"))
    })?;
    let host = Host {
        surroundings: Surroundings::new(of_this_process(), &directories.home, &config),
        runtime,
        sockets,
        max_message_size: config.limits.max_message_size,
        directories,
    };
    let identity = Identity {
        node,
        instance: uuid::Uuid::new_v4().to_string(),
        capacity,
        labels,
    };
    let labelled = match identity.labels.is_empty() {
        true => String::new(),
        false => format!(", labels {}", identity.labels.join(",")),
    };
    tracing::info!(
        message_id = %LifecycleEvent::DaemonReady.message_id(),
        flame_node = %identity.node,
        flame_config = %path.display(),
        "offers {capacity}{labelled}"
    );
    Agent::new(identity, host, link, Notifier::from_env())
        .run()
        .await
        .map_err(|error| Failure(EXIT_FAILURE, format!("cannot receive signals: {error}")))
}

/// Executors in units. Those that an earlier run has left are stopped: the session manager is told of none.
async fn units(sandbox: Profile) -> Result<SystemdRuntime, Unusable> {
    let runtime = SystemdRuntime::connect(Settings::new(None, sandbox)).await?;
    for left in runtime.running().await? {
        let executor = left.record.owner.executor.clone();
        tracing::warn!(%executor, "an executor of an earlier run of this agent is ended");
        runtime.adopt(left).stop(Stop::Terminate);
    }
    Ok(runtime)
}

/// The configuration that was asked for, or the first of the usual ones that exists.
fn load_config(asked: Option<&Path>, home: &Path) -> Result<(PathBuf, ClusterConfig), Failure> {
    let installed = home.join("conf/flame-cluster.yaml");
    let path = match asked {
        Some(path) => path.to_path_buf(),
        None if installed.exists() => installed,
        None => match std::env::home_dir().map(|home| home.join(".flame/flame-cluster.yaml")) {
            Some(own) if own.exists() => own,
            own => {
                let own = own
                    .map(|own| format!(" and no {}", own.display()))
                    .unwrap_or_default();
                return Err(Failure(
                    EXIT_CONFIG,
                    format!(
                        "there is no {}{own}; name the configuration with --config",
                        installed.display()
                    ),
                ));
            }
        },
    };
    match ClusterConfig::load(&path) {
        Ok(config) => Ok((path, config)),
        Err(error) => Err(Failure(EXIT_CONFIG, error.to_string())),
    }
}

/// The labels that were asked for, by `--label` or else by the environment. An empty variable, or a
/// comma too many, is no label.
fn labels(asked: &[String]) -> Result<Vec<String>, String> {
    let asked = asked
        .iter()
        .map(|label| label.trim())
        .filter(|label| !label.is_empty());
    let known = flame_core::label::set(asked).map_err(|error| format!("--label: {error}"))?;
    Ok(known.into_iter().collect())
}

fn node_name(asked: Option<&str>) -> Result<NodeName, String> {
    match asked.filter(|name| !name.is_empty()) {
        Some(name) => NodeName::new(name).map_err(|error| format!("--name: {error}")),
        None => NodeName::new(&capacity::hostname()).map_err(|error| {
            format!("the host name cannot be the node's name, so --name is needed: {error}")
        }),
    }
}
