//! Batches against a session manager that has them and cuts its streams, and one that has none.
#![allow(clippy::expect_used, clippy::panic)] // tests may, their helpers too

mod fake;

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use fake::Fake;
use flame_rs::v1::frontend_batch_server::FrontendBatch;
use flame_rs::{Client, ClientConfig, Session, SessionOptions, v1};
use futures::Stream;
use tonic::{Request, Response, Status};

/// Ends that a stream brings before it is cut.
const ENDS_PER_STREAM: u64 = 3;

/// Every task ends at once; the streams end early, by turns with an error and in peace.
#[derive(Clone, Default)]
struct Cutting {
    created: Arc<Mutex<u64>>,
    streams: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl FrontendBatch for Cutting {
    async fn create_tasks(
        &self,
        request: Request<v1::CreateTasksRequest>,
    ) -> Result<Response<v1::CreateTasksResponse>, Status> {
        let count = request.into_inner().tasks.len() as u64;
        let mut created = self.created.lock().expect("lock");
        let first_task_id = *created + 1;
        *created += count;
        Ok(Response::new(v1::CreateTasksResponse { first_task_id, count }))
    }

    type WatchSessionStream = Pin<Box<dyn Stream<Item = Result<v1::TaskEnds, Status>> + Send>>;

    async fn watch_session(
        &self,
        request: Request<v1::WatchSessionRequest>,
    ) -> Result<Response<Self::WatchSessionStream>, Status> {
        let after = request.into_inner().after_sequence;
        let last = (*self.created.lock().expect("lock")).min(after + ENDS_PER_STREAM);
        let end = |sequence| v1::TaskEnd {
            sequence,
            // They end in another order than they were created in.
            task_id: 1000 - sequence,
            ..v1::TaskEnd::default()
        };
        let message = |sequence| {
            Ok(v1::TaskEnds {
                ends: vec![end(sequence)],
            })
        };
        let mut messages: Vec<_> = (after + 1..=last).map(message).collect();
        if self.streams.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            messages.push(Err(Status::unavailable("cut")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }
}

async fn session(fake: &Fake) -> Session {
    let config = ClientConfig {
        endpoint: fake.url().parse().expect("url"),
        ..ClientConfig::default()
    };
    let client = Client::connect(&config).await.expect("connected");
    client
        .create_session(SessionOptions::new("echo"))
        .await
        .expect("created")
}

#[tokio::test]
async fn a_server_without_batches_is_no_error() {
    let fake = Fake::new();
    let session = session(&fake).await;
    assert_eq!(session.create_tasks(vec![None; 3]).await.expect("answered"), None);
    assert!(session.watch_ends(0).await.expect("answered").is_none());
}

#[tokio::test]
async fn cut_streams_go_on_where_they_were_until_the_session_is_closed() {
    let cutting = Cutting::default();
    let fake = Fake::with_batches(cutting.clone());
    let session = session(&fake).await;
    let mut ends = session.watch_ends(2).await.expect("answered").expect("offered");
    assert_eq!(
        session.create_tasks(vec![None; 7]).await.expect("answered"),
        Some(1..8)
    );
    assert_eq!(
        session.create_tasks(vec![None; 4]).await.expect("answered"),
        Some(8..12)
    );
    let mut seen = Vec::new();
    for _ in 3..=11 {
        let end = ends.next().await.expect("reconnects").expect("more");
        seen.push((end.sequence, end.task_id));
    }
    let expected: Vec<_> = (3..=11).map(|sequence| (sequence, 1000 - sequence)).collect();
    assert_eq!(seen, expected);
    assert!(cutting.streams.load(Ordering::SeqCst) >= 3);
    session.close().await.expect("closed");
    assert_eq!(ends.next().await.expect("ends"), None);
}
