//! A session manager for tests: its applications are named after the way their tasks end.
//!
//! `echo`: the output is the input. `fails`: failed, the reason only in GetTask. `fails-loudly`:
//! failed, the reason in the watch. `cancelled`. `early`: the first watches end without a word.
//! `never`: stays pending until [`Fake::finish_all`].
#![allow(dead_code, unreachable_pub, clippy::expect_used)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flame_rs::v1;
use flame_rs::v1::control_server::{Control, ControlServer};
use flame_rs::v1::frontend_batch_server::{FrontendBatch, FrontendBatchServer};
use flame_rs::v1::frontend_server::{Frontend, FrontendServer};
use futures::Stream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// How often a watch of an `early` task ends without a word.
pub const EARLY_ENDS: usize = 2;

/// The reason of every failure.
pub const REASON: &str = "no more paper in tray 2";

#[derive(Default)]
pub struct State {
    pub applications: HashMap<String, v1::ApplicationSpec>,
    /// Application and whether it is open, by session.
    pub sessions: HashMap<String, (String, bool)>,
    pub tasks: HashMap<(String, String), v1::TaskSpec>,
    pub watches: usize,
    /// Answers to CreateSession, and to the calls that read, that are lost from now on.
    pub losing: usize,
    /// Calls of CreateSession that are refused for the moment, from now on.
    pub busy: usize,
}

impl State {
    /// Fails in place of an answer that is to be lost.
    fn lose(&mut self) -> Result<(), Status> {
        match self.losing.checked_sub(1) {
            None => Ok(()),
            Some(left) => {
                self.losing = left;
                Err(Status::unavailable("the answer is lost"))
            }
        }
    }
}

/// The manager; [`Fake::stop`] cuts all connections, [`Fake::start`] listens again.
pub struct Fake {
    pub state: Arc<Mutex<State>>,
    finished: watch::Sender<bool>,
    address: SocketAddr,
    runtime: Option<Runtime>,
    batches: Routes,
}

impl Fake {
    pub fn new() -> Self {
        Self::with(Routes::default())
    }

    /// One that offers batches, too.
    pub fn with_batches(batches: impl FrontendBatch) -> Self {
        Self::with(Routes::new(FrontendBatchServer::new(batches)))
    }

    /// One that offers to end things early, too.
    pub fn with_control(control: impl Control) -> Self {
        Self::with(Routes::new(ControlServer::new(control)))
    }

    fn with(batches: Routes) -> Self {
        let mut fake = Self {
            state: Arc::default(),
            finished: watch::channel(false).0,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            runtime: None,
            batches,
        };
        for name in ["echo", "fails", "fails-loudly", "cancelled", "early", "never"] {
            let mut state = fake.state.lock().expect("lock");
            state
                .applications
                .insert(name.to_owned(), v1::ApplicationSpec::default());
        }
        fake.start();
        fake
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn start(&mut self) {
        let runtime = Runtime::new().expect("runtime");
        let listener = runtime
            .block_on_free(tokio::net::TcpListener::bind(self.address))
            .expect("listen");
        self.address = listener.local_addr().expect("address");
        let handler = Handler {
            state: self.state.clone(),
            finished: self.finished.subscribe(),
        };
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_routes(self.batches.clone().add_service(FrontendServer::new(handler)))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        self.runtime = Some(runtime);
    }

    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits until the sockets are closed; a runtime must not be waited for inside another.
            let stopped = std::thread::spawn(|| runtime.shutdown_timeout(Duration::from_secs(10)));
            stopped.join().expect("stopped");
        }
    }

    /// Tasks of `never` succeed from now on.
    pub fn finish_all(&self) {
        self.finished.send_replace(true);
    }

    pub fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("lock")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `block_on` that may be called from within another runtime.
trait BlockOnFree {
    fn block_on_free<F: Future + Send>(&self, future: F) -> F::Output
    where
        F::Output: Send;
}

impl BlockOnFree for Runtime {
    fn block_on_free<F: Future + Send>(&self, future: F) -> F::Output
    where
        F::Output: Send,
    {
        std::thread::scope(|scope| scope.spawn(|| self.block_on(future)).join().expect("joined"))
    }
}

struct Handler {
    state: Arc<Mutex<State>>,
    finished: watch::Receiver<bool>,
}

type Answer<T> = Result<Response<T>, Status>;
type Tasks = Pin<Box<dyn Stream<Item = Result<v1::Task, Status>> + Send>>;

fn named(id: &str) -> Option<v1::Metadata> {
    Some(v1::Metadata {
        id: id.to_owned(),
        name: id.to_owned(),
    })
}

fn session(id: &str, application: &str, open: bool) -> v1::Session {
    let state = if open {
        v1::SessionState::Open
    } else {
        v1::SessionState::Closed
    };
    v1::Session {
        metadata: named(id),
        spec: Some(v1::SessionSpec {
            application: application.to_owned(),
            ..Default::default()
        }),
        status: Some(v1::SessionStatus {
            state: state.into(),
            ..Default::default()
        }),
    }
}

impl Handler {
    /// The task as it ends in `application`.
    fn ended(application: &str, id: &str, mut spec: v1::TaskSpec, watched: bool) -> v1::Task {
        let state = match application {
            "fails" | "fails-loudly" => v1::TaskState::Failed,
            "cancelled" => v1::TaskState::Cancelled,
            _ => v1::TaskState::Succeed,
        };
        let tells = application == "fails-loudly" || (application == "fails" && !watched);
        let events = tells.then(|| v1::Event {
            code: 3,
            message: Some(REASON.to_owned()),
            creation_time: 1,
        });
        spec.output = (state == v1::TaskState::Succeed).then(|| spec.input.clone().unwrap_or_default());
        v1::Task {
            metadata: named(id),
            spec: Some(spec),
            status: Some(v1::TaskStatus {
                state: state.into(),
                events: events.into_iter().collect(),
                ..Default::default()
            }),
        }
    }

    fn find(&self, session: &str, task: &str) -> Option<(String, v1::TaskSpec)> {
        let state = self.state.lock().expect("lock");
        let spec = state.tasks.get(&(session.to_owned(), task.to_owned()))?.clone();
        Some((state.sessions.get(session)?.0.clone(), spec))
    }
}

#[tonic::async_trait]
impl Frontend for Handler {
    type WatchTaskStream = Tasks;
    type ListTaskStream = Tasks;

    async fn register_application(
        &self,
        request: Request<v1::RegisterApplicationRequest>,
    ) -> Answer<v1::Result> {
        let request = request.into_inner();
        let mut state = self.state.lock().expect("lock");
        let message = match state.applications.entry(request.name) {
            Entry::Occupied(taken) => Some(format!("application {} exists", taken.key())),
            Entry::Vacant(free) => {
                free.insert(request.application.unwrap_or_default());
                None
            }
        };
        Ok(Response::new(v1::Result {
            return_code: if message.is_some() { -1 } else { 0 },
            message,
        }))
    }

    async fn unregister_application(
        &self,
        request: Request<v1::UnregisterApplicationRequest>,
    ) -> Answer<v1::Result> {
        let removed = self
            .state
            .lock()
            .expect("lock")
            .applications
            .remove(&request.into_inner().name);
        Ok(Response::new(v1::Result {
            return_code: if removed.is_some() { 0 } else { -1 },
            message: removed.is_none().then(|| "there is none".to_owned()),
        }))
    }

    async fn update_application(&self, request: Request<v1::UpdateApplicationRequest>) -> Answer<v1::Result> {
        let request = request.into_inner();
        let mut state = self.state.lock().expect("lock");
        state
            .applications
            .insert(request.name, request.application.unwrap_or_default());
        Ok(Response::new(v1::Result::default()))
    }

    async fn get_application(&self, request: Request<v1::GetApplicationRequest>) -> Answer<v1::Application> {
        let name = request.into_inner().name;
        let state = self.state.lock().expect("lock");
        let spec = state
            .applications
            .get(&name)
            .ok_or_else(|| Status::not_found("no application"))?;
        Ok(Response::new(v1::Application {
            metadata: named(&name),
            spec: Some(spec.clone()),
            status: None,
        }))
    }

    async fn list_application(
        &self,
        _request: Request<v1::ListApplicationRequest>,
    ) -> Answer<v1::ApplicationList> {
        Err(Status::unimplemented("not needed by these tests"))
    }

    async fn list_executor(&self, _request: Request<v1::ListExecutorRequest>) -> Answer<v1::ExecutorList> {
        Err(Status::unimplemented("not needed by these tests"))
    }

    async fn list_nodes(&self, _request: Request<v1::ListNodesRequest>) -> Answer<v1::NodeList> {
        Err(Status::unimplemented("not needed by these tests"))
    }

    async fn get_node(&self, _request: Request<v1::GetNodeRequest>) -> Answer<v1::GetNodeResponse> {
        Err(Status::not_found("no node"))
    }

    async fn create_session(&self, request: Request<v1::CreateSessionRequest>) -> Answer<v1::Session> {
        let request = request.into_inner();
        let application = request.session.unwrap_or_default().application;
        let mut state = self.state.lock().expect("lock");
        if let Some(left) = state.busy.checked_sub(1) {
            state.busy = left;
            return Err(Status::unavailable("busy"));
        }
        if !state.applications.contains_key(&application) {
            return Err(Status::not_found(format!("application {application} not found")));
        }
        if state.sessions.contains_key(&request.session_id) {
            return Err(Status::already_exists("session exists"));
        }
        state
            .sessions
            .insert(request.session_id.clone(), (application.clone(), true));
        state.lose()?;
        Ok(Response::new(session(&request.session_id, &application, true)))
    }

    async fn open_session(&self, request: Request<v1::OpenSessionRequest>) -> Answer<v1::Session> {
        let request = request.into_inner();
        let id = request.session_id;
        let state = self.state.lock().expect("lock");
        match state.sessions.get(&id) {
            Some((application, true))
                if request
                    .session
                    .as_ref()
                    .is_some_and(|spec| spec.application != *application) =>
            {
                Err(Status::invalid_argument(format!("session {id} spec mismatch")))
            }
            Some((application, true)) => Ok(Response::new(session(&id, application, true))),
            Some(_) => Err(Status::invalid_argument(format!("session {id} is not open"))),
            None => Err(Status::not_found(format!("session {id} not found"))),
        }
    }

    async fn close_session(&self, request: Request<v1::CloseSessionRequest>) -> Answer<v1::Session> {
        let id = request.into_inner().session_id;
        match self.state.lock().expect("lock").sessions.get_mut(&id) {
            Some((application, open)) => {
                *open = false;
                Ok(Response::new(session(&id, application, false)))
            }
            None => Err(Status::not_found(format!("session {id} not found"))),
        }
    }

    async fn delete_session(&self, _request: Request<v1::DeleteSessionRequest>) -> Answer<v1::Session> {
        Err(Status::unimplemented("not needed by these tests"))
    }

    async fn get_session(&self, request: Request<v1::GetSessionRequest>) -> Answer<v1::Session> {
        let id = request.into_inner().session_id;
        let mut state = self.state.lock().expect("lock");
        state.lose()?;
        match state.sessions.get(&id) {
            Some((application, open)) => Ok(Response::new(session(&id, application, *open))),
            None => Err(Status::not_found(format!("session {id} not found"))),
        }
    }

    async fn list_session(&self, _request: Request<v1::ListSessionRequest>) -> Answer<v1::SessionList> {
        Err(Status::unimplemented("not needed by these tests"))
    }

    async fn create_task(&self, request: Request<v1::CreateTaskRequest>) -> Answer<v1::Task> {
        let spec = request.into_inner().task.unwrap_or_default();
        let mut state = self.state.lock().expect("lock");
        let id = (state.tasks.len() + 1).to_string();
        state
            .tasks
            .insert((spec.session_id.clone(), id.clone()), spec.clone());
        Ok(Response::new(v1::Task {
            metadata: named(&id),
            spec: Some(spec),
            status: Some(v1::TaskStatus::default()),
        }))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Answer<v1::Task> {
        let request = request.into_inner();
        let (application, spec) = self
            .find(&request.session_id, &request.task_id)
            .ok_or_else(|| Status::not_found(format!("task {} not found", request.task_id)))?;
        let early = application == "early" && self.state.lock().expect("lock").watches <= EARLY_ENDS;
        let unfinished = application == "never" && !*self.finished.borrow();
        let mut task = Self::ended(&application, &request.task_id, spec, false);
        if early || unfinished {
            task.status = Some(v1::TaskStatus::default());
        }
        Ok(Response::new(task))
    }

    async fn watch_task(&self, request: Request<v1::WatchTaskRequest>) -> Answer<Tasks> {
        let request = request.into_inner();
        let watches = {
            let mut state = self.state.lock().expect("lock");
            state.watches += 1;
            state.watches
        };
        let Some((application, spec)) = self.find(&request.session_id, &request.task_id) else {
            return Ok(Response::new(Box::pin(futures::stream::empty())));
        };
        if application == "early" && watches <= EARLY_ENDS {
            return Ok(Response::new(Box::pin(futures::stream::empty())));
        }
        let mut running = Self::ended(&application, &request.task_id, spec.clone(), true);
        running.status = Some(v1::TaskStatus {
            state: v1::TaskState::Running.into(),
            ..Default::default()
        });
        let ended = Self::ended(&application, &request.task_id, spec, true);
        let mut finished = self.finished.clone();
        let end = async move {
            if application == "never" {
                finished
                    .wait_for(|finished| *finished)
                    .await
                    .map_err(|_| Status::cancelled("the test is over"))?;
            }
            Ok(ended)
        };
        let first = futures::stream::iter([Ok(running)]);
        Ok(Response::new(Box::pin(futures::StreamExt::chain(
            first,
            futures::stream::once(end),
        ))))
    }

    async fn list_task(&self, request: Request<v1::ListTaskRequest>) -> Answer<Tasks> {
        let id = request.into_inner().session_id;
        let state = self.state.lock().expect("lock");
        let Some((application, _)) = state.sessions.get(&id) else {
            return Err(Status::not_found(format!("session {id} not found")));
        };
        let tasks: Vec<_> = state
            .tasks
            .iter()
            .filter(|((session, _), _)| *session == id)
            .map(|((_, task), spec)| Ok(Self::ended(application, task, spec.clone(), true)))
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(tasks))))
    }
}
