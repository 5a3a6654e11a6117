//! Ending tasks early, with a session manager that offers it and with one that does not.
#![allow(clippy::expect_used, clippy::panic)] // tests may, their helpers too

mod fake;

use std::sync::{Arc, Mutex};

use fake::Fake;
use flame_rs::v1::control_server::Control;
use flame_rs::{Client, ClientConfig, SessionOptions, v1};
use tonic::{Code, Request, Response, Status};

/// Remembers calls; the first answer to each kind of call is lost.
#[derive(Clone, Default)]
struct Remembering(Arc<Mutex<Vec<String>>>);

impl Remembering {
    fn called(&self, call: String) -> Result<(), Status> {
        let mut calls = self.0.lock().expect("lock");
        let first = !calls.contains(&call);
        calls.push(call);
        if first {
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Control for Remembering {
    async fn cancel_task(
        &self,
        request: Request<v1::CancelTaskRequest>,
    ) -> Result<Response<v1::CancelTaskResponse>, Status> {
        let request = request.into_inner();
        if request.task_id == "7" {
            return Err(Status::failed_precondition("task 7 has succeeded already"));
        }
        self.called(format!("task {} {:?}", request.task_id, request.reason))?;
        Ok(Response::new(v1::CancelTaskResponse { changed: true }))
    }

    async fn cancel_tasks(
        &self,
        _: Request<v1::CancelTasksRequest>,
    ) -> Result<Response<v1::CancelTasksResponse>, Status> {
        self.called("tasks".to_owned())?;
        Ok(Response::new(v1::CancelTasksResponse { cancelled: 3 }))
    }

    async fn cancel_session(
        &self,
        request: Request<v1::CancelSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        self.called(format!("session {}", request.into_inner().session_id))?;
        Ok(Response::new(v1::Session::default()))
    }

    async fn explain_session(
        &self,
        request: Request<v1::ExplainSessionRequest>,
    ) -> Result<Response<v1::ExplainSessionResponse>, Status> {
        self.called("explain".to_owned())?;
        Ok(Response::new(v1::ExplainSessionResponse {
            session_id: request.into_inner().session_id,
            ..v1::ExplainSessionResponse::default()
        }))
    }

    async fn cordon_node(&self, _: Request<v1::CordonNodeRequest>) -> Result<Response<v1::Node>, Status> {
        Err(Status::internal("clients do not ask for that"))
    }

    async fn drain_node(&self, _: Request<v1::CordonNodeRequest>) -> Result<Response<v1::Node>, Status> {
        Err(Status::internal("clients do not ask for that"))
    }

    async fn uncordon_node(&self, _: Request<v1::NodeRequest>) -> Result<Response<v1::Empty>, Status> {
        Err(Status::internal("clients do not ask for that"))
    }

    async fn forget_node(&self, _: Request<v1::NodeRequest>) -> Result<Response<v1::Empty>, Status> {
        Err(Status::internal("clients do not ask for that"))
    }

    type ReadLogsStream = futures::stream::Empty<Result<v1::LogLines, Status>>;

    async fn read_logs(
        &self,
        _: Request<v1::ReadLogsRequest>,
    ) -> Result<Response<Self::ReadLogsStream>, Status> {
        Err(Status::internal("clients do not ask for that"))
    }
}

async fn connect(fake: &Fake) -> Client {
    let config = ClientConfig {
        endpoint: fake.url().parse().expect("valid"),
        ..ClientConfig::default()
    };
    Client::connect(&config).await.expect("it listens")
}

#[tokio::test]
async fn calls_whose_answer_was_lost_are_repeated() {
    let control = Remembering::default();
    let fake = Fake::with_control(control.clone());
    let client = connect(&fake).await;
    let session = client.create_session(SessionOptions::new("echo").id("s")).await;
    let session = session.expect("created");
    assert!(session.cancel_task("1").await.expect("cancelled"));
    assert_eq!(session.cancel_tasks().await.expect("cancelled"), 3);
    session.cancel().await.expect("closed");
    let explained = client.explain_session("s").await.expect("explained");
    assert_eq!(explained.session_id, "s");
    let calls = control.0.lock().expect("lock").clone();
    let twice = ["task 1 None", "tasks", "session s", "explain"];
    assert_eq!(calls, twice.map(|call| [call, call]).concat());
}

#[tokio::test]
async fn a_task_that_has_ended_is_an_error_at_once() {
    let fake = Fake::with_control(Remembering::default());
    let client = connect(&fake).await;
    let refused = client
        .cancel_task("s", "7", Some("typo"))
        .await
        .expect_err("ended");
    assert_eq!(refused.code(), Some(Code::FailedPrecondition));
}

#[tokio::test]
async fn a_session_manager_that_cannot_says_so() {
    let fake = Fake::new();
    let client = connect(&fake).await;
    let refused = client.cancel_tasks("s", None).await.expect_err("unimplemented");
    assert_eq!(refused.code(), Some(Code::Unimplemented));
}
