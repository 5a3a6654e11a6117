//! A service on its unix socket, spoken to as the node agent does.
#![allow(clippy::expect_used, clippy::panic)] // tests may, their helpers too

use std::path::PathBuf;
use std::sync::Mutex;

use flame_rpc::channel::connect_unix;
use flame_rs::service::{RunError, Service, SessionContext, TaskContext, TaskError, serve};
use flame_rs::{Bytes, v1};
use tokio::sync::oneshot;
use v1::instance_client::InstanceClient;

#[derive(Default)]
struct Sample(Mutex<Option<SessionContext>>);

impl Service for Sample {
    async fn on_session_enter(&self, session: SessionContext) -> Result<(), TaskError> {
        if session.common_data.as_deref() == Some(b"bad") {
            return Err(TaskError::new("not with this data"));
        }
        *self.0.lock().expect("lock") = Some(session);
        Ok(())
    }

    async fn on_task_invoke(&self, task: TaskContext) -> Result<Option<Bytes>, TaskError> {
        match task.input.as_deref() {
            Some(b"panic") => panic!("on purpose"),
            Some(b"number") => Ok(Some(str::from_utf8(b"x")?.parse::<u8>()?.to_string().into())),
            Some(b"session") => Ok(self
                .0
                .lock()
                .expect("lock")
                .as_ref()
                .map(|s| s.session_id.clone().into())),
            _ => Ok(task.input),
        }
    }
}

struct Running {
    client: InstanceClient<tonic::transport::Channel>,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<Result<(), RunError>>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

async fn start() -> Running {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("instance.sock");
    // A process before this one left its socket behind.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("stale socket"));
    let (stop, stopped) = oneshot::channel();
    let socket = path.clone();
    let served = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        serve(Sample::default(), &socket, stopped).await
    });
    let channel = loop {
        match connect_unix(&path).await {
            Ok(channel) => break channel,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let limit = flame_rs::MAX_MESSAGE_SIZE;
    let client = InstanceClient::new(channel)
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    Running {
        client,
        stop,
        served,
        path,
        _directory: directory,
    }
}

async fn invoke(running: &mut Running, input: &[u8]) -> v1::TaskResult {
    let task = v1::TaskContext {
        task_id: "1".to_owned(),
        session_id: "s".to_owned(),
        input: Some(Bytes::copy_from_slice(input)),
    };
    running
        .client
        .on_task_invoke(task)
        .await
        .expect("answer")
        .into_inner()
}

#[tokio::test]
async fn tasks_run_and_failures_keep_their_words() {
    let mut running = start().await;
    let session = |data: &'static [u8]| v1::SessionContext {
        session_id: "s-1".to_owned(),
        application: None,
        common_data: Some(Bytes::from_static(data)),
    };
    let refused = running
        .client
        .on_session_enter(session(b"bad"))
        .await
        .expect("answer");
    assert_eq!(refused.get_ref().return_code, -1);
    assert_eq!(refused.get_ref().message.as_deref(), Some("not with this data"));
    let entered = running
        .client
        .on_session_enter(session(b"good"))
        .await
        .expect("answer");
    assert_eq!(entered.get_ref().return_code, 0);
    assert_eq!(
        invoke(&mut running, b"session").await.output.as_deref(),
        Some(b"s-1".as_slice())
    );

    let failed = invoke(&mut running, b"number").await;
    assert_eq!(failed.return_code, -1);
    assert_eq!(failed.message.as_deref(), Some("invalid digit found in string"));

    let panicked = invoke(&mut running, b"panic").await;
    assert_eq!(
        panicked.message.as_deref(),
        Some("the service panicked: on purpose")
    );

    // Far above the 4 MiB that gRPC allows by default, and after the panic.
    let large = vec![7; 20 << 20];
    assert_eq!(
        invoke(&mut running, &large).await.output.as_deref(),
        Some(large.as_slice())
    );
    let left = running
        .client
        .on_session_leave(v1::EmptyRequest {})
        .await
        .expect("answer");
    assert_eq!(left.get_ref().return_code, 0);

    running.stop.send(()).expect("running");
    running.served.await.expect("joined").expect("clean end");
    assert!(!running.path.exists());
}

#[tokio::test]
async fn a_file_in_the_way_is_not_deleted() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").expect("written");
    let error = serve(Sample::default(), &path, std::future::pending())
        .await
        .expect_err("in the way");
    assert!(matches!(error, RunError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).expect("kept"), "data");
}

#[tokio::test]
async fn without_a_socket_the_error_says_what_the_program_is_for() {
    // nextest and this suite never set the variable: only a node agent does.
    let error = flame_rs::service::run(Sample::default())
        .await
        .expect_err("no agent");
    assert!(
        error.to_string().contains("FLAME_INSTANCE_ENDPOINT is not set"),
        "{error}"
    );
}
