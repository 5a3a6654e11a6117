//! The Frontend on real engines and stores: answers do not depend on the engine, what a client asked
//! for is done even if it went away, and no agent holds up a client.

use std::path::Path;
use std::time::Duration;

use flame_core::config::ClusterConfig;
use flame_rpc::node::node_link_client::NodeLinkClient;
use flame_rpc::node::node_link_server::NodeLinkServer;
use flame_rpc::node::{FromAgent, Hello, from_agent, to_agent};
use flame_rpc::v1::{ApplicationSpec, SessionSpec};
use tonic::Code;

use super::*;
use crate::engine::EngineRun;
use crate::nodelink::NodeLinkService;
use crate::server::start_engine;

async fn service(storage: &str) -> (FrontendService, EngineRun) {
    let text = format!("cluster: {{name: t, endpoint: \"http://127.0.0.1:1\", storage: \"{storage}\"}}");
    let config = ClusterConfig::parse(&text).expect("valid");
    let (engine, run, readers) = start_engine(&config).expect("starts");
    (FrontendService::new(engine, readers.tasks), run)
}

fn sqlite(directory: &Path) -> String {
    format!("sqlite://{}", directory.join("flame.db").display())
}

/// Requests of a client, and what became of each in words.
struct Client(FrontendService, Vec<String>);

impl Client {
    fn note<T>(&mut self, what: &str, answer: Result<T, Status>) -> Option<T> {
        let (said, answer) = match answer {
            Ok(answer) => ("ok".to_owned(), Some(answer)),
            Err(status) => (format!("{:?}: {}", status.code(), status.message()), None),
        };
        self.1.push(format!("{what}: {said}"));
        answer
    }

    async fn register(&mut self, spec: ApplicationSpec) {
        let request = v1::RegisterApplicationRequest {
            name: "app".to_owned(),
            application: Some(spec),
        };
        let answer = self.0.register_application(Request::new(request)).await;
        if let Some(answer) = self.note("register", answer) {
            self.1.push(format!("{:?}", answer.into_inner()));
        }
    }

    async fn create_session(&mut self, id: &str, application: &str) {
        let spec = SessionSpec {
            application: application.to_owned(),
            ..SessionSpec::default()
        };
        let request = v1::CreateSessionRequest {
            session_id: id.to_owned(),
            session: Some(spec),
        };
        let answer = self.0.create_session(Request::new(request)).await;
        self.note(&format!("create {id}"), answer);
    }

    async fn create_task(&mut self, session: &str, input: usize) {
        let answer = self.0.create_task(task_request(session, input)).await;
        self.note(&format!("task of {session}"), answer);
    }

    async fn get_task(&mut self, session: &str, task: &str) {
        let request = v1::GetTaskRequest {
            session_id: session.to_owned(),
            task_id: task.to_owned(),
        };
        let answer = self.0.get_task(Request::new(request)).await;
        if let Some(answer) = self.note(&format!("get {session}/{task}"), answer) {
            let status = answer.into_inner().status.expect("set");
            self.1.push(format!("{:?}", status.state()));
        }
    }

    async fn list_tasks(&mut self, session: &str) {
        let request = v1::ListTaskRequest {
            session_id: session.to_owned(),
        };
        let answer = self.0.list_task(Request::new(request)).await;
        if let Some(answer) = self.note(&format!("list {session}"), answer) {
            let count = answer.into_inner().count().await;
            self.1.push(format!("{count} tasks"));
        }
    }

    async fn close(&mut self, session: &str) {
        let request = v1::CloseSessionRequest {
            session_id: session.to_owned(),
        };
        let answer = self.0.close_session(Request::new(request)).await;
        self.note(&format!("close {session}"), answer);
    }

    async fn delete(&mut self, session: &str) {
        let request = v1::DeleteSessionRequest {
            session_id: session.to_owned(),
        };
        let answer = self.0.delete_session(Request::new(request)).await;
        self.note(&format!("delete {session}"), answer);
    }

    async fn unregister(&mut self) {
        let request = v1::UnregisterApplicationRequest {
            name: "app".to_owned(),
        };
        let answer = self.0.unregister_application(Request::new(request)).await;
        if let Some(answer) = self.note("unregister", answer) {
            self.1.push(format!("{:?}", answer.into_inner()));
        }
    }
}

/// A task with so many bytes of input.
fn task_request(session: &str, input: usize) -> Request<v1::CreateTaskRequest> {
    Request::new(v1::CreateTaskRequest {
        task: Some(v1::TaskSpec {
            session_id: session.to_owned(),
            input: Some(vec![b'x'; input].into()),
            output: None,
        }),
    })
}

/// Different storage engines gave different errors for the same request.
#[tokio::test]
async fn defect_27_every_engine_gives_the_same_answers() {
    /// More than is kept at hand of tasks that have ended: after it they are in the store only.
    const LARGE: usize = 17 << 20;
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut told = Vec::new();
    for storage in ["none".to_owned(), sqlite(directory.path())] {
        let (service, _run) = service(&storage).await;
        let mut client = Client(service, Vec::new());
        let relative = ApplicationSpec {
            working_directory: Some("here".to_owned()),
            ..ApplicationSpec::default()
        };
        client.register(relative).await;
        client.create_session("s", "app").await;
        client.register(ApplicationSpec::default()).await;
        client.register(ApplicationSpec::default()).await;
        for id in ["s", "s", "../s"] {
            client.create_session(id, "app").await;
        }
        client.create_task("s", 2).await;
        client.create_task("s", LARGE).await;
        client.unregister().await;
        client.delete("s").await;
        // Ended tasks, which are read from the store, and those that never were.
        client.close("s").await;
        client.close("s").await;
        client.create_task("s", 2).await;
        for (session, task) in [("s", "1"), ("s", "3"), ("s", "x"), ("other", "1")] {
            client.get_task(session, task).await;
        }
        for session in ["s", "other"] {
            client.list_tasks(session).await;
            client.delete(session).await;
            client.delete(session).await;
            client.get_task(session, "1").await;
            client.list_tasks(session).await;
            client.close(session).await;
        }
        client.unregister().await;
        client.unregister().await;
        told.push(client.1);
    }
    let errors = told[0].iter().filter(|line| !line.ends_with(": ok")).count();
    assert!(errors > 20, "{:#?}", told[0]);
    assert_eq!(told[0], told[1]);
}

/// A task that had been taken from the queue was lost when its caller went away.
#[tokio::test]
async fn defect_26_a_task_is_kept_although_its_caller_went_away() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (service_before, run) = service(&sqlite(directory.path())).await;
    let mut client = Client(service_before, Vec::new());
    client.register(ApplicationSpec::default()).await;
    client.create_session("s", "app").await;
    let mut call = client.0.create_task(task_request("s", 2));
    assert!(futures::poll!(&mut call).is_pending(), "it has been asked for");
    drop(call);
    run.stop().await;
    drop(client);
    let (service_after, _run) = service(&sqlite(directory.path())).await;
    let mut client = Client(service_after, Vec::new());
    client.get_task("s", "1").await;
    assert_eq!(client.1, ["get s/1: ok", "Pending"]);
    let missing = v1::GetTaskRequest {
        session_id: "s".to_owned(),
        task_id: "2".to_owned(),
    };
    let missing = client
        .0
        .get_task(Request::new(missing))
        .await
        .expect_err("only one");
    assert_eq!(missing.code(), Code::NotFound);
}

/// With more than 256 executors on a node, a bounded queue to its agent was full before anybody read
/// it, and every call of every client waited for ever.
// The clock of the test must not be held up with the engine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_18_hundreds_of_executors_on_a_node_hold_up_nobody() {
    const EXECUTORS: usize = 600;
    let text = format!(
        "cluster: {{name: t, endpoint: \"http://127.0.0.1:1\", storage: none, \
         limits: {{max_executors: {EXECUTORS}}}}}"
    );
    let config = ClusterConfig::parse(&text).expect("valid");
    let (engine, _run, readers) = start_engine(&config).expect("starts");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let links = NodeLinkServer::new(NodeLinkService::new(engine.clone(), "t".to_owned()));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(links)
            .serve_with_incoming(incoming),
    );
    // An agent that says hello, and does not read for a while.
    let hello = Hello {
        node: "n".to_owned(),
        capacity: Some(v1::ResourceRequirement {
            cpu: EXECUTORS as u64,
            memory: 1 << 50,
            gpu: 0,
        }),
        shims: vec![v1::Shim::Host.into()],
        ..Hello::default()
    };
    let hello = FromAgent {
        message: Some(from_agent::Message::Hello(hello)),
    };
    let mut agent = NodeLinkClient::connect(url).await.expect("connects");
    let says = stream::once(async { hello }).chain(stream::pending());
    let mut orders = agent.link(says).await.expect("linked").into_inner();

    let mut client = Client(FrontendService::new(engine.clone(), readers.tasks), Vec::new());
    // Each order is so large that they do not all fit into what a connection buffers.
    let large = ApplicationSpec {
        arguments: vec!["x".repeat(4096)],
        ..ApplicationSpec::default()
    };
    client.register(large).await;
    client.create_session("s", "app").await;
    let calls = async {
        let created =
            engine.write(|core, now, fx| core.create_tasks("s", vec![None; EXECUTORS - 1], now, fx));
        created.await.expect("created");
        client.create_task("s", 2).await;
        engine.summary().await.expect("answers")
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), calls).await;
    let summary = in_time.expect("no call waits for the agent");
    assert_eq!((summary.executors, summary.pending), (EXECUTORS, EXECUTORS));
    let mut started = 0;
    while started < EXECUTORS {
        let order = orders.message().await.expect("no error").expect("no end");
        started += usize::from(matches!(order.message, Some(to_agent::Message::Start(_))));
    }
}
