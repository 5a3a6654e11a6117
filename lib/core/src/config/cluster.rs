//! `flame-cluster.yaml`: the configuration of the daemons.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, Endpoint, Scheme};
use crate::duration;
use crate::resources::Resources;
use crate::size;
use crate::state::Shim;

/// All keys, for the hint at an unknown one. A test keeps it complete.
const KEYS: &[&str] = &[
    "cluster",
    "cluster.name",
    "cluster.endpoint",
    "cluster.listen",
    "cluster.resreq",
    "cluster.placement",
    "cluster.policies",
    "cluster.storage",
    "cluster.storage_sync",
    "cluster.schedule_interval",
    "cluster.executors",
    "cluster.executors.shim",
    "cluster.limits",
    "cluster.limits.max_sessions",
    "cluster.limits.max_executors",
    "cluster.limits.max_message_size",
    "cluster.retention",
    "cluster.retention.max_age",
    "cluster.retention.max_size",
    "cluster.recovery",
    "cluster.recovery.session",
    "cluster.recovery.session.retry_limits",
    "cluster.recovery.task",
    "cluster.recovery.task.max_retries",
    "cluster.metrics",
    "cluster.metrics.listen",
    "cluster.tls",
    "cluster.tls.cert_file",
    "cluster.tls.key_file",
    "cluster.tls.ca_file",
    "cluster.pprof",
    "cluster.pprof.port",
    "cache",
    "cache.endpoint",
    "cache.network_interface",
    "cache.storage",
    "cache.eviction",
    "cache.eviction.policy",
    "cache.eviction.max_memory",
    "cache.eviction.max_objects",
    "cache.tls",
    "cache.tls.cert_file",
    "cache.tls.key_file",
    "cache.tls.ca_file",
    "cache.pprof",
    "cache.pprof.port",
];

/// Executors that one node may run unless configured otherwise.
const DEFAULT_MAX_EXECUTORS: u32 = 128;
/// Closed sessions that are kept: each costs about a kilobyte of memory.
const DEFAULT_MAX_SESSIONS: usize = 10_000;
/// Age of closed sessions: a result of last month can still be looked at.
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Bytes of state: fits the disk of a small machine.
const DEFAULT_MAX_SIZE: u64 = 10 << 30;
/// What stands for "no bound" in `cluster.retention`.
const UNLIMITED: &str = "unlimited";
/// Failures to bind after which a session gets no new executors.
const DEFAULT_BIND_RETRIES: u32 = 5;
/// How often a service may die under one task before the task fails.
const DEFAULT_TASK_RETRIES: u32 = 3;
/// The port of metrics is that of the Frontend plus this: far enough from it that neighbouring ports
/// are free for further session managers.
const METRICS_PORT_DISTANCE: u16 = 1_000;
/// What stands for "no metrics" in `cluster.metrics.listen`.
const NO_METRICS: &str = "none";
/// Largest message on any link, in bytes.
const DEFAULT_MAX_MESSAGE_SIZE: u64 = 64 << 20;
/// Smallest and largest value that `cluster.limits.max_message_size` takes, in bytes.
const MESSAGE_SIZE_RANGE: std::ops::RangeInclusive<u64> = (64 << 10)..=(256 << 20);

/// The daemons' configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Name of the cluster, for people.
    pub name: String,
    /// Where the session manager's Frontend is reached; the node link is on the next port.
    pub endpoint: Endpoint,
    /// Address that the session manager binds, if not the endpoint's host.
    pub listen: Option<String>,
    /// What an executor gets when its session does not say.
    pub default_resources: Resources,
    /// Scheduling policies in order of precedence.
    pub policies: Vec<Policy>,
    /// Which of several nodes gets an executor.
    pub placement: Placement,
    /// Where the session manager keeps its state.
    pub storage: Storage,
    /// What a commit waits for.
    pub storage_sync: StorageSync,
    /// Shim that nodes run applications with.
    pub shim: Shim,
    /// Bounds.
    pub limits: Limits,
    /// For how long closed sessions are kept.
    pub retention: Retention,
    /// Failures to bind after which a session gets no new executors.
    pub bind_retries: u32,
    /// How often a service may die under one task before the task fails.
    pub task_retries: u32,
    /// Where the session manager serves its metrics and its health over HTTP, if it does.
    pub metrics: Option<SocketAddr>,
    /// TLS of the Frontend and the node link.
    pub tls: Option<Tls>,
    /// The object cache, if there is one.
    pub cache: Option<CacheConfig>,
}

/// A scheduling policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Sessions of higher priority first.
    Priority,
    /// The session with the smallest dominant share of the cluster first.
    Drf,
}

/// Which of several nodes with room gets an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// The one with the least room, so that there is room for large executors elsewhere.
    #[default]
    Pack,
    /// The one with the most room.
    Spread,
}

/// Where the session manager keeps its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// A SQLite file; a relative path is below the working directory of the daemon.
    Sqlite(PathBuf),
    /// Memory: gone when the daemon stops.
    None,
}

/// What a commit to the SQLite file waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageSync {
    /// The disk: survives a power cut.
    Full,
    /// The kernel: survives a crash of the daemon, but the last commits may be lost in a power cut.
    Normal,
}

/// Bounds of the session manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Closed sessions beyond this number are forgotten, oldest first.
    pub max_sessions: Option<usize>,
    /// Executors on one node.
    pub max_executors: u32,
    /// Largest message on any link, in bytes.
    pub max_message_size: usize,
}

/// For how long closed sessions are kept; open ones always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Time since a session was closed; without a value there is no bound.
    pub max_age: Option<Duration>,
    /// Bytes of state; without a value there is no bound.
    pub max_size: Option<u64>,
}

/// Files of a TLS server and of those who connect to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Tls {
    /// PEM certificate chain of the server.
    pub cert_file: PathBuf,
    /// PEM private key of the server.
    pub key_file: PathBuf,
    /// PEM certificate of the authority that clients trust.
    pub ca_file: Option<PathBuf>,
}

/// The object cache's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// Where the cache is reached.
    pub endpoint: Endpoint,
    /// As it was written, because applications are told exactly that.
    pub endpoint_text: String,
    /// Pattern of the network interface's name that the cache listens on.
    pub network_interface: Option<String>,
    /// Where objects are kept beyond memory.
    pub storage: Option<String>,
    /// `lru` or `none`.
    pub eviction_policy: Option<String>,
    /// Bytes of memory for objects.
    pub max_memory: Option<u64>,
    /// Objects in memory.
    pub max_objects: Option<u64>,
    /// TLS files; needed if the endpoint is `grpcs://`.
    pub tls: Option<Tls>,
}

impl ClusterConfig {
    /// Every key that has a value, with its parents.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        let is_table = |key: &str| {
            KEYS.iter()
                .any(|other| other.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
        };
        KEYS.iter().copied().filter(move |key| !is_table(key))
    }

    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        super::load(path, Self::parse)
    }

    /// Reads and checks the text of such a file.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: RawFile = super::from_yaml(text, KEYS)?;
        let cluster = raw.cluster;
        if cluster.name.trim().is_empty() {
            return Err(ConfigError::value("cluster.name", "it must not be empty"));
        }
        let endpoint: Endpoint = cluster
            .endpoint
            .parse()
            .map_err(|error| ConfigError::value("cluster.endpoint", error))?;
        endpoint
            .node_link()
            .map_err(|error| ConfigError::value("cluster.endpoint", error))?;
        if endpoint.scheme == Scheme::Tls && cluster.tls.is_none() {
            return Err(ConfigError::value(
                "cluster.tls",
                "the endpoint is https, so cert_file and key_file are needed",
            ));
        }
        if endpoint.scheme == Scheme::Plain && cluster.tls.is_some() {
            return Err(ConfigError::value(
                "cluster.endpoint",
                "cluster.tls is set, so the endpoint must be https",
            ));
        }
        let recovery = cluster.recovery.unwrap_or_default();
        let metrics = metrics(cluster.metrics.and_then(|metrics| metrics.listen), endpoint.port)?;
        Ok(Self {
            name: cluster.name,
            endpoint,
            listen: cluster.listen,
            default_resources: match cluster.resreq {
                Some(text) => text
                    .parse()
                    .map_err(|error| ConfigError::value("cluster.resreq", error))?,
                None => Resources::DEFAULT,
            },
            policies: policies(cluster.policies)?,
            placement: placement(cluster.placement.as_deref())?,
            storage: storage(cluster.storage.as_deref())?,
            storage_sync: match cluster.storage_sync.as_deref() {
                None | Some("full") => StorageSync::Full,
                Some("normal") => StorageSync::Normal,
                Some(other) => {
                    return Err(ConfigError::value(
                        "cluster.storage_sync",
                        format!("{other:?} is neither full nor normal"),
                    ));
                }
            },
            shim: match cluster.executors.and_then(|executors| executors.shim).as_deref() {
                None | Some("host") => Shim::Host,
                Some("wasm") => {
                    return Err(ConfigError::value(
                        "cluster.executors.shim",
                        "this release has no wasm shim; use host",
                    ));
                }
                Some(other) => {
                    return Err(ConfigError::value(
                        "cluster.executors.shim",
                        format!("{other:?} is not host"),
                    ));
                }
            },
            limits: limits(cluster.limits.unwrap_or_default())?,
            retention: retention(cluster.retention.unwrap_or_default())?,
            bind_retries: recovery
                .session
                .and_then(|session| session.retry_limits)
                .unwrap_or(DEFAULT_BIND_RETRIES),
            task_retries: task_retries(recovery.task)?,
            metrics,
            tls: cluster.tls,
            cache: raw.cache.map(cache).transpose()?,
        })
    }
}

fn policies(names: Option<Vec<String>>) -> Result<Vec<Policy>, ConfigError> {
    let Some(names) = names else {
        return Ok(vec![Policy::Priority, Policy::Drf]);
    };
    let known = |name: &String| match name.as_str() {
        "priority" => Ok(Policy::Priority),
        "drf" => Ok(Policy::Drf),
        other => Err(ConfigError::value(
            "cluster.policies",
            format!("{other:?} is no policy; there are priority and drf"),
        )),
    };
    names.iter().map(known).collect()
}

fn placement(name: Option<&str>) -> Result<Placement, ConfigError> {
    match name {
        None | Some("pack") => Ok(Placement::Pack),
        Some("spread") => Ok(Placement::Spread),
        Some(other) => Err(ConfigError::value(
            "cluster.placement",
            format!("{other:?} is no placement; there are pack and spread"),
        )),
    }
}

fn storage(text: Option<&str>) -> Result<Storage, ConfigError> {
    let bad = |reason: String| Err(ConfigError::value("cluster.storage", reason));
    match text {
        None => Ok(Storage::Sqlite(PathBuf::from("flame.db"))),
        Some("none") => Ok(Storage::None),
        Some(url) => match url.split_once("://") {
            Some(("sqlite", "")) => {
                bad("sqlite:// needs a path, e.g. sqlite:///var/lib/flame/flame.db".to_owned())
            }
            Some(("sqlite", path)) => Ok(Storage::Sqlite(PathBuf::from(path))),
            Some(("fs" | "file" | "filesystem", _)) => bad(format!(
                "{url:?}: this release keeps its state with sqlite://PATH or none"
            )),
            _ => bad(format!("{url:?} is neither sqlite://PATH nor none")),
        },
    }
}

fn limits(raw: RawLimits) -> Result<Limits, ConfigError> {
    let size_key = "cluster.limits.max_message_size";
    let max_message_size = match raw.max_message_size {
        None => DEFAULT_MAX_MESSAGE_SIZE,
        Some(text) => size::parse(&text.0).map_err(|error| ConfigError::value(size_key, error))?,
    };
    if !MESSAGE_SIZE_RANGE.contains(&max_message_size) {
        return Err(ConfigError::value(size_key, "it must be from 64K to 256M"));
    }
    let max_executors = raw.max_executors.unwrap_or(DEFAULT_MAX_EXECUTORS);
    if max_executors == 0 {
        return Err(ConfigError::value(
            "cluster.limits.max_executors",
            "it must be at least 1",
        ));
    }
    Ok(Limits {
        max_sessions: Some(raw.max_sessions.unwrap_or(DEFAULT_MAX_SESSIONS)),
        max_executors,
        max_message_size: usize::try_from(max_message_size)
            .map_err(|error| ConfigError::value(size_key, error))?,
    })
}

fn retention(raw: RawRetention) -> Result<Retention, ConfigError> {
    let max_age = match raw.max_age.as_deref() {
        None => Some(DEFAULT_MAX_AGE),
        Some(UNLIMITED) => None,
        Some(text) => Some(
            duration::parse_span(text)
                .map_err(|error| ConfigError::value("cluster.retention.max_age", error))?,
        ),
    };
    let max_size = match raw.max_size {
        None => Some(DEFAULT_MAX_SIZE),
        Some(SizeText(text)) if text == UNLIMITED => None,
        Some(SizeText(text)) => Some(
            size::parse(&text).map_err(|error| ConfigError::value("cluster.retention.max_size", error))?,
        ),
    };
    Ok(Retention { max_age, max_size })
}

fn task_retries(raw: Option<RawTaskRecovery>) -> Result<u32, ConfigError> {
    match raw.and_then(|task| task.max_retries) {
        Some(0) => Err(ConfigError::value(
            "cluster.recovery.task.max_retries",
            "it must be at least 1",
        )),
        retries => Ok(retries.unwrap_or(DEFAULT_TASK_RETRIES)),
    }
}

fn metrics(listen: Option<String>, frontend: u16) -> Result<Option<SocketAddr>, ConfigError> {
    match listen.as_deref() {
        Some(NO_METRICS) => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            ConfigError::value(
                "cluster.metrics.listen",
                format!("{text:?} is neither an IP address with a port, e.g. 127.0.0.1:9080, nor none"),
            )
        }),
        None => {
            let port = frontend
                .checked_add(METRICS_PORT_DISTANCE)
                .unwrap_or_else(|| frontend.saturating_sub(METRICS_PORT_DISTANCE));
            Ok(Some((Ipv4Addr::LOCALHOST, port).into()))
        }
    }
}

fn cache(raw: RawCache) -> Result<CacheConfig, ConfigError> {
    let text = raw
        .endpoint
        .unwrap_or_else(|| super::client::DEFAULT_CACHE_ENDPOINT.to_owned());
    let eviction = raw.eviction.unwrap_or_default();
    let key = "cache.eviction.max_memory";
    Ok(CacheConfig {
        endpoint: text
            .parse()
            .map_err(|error| ConfigError::value("cache.endpoint", error))?,
        endpoint_text: text,
        network_interface: raw.network_interface,
        storage: raw.storage,
        eviction_policy: eviction.policy,
        max_memory: eviction
            .max_memory
            .map(|text| size::parse(&text.0).map_err(|error| ConfigError::value(key, error)))
            .transpose()?,
        max_objects: eviction.max_objects,
        tls: raw.tls,
    })
}

/// A size that YAML may have taken for a number.
#[derive(Debug)]
struct SizeText(String);

impl<'de> Deserialize<'de> for SizeText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        Ok(Self(match Either::deserialize(deserializer)? {
            Either::Number(bytes) => bytes.to_string(),
            Either::Text(text) => text,
        }))
    }
}

#[derive(Deserialize)]
struct RawFile {
    cluster: RawCluster,
    cache: Option<RawCache>,
}

#[derive(Deserialize)]
struct RawCluster {
    name: String,
    endpoint: String,
    listen: Option<String>,
    resreq: Option<String>,
    policies: Option<Vec<String>>,
    placement: Option<String>,
    storage: Option<String>,
    storage_sync: Option<String>,
    /// Taken for compatibility: this scheduler runs when something changed.
    #[serde(rename = "schedule_interval")]
    _schedule_interval: Option<u64>,
    executors: Option<RawExecutors>,
    limits: Option<RawLimits>,
    retention: Option<RawRetention>,
    recovery: Option<RawRecovery>,
    metrics: Option<RawMetrics>,
    tls: Option<Tls>,
    /// Taken for compatibility: profiles are read with `perf`, not over HTTP.
    #[serde(rename = "pprof")]
    _pprof: Option<RawPprof>,
}

#[derive(Deserialize)]
struct RawExecutors {
    shim: Option<String>,
}

#[derive(Deserialize, Default)]
struct RawLimits {
    max_sessions: Option<usize>,
    max_executors: Option<u32>,
    max_message_size: Option<SizeText>,
}

#[derive(Deserialize, Default)]
struct RawRetention {
    max_age: Option<String>,
    max_size: Option<SizeText>,
}

#[derive(Deserialize, Default)]
struct RawRecovery {
    session: Option<RawSessionRecovery>,
    task: Option<RawTaskRecovery>,
}

#[derive(Deserialize)]
struct RawTaskRecovery {
    max_retries: Option<u32>,
}

#[derive(Deserialize)]
struct RawSessionRecovery {
    retry_limits: Option<u32>,
}

#[derive(Deserialize)]
struct RawMetrics {
    listen: Option<String>,
}

#[derive(Deserialize)]
struct RawPprof {
    #[serde(rename = "port")]
    _port: Option<u16>,
}

#[derive(Deserialize)]
struct RawCache {
    endpoint: Option<String>,
    network_interface: Option<String>,
    storage: Option<String>,
    eviction: Option<RawEviction>,
    tls: Option<Tls>,
    #[serde(rename = "pprof")]
    _pprof: Option<RawPprof>,
}

#[derive(Deserialize, Default)]
struct RawEviction {
    policy: Option<String>,
    max_memory: Option<SizeText>,
    max_objects: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
cluster:
  name: flame
  endpoint: "https://manager.example.com:9000"
  listen: 0.0.0.0
  resreq: "cpu=2,mem=4g,gpu=1"
  policies: [drf, priority]
  placement: spread
  storage: sqlite:///var/lib/flame/flame.db
  storage_sync: normal
  schedule_interval: 100
  executors: {shim: host}
  limits: {max_sessions: 10, max_executors: 4, max_message_size: 16M}
  retention: {max_age: 12h, max_size: 1G}
  recovery: {session: {retry_limits: 2}, task: {max_retries: 7}}
  metrics: {listen: "[::1]:9464"}
  tls: {cert_file: /c, key_file: /k, ca_file: /ca}
  pprof: {port: 6060}
cache:
  endpoint: "grpcs://127.0.0.1:9090"
  network_interface: eth0
  storage: /var/cache
  eviction: {policy: lru, max_memory: 1073741824, max_objects: 5}
  tls: {cert_file: /c, key_file: /k, ca_file: /ca}
  pprof: {port: 6061}
"#;

    fn with(line: &str) -> Result<ClusterConfig, ConfigError> {
        ClusterConfig::parse(&format!(
            "cluster:\n  name: flame\n  endpoint: http://127.0.0.1:8080\n  {line}\n"
        ))
    }

    #[test]
    fn every_key_is_known_and_read() {
        let config = ClusterConfig::parse(FULL).expect("valid");
        assert_eq!(config.endpoint.port, 9000);
        assert_eq!(
            config.default_resources,
            Resources {
                cpu: 2,
                memory: 4 << 30,
                gpu: 1
            }
        );
        assert_eq!(config.policies, [Policy::Drf, Policy::Priority]);
        assert_eq!(config.placement, Placement::Spread);
        assert_eq!(config.storage, Storage::Sqlite("/var/lib/flame/flame.db".into()));
        assert_eq!(config.storage_sync, StorageSync::Normal);
        assert_eq!(config.limits.max_message_size, 16 << 20);
        assert_eq!((config.bind_retries, config.task_retries), (2, 7));
        assert_eq!(config.metrics, "[::1]:9464".parse().ok());
        assert_eq!(config.cache.and_then(|cache| cache.max_memory), Some(1 << 30));
        for key in KEYS {
            let name = key.rsplit('.').next().expect("a last part");
            assert!(FULL.contains(&format!("{name}:")), "{key} is not in the example");
        }
    }

    #[test]
    fn two_lines_are_enough() {
        let config = with("").expect("valid");
        assert_eq!(config.storage, Storage::Sqlite("flame.db".into()));
        assert_eq!(config.storage_sync, StorageSync::Full);
        assert_eq!(config.default_resources, Resources::DEFAULT);
        assert_eq!(config.policies, [Policy::Priority, Policy::Drf]);
        assert_eq!((config.bind_retries, config.task_retries), (5, 3));
        assert!(config.cache.is_none());
        assert_eq!(config.limits.max_sessions, Some(10_000));
        assert_eq!(config.retention.max_age, Some(Duration::from_secs(2_592_000)));
        assert_eq!(config.retention.max_size, Some(10 << 30));
    }

    #[test]
    fn metrics_have_a_port_of_their_own_on_the_loopback_address() {
        for (frontend, port) in [
            (1, 1001),
            (8080, 9080),
            (64_535, 65_535),
            (64_536, 63_536),
            (65_534, 64_534),
        ] {
            let text = format!("cluster: {{name: x, endpoint: \"http://10.0.0.1:{frontend}\"}}");
            let config = ClusterConfig::parse(&text).expect("valid");
            assert_eq!(
                config.metrics,
                Some((Ipv4Addr::LOCALHOST, port).into()),
                "{frontend}"
            );
        }
        assert_eq!(with("metrics: {listen: none}").expect("valid").metrics, None);
    }

    #[test]
    fn retention_can_be_switched_off() {
        let config = with("retention: {max_age: unlimited, max_size: unlimited}").expect("valid");
        assert_eq!(config.retention, Retention::default());
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        for (line, message) in [
            (
                "storag: none",
                "unknown key \"cluster.storag\"; did you mean \"cluster.storage\"?",
            ),
            (
                "polices: []",
                "unknown key \"cluster.polices\"; did you mean \"cluster.policies\"?",
            ),
            (
                "limits: {max_executor: 3}",
                "unknown key \"cluster.limits.max_executor\"; did you mean \"cluster.limits.max_executors\"?",
            ),
        ] {
            assert_eq!(with(line).expect_err(line).to_string(), message);
        }
        let far = with("recovery: {session: {zzz: 1}}")
            .expect_err("unknown")
            .to_string();
        assert_eq!(
            far,
            "unknown key \"cluster.recovery.session.zzz\"; known here: retry_limits"
        );
    }

    #[test]
    fn bad_values_name_their_key() {
        for (line, part) in [
            ("resreq: cpu=x", "cluster.resreq"),
            ("policies: [fifo]", "there are priority and drf"),
            ("placement: first", "there are pack and spread"),
            ("storage: redis://x", "neither sqlite"),
            ("storage: fs://x", "sqlite://PATH or none"),
            ("storage: \"sqlite://\"", "needs a path"),
            ("storage_sync: off", "neither full nor normal"),
            ("executors: {shim: docker}", "is not host"),
            ("limits: {max_executors: 0}", "at least 1"),
            (
                "recovery: {task: {max_retries: 0}}",
                "cluster.recovery.task.max_retries",
            ),
            ("limits: {max_message_size: 1G}", "64K to 256M"),
            ("limits: {max_sessions: many}", "max_sessions"),
            ("metrics: {listen: 9080}", "cluster.metrics.listen"),
            ("metrics: {listen: \"127.0.0.1\"}", "nor none"),
            (
                "metrics: {listen: \"localhost:9080\"}",
                "an IP address with a port",
            ),
            ("retention: {max_age: 7}", "cluster.retention.max_age"),
            ("retention: {max_age: 7 weeks}", "e.g. 12h or 30d"),
            ("retention: {max_size: big}", "cluster.retention.max_size"),
            ("tls: {cert_file: /c, key_file: /k}", "must be https"),
        ] {
            let error = with(line).expect_err(line).to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn broken_yaml_and_missing_keys_are_errors() {
        for text in [
            "",
            "cluster: [",
            "cluster:\n  name: x\n",
            "- a",
            "cluster:\n\tname: x",
        ] {
            assert!(ClusterConfig::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = ClusterConfig::load(Path::new("/nonexistent/flame-cluster.yaml"))
            .expect_err("missing")
            .to_string();
        assert!(
            error.starts_with("cannot read the configuration /nonexistent/flame-cluster.yaml: "),
            "{error}"
        );
    }
}
