//! `list` and `view`.

use serde_json::json;

use crate::support::{Fake, filled, first_column, flmctl, json, serve, stderr, stdout};

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
