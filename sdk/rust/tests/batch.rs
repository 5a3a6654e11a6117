//! Batches against a session manager that has them and cuts its streams, and one that has none.
#![allow(clippy::expect_used, clippy::panic)] // tests may, their helpers too

mod fake;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake::Fake;
use flame_rs::v1::frontend_batch_server::FrontendBatch;
use flame_rs::{Bytes, Client, ClientConfig, ClientOptions, Session, SessionOptions, v1};
use futures::Stream;
use tonic::{Request, Response, Status};

/// Ends that a stream brings before it is cut.
const ENDS_PER_STREAM: u64 = 3;

/// Every task ends at once; the streams end early, by turns with an error and in peace.
#[derive(Clone, Default)]
struct Cutting {
    created: Arc<Mutex<u64>>,
    /// First task and number, by request id.
    answered: Arc<Mutex<HashMap<Bytes, (u64, u64)>>>,
    /// Answers that are lost before one arrives.
    losing: Arc<AtomicUsize>,
    streams: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl FrontendBatch for Cutting {
    async fn create_tasks(
        &self,
        request: Request<v1::CreateTasksRequest>,
    ) -> Result<Response<v1::CreateTasksResponse>, Status> {
        let request = request.into_inner();
        let id = request.request_id.expect("every call has an id");
        assert!((1..=64).contains(&id.len()), "{id:?}");
        let mut answered = self.answered.lock().expect("lock");
        let (first_task_id, count) = *answered.entry(id).or_insert_with(|| {
            let mut created = self.created.lock().expect("lock");
            let first = *created + 1;
            *created += request.tasks.len() as u64;
            (first, request.tasks.len() as u64)
        });
        let lost = |left: usize| left.checked_sub(1);
        if self
            .losing
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, lost)
            .is_ok()
        {
            return Err(Status::unavailable("the answer is lost"));
        }
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

#[tokio::test]
async fn a_call_whose_answer_is_lost_is_repeated_and_creates_its_tasks_once() {
    let cutting = Cutting::default();
    let fake = Fake::with_batches(cutting.clone());
    let session = session(&fake).await;
    cutting.losing.store(2, Ordering::SeqCst);
    let created = session.create_tasks(vec![None; 5]).await.expect("repeated");
    assert_eq!(created, Some(1..6));
    let created = session.create_tasks(vec![None; 2]).await.expect("answered");
    assert_eq!(created, Some(6..8), "another call has another id");
    assert_eq!(cutting.answered.lock().expect("lock").len(), 2);
}

#[tokio::test]
async fn repetition_ends_at_the_clients_limit_with_the_servers_words() {
    let cutting = Cutting::default();
    let fake = Fake::with_batches(cutting.clone());
    let config = ClientConfig {
        endpoint: fake.url().parse().expect("url"),
        ..ClientConfig::default()
    };
    let options = ClientOptions {
        reconnect_limit: Duration::from_millis(200),
        ..ClientOptions::default()
    };
    let client = Client::connect_with(&config, options).await.expect("connected");
    let session = client
        .create_session(SessionOptions::new("echo"))
        .await
        .expect("created");
    cutting.losing.store(usize::MAX, Ordering::SeqCst);
    let error = session.create_tasks(vec![None]).await.expect_err("gives up");
    assert!(error.to_string().contains("the answer is lost"), "{error}");
    assert!(
        cutting.losing.load(Ordering::SeqCst) < usize::MAX - 1,
        "it was repeated"
    );
}
