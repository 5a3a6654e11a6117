//! `flame-node-agent`: command line, configuration, and the process around the agent.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use flame_core::config::ClusterConfig;
use flame_core::config::node::{Problems, RuntimeKind};
use flame_core::lifecycle::LifecycleEvent;
use flame_core::{HostNames, NodeName};
use flame_node_agent::agent::{Agent, Identity, Outcome};
use flame_node_agent::directories::{Directories, Wanted};
use flame_node_agent::environment::{Surroundings, of_this_process};
use flame_node_agent::executor::Host;
use flame_node_agent::link::{Link, chain};
use flame_node_agent::node_id;
use flame_node_agent::runtime::process::ProcessRuntime;
use flame_node_agent::runtime::systemd::{self, Profile, SystemdRuntime};
use flame_node_agent::runtime::{Runtime, Survivor};
use flame_node_agent::settings::{Asked, Settings};
use flame_node_agent::socket::SocketWatch;
use flame_systemd::notify::Notifier;
use serde_json::json;

/// Variable with what the names of this installation's units begin with.
const UNIT_NAME: &str = "FLAME_UNIT_NAME";
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
    /// Settings of this node [default: $FLAME_HOME/conf/node-agent.toml, if it exists]
    #[arg(long, value_name = "PATH")]
    node_config: Option<PathBuf>,
    /// Name of this agent, if there are several on the host: they have their own files, nodes and units
    #[arg(long, value_name = "AGENT", env = "FLAME_AGENT")]
    agent: Option<String>,
    /// Say what is wrong with the configuration, or how it is in effect, and end
    #[arg(long)]
    check: bool,
    /// How --check says it
    #[arg(long, value_enum, default_value = "text", requires = "check")]
    output: Output,
    /// Name of this node, unique in the cluster [env: FLAME_NODE_NAME] [default: the host name]
    #[arg(long, value_name = "NODE")]
    name: Option<String>,
    /// What this node has, e.g. cpu=4,mem=8g,gpu=0; what is not named is detected [env: FLAME_NODE_RESOURCES]
    #[arg(long, value_name = "RESOURCES")]
    resources: Option<String>,
    /// Label by which sessions select this node; may be given several times, or several with commas
    /// [env: FLAME_NODE_LABELS]
    #[arg(long = "label", value_name = "KEY=VALUE", value_delimiter = ',')]
    labels: Vec<String>,
    /// How executors run: process or systemd [env: FLAME_NODE_RUNTIME] [default: process]
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<String>,
    /// Sandbox of executors in units: strict, standard or none; an application's label sandbox=strict makes
    /// its own stricter [env: FLAME_NODE_SANDBOX] [default: standard]
    #[arg(long, value_name = "PROFILE")]
    sandbox: Option<String>,
}

/// How the configuration is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Why the agent cannot run, and the status it exits with.
struct Failure(u8, String);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.check {
        return check(&arguments);
    }
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
        Ok(Outcome::HandedOver) => {
            tracing::info!("stopped; executors go on");
            ExitCode::SUCCESS
        }
        Ok(Outcome::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        // The log has said why.
        Ok(Outcome::Refused) => ExitCode::from(EXIT_CONFIG),
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
    let settings = settings(arguments, &wanted.home).map_err(|problems| bad(problems.to_string()))?;
    let node = settings.node.clone();
    let endpoint = config
        .endpoint
        .node_link()
        .map_err(|error| bad(format!("{}: {error}", path.display())))?;
    let ca_file = config.tls.as_ref().and_then(|tls| tls.ca_file.as_deref());
    let link = Link::new(endpoint.url(), ca_file, config.limits.max_message_size)
        .map_err(|error| bad(format!("{}: {}", path.display(), chain(&error))))?;

    let unusable = |error: &dyn std::error::Error| Failure(EXIT_DIRECTORIES, chain(error));
    let id_path = node_id_path(&wanted.home, &node);
    let id = node_id::read_or_make(&id_path).map_err(|error| match error.is_about_the_file() {
        true => bad(chain(&error)),
        false => unusable(&error),
    })?;
    let directories = Directories::prepare(&wanted, &node).map_err(|error| unusable(&error))?;
    let directories = Arc::new(directories.allowing(settings.config.work_directories.clone()));
    let (runtime, survivors): (Box<dyn Runtime>, Vec<Survivor>) = match settings.config.runtime {
        RuntimeKind::Process => {
            let runtime = ProcessRuntime::new(directories.clone()).map_err(|error| unusable(&error))?;
            let own = std::env::var_os("RUNTIME_DIRECTORY");
            let names = host_names()?;
            let left = systemd::Settings::new(names, settings.agent.clone(), Profile::default());
            // The agent can serve beside them.
            if let Err(error) = systemd::end_leftovers(left, own.as_deref().map(Path::new)).await {
                tracing::error!("executors that ran in units may be left: {}", chain(&error));
            }
            (Box::new(runtime), Vec::new())
        }
        RuntimeKind::Systemd => {
            let (runtime, survivors) = units(&settings).await?;
            (Box::new(runtime), survivors)
        }
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
        patience: settings.config.patience,
        directories,
    };
    let identity = Identity {
        node,
        id,
        instance: uuid::Uuid::new_v4().to_string(),
        capacity: settings.capacity,
        allocatable: settings.allocatable,
        slots: settings.config.slots,
        addresses: settings.addresses(),
        labels: settings.config.labels.clone(),
        life: settings.config.life,
    };
    let labelled = match identity.labels.is_empty() {
        true => String::new(),
        false => format!(", labels {}", identity.labels.join(",")),
    };
    tracing::info!(
        message_id = %LifecycleEvent::DaemonReady.message_id(),
        flame_node = %identity.node,
        flame_node_id = identity.id,
        flame_config = %path.display(),
        "offers {}{labelled}", identity.allocatable
    );
    let mut agent = Agent::new(identity, host, link, Notifier::from_env());
    agent.adopt(survivors);
    agent
        .run()
        .await
        .map_err(|error| Failure(EXIT_FAILURE, format!("cannot receive signals: {error}")))
}

/// What was asked for on the command line, in the environment and in the file.
fn settings(arguments: &Arguments, home: &Path) -> Result<Settings, Problems> {
    let asked = Asked {
        agent: arguments.agent.clone(),
        file: arguments.node_config.clone(),
        name: arguments.name.clone(),
        resources: arguments.resources.clone(),
        labels: arguments.labels.clone(),
        runtime: arguments.runtime.clone(),
        sandbox: arguments.sandbox.clone(),
    };
    Settings::new(&asked, home, |name| std::env::var(name).ok())
}

/// The file with the id of `node`.
fn node_id_path(home: &Path, node: &NodeName) -> PathBuf {
    let state = std::env::var_os("STATE_DIRECTORY").filter(|path| !path.is_empty());
    node_id::path(state.as_ref().map(Path::new), home, node)
}

/// Says what is wrong with the configuration, or how it is in effect. Changes nothing.
fn check(arguments: &Arguments) -> ExitCode {
    let wanted = Wanted::from_env();
    let mut problems = Vec::new();
    let cluster = match load_config(arguments.config.as_deref(), &wanted.home) {
        Ok((path, _)) => Some(path),
        Err(Failure(_, message)) => {
            problems.push(message);
            None
        }
    };
    let settings = match settings(arguments, &wanted.home) {
        Ok(settings) => Some(settings),
        Err(found) => {
            problems.extend(found.0);
            None
        }
    };
    let id_path = settings
        .as_ref()
        .map(|settings| node_id_path(&wanted.home, &settings.node));
    let id = match id_path.as_deref().map(node_id::read) {
        Some(Err(error)) => {
            problems.push(chain(&error));
            None
        }
        Some(Ok(id)) => id,
        None => None,
    };
    match arguments.output {
        Output::Json => {
            let mut document = settings.as_ref().map_or_else(|| json!({}), Settings::document);
            document["cluster_file"] = json!(cluster);
            document["node_id"] = json!({"file": id_path, "id": id});
            document["problems"] = json!(problems);
            println!("{document:#}");
        }
        Output::Text => {
            for (key, value, origin) in settings.iter().flat_map(Settings::effective) {
                println!("{} = {value} ({origin})", key.name());
            }
            if let Some(path) = &id_path {
                let id = id.as_deref().unwrap_or("none yet");
                println!("node id: {id} ({})", path.display());
            }
            for problem in &problems {
                eprintln!("flame-node-agent: {problem}");
            }
        }
    }
    match problems.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_CONFIG),
    }
}

/// What units, users and directories of this installation are called; its unit says so.
fn host_names() -> Result<HostNames, Failure> {
    match std::env::var(UNIT_NAME) {
        Err(_) => Ok(HostNames::default()),
        Ok(stem) => stem
            .parse()
            .map_err(|error| Failure(EXIT_CONFIG, format!("{UNIT_NAME}: {error}"))),
    }
}

/// Executors in units, and those of an earlier run that go on.
async fn units(settings: &Settings) -> Result<(SystemdRuntime, Vec<Survivor>), Failure> {
    let unusable = |error: &dyn std::error::Error| Failure(EXIT_DIRECTORIES, chain(error));
    let profile: Profile = settings
        .config
        .sandbox
        .as_str()
        .parse()
        .map_err(|error| unusable(&error))?;
    let wanted = systemd::Settings {
        work_directories: settings.config.work_directories.clone(),
        standby: settings.config.standby.into(),
        ..systemd::Settings::new(host_names()?, settings.agent.clone(), profile)
    };
    let runtime = SystemdRuntime::connect(wanted).await;
    let runtime = runtime.map_err(|error| unusable(&error))?;
    let survivors = runtime.survivors().await.map_err(|error| unusable(&error))?;
    runtime.stand_by();
    Ok((runtime, survivors))
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
