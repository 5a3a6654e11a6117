//! The application: this test program itself, started again by the agent with `BEHAVIOUR` set.

use std::time::Duration;

use bytes::Bytes;
use flame_rpc::v1::instance_server::{Instance, InstanceServer};
use flame_rpc::v1::{EmptyRequest, Result as Answer, SessionContext, TaskContext, TaskResult};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// Arguments that make this program the service.
pub(crate) const ARGUMENTS: [&str; 4] = ["--ignored", "--exact", "service::service_process", "--nocapture"];

struct Service {
    behaviour: String,
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
        "never-listen" => std::thread::sleep(Duration::MAX),
        "chatter" => print!("{}", "0123456789\n".repeat(100_000)),
        "with-child" => {
            let child = std::process::Command::new("sleep").arg("1000").spawn();
            let child = child.expect("sleep").id();
            std::fs::write("child", child.to_string()).expect("working directory");
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("runtime");
    let (hang_up, mut hung_up) = tokio::sync::mpsc::channel(1);
    let service = Service { behaviour, hang_up };
    runtime.block_on(async {
        let listener = UnixListener::bind(&socket).expect("socket");
        tokio::select! {
            served = tonic::transport::Server::builder()
                .add_service(InstanceServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener)) => served.expect("served"),
            _ = hung_up.recv() => {}
        }
    });
    // Closes every connection, while the process lives on.
    runtime.shutdown_background();
    std::thread::sleep(Duration::MAX);
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
            "stubborn" => {
                let mut ignored = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
                tokio::spawn(async move { while ignored.recv().await.is_some() {} });
                answer(0, "")
            }
            _ => {
                let context = request.into_inner();
                let application = context.application.expect("the application is sent");
                assert_eq!(application.name, "app");
                answer(0, "")
            }
        }
    }

    async fn on_task_invoke(&self, request: Request<TaskContext>) -> Result<Response<TaskResult>, Status> {
        let task = request.into_inner();
        let input = task.input.unwrap_or_default();
        let text = String::from_utf8_lossy(&input).into_owned();
        let output = match text.split_once(':').unwrap_or((&text, "")) {
            ("die", _) => {
                eprintln!("dying as asked");
                std::process::exit(3);
            }
            ("fail", _) => {
                return Ok(Response::new(TaskResult {
                    return_code: 7,
                    output: None,
                    message: Some("failed as asked".to_owned()),
                }));
            }
            ("status", _) => return Err(Status::internal("task exploded")),
            ("hang-up", _) => {
                self.hang_up.send(()).await.expect("main waits");
                std::future::pending().await
            }
            ("for-ever", _) => std::future::pending().await,
            ("until", path) => {
                while !std::path::Path::new(path).exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Bytes::from_static(b"seen")
            }
            ("env", name) => Bytes::from(std::env::var(name).unwrap_or_else(|_| "<unset>".to_owned())),
            ("pid", _) => Bytes::from(std::process::id().to_string()),
            ("large", bytes) => Bytes::from(vec![7; bytes.parse().expect("a number")]),
            _ => input,
        };
        Ok(Response::new(TaskResult {
            return_code: 0,
            output: Some(output),
            message: None,
        }))
    }

    async fn on_session_leave(&self, _: Request<EmptyRequest>) -> Result<Response<Answer>, Status> {
        if let Ok(path) = std::env::var("LEAVE_FILE") {
            std::fs::write(path, "left").expect("writable");
        }
        answer(0, "")
    }
}
