//! The text that Prometheus reads, and what the ports say while the store works, fails and hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use flame_core::config::ClusterConfig;
use flame_core::{ApplicationName, SessionId};
use flame_rpc::v1::{ApplicationSpec, SessionSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Request;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::server::{HealthReporter, HealthService};

use super::*;
use crate::core::{Census, Core, CoreConfig, CoreError, Counters, ExecutorCensus, NodeCensus, OpenSessions};
use crate::engine::{Engine, EngineRun};
use crate::health;
use crate::store::{Record, Snapshot, Store, StoreError, TaskReader, Upkeep};

const WORKS: u8 = 0;
const FAILS: u8 = 1;
const HANGS: u8 = 2;

/// A store that works, fails or hangs as it is told.
#[derive(Clone, Default)]
struct Moody {
    mood: Arc<AtomicU8>,
    changed: Arc<(Mutex<()>, Condvar)>,
}

impl Moody {
    fn set(&self, mood: u8) {
        let _guard = self.changed.0.lock().expect("not poisoned");
        self.mood.store(mood, Ordering::SeqCst);
        self.changed.1.notify_all();
    }
}

impl Store for Moody {
    fn load(&mut self) -> Result<Snapshot, StoreError> {
        Ok(Snapshot::default())
    }

    fn commit(&mut self, _: &[Record]) -> Result<(), StoreError> {
        let mut guard = self.changed.0.lock().expect("not poisoned");
        while self.mood.load(Ordering::SeqCst) == HANGS {
            guard = self.changed.1.wait(guard).expect("not poisoned");
        }
        match self.mood.load(Ordering::SeqCst) {
            FAILS => Err(StoreError::Damaged("played".to_owned())),
            _ => Ok(()),
        }
    }

    fn reader(&self) -> Result<Arc<dyn TaskReader>, StoreError> {
        Err(StoreError::Damaged("never read".to_owned()))
    }

    fn upkeep(&self) -> Result<Arc<dyn Upkeep>, StoreError> {
        Err(StoreError::Damaged("never looked after".to_owned()))
    }
}

/// An engine with an application and an open session "s".
async fn engine() -> (Engine, EngineRun, Moody) {
    let text = "cluster: {name: test, endpoint: \"http://127.0.0.1:1\", storage: none}";
    let config = ClusterConfig::parse(text).expect("valid");
    let config = CoreConfig {
        default_resources: config.default_resources,
        policies: config.policies,
        placement: config.placement,
        limits: config.limits,
        retention: config.retention,
        bind_retries: config.bind_retries,
        task_retries: config.task_retries,
    };
    let store = Moody::default();
    let core = Core::new(config, Snapshot::default());
    let (engine, run) = Engine::start(core, Box::new(store.clone())).expect("starts");
    let spec = SessionSpec {
        application: "app".to_owned(),
        ..SessionSpec::default()
    };
    let made = engine.write(move |core, now, fx| {
        let app = ApplicationName::new("app").expect("valid");
        core.register_application(&app, ApplicationSpec::default(), now, fx)?;
        core.create_session(&SessionId::new("s").expect("valid"), spec, now, fx)
    });
    made.await.expect("made");
    (engine, run, store)
}

async fn create(engine: &Engine, tasks: usize) -> Result<u64, CoreError> {
    engine
        .write(move |core, now, fx| core.create_tasks("s", vec![None; tasks], now, fx))
        .await
}

/// Status, head and body of an answer over HTTP/1.
async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head
        .split(' ')
        .nth(1)
        .expect("a status")
        .parse()
        .expect("a number");
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// The value of each sample.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            (name, value.parse().expect("a number"))
        })
        .collect()
}

async fn scrape(engine: &Engine) -> String {
    let census = engine.peek(|core, now| core.census(now)).await;
    engine.metrics().text(census).expect("written")
}

#[test]
fn everything_in_a_census_is_shown_once() {
    let counters = Counters {
        tasks_created: 41,
        tasks_handed_out: 42,
        tasks_succeeded: 43,
        tasks_failed: 44,
        tasks_cancelled: 45,
        results_refused: 46,
        executors_started: 47,
        executors_bound: 48,
        executors_not_bound: 49,
        executors_died: 50,
        sessions_created: 51,
        sessions_closed: 52,
        sessions_removed: 53,
        nodes_suspect: 54,
        nodes_lost: 55,
        passes: 56,
        requeued: [57, 58, 59, 60, 61, 62, 63, 64],
    };
    let census = Census {
        open: OpenSessions {
            sessions: 11,
            waiting: 12,
            pending: 13,
            running: 14,
        },
        paused: OpenSessions {
            sessions: 15,
            waiting: 4,
            pending: 17,
            running: 18,
        },
        closed_sessions: 19,
        longest_wait_ms: 1_500,
        nodes: NodeCensus {
            ready: 21,
            suspect: 22,
            lost: 23,
            left: 24,
            cordoned: 38,
            unstable: 39,
            take_work: 25,
        },
        executors: ExecutorCensus {
            binding: 26,
            busy: 27,
            idle: 28,
            draining: 29,
            releasing: 30,
        },
        allocatable: flame_core::Resources {
            cpu: 31,
            memory: 32,
            gpu: 33,
        },
        used: flame_core::Resources {
            cpu: 34,
            memory: 35,
            gpu: 36,
        },
        links: 37,
        counters,
    };
    let text = Metrics::default().text(Some(census)).expect("written");
    let shown = samples(&text);
    let expected = [
        ("flame_tasks{state=\"pending\",session_state=\"open\"}", 13.0),
        ("flame_tasks{state=\"running\",session_state=\"open\"}", 14.0),
        ("flame_tasks{state=\"pending\",session_state=\"paused\"}", 17.0),
        ("flame_tasks{state=\"running\",session_state=\"paused\"}", 18.0),
        ("flame_sessions{state=\"open\"}", 11.0),
        ("flame_sessions{state=\"paused\"}", 15.0),
        ("flame_sessions{state=\"closed\"}", 19.0),
        ("flame_sessions_waiting", 16.0),
        ("flame_session_longest_wait_seconds", 1.5),
        ("flame_nodes{state=\"ready\"}", 21.0),
        ("flame_nodes{state=\"suspect\"}", 22.0),
        ("flame_nodes{state=\"lost\"}", 23.0),
        ("flame_nodes{state=\"left\"}", 24.0),
        ("flame_nodes_cordoned", 38.0),
        ("flame_nodes_unstable", 39.0),
        ("flame_nodes_taking_work", 25.0),
        ("flame_node_links", 37.0),
        ("flame_executors{state=\"binding\"}", 26.0),
        ("flame_executors{state=\"busy\"}", 27.0),
        ("flame_executors{state=\"idle\"}", 28.0),
        ("flame_executors{state=\"draining\"}", 29.0),
        ("flame_executors{state=\"releasing\"}", 30.0),
        ("flame_cpu_allocatable", 31.0),
        ("flame_memory_allocatable_bytes", 32.0),
        ("flame_gpu_allocatable", 33.0),
        ("flame_cpu_used", 34.0),
        ("flame_memory_used_bytes", 35.0),
        ("flame_gpu_used", 36.0),
        ("flame_tasks_created_total", 41.0),
        ("flame_tasks_handed_out_total", 42.0),
        ("flame_tasks_ended_total{state=\"succeeded\"}", 43.0),
        ("flame_tasks_ended_total{state=\"failed\"}", 44.0),
        ("flame_tasks_ended_total{state=\"cancelled\"}", 45.0),
        ("flame_results_refused_total", 46.0),
        ("flame_executor_events_total{event=\"started\"}", 47.0),
        ("flame_executor_events_total{event=\"bound\"}", 48.0),
        ("flame_executor_events_total{event=\"bind_failed\"}", 49.0),
        ("flame_executor_events_total{event=\"died\"}", 50.0),
        ("flame_session_events_total{event=\"created\"}", 51.0),
        ("flame_session_events_total{event=\"closed\"}", 52.0),
        ("flame_session_events_total{event=\"removed\"}", 53.0),
        ("flame_node_events_total{event=\"suspect\"}", 54.0),
        ("flame_node_events_total{event=\"lost\"}", 55.0),
        ("flame_scheduler_passes_total", 56.0),
        ("flame_tasks_requeued_total{reason=\"service_died\"}", 57.0),
        ("flame_tasks_requeued_total{reason=\"not_bound\"}", 58.0),
        ("flame_tasks_requeued_total{reason=\"released\"}", 59.0),
        ("flame_tasks_requeued_total{reason=\"node_lost\"}", 60.0),
        ("flame_tasks_requeued_total{reason=\"node_left\"}", 61.0),
        ("flame_tasks_requeued_total{reason=\"agent_restarted\"}", 62.0),
        ("flame_tasks_requeued_total{reason=\"link_lost\"}", 63.0),
        ("flame_tasks_requeued_total{reason=\"recalled\"}", 64.0),
        ("flame_core_answers", 1.0),
    ];
    for (name, value) in expected {
        assert_eq!(shown.get(name), Some(&value), "{name} in\n{text}");
    }
}

#[test]
fn the_text_is_well_formed_and_documented_and_has_no_label_without_bounds() {
    let text = Metrics::default().text(Some(Census::default())).expect("written");
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    let families: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let once: BTreeSet<_> = families.iter().collect();
    assert_eq!(once.len(), families.len(), "a family twice: {families:?}");
    let page = include_str!("../../../../docs/observability.md")
        .replace("_{allocatable,used}", "_allocatable")
        .replace("{cpu,gpu}", "cpu");
    for name in samples(&text).keys() {
        let (family, labels) = name.split_once('{').unwrap_or((name, ""));
        assert!(
            families.iter().any(|known| family.starts_with(known)),
            "{name} has no type"
        );
        let documented = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|suffix| family.strip_suffix(suffix))
            .unwrap_or(family)
            .replace("_used", "_allocatable")
            .replace("gpu", "cpu");
        assert!(page.contains(&documented), "{documented} is not documented");
        let keys = labels.split(',').filter_map(|label| label.split_once('='));
        for (key, _) in keys {
            let bounded = ["state", "session_state", "reason", "event", "version", "le"];
            assert!(bounded.contains(&key), "{name}");
        }
    }
}

#[tokio::test]
async fn work_is_measured_per_batch_and_commit() {
    let (engine, run, _store) = engine().await;
    let before = scrape(&engine).await;
    let before = samples(&before);
    create(&engine, 1_000).await.expect("created");
    let after = scrape(&engine).await;
    let after = samples(&after);
    let grown = |name: &str| after[name] - before[name];
    assert_eq!(grown("flame_tasks_created_total"), 1_000.0);
    assert_eq!(grown("flame_commit_records_sum"), 1_000.0);
    assert_eq!(grown("flame_commit_records_count"), 1.0);
    assert_eq!(grown("flame_commit_duration_seconds_count"), 1.0);
    assert!(grown("flame_batch_commands_sum") >= 1.0);
    assert!(grown("flame_batch_duration_seconds_count") >= 1.0);
    assert_eq!(
        after["flame_scheduler_passes_total"],
        after["flame_scheduler_pass_duration_seconds_count"]
    );
    assert_eq!(after["flame_records_waiting"], 0.0);
    assert_eq!(
        after["flame_tasks{state=\"pending\",session_state=\"open\"}"],
        1_000.0
    );
    run.stop().await;
}

#[tokio::test]
async fn the_port_serves_metrics_and_health_and_says_what_is_wrong() {
    let (engine, _run, store) = engine().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let served = engine.clone();
    tokio::spawn(async move { http::serve(Some(listener), &served).await });
    let (status, head, body) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(body.contains("flame_sessions{state=\"open\"} 1\n"), "{body}");
    let (status, _, body) = get(address, "/healthz").await;
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    assert_eq!(get(address, "/").await.0, 404);

    store.set(FAILS);
    create(&engine, 3).await.expect_err("not stored");
    let (status, _, body) = get(address, "/healthz").await;
    assert_eq!(status, 503);
    assert!(body.contains("played") && body.ends_with('\n'), "{body}");
    let (_, _, body) = get(address, "/metrics").await;
    let shown = samples(&body);
    assert_eq!(shown["flame_store_failing"], 1.0);
    assert!(shown["flame_commit_failures_total"] >= 1.0);
    assert_eq!(shown["flame_records_waiting"], 3.0);

    store.set(WORKS);
    while get(address, "/healthz").await.0 != 200 {
        engine.store_health_changed().await;
    }
    let (_, _, body) = get(address, "/metrics").await;
    let shown = samples(&body);
    assert_eq!(
        (shown["flame_store_failing"], shown["flame_records_waiting"]),
        (0.0, 0.0)
    );
}

/// A disk that does not answer is not healthy, and the numbers are there nevertheless.
#[tokio::test]
async fn a_store_that_hangs_is_not_healthy_and_does_not_hide_the_numbers() {
    let (engine, _run, store) = engine().await;
    assert_eq!(health::check(&engine).await, Ok(()));
    store.set(HANGS);
    let waits = engine.clone();
    let reply = tokio::spawn(async move { create(&waits, 2).await });
    // Both have to be in the core before it is asked.
    tokio::task::yield_now().await;
    let limit = Duration::from_millis(50);
    let reason = health::check_within(&engine, limit).await.expect_err("hangs");
    assert!(reason.contains("not answered for 50ms"), "{reason}");
    let text = scrape(&engine).await;
    assert_eq!(samples(&text)["flame_tasks_created_total"], 2.0);
    assert_eq!(samples(&text)["flame_records_waiting"], 2.0);
    store.set(WORKS);
    reply.await.expect("ends").expect("created");
    assert_eq!(health::check(&engine).await, Ok(()));
}

#[tokio::test]
async fn without_a_census_the_rest_is_there() {
    let metrics = Metrics::default();
    metrics.commit_failed();
    let text = metrics.text(None).expect("written");
    let shown = samples(&text);
    assert_eq!(shown["flame_core_answers"], 0.0);
    assert_eq!(shown["flame_commit_failures_total"], 1.0);
    assert!(!shown.contains_key("flame_nodes_taking_work"));
}

#[tokio::test]
async fn the_grpc_health_service_follows_the_store() {
    let (engine, _run, store) = engine().await;
    let reporter = HealthReporter::new();
    let service = HealthService::from_health_reporter(reporter.clone());
    let watched = engine.clone();
    tokio::spawn(async move { health::report(&watched, &reporter).await });
    let says = |status: ServingStatus| {
        let service = &service;
        async move {
            for name in [
                "",
                "flame.v1.Frontend",
                "flame.v1.FrontendBatch",
                "flame.v1.Control",
            ] {
                loop {
                    let request = HealthCheckRequest {
                        service: name.to_owned(),
                    };
                    let found = service.check(Request::new(request)).await;
                    if found.is_ok_and(|answer| answer.into_inner().status() == status) {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
    };
    says(ServingStatus::Serving).await;
    store.set(FAILS);
    create(&engine, 1).await.expect_err("not stored");
    says(ServingStatus::NotServing).await;
    store.set(WORKS);
    says(ServingStatus::Serving).await;
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("an address");
    let config = |listen: &str| {
        let text = format!(
            "cluster: {{name: x, endpoint: \"http://127.0.0.1:1\", metrics: {{listen: \"{listen}\"}}}}"
        );
        let mut config = ClusterConfig::parse(&text).expect("valid");
        // Any port will do for the others.
        config.endpoint.port = 0;
        config
    };
    let error = crate::server::bind(&config(&address.to_string())).await;
    let text = error.expect_err("in use").to_string();
    assert!(
        text.starts_with(&format!("cannot listen on {address} for metrics: "))
            && text.ends_with("choose another address in cluster.metrics.listen, or none"),
        "{text}"
    );
    crate::server::bind(&config("none")).await.expect("no metrics");
}
