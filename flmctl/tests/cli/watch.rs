//! Tasks that are waited for.

use flame_rpc::v1;

use crate::support::{self, Fake, flmctl, flmctl_with, serve, stderr, stdout};

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
