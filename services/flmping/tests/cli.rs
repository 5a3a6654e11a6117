//! The programs themselves: `flmping` against a fake session manager, `flmping-service` on its socket.
#![allow(clippy::expect_used, clippy::panic)] // tests may, their helpers too

#[path = "../../../sdk/rust/tests/fake/mod.rs"]
mod fake;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use fake::{Fake, REASON};
use flame_rpc::channel::connect_unix;
use flame_rs::v1;
use v1::instance_client::InstanceClient;

fn flmping(fake: &Fake, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flmping"));
    command
        .args(["-e", &fake.url()])
        .args(args)
        .env_remove("FLAME_ENDPOINT")
        .env("HOME", "/nonexistent");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn all_closed(fake: &Fake) -> bool {
    fake.lock().sessions.values().all(|(_, open)| !open)
}

/// How many sessions and tasks were ever created.
fn counts(fake: &Fake) -> (usize, usize) {
    let state = fake.lock();
    (state.sessions.len(), state.tasks.len())
}

#[test]
fn a_table_of_tasks_and_a_summary_and_the_session_is_closed() {
    let fake = Fake::new();
    let output = flmping(&fake, &["-a", "echo", "-s", "mine", "-t", "3", "-d", "7"])
        .output()
        .expect("run");
    let out = text(&output.stdout);
    assert!(output.status.success(), "{out}{}", text(&output.stderr));
    assert_eq!(
        out.lines().filter(|line| line.contains("Succeed")).count(),
        3,
        "{out}"
    );
    assert!(out.contains(r#"{"duration":7,"memory":null}"#), "{out}");
    assert!(
        out.contains("3 tasks in session mine: 3 succeeded, 0 failed"),
        "{out}"
    );
    assert!(all_closed(&fake));
}

#[test]
fn a_benchmark_for_programs_prints_one_json_object_only() {
    let fake = Fake::new();
    let output = flmping(&fake, &["-a", "echo", "-p", "-t", "3000", "-o", "json"])
        .output()
        .expect("run");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(
        (json["tasks"].as_u64(), json["failed"].as_u64()),
        (Some(3000), Some(0))
    );
    assert!(json["p99_ms"].as_f64() >= json["p50_ms"].as_f64());
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn failures_are_counted_and_told_once() {
    let fake = Fake::new();
    let output = flmping(&fake, &["-a", "fails", "-p", "-t", "20"])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), format!("flmping: 20 x {REASON}\n"));
    assert!(text(&output.stdout).contains("0 succeeded, 20 failed"));
    assert!(all_closed(&fake));
}

#[test]
fn payloads_have_to_come_back_as_they_were() {
    let fake = Fake::new();
    let args = ["-a", "echo", "-p", "-t", "200", "--payload", "3K"];
    let output = flmping(&fake, &args).output().expect("run");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let inputs: Vec<_> = fake
        .lock()
        .tasks
        .values()
        .map(|task| task.input.clone())
        .collect();
    assert!(inputs.iter().flatten().all(|input| input.len() == 3 << 10) && inputs.len() == 200);
    assert!(inputs.iter().any(|input| *input != inputs[0]));
    assert!(all_closed(&fake));
}

#[test]
fn sessions_at_once_share_the_report_and_the_warm_up_does_not_count() {
    let fake = Fake::new();
    let args = ["-a", "echo", "--sessions", "3", "-t", "20", "--warm-up", "5"];
    let output = flmping(&fake, &args).output().expect("run");
    let out = text(&output.stdout);
    assert!(output.status.success(), "{out}{}", text(&output.stderr));
    assert!(
        out.contains("60 tasks in 3 sessions: 60 succeeded, 0 failed"),
        "{out}"
    );
    assert_eq!(out.lines().filter(|line| line.contains("Succeed")).count(), 60);
    assert_eq!(counts(&fake), (3, 75));
    assert!(all_closed(&fake));
    let args = ["-a", "fails", "-p", "-t", "20", "--warm-up", "5"];
    let output = flmping(&fake, &args).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains("the warm-up did not succeed") && error.contains(&format!("5 x {REASON}")),
        "{error}"
    );
    assert!(all_closed(&fake));
}

#[test]
fn a_cold_run_has_a_session_for_each_task() {
    let fake = Fake::new();
    let output = flmping(&fake, &["-a", "echo", "-p", "--cold", "-t", "4", "-o", "json"])
        .output()
        .expect("run");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(
        (json["succeeded"].as_u64(), json["sessions"].as_u64()),
        (Some(4), Some(4))
    );
    assert_eq!(counts(&fake), (4, 4));
    assert!(all_closed(&fake));
    let output = flmping(&fake, &["-a", "never", "--cold", "--timeout", "0.2"])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert!(all_closed(&fake), "the one that was under way, too");
}

#[test]
fn detached_tasks_stay_in_an_open_session() {
    let fake = Fake::new();
    let args = [
        "-a", "never", "--detach", "-t", "300", "-s", "later", "-o", "json",
    ];
    let output = flmping(&fake, &args).output().expect("run");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(json["created"].as_u64(), Some(300));
    assert_eq!(json["sessions"], serde_json::json!(["later"]));
    assert_eq!(fake.lock().tasks.len(), 300);
    assert!(fake.lock().sessions["later"].1, "still open");
}

#[test]
fn executors_that_cannot_be_had_leave_no_session_open() {
    let fake = Fake::new(); // knows nothing of executors
    let output = flmping(&fake, &["-a", "echo", "--executors", "2"])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("list the executors"), "{output:?}");
    assert_eq!(fake.lock().sessions.len(), 1);
    assert!(all_closed(&fake));
}

#[test]
fn a_time_limit_ends_the_wait() {
    let fake = Fake::new();
    let output = flmping(&fake, &["-a", "never", "-t", "5", "--timeout", "0.2"])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("not all tasks ended within 200ms"),
        "{output:?}"
    );
    assert!(all_closed(&fake));
}

#[test]
fn an_interruption_closes_the_session() {
    let fake = Fake::new();
    let child = flmping(&fake, &["-a", "never", "-t", "5"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("run");
    while fake.lock().watches < 5 {
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalled");
    let output = child.wait_with_output().expect("ended");
    assert_eq!(output.status.code(), Some(130));
    assert!(all_closed(&fake));
}

#[test]
fn errors_say_what_to_do() {
    let mut fake = Fake::new();
    let output = flmping(&fake, &["-a", "nothing"]).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("application nothing not found"),
        "{output:?}"
    );
    let output = flmping(&fake, &["-s", "../x"]).output().expect("run");
    assert!(
        text(&output.stderr).contains("\"../x\" is not valid"),
        "{output:?}"
    );
    fake.stop();
    let output = flmping(&fake, &[]).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    for part in [
        fake.url().as_str(),
        "Connection refused",
        "is the session manager running",
        "FLAME_ENDPOINT",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// The service's answers to `inputs`, as (return code, output or message).
fn answers(inputs: &[Option<&'static str>]) -> Vec<(i32, String)> {
    let directory = tempfile::tempdir().expect("directory");
    let socket = directory.path().join("ping.sock");
    let mut service = Command::new(env!("CARGO_BIN_EXE_flmping-service"))
        .env("FLAME_INSTANCE_ENDPOINT", &socket)
        .spawn()
        .expect("started");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let answers = runtime.block_on(async {
        let channel = loop {
            match connect_unix(&socket).await {
                Ok(channel) => break channel,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let mut client = InstanceClient::new(channel);
        let mut answers = Vec::new();
        for input in inputs {
            let task = v1::TaskContext {
                input: input.map(Into::into),
                ..Default::default()
            };
            let result = client.on_task_invoke(task).await.expect("answer").into_inner();
            let output = result.output.map(|output| text(&output));
            answers.push((result.return_code, output.or(result.message).unwrap_or_default()));
        }
        answers
    });
    let pid = rustix::process::Pid::from_child(&service);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    assert!(service.wait().expect("ended").success(), "SIGTERM is a clean end");
    assert!(!socket.exists());
    answers
}

#[test]
fn the_service_does_what_the_contract_says() {
    let answers = answers(&[
        None,
        Some(r#"{"duration": 30, "memory": 1048576}"#),
        Some("no json"),
        Some(r#"{"memory": 1152921504606846976}"#),
    ]);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let (code, empty) = &answers[0];
    assert_eq!(*code, 0);
    assert!(
        empty.starts_with(&format!("{{\"message\":\"Completed on {host} in ")),
        "{empty}"
    );
    assert!(empty.ends_with(" milliseconds with 0 memory\"}"), "{empty}");
    let (code, busy) = &answers[1];
    assert!(
        *code == 0 && busy.ends_with(" milliseconds with 1M memory\"}"),
        "{busy}"
    );
    let milliseconds: u64 = busy
        .split(' ')
        .find_map(|word| word.parse().ok())
        .expect("a number of milliseconds");
    assert!(milliseconds >= 30, "{busy}");
    assert!(
        answers[2].0 != 0 && answers[2].1.contains("MILLISECONDS"),
        "{:?}",
        answers[2]
    );
    assert!(
        answers[3].0 != 0 && answers[3].1.contains("available"),
        "{:?}",
        answers[3]
    );
}

#[test]
fn the_service_alone_says_who_starts_it() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_flmping-service"))
        .env_remove("FLAME_INSTANCE_ENDPOINT")
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    stderr.read_line(&mut line).expect("read");
    assert!(line.contains("FLAME_INSTANCE_ENDPOINT is not set"), "{line}");
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("read");
    assert!(rest.is_empty(), "{rest}");
    assert_eq!(child.wait().expect("ended").code(), Some(1));
}
