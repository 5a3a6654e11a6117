//! The application: this test program itself, started again by the agent with `BEHAVIOUR` set.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use flame_rpc::v1::instance_server::{Instance, InstanceServer};
use flame_rpc::v1::instance_stream_server::{InstanceStream, InstanceStreamServer};
use flame_rpc::v1::{
    EmptyRequest, GivenBack, Result as Answer, SessionContext, TaskContext, TaskOutcome, TaskResult,
    TaskStreamRequest, TaskStreamResponse,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::UnixListener;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Arguments that make this program the service.
pub(crate) const ARGUMENTS: [&str; 4] = ["--ignored", "--exact", "service::service_process", "--nocapture"];

struct Service {
    behaviour: String,
    /// The sessions that it was bound to, in order.
    sessions: Mutex<Vec<String>>,
    hang_up: tokio::sync::mpsc::Sender<()>,
}

/// No test: what the agent starts. Does nothing where nobody gave it a socket.
#[test]
#[ignore = "started by the agent under test"]
fn service_process() {
    let Ok(socket) = std::env::var("FLAME_INSTANCE_ENDPOINT") else {
        return;
    };
    let behaviour = std::env::var("BEHAVIOUR").unwrap_or_default();
    match behaviour.as_str() {
        "die-early" => {
            eprintln!("first line\nno database");
            std::process::exit(3);
        }
        "crash-early" => std::process::abort(),
        "never-listen" => {
            write_lines();
            std::thread::sleep(Duration::MAX);
        }
        "chatter" => print!("{}", "0123456789\n".repeat(100_000)),
        "with-child" => {
            let child = std::process::Command::new("sleep").arg("1000").spawn();
            let child = child.expect("sleep").id();
            std::fs::write("child", child.to_string()).expect("working directory");
        }
        _ => {}
    }
    let (hang_up, mut hung_up) = tokio::sync::mpsc::channel(1);
    let goes_on_listening = behaviour.ends_with("-listening");
    let service = Arc::new(Service {
        behaviour,
        sessions: Mutex::default(),
        hang_up,
    });
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
    listener.set_nonblocking(true).expect("a socket");
    if goes_on_listening {
        serve(
            &service,
            listener.try_clone().expect("a descriptor"),
            &mut hung_up,
        );
    }
    serve(&service, listener, &mut hung_up);
    std::fs::write("hung-up", "").expect("working directory");
    std::thread::sleep(Duration::MAX);
}

/// Serves until it is to hang up; closes every connection then, while the process lives on.
fn serve(
    service: &Arc<Service>,
    listener: std::os::unix::net::UnixListener,
    hung_up: &mut tokio::sync::mpsc::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("runtime");
    if let Ok(path) = std::env::var("HANG_UP_FILE") {
        runtime.spawn(hang_up_when_asked(path.into(), service.hang_up.clone()));
    }
    let streams = service.behaviour.starts_with("stream");
    let streams = streams.then(|| InstanceStreamServer::new(Streamed(service.clone())));
    runtime.block_on(async {
        if service.behaviour == "slow-exit" {
            tokio::spawn(exit_slowly());
        }
        let listener = UnixListener::from_std(listener).expect("a runtime");
        tokio::select! {
            served = tonic::transport::Server::builder()
                .add_service(InstanceServer::from_arc(service.clone()))
                .add_optional_service(streams)
                .serve_with_incoming(UnixListenerStream::new(listener)) => served.expect("served"),
            _ = hung_up.recv() => {}
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

/// More lines on standard error than are told.
fn write_lines() {
    for line in 1..=25 {
        eprintln!("line {line} of 25");
    }
}

/// Hangs up when there is a file at `path`.
async fn hang_up_when_asked(path: PathBuf, hang_up: tokio::sync::mpsc::Sender<()>) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    hang_up.send(()).await.expect("main waits");
}

/// Takes its time after SIGTERM.
async fn exit_slowly() {
    let kind = tokio::signal::unix::SignalKind::terminate();
    let mut terminate = tokio::signal::unix::signal(kind).expect("a signal");
    terminate.recv().await;
    std::fs::write("ending", "").expect("working directory");
    tokio::time::sleep(Duration::from_millis(500)).await;
    std::process::exit(0);
}

fn answer(return_code: i32, message: &str) -> Result<Response<Answer>, Status> {
    Ok(Response::new(Answer {
        return_code,
        message: Some(message.to_owned()),
    }))
}

#[tonic::async_trait]
impl Instance for Service {
    async fn on_session_enter(&self, request: Request<SessionContext>) -> Result<Response<Answer>, Status> {
        match self.behaviour.as_str() {
            "refuse" => answer(5, "I refuse"),
            "enter-status" => Err(Status::internal("enter exploded")),
            "die-in-enter" => {
                eprintln!("dying in enter");
                std::process::exit(4);
            }
            "hang-in-enter" => {
                write_lines();
                std::future::pending().await
            }
            "stubborn" => {
                let mut ignored = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
                tokio::spawn(async move { while ignored.recv().await.is_some() {} });
                answer(0, "")
            }
            _ => {
                let context = request.into_inner();
                let application = context.application.expect("the application is sent");
                assert!(["app", "other"].contains(&application.name.as_str()));
                match context.common_data.as_deref() {
                    Some(b"refuse") => return answer(5, "I refuse this one"),
                    Some(b"hang") => {
                        std::fs::write("hanging", "").expect("working directory");
                        std::future::pending::<()>().await;
                    }
                    Some(b"die") => std::process::exit(4),
                    _ => {}
                }
                self.sessions.lock().expect("no panic").push(context.session_id);
                answer(0, "")
            }
        }
    }

    async fn on_task_invoke(&self, request: Request<TaskContext>) -> Result<Response<TaskResult>, Status> {
        let input = request.into_inner().input;
        self.perform(input, "call").await.map(Response::new)
    }

    async fn on_session_leave(&self, _: Request<EmptyRequest>) -> Result<Response<Answer>, Status> {
        if let Ok(path) = std::env::var("LEAVE_FILE") {
            std::fs::write(path, "left").expect("writable");
        }
        if self.behaviour == "leave-fails" {
            return answer(1, "I cannot leave");
        }
        answer(0, "")
    }
}

impl Service {
    /// Does what the input says; `how` the task came.
    async fn perform(&self, input: Option<Bytes>, how: &'static str) -> Result<TaskResult, Status> {
        let input = input.unwrap_or_default();
        let text = String::from_utf8_lossy(&input).into_owned();
        let output = match text.split_once(':').unwrap_or((&text, "")) {
            ("die", _) => {
                eprintln!("dying as asked");
                std::process::exit(3);
            }
            ("fail", _) => {
                return Ok(TaskResult {
                    return_code: 7,
                    output: None,
                    message: Some("failed as asked".to_owned()),
                });
            }
            ("status", _) => return Err(Status::internal("task exploded")),
            ("hang-up", _) => {
                self.hang_up.send(()).await.expect("main waits");
                std::future::pending().await
            }
            ("for-ever", _) => std::future::pending().await,
            ("until", path) => {
                std::fs::write(format!("{path}.begun"), "").expect("writable");
                while !std::path::Path::new(path).exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Bytes::from_static(b"seen")
            }
            ("env", name) => Bytes::from(std::env::var(name).unwrap_or_else(|_| "<unset>".to_owned())),
            ("sessions", _) => Bytes::from(self.sessions.lock().expect("no panic").join(",")),
            ("say", words) => {
                println!("out: {words}");
                eprintln!("err: {words}");
                Bytes::new()
            }
            ("flood", megabytes) => {
                let megabytes: usize = megabytes.parse().expect("a number");
                std::thread::spawn(move || {
                    let line = format!("{}\n", "flood ".repeat(20));
                    let lines = line.repeat((1 << 20) / line.len() + 1);
                    let mut output = std::io::stdout().lock();
                    for _ in 0..megabytes {
                        std::io::Write::write_all(&mut output, lines.as_bytes()).expect("somebody reads");
                    }
                });
                Bytes::new()
            }
            ("how", _) => Bytes::from_static(how.as_bytes()),
            ("pid", _) => Bytes::from(std::process::id().to_string()),
            ("large", bytes) => Bytes::from(vec![7; bytes.parse().expect("a number")]),
            _ => input,
        };
        Ok(TaskResult {
            return_code: 0,
            output: Some(output),
            message: None,
        })
    }
}

/// The service, as a stream.
struct Streamed(Arc<Service>);

#[tonic::async_trait]
impl InstanceStream for Streamed {
    type OnTaskStreamStream = ReceiverStream<Result<TaskStreamResponse, Status>>;

    async fn on_task_stream(
        &self,
        request: Request<Streaming<TaskStreamRequest>>,
    ) -> Result<Response<Self::OnTaskStreamStream>, Status> {
        let (responses, stream) = tokio::sync::mpsc::channel(1024);
        tokio::spawn(stream_tasks(self.0.clone(), request.into_inner(), responses));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

type Responses = tokio::sync::mpsc::Sender<Result<TaskStreamResponse, Status>>;

/// One response per outcome, so that nothing depends on how they are put together.
async fn stream_tasks(
    service: Arc<Service>,
    mut requests: Streaming<TaskStreamRequest>,
    responses: Responses,
) {
    let mut waiting = VecDeque::new();
    let mut last = None;
    let mut running: Option<(u64, BoxFuture<'static, Result<TaskResult, Status>>)> = None;
    loop {
        let response = tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else {
                    match service.behaviour.as_str() {
                        "stream-repeats" => {
                            let late = TaskStreamResponse { outcomes: last.into_iter().collect(), ..Default::default() };
                            // Nobody listens if the agent has gone.
                            let _ = responses.send(Ok(late)).await;
                        }
                        "stream-lingers" => responses.closed().await,
                        _ => {}
                    }
                    return;
                };
                waiting.extend(request.tasks);
                if request.recall {
                    std::fs::write("recalled", "").expect("working directory");
                }
                let recalled: Option<Vec<u64>> = request
                    .recall
                    .then(|| waiting.drain(..).map(|task| task.task_id).collect());
                recalled.map(|task_ids| TaskStreamResponse {
                    given_back: Some(GivenBack { task_ids }),
                    ..TaskStreamResponse::default()
                })
            }
            (task_id, result) = async {
                match &mut running {
                    Some((task_id, work)) => (*task_id, work.await),
                    None => std::future::pending().await,
                }
            } => {
                running = None;
                let result = result.unwrap_or_else(|status| TaskResult {
                    return_code: -1,
                    output: None,
                    message: Some(status.message().to_owned()),
                });
                let outcome = TaskOutcome {
                    task_id,
                    return_code: result.return_code,
                    output: result.output,
                    message: result.message,
                    duration_us: 5,
                };
                last = Some(outcome.clone());
                Some(TaskStreamResponse {
                    outcomes: vec![outcome],
                    ..TaskStreamResponse::default()
                })
            }
        };
        if let Some(response) = response
            && responses.send(Ok(response)).await.is_err()
        {
            return;
        }
        if running.is_none()
            && let Some(task) = waiting.pop_front()
        {
            match task.input.as_deref() {
                Some(b"end-stream") => return,
                Some(b"break-stream") => {
                    // Nobody listens if the agent has gone.
                    let _ = responses.send(Err(Status::data_loss("broken as asked"))).await;
                    return;
                }
                _ if service.behaviour == "stream-refused-late" => {
                    let _ = responses.send(Err(Status::unimplemented("not today"))).await;
                    return;
                }
                _ => {}
            }
            let service = service.clone();
            let work = async move { service.perform(task.input, "stream").await };
            running = Some((task.task_id, work.boxed()));
        }
    }
}
