//! Whether the daemon can do its work, for load balancers and monitoring: over HTTP (`/healthz`)
//! and with the gRPC health protocol. The watchdog of systemd does not depend on it.

use std::time::Duration;

use flame_rpc::v1::control_server::ControlServer;
use flame_rpc::v1::frontend_batch_server::FrontendBatchServer;
use flame_rpc::v1::frontend_server::FrontendServer;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::batch::BatchService;
use crate::control::ControlService;
use crate::engine::Engine;
use crate::frontend::FrontendService;

/// How long an answer of the core and the store may take. It is more than any commit takes that
/// works, and less than those who ask usually wait.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked whether the core still answers. A store that fails is reported at once.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// What clients may ask for: the whole server, and the services that need core and store.
const SERVICES: [&str; 4] = [
    "",
    <FrontendServer<FrontendService> as NamedService>::NAME,
    <FrontendBatchServer<BatchService> as NamedService>::NAME,
    <ControlServer<ControlService> as NamedService>::NAME,
];

/// Asks a question that goes through the core and the store.
///
/// # Errors
/// Why the daemon cannot do its work.
pub(crate) async fn check(engine: &Engine) -> Result<(), String> {
    check_within(engine, ANSWER_LIMIT).await
}

/// As [`check`], with another limit.
pub(crate) async fn check_within(engine: &Engine, limit: Duration) -> Result<(), String> {
    match tokio::time::timeout(limit, engine.summary()).await {
        Err(_) => Err(format!("the core and the store have not answered for {limit:?}")),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(_)) => engine.store_failure().map_or(Ok(()), Err),
    }
}

/// Keeps what the gRPC health service says up to date, for ever.
pub(crate) async fn report(engine: &Engine, reporter: &HealthReporter) {
    loop {
        let status = match check(engine).await {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        set(reporter, status).await;
        // Too late is as good as a change.
        let _later = tokio::time::timeout(CHECK_INTERVAL, engine.store_health_changed()).await;
    }
}

/// Says so to all who ask, and to those who watch.
pub(crate) async fn set(reporter: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
