//! A Frontend for tests: answers from fixed values, remembers what it was asked.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

pub(crate) use crate::values::*;
use flame_rpc::v1::{self, frontend_server::Frontend, frontend_server::FrontendServer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What the fake knows and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) applications: BTreeMap<String, v1::ApplicationSpec>,
    pub(crate) sessions: Vec<v1::Session>,
    pub(crate) tasks: Vec<v1::Task>,
    pub(crate) nodes: Vec<v1::Node>,
    pub(crate) executors: Vec<v1::Executor>,
    /// Updates that WatchTask sends.
    pub(crate) updates: Vec<v1::Task>,
    /// How often WatchTask breaks off before it works.
    pub(crate) breaks: u32,
    /// Whether WatchTask goes on after the last update.
    pub(crate) stays_open: bool,
    pub(crate) created_sessions: Vec<v1::CreateSessionRequest>,
    pub(crate) created_tasks: Vec<v1::TaskSpec>,
    pub(crate) closed: Vec<String>,
    pub(crate) deleted: Vec<String>,
}

/// The service around the state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake(pub(crate) Arc<Mutex<State>>);

type TaskStream = Pin<Box<dyn Stream<Item = Result<v1::Task, Status>> + Send>>;

fn refused(message: &str) -> Response<v1::Result> {
    Response::new(v1::Result {
        return_code: -1,
        message: Some(message.to_owned()),
    })
}

fn accepted() -> Response<v1::Result> {
    Response::new(v1::Result {
        return_code: 0,
        message: None,
    })
}

impl Fake {
    fn find_session(&self, id: &str) -> Result<Response<v1::Session>, Status> {
        let state = self.0.lock().unwrap();
        let named = |s: &&v1::Session| s.metadata.as_ref().is_some_and(|m| m.id == id);
        let found = state.sessions.iter().find(named).cloned();
        found
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("session {id} not found")))
    }
}

#[tonic::async_trait]
impl Frontend for Fake {
    type WatchTaskStream = TaskStream;
    type ListTaskStream = TaskStream;

    async fn register_application(
        &self,
        request: Request<v1::RegisterApplicationRequest>,
    ) -> Result<Response<v1::Result>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        if state.applications.contains_key(&request.name) {
            return Ok(refused(&format!(
                "application {} is registered already",
                request.name
            )));
        }
        state
            .applications
            .insert(request.name, request.application.unwrap());
        Ok(accepted())
    }

    async fn update_application(
        &self,
        request: Request<v1::UpdateApplicationRequest>,
    ) -> Result<Response<v1::Result>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        match state.applications.get_mut(&request.name) {
            Some(spec) => *spec = request.application.unwrap(),
            None => return Ok(refused("there is no such application")),
        }
        Ok(accepted())
    }

    async fn unregister_application(
        &self,
        request: Request<v1::UnregisterApplicationRequest>,
    ) -> Result<Response<v1::Result>, Status> {
        match self
            .0
            .lock()
            .unwrap()
            .applications
            .remove(&request.into_inner().name)
        {
            Some(_) => Ok(accepted()),
            None => Ok(refused("there is no such application")),
        }
    }

    async fn get_application(
        &self,
        request: Request<v1::GetApplicationRequest>,
    ) -> Result<Response<v1::Application>, Status> {
        let name = request.into_inner().name;
        let spec = self.0.lock().unwrap().applications.get(&name).cloned();
        let spec = spec.ok_or_else(|| Status::not_found(format!("application {name} not found")))?;
        Ok(Response::new(application(&name, spec)))
    }

    async fn list_application(
        &self,
        _: Request<v1::ListApplicationRequest>,
    ) -> Result<Response<v1::ApplicationList>, Status> {
        let state = self.0.lock().unwrap();
        let applications = state.applications.iter().rev();
        let applications = applications
            .map(|(name, spec)| application(name, spec.clone()))
            .collect();
        Ok(Response::new(v1::ApplicationList { applications }))
    }

    async fn list_executor(
        &self,
        _: Request<v1::ListExecutorRequest>,
    ) -> Result<Response<v1::ExecutorList>, Status> {
        Ok(Response::new(v1::ExecutorList {
            executors: self.0.lock().unwrap().executors.clone(),
        }))
    }

    async fn list_nodes(&self, _: Request<v1::ListNodesRequest>) -> Result<Response<v1::NodeList>, Status> {
        Ok(Response::new(v1::NodeList {
            nodes: self.0.lock().unwrap().nodes.clone(),
        }))
    }

    async fn get_node(
        &self,
        request: Request<v1::GetNodeRequest>,
    ) -> Result<Response<v1::GetNodeResponse>, Status> {
        let name = request.into_inner().name;
        let state = self.0.lock().unwrap();
        let named = |n: &&v1::Node| n.metadata.as_ref().is_some_and(|m| m.name == name);
        let node = state.nodes.iter().find(named).cloned();
        let node = node.ok_or_else(|| Status::not_found(format!("node {name} not found")))?;
        Ok(Response::new(v1::GetNodeResponse { node: Some(node) }))
    }

    async fn create_session(
        &self,
        request: Request<v1::CreateSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let request = request.into_inner();
        let spec = request.session.clone().unwrap();
        let mut state = self.0.lock().unwrap();
        if !state.applications.contains_key(&spec.application) {
            return Err(Status::not_found(format!(
                "application {} not found",
                spec.application
            )));
        }
        let created = session(&request.session_id, 1_700_000_000_000, spec);
        state.created_sessions.push(request);
        Ok(Response::new(created))
    }

    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        Err(Status::unimplemented("flmctl does not open sessions"))
    }

    async fn close_session(
        &self,
        request: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let id = request.into_inner().session_id;
        let found = self.find_session(&id)?;
        self.0.lock().unwrap().closed.push(id);
        Ok(found)
    }

    async fn delete_session(
        &self,
        request: Request<v1::DeleteSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let id = request.into_inner().session_id;
        let found = self.find_session(&id)?;
        self.0.lock().unwrap().deleted.push(id);
        Ok(found)
    }

    async fn get_session(
        &self,
        request: Request<v1::GetSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        self.find_session(&request.into_inner().session_id)
    }

    async fn list_session(
        &self,
        _: Request<v1::ListSessionRequest>,
    ) -> Result<Response<v1::SessionList>, Status> {
        Ok(Response::new(v1::SessionList {
            sessions: self.0.lock().unwrap().sessions.clone(),
        }))
    }

    async fn create_task(
        &self,
        request: Request<v1::CreateTaskRequest>,
    ) -> Result<Response<v1::Task>, Status> {
        let spec = request.into_inner().task.unwrap();
        let mut state = self.0.lock().unwrap();
        state.created_tasks.push(spec.clone());
        let created = task(
            &state.created_tasks.len().to_string(),
            v1::TaskState::Pending,
            spec,
        );
        Ok(Response::new(created))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<v1::Task>, Status> {
        let id = request.into_inner().task_id;
        let state = self.0.lock().unwrap();
        let named = |t: &&v1::Task| t.metadata.as_ref().is_some_and(|m| m.id == id);
        let found = state.tasks.iter().find(named).cloned();
        found
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("task {id} not found")))
    }

    /// Sends the updates; each becomes what GetTask answers from then on.
    async fn watch_task(
        &self,
        _: Request<v1::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let state = Arc::clone(&self.0);
        let (updates, stays_open) = {
            let mut locked = state.lock().unwrap();
            if locked.breaks > 0 {
                locked.breaks -= 1;
                let broken = Err(Status::unavailable("restarting"));
                return Ok(Response::new(Box::pin(tokio_stream::once(broken))));
            }
            (locked.updates.clone(), locked.stays_open)
        };
        let sent = tokio_stream::iter(updates);
        let stream = tokio_stream::StreamExt::map(sent, move |update: v1::Task| {
            state.lock().unwrap().tasks = vec![update.clone()];
            Ok(without_events(update))
        });
        if stays_open {
            let forever = tokio_stream::pending();
            return Ok(Response::new(Box::pin(tokio_stream::StreamExt::chain(
                stream, forever,
            ))));
        }
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_task(
        &self,
        request: Request<v1::ListTaskRequest>,
    ) -> Result<Response<Self::ListTaskStream>, Status> {
        self.find_session(&request.into_inner().session_id)?;
        let tasks: Vec<_> = self.0.lock().unwrap().tasks.iter().cloned().map(Ok).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(tasks))))
    }
}

fn without_events(mut task: v1::Task) -> v1::Task {
    if let Some(status) = &mut task.status {
        status.events.clear();
    }
    task
}

/// Serves `fake` on a free port until the test ends; returns its URL.
pub(crate) async fn serve(fake: Fake) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(FrontendServer::new(fake));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    url
}

/// A `flmctl` that knows nothing of this machine's configuration.
pub(crate) fn command(args: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_flmctl"));
    command
        .args(args)
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs flmctl against `url`.
pub(crate) async fn flmctl(url: &str, args: &[&str]) -> Output {
    command(args).env("FLAME_ENDPOINT", url).output().await.unwrap()
}

/// Runs flmctl against `url` with `input` on its standard input.
pub(crate) async fn flmctl_with(url: &str, args: &[&str], input: &[u8]) -> Output {
    let mut child = command(args)
        .env("FLAME_ENDPOINT", url)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).await.unwrap();
    drop(stdin);
    child.wait_with_output().await.unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(&stdout(output)).unwrap()
}
