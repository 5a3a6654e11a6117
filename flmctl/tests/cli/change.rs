//! `create session`, `close`, `delete` and the registry of applications.

use flame_rpc::v1;

use crate::support::{Fake, filled, flmctl, flmctl_with, json, serve, stderr, stdout};

#[tokio::test]
async fn a_session_is_created_as_asked() {
    let fake = filled();
    let url = serve(fake.clone()).await;
    let line = "create session -a counter -s mine --priority 7 --min-instances 1 --max-instances 2 \
                --resreq cpu=2,mem=4g --node-selector zone=a --task-timeout 1.5 --common-data -";
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
        node_selector: [("zone".to_owned(), "a".to_owned())].into(),
        task_timeout_ms: Some(1500),
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
                "--reusable",
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
        reusable: true,
        ..Default::default()
    };
    assert_eq!(fake.0.lock().unwrap().applications["a"], expected);
    stdout(&flmctl(&url, &["update", "app", "a", "--reusable=false"]).await);
    assert!(!fake.0.lock().unwrap().applications["a"].reusable);
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
