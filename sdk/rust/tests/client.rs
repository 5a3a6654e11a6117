//! The client against a session manager that behaves badly.
#![allow(clippy::expect_used, clippy::panic)] // tests may, their helpers too

mod fake;

use std::time::Duration;

use fake::{EARLY_ENDS, Fake, REASON};
use flame_rs::{Bytes, Client, ClientConfig, ClientOptions, Error, SessionOptions, error};

fn config(fake: &Fake) -> ClientConfig {
    ClientConfig {
        endpoint: fake.url().parse().expect("url"),
        ..ClientConfig::default()
    }
}

async fn session(fake: &Fake, application: &str) -> flame_rs::Session {
    let client = Client::connect(&config(fake)).await.expect("connected");
    client
        .create_session(SessionOptions::new(application))
        .await
        .expect("created")
}

#[tokio::test]
async fn the_output_of_a_task_comes_back() {
    let fake = Fake::new();
    let session = session(&fake, "echo").await;
    let output = session.invoke(Some(Bytes::from_static(b"hello"))).await;
    assert_eq!(output.expect("succeeds"), Some(Bytes::from_static(b"hello")));
    let tasks: Vec<_> = (0..50u8).map(|n| session.submit(Some(vec![n].into()))).collect();
    for (n, task) in (0..50u8).zip(tasks) {
        assert_eq!(task.await.expect("succeeds"), Some(vec![n].into()));
    }
    let listed = session
        .list_tasks()
        .await
        .expect("listed")
        .collect()
        .await
        .expect("all");
    assert_eq!(listed.len(), 51);
    session.close().await.expect("closed");
    assert!(!fake.lock().sessions[session.id()].1);
}

#[tokio::test]
async fn a_failed_task_brings_the_services_words() {
    let fake = Fake::new();
    for application in ["fails", "fails-loudly"] {
        let session = session(&fake, application).await;
        match session.invoke(None).await {
            Err(Error::TaskFailed { message, .. }) => assert_eq!(message, REASON),
            other => panic!("{application}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_cancelled_task_is_an_error_of_its_own() {
    let fake = Fake::new();
    let outcome = session(&fake, "cancelled").await.submit(None).await;
    assert!(matches!(outcome, Err(Error::TaskCancelled { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_stream_that_ends_early_is_opened_again() {
    let fake = Fake::new();
    let output = session(&fake, "early")
        .await
        .invoke(Some(Bytes::from_static(b"x")))
        .await;
    assert_eq!(output.expect("succeeds"), Some(Bytes::from_static(b"x")));
    assert_eq!(fake.lock().watches, EARLY_ENDS + 1);
}

#[tokio::test]
async fn a_task_that_does_not_exist_is_not_waited_for() {
    let fake = Fake::new();
    let error = session(&fake, "echo")
        .await
        .wait_task("77")
        .await
        .expect_err("no such task");
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn a_task_outlives_a_restart_of_the_manager() {
    let mut fake = Fake::new();
    let session = session(&fake, "never").await;
    let task = session.submit(Some(Bytes::from_static(b"late")));
    wait_until(|| fake.lock().watches > 0).await;
    fake.stop();
    fake.finish_all();
    fake.start();
    assert_eq!(task.await.expect("succeeds"), Some(Bytes::from_static(b"late")));
}

#[tokio::test]
async fn a_manager_that_stays_away_ends_the_wait() {
    let mut fake = Fake::new();
    let options = ClientOptions {
        reconnect_limit: Duration::from_millis(300),
        ..ClientOptions::default()
    };
    let client = Client::connect_with(&config(&fake), options)
        .await
        .expect("connected");
    let session = client
        .create_session(SessionOptions::new("never"))
        .await
        .expect("created");
    let task = session.submit(None);
    wait_until(|| fake.lock().watches > 0).await;
    fake.stop();
    let error = task.await.expect_err("nobody answers");
    assert!(error.is_lost() && error.hint().is_some(), "{error:?}");
}

#[tokio::test]
async fn a_refused_connection_says_where_and_why() {
    let mut fake = Fake::new();
    let config = config(&fake);
    fake.stop();
    let error = Client::connect(&config).await.expect_err("nobody listens");
    let text = error::report(&error);
    assert!(
        text.contains(&fake.url()) && text.contains("Connection refused"),
        "{text}"
    );
    assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn the_registry_answers_in_band_and_the_client_makes_errors_of_it() {
    let fake = Fake::new();
    let client = Client::connect(&config(&fake)).await.expect("connected");
    let spec = flame_rs::v1::ApplicationSpec::default();
    let error = client
        .register_application("echo", spec.clone())
        .await
        .expect_err("taken");
    assert_eq!(
        error.to_string(),
        "cannot register application echo: application echo exists"
    );
    client.register_application("mine", spec).await.expect("free");
    assert!(client.get_application("mine").await.expect("answer").is_some());
    client.unregister_application("mine").await.expect("there");
    assert!(client.get_application("mine").await.expect("answer").is_none());
    assert!(client.unregister_application("mine").await.is_err());
}

#[tokio::test]
async fn sessions_are_named_and_their_errors_keep_the_servers_words() {
    let fake = Fake::new();
    let client = Client::connect(&config(&fake)).await.expect("connected");
    let session = client
        .create_session(SessionOptions::new("echo").id("mine"))
        .await
        .expect("created");
    assert_eq!(session.id(), "mine");
    session.close().await.expect("closed");
    let error = client.open_session("mine", None).await.expect_err("closed");
    assert_eq!(
        error.to_string(),
        "cannot open session mine: session mine is not open (InvalidArgument)"
    );
    let error = client
        .create_session(SessionOptions::new("none"))
        .await
        .expect_err("unknown");
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn a_session_whose_creation_was_answered_to_nobody_is_ours() {
    let fake = Fake::new();
    let client = Client::connect(&config(&fake)).await.expect("connected");
    fake.lock().losing = 1;
    let ours = client
        .create_session(SessionOptions::new("echo").id("ours"))
        .await
        .expect("repeated");
    assert_eq!(ours.id(), "ours");
    assert_eq!(fake.lock().losing, 0);
    // A session that was there before is not.
    for application in ["echo", "fails"] {
        let taken = client
            .create_session(SessionOptions::new(application).id("ours"))
            .await;
        assert_eq!(
            taken.expect_err("taken").to_string(),
            format!("cannot create a session of application {application}: session exists (AlreadyExists)")
        );
    }
    // Nor is one that differs, whatever became of the first answer.
    {
        let mut state = fake.lock();
        state
            .sessions
            .insert("theirs".to_owned(), ("fails".to_owned(), true));
        state.busy = 1;
    }
    let taken = client
        .create_session(SessionOptions::new("echo").id("theirs"))
        .await;
    assert!(taken.expect_err("theirs").to_string().contains("session exists"));
}

#[tokio::test]
async fn calls_that_read_are_repeated() {
    let fake = Fake::new();
    let session = session(&fake, "echo").await;
    fake.lock().losing = 3;
    session.get().await.expect("repeated");
    assert_eq!(fake.lock().losing, 0);
}

/// Yields until the condition holds; the test runner's own time limit ends a wait in vain.
async fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
