//! Batches against a real core and both stores, with a played agent.

use flame_core::config::cluster::{Storage, StorageSync};
use flame_core::state::{Shim, TaskState};
use flame_core::{ApplicationName, NodeName, Resources, SessionId};
use flame_rpc::node::{ExecutorPhase, ExecutorUpdate, ResultBatch, TaskDone, from_agent, to_agent::Message};
use flame_rpc::v1::{ApplicationSpec, SessionSpec, TaskEnd, TaskInput};
use futures::StreamExt;

use super::*;
use crate::core::{Core, CoreConfig, LinkId, NodeHello};
use crate::engine::EngineRun;
use crate::store;

struct Bed {
    engine: Engine,
    service: BatchService,
    _threads: EngineRun,
    _directory: tempfile::TempDir,
}

impl Bed {
    async fn new(durable: bool) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let storage = match durable {
            true => Storage::Sqlite(directory.path().join("flame.db")),
            false => Storage::None,
        };
        let mut store = store::open(&storage, StorageSync::Full).expect("opens");
        let (snapshot, reader) = (store.load().expect("loads"), store.reader().expect("opens"));
        let text = "cluster: {name: test, endpoint: \"http://127.0.0.1:1\"}";
        let config = flame_core::config::ClusterConfig::parse(text).expect("valid");
        let config = CoreConfig {
            default_resources: Resources {
                cpu: 1,
                memory: 1,
                gpu: 0,
            },
            policies: config.policies,
            placement: config.placement,
            limits: config.limits,
            retention: config.retention,
            bind_retries: 5,
            task_retries: 3,
        };
        let (engine, threads) = Engine::start(Core::new(config, snapshot), store).expect("starts");
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
        let service = BatchService::new(engine.clone(), reader);
        Self {
            engine,
            service,
            _threads: threads,
            _directory: directory,
        }
    }

    async fn create(&self, session: &str, count: usize) -> Result<v1::CreateTasksResponse, Status> {
        let request = v1::CreateTasksRequest {
            session_id: session.to_owned(),
            tasks: vec![
                TaskInput {
                    input: Some("in".into())
                };
                count
            ],
            request_id: None,
        };
        self.service
            .create_tasks(Request::new(request))
            .await
            .map(Response::into_inner)
    }

    async fn watch(&self, after_sequence: u64) -> ReceiverStream<Result<v1::TaskEnds, Status>> {
        let request = v1::WatchSessionRequest {
            session_id: "s".to_owned(),
            after_sequence,
        };
        self.service
            .watch_session(Request::new(request))
            .await
            .expect("watched")
            .into_inner()
    }

    /// A node whose services answer each task with its number; every third fails.
    fn agent(&self) {
        let (link, mut orders) = self.engine.open_link();
        let resources = Resources {
            cpu: 2,
            memory: 1 << 30,
            gpu: 0,
        };
        let hello = NodeHello {
            name: NodeName::new("n").expect("valid"),
            agent_instance: String::new(),
            hostname: String::new(),
            capacity: resources,
            allocatable: resources,
            arch: String::new(),
            os: String::new(),
            shims: vec![Shim::Host],
            labels: Default::default(),
            addresses: Vec::new(),
            id: String::new(),
            slots: None,
            ephemeral: false,
        };
        self.engine
            .tell(move |core, now, fx| core.node_connected(link, "test", hello, Vec::new(), now, fx));
        let engine = self.engine.clone();
        tokio::spawn(async move {
            while let Some(order) = orders.recv().await {
                if let Some(answer) = order.message.and_then(answer) {
                    say(&engine, link, answer);
                }
            }
        });
    }

    async fn close(&self) {
        self.engine
            .write(|core, now, fx| core.close_session("s", now, fx))
            .await
            .expect("closed");
    }
}

fn say(engine: &Engine, link: LinkId, message: from_agent::Message) {
    engine.tell(move |core, now, fx| core.node_message(link, message, now, fx));
}

fn answer(order: Message) -> Option<from_agent::Message> {
    match order {
        Message::Start(start) => Some(from_agent::Message::Executor(ExecutorUpdate {
            executor_id: start.executor_id,
            phase: ExecutorPhase::Bound.into(),
            ..ExecutorUpdate::default()
        })),
        Message::Tasks(batch) => {
            let done = |task: flame_rpc::node::TaskItem| TaskDone {
                executor_id: batch.executor_id.clone(),
                task_id: task.task_id,
                attempt: task.attempt,
                return_code: i32::from(task.task_id.is_multiple_of(3)),
                output: Some(task.task_id.to_string().into()),
                message: Some("third".to_owned()),
                ..TaskDone::default()
            };
            let results = batch.tasks.into_iter().map(done).collect();
            Some(from_agent::Message::Results(ResultBatch { sequence: 1, results }))
        }
        _ => None,
    }
}

/// Reads `count` ends and checks that none is missing, twice or out of order.
async fn read(
    stream: &mut ReceiverStream<Result<v1::TaskEnds, Status>>,
    after: u64,
    count: usize,
) -> Vec<TaskEnd> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let message = stream.next().await.expect("goes on").expect("no error");
        assert!(!message.ends.is_empty() && message.ends.len() <= MAX_ENDS);
        seen.extend(message.ends);
    }
    let sequences: Vec<_> = seen.iter().map(|end| end.sequence).collect();
    let expected: Vec<_> = (after + 1..=after + count as u64).collect();
    assert_eq!(sequences, expected);
    seen
}

#[tokio::test]
async fn every_end_comes_once_in_order_and_the_stream_ends_with_the_session() {
    for durable in [false, true] {
        let bed = Bed::new(durable).await;
        let mut live = bed.watch(0).await;
        let created = bed.create("s", 3_000).await.expect("created");
        assert_eq!((created.first_task_id, created.count), (1, 3_000));
        assert_eq!(bed.create("s", 2).await.expect("created").first_task_id, 3_001);
        bed.agent();
        let ends = read(&mut live, 0, 3_002).await;
        let mut tasks: Vec<_> = ends.iter().map(|end| end.task_id).collect();
        tasks.sort_unstable();
        assert_eq!(tasks, (1..=3_002).collect::<Vec<_>>());
        for end in &ends {
            assert_eq!(end.output.as_deref(), Some(end.task_id.to_string().as_bytes()));
            let failed = end.task_id.is_multiple_of(3);
            assert_eq!(end.state() == v1::TaskState::Failed, failed);
            assert_eq!(end.message.as_deref(), failed.then_some("third"));
            assert!(end.start_time.is_some() && end.completion_time >= end.creation_time);
        }
        // One that comes later gets the rest from the store, and then what is new.
        let mut late = bed.watch(1_500).await;
        read(&mut late, 1_500, 1_502).await;
        bed.create("s", 1).await.expect("created");
        read(&mut late, 3_002, 1).await;
        bed.close().await;
        assert!(late.next().await.is_none(), "no more will come");
        let mut closed = bed.watch(3_000).await;
        read(&mut closed, 3_000, 3).await;
        assert!(closed.next().await.is_none());
    }
}

#[tokio::test]
async fn cancelled_tasks_are_ends_too() {
    let bed = Bed::new(false).await;
    let mut live = bed.watch(0).await;
    bed.create("s", 5).await.expect("created");
    bed.close().await;
    let ends = read(&mut live, 0, 5).await;
    assert!(
        ends.iter()
            .all(|end| end.state() == v1::TaskState::from(TaskState::Cancelled))
    );
    assert!(live.next().await.is_none());
}

#[tokio::test]
async fn unknown_and_closed_sessions_are_refused_as_by_the_single_calls() {
    let bed = Bed::new(false).await;
    let code = |result: Result<v1::CreateTasksResponse, Status>| result.expect_err("refused").code();
    assert_eq!(code(bed.create("nope", 1).await), tonic::Code::NotFound);
    let request = v1::WatchSessionRequest {
        session_id: "nope".to_owned(),
        after_sequence: 0,
    };
    let refused = bed
        .service
        .watch_session(Request::new(request))
        .await
        .map(|_| ())
        .expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::NotFound);
    bed.close().await;
    assert_eq!(code(bed.create("s", 1).await), tonic::Code::InvalidArgument);
}
