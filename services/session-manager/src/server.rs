//! The daemon: listeners, servers, readiness, and its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use flame_core::config::ClusterConfig;
use flame_core::config::cluster::Storage;
use flame_rpc::node::node_link_server::NodeLinkServer;
use flame_rpc::v1::admin_server::AdminServer;
use flame_rpc::v1::control_server::ControlServer;
use flame_rpc::v1::frontend_batch_server::FrontendBatchServer;
use flame_rpc::v1::frontend_server::FrontendServer;
use flame_rpc::{channel, oversize};
use flame_systemd::notify::Notifier;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

use crate::admin::AdminService;
use crate::batch::BatchService;
use crate::control::ControlService;
use crate::core::{Core, CoreConfig, Summary};
use crate::engine::{Engine, EngineRun};
use crate::frontend::FrontendService;
use crate::nodelink::{self, NodeLinkService};
use crate::store::{self, TaskReader, Upkeep};
use crate::{health, metrics, notices, retention};

/// HTTP/2 flow-control windows; the protocol's 64 KiB stall a link that carries megabytes.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// A silent connection is probed, so that those of dead clients do not pile up.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the STATUS line is brought up to date when there is no watchdog to feed.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// As people count bytes.
const BYTES_PER_MB: f64 = 1e6;

/// Ways to the store beside the writer.
pub struct Readers {
    /// For questions of clients.
    pub tasks: Arc<dyn TaskReader>,
    /// For its size and backups.
    pub upkeep: Arc<dyn Upkeep>,
}

/// The state machine, its store and readers of it, as the configuration wants them.
///
/// # Errors
/// The state cannot be read, or a thread cannot be started.
///
/// # Panics
/// Outside of a runtime.
pub fn start_engine(config: &ClusterConfig) -> anyhow::Result<(Engine, EngineRun, Readers)> {
    let mut store = store::open(&config.storage, config.storage_sync)?;
    let snapshot = store.load()?;
    let readers = Readers {
        tasks: store.reader()?,
        upkeep: store.upkeep()?,
    };
    let core_config = CoreConfig {
        default_resources: config.default_resources,
        policies: config.policies.clone(),
        placement: config.placement,
        limits: config.limits,
        retention: config.retention,
        bind_retries: config.bind_retries,
        task_retries: config.task_retries,
    };
    let (engine, run) =
        Engine::start(Core::new(core_config, snapshot), store).context("cannot start the store's thread")?;
    Ok((engine, run, readers))
}

/// What [`start_engine`] does with `storage`, for the STATUS line.
#[must_use]
pub fn loading(storage: &Storage) -> String {
    match storage {
        Storage::None => "starting with an empty state".to_owned(),
        Storage::Sqlite(path) => match path.metadata() {
            Ok(file) => format!(
                "loading the state of {:.1} MB from {}",
                file.len() as f64 / BYTES_PER_MB,
                path.display()
            ),
            Err(_) => format!("making a new state in {}", path.display()),
        },
    }
}

/// What the daemon listens on.
#[derive(Debug)]
pub struct Listeners {
    frontend: TcpListener,
    node_link: TcpListener,
    metrics: Option<TcpListener>,
}

/// All listeners, bound.
///
/// # Errors
/// An address cannot be resolved or is in use; the text says what to do.
pub async fn bind(config: &ClusterConfig) -> anyhow::Result<Listeners> {
    let host = config.listen.as_deref().unwrap_or(&config.endpoint.host);
    let link = config.endpoint.node_link()?;
    Ok(Listeners {
        frontend: bind_one(host, config.endpoint.port, "Frontend").await?,
        node_link: bind_one(host, link.port, "node link").await?,
        metrics: match config.metrics {
            Some(address) => Some(bind_metrics(address).await?),
            None => None,
        },
    })
}

async fn bind_metrics(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => "another process listens there: ",
            std::io::ErrorKind::AddrNotAvailable => "this host does not have that address: ",
            _ => "",
        };
        anyhow::anyhow!(
            "cannot listen on {address} for metrics: {error}; {hint}choose another address in \
             cluster.metrics.listen, or none"
        )
    })
}

async fn bind_one(host: &str, port: u16, what: &str) -> anyhow::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .with_context(|| {
            format!("cannot resolve {host:?}, the address of the {what} (cluster.endpoint or cluster.listen)")
        })?
        .collect();
    TcpListener::bind(addresses.as_slice()).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; another process listens there: stop it, or choose another port in cluster.endpoint"
            }
            std::io::ErrorKind::AddrNotAvailable => {
                "; this host does not have that address: set cluster.listen"
            }
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            _ => "",
        };
        anyhow::anyhow!("cannot listen on {host}:{port} for the {what}: {error}{hint}")
    })
}

/// Runs the servers until SIGTERM or SIGINT.
///
/// # Errors
/// A server or a signal handler cannot be set up.
pub async fn serve(
    config: &ClusterConfig,
    engine: &Engine,
    readers: Readers,
    listeners: Listeners,
    notifier: &Notifier,
) -> anyhow::Result<()> {
    let Readers {
        tasks: reader,
        upkeep,
    } = readers;
    let limit = config.limits.max_message_size;
    let batch = FrontendBatchServer::new(BatchService::new(engine.clone(), Arc::clone(&reader)))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX);
    let control = ControlServer::new(ControlService::new(engine.clone(), Arc::clone(&reader)));
    let frontend = FrontendServer::new(FrontendService::new(engine.clone(), reader))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX);
    let node_link = NodeLinkServer::new(NodeLinkService::new(engine.clone(), config.name.clone()))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX);
    let text = listeners.describe()?;
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let frontend = builder(config)?
        .layer(oversize::layer())
        .add_service(frontend)
        .add_service(batch)
        .add_service(control)
        .add_service(AdminServer::new(AdminService::new(Arc::clone(&upkeep))))
        .add_service(health_service)
        .serve_with_incoming(incoming(listeners.frontend));
    let node_link = builder(config)?
        .layer(nodelink::listening(engine.clone()))
        .add_service(node_link)
        .serve_with_incoming(incoming(listeners.node_link));

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    notifier.ready();
    notices::ready(&text);
    tokio::select! {
        ended = frontend => ended.context("the Frontend ended")?,
        ended = node_link => ended.context("the node link ended")?,
        ended = metrics::http::serve(listeners.metrics, engine) => ended.context("the server of metrics ended")?,
        ended = report(engine, notifier) => ended?,
        () = health::report(engine, &reporter) => {}
        () = retention::run(engine, upkeep) => {}
        _ = terminate.recv() => notices::stopping("stopping on SIGTERM"),
        _ = interrupt.recv() => notices::stopping("stopping on SIGINT"),
    }
    // For those who watch on connections that are still open.
    health::set(&reporter, ServingStatus::NotServing).await;
    Ok(())
}

impl Listeners {
    fn describe(&self) -> std::io::Result<String> {
        let metrics = match &self.metrics {
            Some(listener) => format!(", metrics on http://{}/metrics", listener.local_addr()?),
            None => String::new(),
        };
        let (clients, nodes) = (self.frontend.local_addr()?, self.node_link.local_addr()?);
        Ok(format!(
            "serving clients on {clients} and nodes on {nodes}{metrics}"
        ))
    }
}

fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

fn builder(config: &ClusterConfig) -> anyhow::Result<Server> {
    let builder = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
    match &config.tls {
        None => Ok(builder),
        Some(tls) => {
            let files = channel::server_tls(&tls.cert_file, &tls.key_file)?;
            builder
                .tls_config(files)
                .context("cannot set up TLS with cluster.tls.cert_file and key_file")
        }
    }
}

/// Feeds the watchdog and the STATUS line. Each time a question goes through the core and the
/// store, so that a daemon that does not work any more is not kept alive.
async fn report(engine: &Engine, notifier: &Notifier) -> anyhow::Result<()> {
    let interval = notifier
        .watchdog_interval()
        .unwrap_or(STATUS_INTERVAL)
        .min(STATUS_INTERVAL);
    let mut shown = String::new();
    // Due at half the watchdog's time, however long the question takes.
    let mut due = tokio::time::interval(interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let summary = engine.summary().await.context("the core ended")?;
        let status = match engine.store_failure() {
            Some(failure) => failure,
            None => status_line(&summary),
        };
        if status != shown {
            notifier.status(&status);
            shown = status;
        }
        notifier.watchdog();
    }
}

fn status_line(summary: &Summary) -> String {
    let Summary {
        ready_nodes,
        nodes,
        executors,
        open_sessions,
        pending,
        running,
    } = *summary;
    format!(
        "{ready_nodes} of {nodes} nodes ready, {executors} executors, {open_sessions} open sessions, \
         {pending} tasks pending, {running} running"
    )
}

/// The file to read if none is named: below `FLAME_HOME` if it exists there, else below the
/// user's home directory.
#[must_use]
pub fn default_config_path() -> std::path::PathBuf {
    let installed = flame_core::config::flame_home().join("conf/flame-cluster.yaml");
    match std::env::home_dir() {
        Some(home) if !installed.exists() => home.join(".flame/flame-cluster.yaml"),
        _ => installed,
    }
}
