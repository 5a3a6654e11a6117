//! `flmexec` against a fake session manager whose `echo` application answers with the input.
#![allow(clippy::expect_used, clippy::panic)] // tests may, their helpers too

#[path = "../../../sdk/rust/tests/fake/mod.rs"]
mod fake;

use std::process::{Command, Output};

use fake::{Fake, REASON};

fn flmexec(fake: &Fake, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flmexec"))
        .args(["-e", &fake.url()])
        .args(args)
        .env_remove("FLAME_ENDPOINT")
        .env("HOME", "/nonexistent")
        .output()
        .expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_script_is_sent_as_the_contract_says_and_the_session_is_closed() {
    let fake = Fake::new();
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("a.py");
    std::fs::write(&file, "print(1)").expect("written");
    let path = file.to_str().expect("text");
    let output = flmexec(
        &fake,
        &["-a", "echo", path, "-i", path, "-r", "3.11", "--timeout", "9"],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("is echo another application?"),
        "{output:?}"
    );
    let state = fake.lock();
    let (_, task) = state.tasks.iter().next().expect("a task");
    let sent: serde_json::Value =
        serde_json::from_slice(task.input.as_deref().expect("input")).expect("json");
    let expected = serde_json::json!({"language": "python", "runtime": "3.11", "code": "print(1)",
        "input": b"print(1)".to_vec(), "timeout": 9.0});
    assert_eq!(sent, expected);
    assert!(state.sessions.values().all(|(_, open)| !open));
}

#[test]
fn a_failure_is_told_on_stderr_or_as_json() {
    let fake = Fake::new();
    let output = flmexec(&fake, &["-a", "fails", "-c", "x"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output.stdout.is_empty() && text(&output.stderr).contains(REASON),
        "{output:?}"
    );
    let output = flmexec(&fake, &["-a", "fails", "-c", "x", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(json["succeeded"], false);
    assert!(json["error"].as_str().expect("text").contains(REASON), "{json}");
}

#[test]
fn wrong_use_is_told() {
    let mut fake = Fake::new();
    let output = flmexec(&fake, &["/nonexistent/x.sh"]);
    assert!(
        text(&output.stderr).contains("cannot read /nonexistent/x.sh: No such file"),
        "{output:?}"
    );
    let output = flmexec(&fake, &["-", "-i", "-"]);
    assert!(text(&output.stderr).contains("cannot be both"), "{output:?}");
    let output = flmexec(&fake, &["-c", "x", "-l", "perl"]);
    assert_eq!(output.status.code(), Some(2));
    fake.stop();
    let output = flmexec(&fake, &["-c", "x"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("is the session manager running"),
        "{output:?}"
    );
}
