//! `/metrics` and `/healthz` over HTTP, for monitoring on the same machine.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::exposition::CONTENT_TYPE;
use crate::engine::Engine;
use crate::health;

/// How long the core may take to count. Prometheus waits for ten seconds unless told otherwise.
const CENSUS_LIMIT: Duration = Duration::from_secs(2);

/// Serves metrics and health, if they are wanted; else it never ends.
pub(crate) async fn serve(
    listener: Option<TcpListener>,
    engine: &Engine,
) -> Result<(), tonic::transport::Error> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    Server::builder()
        .accept_http1(true)
        .add_routes(Routes::from(routes(engine.clone())))
        .serve_with_incoming(TcpIncoming::from(listener))
        .await
}

fn routes(engine: Engine) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .fallback(nothing_here)
        .with_state(engine)
}

async fn metrics(State(engine): State<Engine>) -> Response {
    // Not through the store: what is measured is wanted most when the store does not answer.
    let census = engine.peek(|core, now| core.census(now));
    let census = tokio::time::timeout(CENSUS_LIMIT, census).await;
    match engine.metrics().text(census.ok().flatten()) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn healthz(State(engine): State<Engine>) -> (StatusCode, String) {
    match health::check(&engine).await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn nothing_here() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "there are /metrics and /healthz\n")
}
