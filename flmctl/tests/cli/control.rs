//! `cancel`, `close --cancel-running`, `explain` and `node` against a Control service.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use flame_rpc::v1;
use flame_rpc::v1::control_server::{Control, ControlServer};
use flame_rpc::v1::frontend_server::FrontendServer;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::support::{Fake, filled, flmctl, json, node, serve, session_of, stderr, stdout};

/// Remembers what it was asked; node `n1` runs two executors until it was looked at.
#[derive(Clone, Default)]
pub(crate) struct Asked {
    calls: Arc<Mutex<Vec<String>>>,
    fake: Fake,
    /// What the next calls of ReadLogs answer; what it always does if there is nothing.
    pub(crate) logs: Arc<Mutex<VecDeque<Log>>>,
    /// What those calls asked for.
    pub(crate) log_requests: Arc<Mutex<Vec<v1::ReadLogsRequest>>>,
}

/// An answer to ReadLogs.
pub(crate) type Log = Result<Vec<Result<v1::LogLines, Status>>, Status>;

impl Asked {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    pub(crate) fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn cordoned(&self, request: v1::CordonNodeRequest, what: &str) -> Result<Response<v1::Node>, Status> {
        self.note(format!("{what} {} {:?}", request.name, request.reason));
        if request.name == "x" {
            return Err(Status::not_found("node x not found"));
        }
        Ok(Response::new(node(&request.name)))
    }
}

#[tonic::async_trait]
impl Control for Asked {
    type ReadLogsStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::LogLines, Status>>>;

    async fn read_logs(
        &self,
        request: Request<v1::ReadLogsRequest>,
    ) -> Result<Response<Self::ReadLogsStream>, Status> {
        let request = request.into_inner();
        self.log_requests.lock().unwrap().push(request.clone());
        if let Some(log) = self.logs.lock().unwrap().pop_front() {
            return Ok(Response::new(tokio_stream::iter(log?)));
        }
        self.note(format!(
            "{:?} {:?} {:?} {:?} {}",
            request.session_id, request.task_id, request.node, request.lines, request.follow
        ));
        let messages = match (request.session_id.as_deref(), request.node.as_deref()) {
            (Some("x"), _) => return Err(Status::not_found("session x not found")),
            (Some("empty"), _) => vec![noted("nothing_kept", "", "no node has lines of the session")],
            (Some("away"), _) => vec![noted("node_away", "n2", "node n2 is not connected")],
            (None, Some(node)) => vec![noted("node_failed", node, "node n1: its log is elsewhere")],
            _ => vec![
                noted("node_away", "n2", "node n2 is not connected"),
                v1::LogLines {
                    lines: (1..=3).map(line).collect(),
                    caught_up: true,
                    ..v1::LogLines::default()
                },
            ],
        };
        let messages: Vec<_> = messages.into_iter().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(messages)))
    }

    async fn cancel_task(
        &self,
        request: Request<v1::CancelTaskRequest>,
    ) -> Result<Response<v1::CancelTaskResponse>, Status> {
        let request = request.into_inner();
        self.note(format!(
            "{} {} {:?}",
            request.session_id, request.task_id, request.reason
        ));
        if request.task_id == "9" {
            return Err(Status::failed_precondition(
                "task 9 of session newer has succeeded already",
            ));
        }
        let changed = request.task_id != "1";
        Ok(Response::new(v1::CancelTaskResponse { changed }))
    }

    async fn cancel_tasks(
        &self,
        request: Request<v1::CancelTasksRequest>,
    ) -> Result<Response<v1::CancelTasksResponse>, Status> {
        self.note(format!("all of {}", request.into_inner().session_id));
        Ok(Response::new(v1::CancelTasksResponse { cancelled: 7 }))
    }

    async fn cancel_session(
        &self,
        request: Request<v1::CancelSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let id = request.into_inner().session_id;
        self.note(format!("session {id}"));
        Ok(Response::new(session_of(&id, "flmping", 0)))
    }

    async fn explain_session(
        &self,
        request: Request<v1::ExplainSessionRequest>,
    ) -> Result<Response<v1::ExplainSessionResponse>, Status> {
        let reason = v1::Reason {
            code: "no_nodes".into(),
            text: "there are no nodes; start a node agent".into(),
            ..v1::Reason::default()
        };
        Ok(Response::new(v1::ExplainSessionResponse {
            session_id: request.into_inner().session_id,
            pending: 3,
            wanted: 3,
            reasons: vec![reason],
            ..v1::ExplainSessionResponse::default()
        }))
    }

    async fn cordon_node(
        &self,
        request: Request<v1::CordonNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        self.cordoned(request.into_inner(), "cordon")
    }

    async fn drain_node(
        &self,
        request: Request<v1::CordonNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let answer = self.cordoned(request.into_inner(), "drain");
        // By the time that somebody looks, nothing runs there any more.
        for node in &mut self.fake.0.lock().unwrap().nodes {
            node.status.get_or_insert_default().executors = 0;
        }
        answer
    }

    async fn uncordon_node(&self, request: Request<v1::NodeRequest>) -> Result<Response<v1::Empty>, Status> {
        self.note(format!("uncordon {}", request.into_inner().name));
        Ok(Response::new(v1::Empty {}))
    }

    async fn forget_node(&self, request: Request<v1::NodeRequest>) -> Result<Response<v1::Empty>, Status> {
        let name = request.into_inner().name;
        self.note(format!("forget {name}"));
        Err(Status::failed_precondition(format!(
            "node {name} is connected; stop its agent first"
        )))
    }
}

pub(crate) fn line(number: i64) -> v1::LogLine {
    v1::LogLine {
        time_us: 1_700_000_000_000_000 + number,
        node: "n1".to_owned(),
        executor: "e1-1".to_owned(),
        output: v1::LogOutput::Out.into(),
        text: format!("line {number}").into(),
        continued: false,
    }
}

fn noted(code: &str, node: &str, text: &str) -> v1::LogLines {
    let note = v1::LogNote {
        code: code.to_owned(),
        node: node.to_owned(),
        text: text.to_owned(),
    };
    v1::LogLines {
        notes: vec![note],
        ..v1::LogLines::default()
    }
}

/// A session manager that has both services; its URL.
pub(crate) async fn manager() -> (Asked, String) {
    let asked = Asked {
        fake: filled(),
        ..Asked::default()
    };
    for node in &mut asked.fake.0.lock().unwrap().nodes {
        node.status.get_or_insert_default().executors = 2;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(FrontendServer::new(asked.fake.clone()))
        .add_service(ControlServer::new(asked.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (asked, url)
}

pub(crate) async fn run(url: &str, line: &str) -> std::process::Output {
    let args: Vec<&str> = line.split_whitespace().collect();
    flmctl(url, &args).await
}

#[tokio::test]
async fn tasks_are_cancelled_one_by_one_or_all() {
    let (asked, url) = manager().await;
    let output = run(&url, "cancel -s newer -t 1 --task 10 --reason typo").await;
    assert_eq!(
        stdout(&output),
        "task 1 of session newer cancelled\ntask 10 of session newer cancelled\n"
    );
    let output = run(&url, "cancel -s newer").await;
    assert_eq!(stdout(&output), "7 tasks of session newer cancelled\n");
    assert_eq!(
        asked.taken(),
        [
            "newer 1 Some(\"typo\")",
            "newer 10 Some(\"typo\")",
            "all of newer"
        ]
    );
    let one = json(&run(&url, "cancel -s newer -t 1 -t 10 -o json").await);
    assert_eq!(
        one,
        serde_json::json!({"session_id": "newer", "tasks": ["1", "10"], "cancelled": 1})
    );
    let all = json(&run(&url, "cancel -s newer -o json").await);
    assert_eq!(
        all,
        serde_json::json!({"session_id": "newer", "tasks": null, "cancelled": 7})
    );
}

#[tokio::test]
async fn a_task_that_has_ended_is_an_error_and_what_was_done_is_said() {
    let (_, url) = manager().await;
    let output = run(&url, "cancel -s newer -t 1 -t 9 -t 10").await;
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(1), &b"task 1 of session newer cancelled\n"[..])
    );
    assert!(
        stderr(&output).contains("has succeeded already"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn a_session_is_closed_with_its_running_tasks() {
    let (asked, url) = manager().await;
    let output = run(&url, "close --cancel-running session newer older").await;
    assert_eq!(stdout(&output), "session newer closed\nsession older closed\n");
    assert_eq!(
        stdout(&run(&url, "close -s newer --cancel-running").await),
        "session newer closed\n"
    );
    assert_eq!(asked.taken(), ["session newer", "session older", "session newer"]);
    assert!(asked.fake.0.lock().unwrap().closed.is_empty());
}

#[tokio::test]
async fn a_session_is_explained() {
    let (_, url) = manager().await;
    let page = stdout(&run(&url, "explain -s newer").await);
    assert!(
        page.contains("Why:        there are no nodes; start a node agent\n"),
        "{page}"
    );
    let value = json(&run(&url, "explain -s newer -o json").await);
    assert_eq!(
        (&value["reasons"][0]["code"], &value["pending"]),
        (&"no_nodes".into(), &3.into())
    );
}

#[tokio::test]
async fn nodes_go_out_of_service_and_come_back() {
    let (asked, url) = manager().await;
    let output = run(&url, "cordon n1 n2 --reason kernel").await;
    assert_eq!(stdout(&output), "node n1 cordoned\nnode n2 cordoned\n");
    let output = run(&url, "drain n1 --wait --timeout 20").await;
    assert_eq!(stdout(&output), "node n1 draining\nnode n1 drained\n");
    stdout(&run(&url, "uncordon n1").await);
    let calls = [
        "cordon n1 Some(\"kernel\")",
        "cordon n2 Some(\"kernel\")",
        "drain n1 None",
        "uncordon n1",
    ];
    assert_eq!(asked.taken(), calls);
    let output = run(&url, "forget n1").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("stop its agent first"),
        "{}",
        stderr(&output)
    );
    let output = run(&url, "cordon x").await;
    assert!(
        stderr(&output).contains("flmctl list nodes"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn a_session_manager_without_the_service_is_named_as_the_reason() {
    let url = serve(filled()).await;
    let output = run(&url, "explain -s newer").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("a session manager of this version"),
        "{}",
        stderr(&output)
    );
}
