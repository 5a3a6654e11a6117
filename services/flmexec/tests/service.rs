//! `flmexec-service` on its socket, spoken to as the node agent does.
#![allow(clippy::expect_used, clippy::panic)] // tests may, their helpers too

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use flame_rpc::channel::connect_unix;
use flame_rs::v1;
use serde_json::{Value, json};
use tonic::transport::Channel;
use v1::instance_client::InstanceClient;

struct Service {
    process: Child,
    client: InstanceClient<Channel>,
    directory: tempfile::TempDir,
}

impl Service {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("exec.sock");
        std::fs::create_dir(directory.path().join("tmp")).expect("directory");
        let process = Command::new(env!("CARGO_BIN_EXE_flmexec-service"))
            .env("FLAME_INSTANCE_ENDPOINT", &socket)
            .env("TMPDIR", directory.path().join("tmp"))
            .env_remove("FLAME_PYTHON_VERSION")
            .spawn()
            .expect("started");
        let channel = loop {
            match connect_unix(&socket).await {
                Ok(channel) => break channel,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let client = InstanceClient::new(channel).max_decoding_message_size(flame_rs::MAX_MESSAGE_SIZE);
        Self {
            process,
            client,
            directory,
        }
    }

    async fn enter(&mut self, common_data: Value) -> v1::Result {
        let session = v1::SessionContext {
            session_id: "s".to_owned(),
            application: None,
            common_data: Some(common_data.to_string().into()),
        };
        self.client
            .on_session_enter(session)
            .await
            .expect("answer")
            .into_inner()
    }

    /// What the script printed, or why it failed.
    async fn run(&mut self, script: Value) -> Result<Vec<u8>, String> {
        let task = v1::TaskContext {
            input: Some(script.to_string().into()),
            ..Default::default()
        };
        let result = self
            .client
            .on_task_invoke(task)
            .await
            .expect("answer")
            .into_inner();
        match result.return_code {
            0 => {
                let output: Value = serde_json::from_slice(&result.output.expect("output")).expect("json");
                Ok(serde_json::from_value(output["data"].clone()).expect("bytes"))
            }
            _ => Err(result.message.expect("message")),
        }
    }

    fn leftovers(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("tmp"))
            .expect("directory")
            .count()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn shell(code: &str) -> Value {
    json!({"language": "shell", "code": code, "input": null})
}

#[tokio::test]
async fn scripts_run_in_both_languages_with_and_without_input() {
    let mut service = Service::start().await;
    assert_eq!(
        service.run(shell("echo hi; echo no >&2")).await,
        Ok(b"hi\n".to_vec())
    );
    let upper = json!({"language": "shell", "code": "tr a-z A-Z", "input": b"abc\xff".to_vec()});
    assert_eq!(service.run(upper).await, Ok(b"ABC\xff".to_vec()));
    let python = json!({"language": "python", "code": "import sys; print(len(sys.stdin.read()))",
        "input": [1, 2, 3]});
    assert_eq!(service.run(python).await, Ok(b"3\n".to_vec()));
    // Without input a script that reads it sees the end, not a terminal for ever.
    assert_eq!(service.run(shell("cat; echo done")).await, Ok(b"done\n".to_vec()));
    let bash = json!({"language": "shell", "runtime": "bash", "code": "echo ${BASH_VERSION:+yes}"});
    assert_eq!(service.run(bash).await, Ok(b"yes\n".to_vec()));
}

#[tokio::test]
async fn failures_bring_status_and_stderr() {
    let mut service = Service::start().await;
    let error = service
        .run(shell("echo broken pipe dream >&2; exit 3"))
        .await
        .expect_err("fails");
    assert!(
        error.contains("exit status: 3") && error.contains("broken pipe dream"),
        "{error}"
    );
    let error = service.run(shell("kill -9 $$")).await.expect_err("killed");
    assert!(error.contains("signal: 9"), "{error}");
    let python = json!({"language": "python", "code": "raise ValueError('so not')"});
    let error = service.run(python).await.expect_err("raises");
    assert!(error.contains("ValueError: so not"), "{error}");
    let missing = json!({"language": "python", "runtime": "9.9", "code": ""});
    let error = service.run(missing).await.expect_err("no such Python");
    assert!(
        error.contains("python9.9") && error.contains("install it there"),
        "{error}"
    );
    let error = service
        .run(json!({"code": "true"}))
        .await
        .expect_err("no language");
    assert!(error.contains("shell and python"), "{error}");
    let error = service
        .run(json!({"language": "shell"}))
        .await
        .expect_err("no code");
    assert!(error.contains("\"code\": TEXT"), "{error}");
    assert_eq!(service.leftovers(), 0);
}

#[tokio::test]
async fn the_working_directory_is_private_empty_and_removed() {
    let mut service = Service::start().await;
    let code = "touch a; ls; pwd; stat -c %a ..; echo ${FLAME_INSTANCE_ENDPOINT-unset}";
    let first = String::from_utf8(service.run(shell(code)).await.expect("runs")).expect("text");
    let second = String::from_utf8(service.run(shell(code)).await.expect("runs")).expect("text");
    let lines: Vec<_> = first.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("a", "700", "unset"));
    assert_ne!(first, second, "another directory");
    assert!(!Path::new(lines[1]).exists());
    assert_eq!(service.leftovers(), 0);
}

/// Whether a process still runs; a zombie that init has not collected yet does not.
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

#[tokio::test]
async fn the_time_limit_ends_the_whole_group() {
    let mut service = Service::start().await;
    let file = service.directory.path().join("pid");
    let code = format!(
        "sleep 1000 & echo $! > {}; trap '' TERM; echo waiting >&2; wait; wait",
        file.display()
    );
    let started = Instant::now();
    let script = json!({"language": "shell", "code": code, "timeout": 0.3});
    let error = service.run(script).await.expect_err("too long");
    assert!(
        error.contains("time limit of 300ms") && error.contains("waiting"),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    let pid = std::fs::read_to_string(file).expect("pid");
    while runs(pid.trim()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_a_script_leaves_behind_neither_delays_nor_outlives_it() {
    let mut service = Service::start().await;
    let started = Instant::now();
    let output = service.run(shell("sleep 1000 & echo $!")).await.expect("runs");
    assert!(started.elapsed() < Duration::from_secs(10));
    let pid = String::from_utf8(output).expect("text");
    while runs(pid.trim()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn output_is_bounded() {
    let mut service = Service::start().await;
    let error = service.run(shell("yes")).await.expect_err("endless");
    assert!(error.contains("more than 8M"), "{error}");
    let fits = service
        .run(shell("head -c 8388608 /dev/zero"))
        .await
        .expect("just fits");
    assert_eq!(fits.len(), 8 << 20);
}

#[tokio::test]
async fn a_sandbox_session_gives_the_language() {
    let mut service = Service::start().await;
    let entered = service
        .enter(json!({"language": "python", "min_instances": 1, "resreq": null}))
        .await;
    assert_eq!(entered.return_code, 0);
    assert_eq!(
        service.run(json!({"code": "print(1 + 1)"})).await,
        Ok(b"2\n".to_vec())
    );
    let refused = service.enter(json!({"language": "cobol"})).await;
    assert!(refused.return_code != 0 && refused.message.expect("message").contains("cobol"));
}

#[tokio::test]
async fn a_service_that_is_stopped_takes_its_script_along() {
    let mut service = Service::start().await;
    let file = service.directory.path().join("pid");
    let code = format!(
        "echo $$ > {}.new; mv {0}.new {0}; exec sleep 1000",
        file.display()
    );
    let mut client = service.client.clone();
    let task = v1::TaskContext {
        input: Some(shell(&code).to_string().into()),
        ..Default::default()
    };
    let running = tokio::spawn(async move { client.on_task_invoke(task).await });
    while !file.exists() {
        tokio::task::yield_now().await;
    }
    let pid = std::fs::read_to_string(file).expect("pid");
    assert!(runs(pid.trim()));
    let process = rustix::process::Pid::from_child(&service.process);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("signalled");
    let status = tokio::task::spawn_blocking(move || {
        let status = service.process.wait().expect("ended");
        (status, service)
    });
    assert!(status.await.expect("joined").0.success());
    while runs(pid.trim()) {
        tokio::task::yield_now().await;
    }
    running.abort();
}
