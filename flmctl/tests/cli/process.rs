//! What a process promises: exit statuses, errors, pipes, no cluster needed.

use std::io::Read;

use serde_json::json;

use crate::support::{self, filled, first_column, flmctl, serve, stderr, stdout};

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
async fn a_ca_file_that_is_missing_is_a_wrong_configuration() {
    let mut command = support::command(&["list", "apps", "-e", "https://127.0.0.1:1"]);
    let output = command
        .env("FLAME_CA_FILE", "/nonexistent/ca.pem")
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = "error: cannot read CA certificate /nonexistent/ca.pem: No such file or directory";
    assert!(stderr(&output).starts_with(message), "{}", stderr(&output));
}

#[tokio::test]
async fn the_flag_beats_the_environment() {
    let url = serve(filled()).await;
    // Also where the environment makes no sense.
    for environment in ["http://127.0.0.1:1", "localhost"] {
        let output = flmctl(environment, &["list", "apps", "--endpoint", &url]).await;
        assert_eq!(first_column(&stdout(&output)), ["counter", "flmping"]);
    }
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
