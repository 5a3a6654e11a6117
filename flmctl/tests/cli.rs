//! The program against a Frontend: arguments in, requests out, output and exit status back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::Read;

use flame_rpc::v1;
use serde_json::json;
use support::{Fake, flmctl, flmctl_with, json, serve, stderr, stdout};

fn filled() -> Fake {
    let fake = Fake::default();
    let mut state = fake.0.lock().unwrap();
    let command = |path: &str| v1::ApplicationSpec {
        command: Some(path.into()),
        ..Default::default()
    };
    state
        .applications
        .insert("flmping".into(), command("/bin/flmping-service"));
    state
        .applications
        .insert("counter".into(), command("/bin/counter"));
    state.sessions = vec![
        support::session_of("newer", "flmping", 1_700_000_100_000),
        support::session_of("older", "counter", 1_700_000_000_000),
    ];
    let spec = v1::TaskSpec {
        session_id: "newer".into(),
        input: None,
        output: Some("done".into()),
    };
    let states = [
        ("10", v1::TaskState::Failed),
        ("9", v1::TaskState::Succeed),
        ("1", v1::TaskState::Running),
    ];
    state.tasks = states
        .into_iter()
        .map(|(id, state)| support::task(id, state, spec.clone()))
        .collect();
    state.nodes = vec![support::node("n2"), support::node("n1")];
    state.executors = vec![
        support::executor("e2", "n1", None),
        support::executor("e1", "n1", Some("newer")),
    ];
    drop(state);
    fake
}

/// First column of a table without its header.
fn first_column(table: &str) -> Vec<&str> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

#[tokio::test]
async fn lists_are_sorted_and_filtered() {
    let url = serve(filled()).await;
    for (args, expected) in [
        (vec!["list", "apps"], vec!["counter", "flmping"]),
        (vec!["list", "sessions"], vec!["older", "newer"]),
        (vec!["list", "-s", "-a", "flmping"], vec!["newer"]),
        (vec!["list", "tasks", "-s", "newer"], vec!["1", "9", "10"]),
        (
            vec!["list", "tasks", "-s", "newer", "--state", "failed,running"],
            vec!["1", "10"],
        ),
        (vec!["list", "--node"], vec!["n1", "n2"]),
        (vec!["list", "exec"], vec!["e1", "e2"]),
        (vec!["list", "exec", "--state", "bound"], vec!["e1"]),
    ] {
        let output = flmctl(&url, &args).await;
        assert_eq!(first_column(&stdout(&output)), expected, "{args:?}");
    }
}

#[tokio::test]
async fn lists_for_programs_are_arrays_even_if_empty() {
    let url = serve(filled()).await;
    let output = flmctl(&url, &["list", "sessions", "-o", "json"]).await;
    assert_eq!(json(&output)[0]["id"], "older");
    assert_eq!(json(&output)[1]["tasks"]["succeed"], 2);
    let empty = serve(Fake::default()).await;
    assert_eq!(
        json(&flmctl(&empty, &["list", "nodes", "-o", "json"]).await),
        json!([])
    );
}

#[tokio::test]
async fn an_empty_list_is_a_remark_and_no_output() {
    let url = serve(Fake::default()).await;
    let output = flmctl(&url, &["list", "sessions"]).await;
    assert_eq!(
        (stdout(&output).as_str(), stderr(&output).as_str()),
        ("", "no sessions\n")
    );
}

#[tokio::test]
async fn one_thing_is_viewed() {
    let url = serve(filled()).await;
    for (args, part) in [
        (vec!["view", "app", "counter"], "/bin/counter"),
        (
            vec!["view", "session", "newer"],
            "1 pending, 0 running, 2 succeeded",
        ),
        (vec!["view", "task", "9", "-s", "newer"], "done"),
        (vec!["view", "node", "n1"], "4 CPU, 8.0 GiB memory"),
        (vec!["view", "executor", "e1"], "newer"),
    ] {
        let text = stdout(&flmctl(&url, &args).await);
        assert!(text.contains(part), "{args:?}: {text}");
    }
    let task = json(&flmctl(&url, &["view", "-t", "9", "-s", "newer", "-o", "json"]).await);
    assert_eq!(
        (&task["output"], &task["output_text"]),
        (&json!("ZG9uZQ=="), &json!("done"))
    );
}

#[tokio::test]
async fn the_output_of_a_task_can_be_had_as_it_is() {
    let url = serve(filled()).await;
    let raw = flmctl(&url, &["view", "task", "9", "-s", "newer", "--raw"]).await;
    assert_eq!(raw.stdout, b"done");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out");
    let path = file.to_str().unwrap();
    stdout(&flmctl(&url, &["view", "task", "9", "-s", "newer", "--output-file", path]).await);
    assert_eq!(std::fs::read(&file).unwrap(), b"done");
}

#[tokio::test]
async fn what_does_not_exist_is_an_error_that_says_where_to_look() {
    let url = serve(filled()).await;
    for (args, message) in [
        (
            vec!["view", "app", "x"],
            "cannot get application \"x\": application x not found\n  flmctl list applications",
        ),
        (
            vec!["view", "session", "x"],
            "cannot get session \"x\": session x not found\n  flmctl list sessions",
        ),
        (
            vec!["view", "task", "7", "-s", "newer"],
            "task 7 not found\n  flmctl list tasks",
        ),
        (vec!["view", "node", "x"], "node x not found\n  flmctl list nodes"),
        (
            vec!["view", "exec", "x"],
            "cannot get executor \"x\": there is no such executor\n  flmctl list executors",
        ),
        (
            vec!["list", "tasks", "-s", "x"],
            "cannot list the tasks of session \"x\": session x not found",
        ),
        (
            vec!["close", "session", "x"],
            "cannot close session \"x\": session x not found",
        ),
        (vec!["create", "session", "-a", "x"], "application x not found"),
    ] {
        let output = flmctl(&url, &args).await;
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).contains(message), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn a_session_is_created_as_asked() {
    let fake = filled();
    let url = serve(fake.clone()).await;
    let line = "create session -a counter -s mine --priority 7 --min-instances 1 --max-instances 2 \
                --resreq cpu=2,mem=4g --common-data -";
    let args: Vec<&str> = line.split_whitespace().collect();
    let output = flmctl_with(&url, &args, b"shared\0data").await;
    assert_eq!(stdout(&output), "mine\n");
    let expected = v1::SessionSpec {
        application: "counter".into(),
        common_data: Some("shared\0data".into()),
        min_instances: 1,
        max_instances: Some(2),
        batch_size: 1,
        priority: 7,
        resreq: Some(v1::ResourceRequirement {
            cpu: 2,
            memory: 4 << 30,
            gpu: 0,
        }),
    };
    let request = v1::CreateSessionRequest {
        session_id: "mine".into(),
        session: Some(expected),
    };
    assert_eq!(fake.0.lock().unwrap().created_sessions, [request]);
    let id = stdout(&flmctl(&url, &["create", "session", "-a", "counter"]).await);
    assert!(id.starts_with("counter-") && id.trim().len() == 14, "{id}");
}

#[tokio::test]
async fn wrong_usage_is_told_before_anybody_is_asked() {
    // Nobody listens there: a request would fail with status 1.
    let url = "http://127.0.0.1:1";
    for (args, message) in [
        (vec!["list"], "say what to list"),
        (vec!["list", "tasks"], "flmctl list tasks --session ID"),
        (vec!["list", "pods"], "invalid value 'pods'"),
        (vec!["view", "app", "x", "--raw"], "output of a task"),
        (vec!["close"], "say which session"),
        (
            vec!["create", "session", "-a", "x", "-s", "../x"],
            "session id \"../x\" is not valid",
        ),
        (
            vec![
                "create",
                "session",
                "-a",
                "x",
                "--min-instances",
                "2",
                "--max-instances",
                "1",
            ],
            "--max-instances 1 is less than --min-instances 2",
        ),
        (vec!["register"], "say which application"),
        (
            vec!["list", "apps", "-e", "localhost"],
            "write e.g. http://127.0.0.1:8080",
        ),
        (
            vec!["list", "apps", "--config", "/nonexistent.yaml"],
            "/nonexistent.yaml",
        ),
    ] {
        let output = flmctl(url, &args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(message), "{args:?}: {}", stderr(&output));
    }
    let output = flmctl(url, &["list", "pods", "-o", "json"]).await;
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), &error["error"]["code"]),
        (Some(2), &json!("usage"))
    );
}

#[tokio::test]
async fn a_cluster_that_is_down_is_said_with_its_address() {
    let url = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let output = flmctl(&url, &["list", "apps"]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.starts_with(&format!(
            "error: cannot reach the session manager at {url}: Connection refused"
        )),
        "{text}"
    );
    assert!(
        text.contains("flmadm status") && text.contains("FLAME_ENDPOINT"),
        "{text}"
    );
    let output = flmctl(&url, &["list", "apps", "-o", "json"]).await;
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "unreachable");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}

#[tokio::test]
async fn the_flag_beats_the_environment() {
    let url = serve(filled()).await;
    let output = flmctl("http://127.0.0.1:1", &["list", "apps", "--endpoint", &url]).await;
    assert_eq!(first_column(&stdout(&output)), ["counter", "flmping"]);
}

#[tokio::test]
async fn sessions_are_closed_and_deleted() {
    let fake = filled();
    let url = serve(fake.clone()).await;
    let output = flmctl(&url, &["close", "session", "older", "newer"]).await;
    assert_eq!(stdout(&output), "session older closed\nsession newer closed\n");
    let output = flmctl(&url, &["close", "-s", "older", "-o", "json"]).await;
    assert_eq!(json(&output)[0]["id"], "older");
    stdout(&flmctl(&url, &["delete", "session", "older"]).await);
    let output = flmctl(&url, &["delete", "session", "older", "x", "newer"]).await;
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(1), &b"session older deleted\n"[..])
    );
    let state = fake.0.lock().unwrap();
    assert_eq!(state.closed, ["older", "newer", "older"]);
    assert_eq!(state.deleted, ["older", "older"]);
}

const MANIFEST: &str = "metadata: {name: one}\nspec: {command: /bin/one, delay_release: 2m}\n---\n\
                        metadata: {name: two}\nspec: {shim: Wasm, command: /two.wasm}\n";

#[tokio::test]
async fn applications_are_registered_from_files() {
    let fake = Fake::default();
    let url = serve(fake.clone()).await;
    let output = flmctl_with(&url, &["register", "application", "-f", "-"], MANIFEST.as_bytes()).await;
    assert_eq!(
        stdout(&output),
        "application one registered\napplication two registered\n"
    );
    assert_eq!(
        fake.0.lock().unwrap().applications["one"].delay_release,
        Some(120)
    );
    // The second time the registry refuses, inside its answer.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("apps.yaml");
    std::fs::write(&file, MANIFEST).unwrap();
    let output = flmctl(&url, &["register", "-f", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    let message = "error: cannot register application \"one\": application one is registered already\n";
    assert_eq!(stderr(&output), message);
    let output = flmctl(&url, &["update", "application", "-f", file.to_str().unwrap()]).await;
    assert_eq!(
        stdout(&output),
        "application one updated\napplication two updated\n"
    );
}

#[tokio::test]
async fn applications_are_registered_changed_and_removed_by_flags() {
    let fake = Fake::default();
    let url = serve(fake.clone()).await;
    let line = "register application a --command /bin/a --arg -v --arg 1 --env K=V=W --max-instances 3";
    stdout(&flmctl(&url, &line.split(' ').collect::<Vec<_>>()).await);
    stdout(
        &flmctl(
            &url,
            &[
                "update",
                "app",
                "a",
                "--description",
                "new",
                "--delay-release",
                "1m",
            ],
        )
        .await,
    );
    let expected = v1::ApplicationSpec {
        command: Some("/bin/a".into()),
        arguments: vec!["-v".into(), "1".into()],
        environments: vec![v1::Environment {
            name: "K".into(),
            value: "V=W".into(),
        }],
        max_instances: Some(3),
        description: Some("new".into()),
        delay_release: Some(60),
        ..Default::default()
    };
    assert_eq!(fake.0.lock().unwrap().applications["a"], expected);
    let output = flmctl(&url, &["unregister", "application", "a", "x"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot unregister application \"x\": there is no such application"));
    assert!(fake.0.lock().unwrap().applications.is_empty());
}

#[tokio::test]
async fn a_wrong_application_file_is_wrong_usage() {
    let url = serve(Fake::default()).await;
    let text = b"metadata: {name: a}\nspec: {comand: x}\n";
    let output = flmctl_with(&url, &["register", "application", "-f", "-"], text).await;
    assert_eq!(output.status.code(), Some(2));
    let message = "error: standard input: unknown key \"spec.comand\"; did you mean \"spec.command\"?";
    assert!(stderr(&output).starts_with(message), "{}", stderr(&output));
    let output = flmctl(&url, &["register", "application", "-f", "/nonexistent.yaml"]).await;
    assert!(stderr(&output).contains("cannot read the application file /nonexistent.yaml"));
}

fn watched(state: v1::TaskState, output: Option<&str>, reason: Option<&str>) -> Fake {
    let fake = Fake::default();
    let spec = v1::TaskSpec {
        session_id: "s".into(),
        input: None,
        output: None,
    };
    let mut ended = support::task(
        "1",
        state,
        v1::TaskSpec {
            output: output.map(|o| o.to_owned().into()),
            ..spec.clone()
        },
    );
    let event = v1::Event {
        code: state.into(),
        message: reason.map(str::to_owned),
        creation_time: 1_700_000_001_000,
    };
    let status = ended.status.as_mut().unwrap();
    status.completion_time = Some(1_700_000_001_000);
    status.events = vec![event];
    let mut locked = fake.0.lock().unwrap();
    locked.tasks = vec![support::task("1", v1::TaskState::Pending, spec.clone())];
    locked.updates = vec![support::task("1", v1::TaskState::Running, spec), ended];
    drop(locked);
    fake
}

#[tokio::test]
async fn a_task_is_created_and_awaited() {
    let fake = watched(v1::TaskState::Succeed, Some("result"), None);
    let url = serve(fake.clone()).await;
    let output = flmctl(&url, &["create", "task", "-s", "s", "--text", "hello", "--wait"]).await;
    assert_eq!(
        (stdout(&output).as_str(), stderr(&output).as_str()),
        ("result", "task 1\n")
    );
    let output = flmctl_with(&url, &["create", "task", "-s", "s", "--input", "-"], &[0, 255]).await;
    assert_eq!(stdout(&output), "2\n");
    let inputs: Vec<_> = fake
        .0
        .lock()
        .unwrap()
        .created_tasks
        .iter()
        .map(|t| t.input.clone())
        .collect();
    assert_eq!(
        inputs,
        [Some("hello".into()), Some(bytes::Bytes::from_static(&[0, 255]))]
    );
}

#[tokio::test]
async fn a_task_that_fails_fails_the_command_with_its_reason() {
    let url = serve(watched(v1::TaskState::Failed, None, Some("division by zero"))).await;
    let output = flmctl(&url, &["create", "task", "-s", "s", "--wait"]).await;
    assert_eq!(output.status.code(), Some(1));
    let message = "task 1 of session s ended as Failed: division by zero";
    assert!(stderr(&output).contains(message), "{}", stderr(&output));
}

#[tokio::test]
async fn a_watch_prints_each_state_once() {
    let url = serve(watched(v1::TaskState::Succeed, Some("result"), None)).await;
    let output = flmctl(&url, &["watch", "task", "1", "-s", "s", "-o", "json"]).await;
    let states: Vec<String> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["state"].to_string())
        .collect();
    assert_eq!(
        states.last().map(String::as_str),
        Some("\"Succeed\""),
        "{states:?}"
    );
    let mut unique = states.clone();
    unique.dedup();
    assert_eq!(states, unique);
    // It has ended by now: the watch tells so and ends, too.
    let text = stdout(&flmctl(&url, &["watch", "task", "1", "-s", "s"]).await);
    assert_eq!(text, "2023-11-14T22:13:21+00:00  task 1  Succeed  result\n");
}

#[tokio::test]
async fn a_watch_of_nothing_is_an_error() {
    let url = serve(Fake::default()).await;
    let output = flmctl(&url, &["watch", "task", "1", "-s", "s"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("task 1 not found"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn a_watch_that_is_cut_off_says_how_to_go_on() {
    let fake = watched(v1::TaskState::Succeed, None, None);
    fake.0.lock().unwrap().updates.truncate(1);
    let url = serve(fake).await;
    let output = flmctl(&url, &["watch", "task", "1", "-s", "s"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("go on with flmctl watch task 1 -s s"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn a_watch_outlives_a_restart_of_the_session_manager() {
    let fake = watched(v1::TaskState::Succeed, Some("result"), None);
    fake.0.lock().unwrap().breaks = 1;
    let url = serve(fake.clone()).await;
    let output = flmctl(&url, &["create", "task", "-s", "s", "--wait"]).await;
    assert_eq!(stdout(&output), "result");
    let note = "task 1\nlost the session manager (restarting), trying again\n";
    assert_eq!(stderr(&output), note);
    assert_eq!(
        fake.0.lock().unwrap().created_tasks.len(),
        1,
        "only the watch is repeated"
    );
}

/// `flmctl ... | head -1`: the reader is gone before everything is written.
// More threads than one: this test blocks in a read while the Frontend has to answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_is_no_failure() {
    let fake = filled();
    let many = (0..5000)
        .map(|i| support::session_of(&format!("session-{i:04}"), "counter", i + 1))
        .collect();
    fake.0.lock().unwrap().sessions = many;
    let url = serve(fake).await;
    for args in [
        vec!["list", "sessions"],
        vec!["list", "sessions", "-o", "json"],
        vec!["completion", "bash"],
    ] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut child = support::command(&args)
            .env("FLAME_ENDPOINT", &url)
            .stdout(writer)
            .spawn()
            .unwrap();
        let mut first = [0; 16];
        reader.read_exact(&mut first).unwrap();
        drop(reader);
        let status = child.wait().await.unwrap();
        let mut text = String::new();
        let mut pipe = child.stderr.take().unwrap();
        tokio::io::AsyncReadExt::read_to_string(&mut pipe, &mut text)
            .await
            .unwrap();
        assert_eq!((status.code(), text.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[tokio::test]
async fn version_completion_and_manual_need_no_cluster() {
    let url = "http://127.0.0.1:1";
    let version = format!("flmctl {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&flmctl(url, &["version"]).await), version);
    assert!(stdout(&flmctl(url, &["completion", "bash"]).await).contains("_flmctl"));
    assert!(stdout(&flmctl(url, &["man"]).await).contains(".TH flmctl 1"));
    let dir = tempfile::tempdir().unwrap();
    stdout(&flmctl(url, &["man", "--dir", dir.path().to_str().unwrap()]).await);
    assert!(dir.path().join("flmctl-list.1").exists());
}

/// Ctrl-C while a watch waits.
#[tokio::test]
async fn an_interrupt_ends_a_watch_with_its_own_status() {
    let fake = watched(v1::TaskState::Succeed, None, None);
    fake.0.lock().unwrap().updates.truncate(1);
    fake.0.lock().unwrap().stays_open = true;
    let url = serve(fake).await;
    let mut child = support::command(&["watch", "task", "1", "-s", "s"])
        .env("FLAME_ENDPOINT", &url)
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 1];
    tokio::io::AsyncReadExt::read_exact(&mut out, &mut first)
        .await
        .unwrap();
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(130), ""));
}
