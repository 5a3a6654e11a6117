//! `logs`: what is shown, what is said beside it, and how it goes on when the session manager is lost.

use flame_rpc::v1;
use tonic::{Code, Status};

use crate::control::{Asked, Log, line, manager, run};
use crate::support::{command, stderr, stdout};

/// Lines with these numbers, after which more follow.
fn lines(numbers: std::ops::RangeInclusive<i64>) -> v1::LogLines {
    v1::LogLines {
        lines: numbers.map(line).collect(),
        caught_up: true,
        goes_on: true,
        ..v1::LogLines::default()
    }
}

/// The message that says that there are no more.
fn last() -> v1::LogLines {
    v1::LogLines::default()
}

fn lost() -> Status {
    Status::unavailable("it is being restarted")
}

/// A session manager that answers so, one call after the other.
async fn answering(logs: Vec<Log>) -> (Asked, String) {
    let (asked, url) = manager().await;
    asked.logs.lock().unwrap().extend(logs);
    (asked, url)
}

fn texts(output: &std::process::Output) -> Vec<String> {
    let text = |line: &str| line.rsplit_once("  ").map(|(_, text)| text.to_owned());
    stdout(output).lines().filter_map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_a_log_are_shown_and_what_is_missing_is_said() {
    let (asked, url) = manager().await;
    let shown = run(&url, "logs -s s1 -n 2 -t 7 --node n1 -f").await;
    assert!(shown.status.success(), "{}", stderr(&shown));
    assert_eq!(asked.taken(), [r#"Some("s1") Some("7") Some("n1") Some(2) true"#]);
    let out = stdout(&shown);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "the last ones: {out}");
    assert!(lines[0].ends_with(" n1 e1-1 out  line 2"), "{out}");
    assert_eq!(stderr(&shown), "node n2 is not connected\n");
    let shown = run(&url, "logs -s s1 -o json").await;
    let values: Vec<serde_json::Value> = stdout(&shown)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!((values.len(), stderr(&shown).as_str()), (4, ""));
    assert_eq!(values[0]["note"], "node_away");
    assert_eq!(
        (&values[1]["text"], &values[1]["output"]),
        (&"line 1".into(), &"out".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_there_is_an_error() {
    let (_, url) = manager().await;
    for (line, code) in [
        ("logs -s x -o json", "not_found"),
        ("logs -s empty -o json", "nothing_kept"),
        ("logs --node n1 -o json", "node_failed"),
        ("logs -s away -o json", "node_away"),
    ] {
        let failed = run(&url, line).await;
        assert_eq!(failed.status.code(), Some(1), "{line}");
        let error: serde_json::Value = serde_json::from_str(&stderr(&failed)).expect("JSON");
        assert_eq!(error["error"]["code"], code, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_followed_goes_on_where_it_was_after_a_restart() {
    let begin = v1::LogPlace {
        node: "n1".to_owned(),
        begin_us: 7,
        ..v1::LogPlace::default()
    };
    let first = v1::LogLines {
        places: vec![begin],
        ..lines(1..=2)
    };
    let (asked, url) = answering(vec![
        Ok(vec![Ok(first), Err(lost())]),
        Err(lost()),
        Ok(vec![Err(lost())]),
        // A stop in order ends the stream without an error, but not with the last message.
        Ok(vec![Ok(lines(3..=3))]),
        Err(Status::resource_exhausted("8 logs are read by this address")),
        Ok(vec![Ok(lines(4..=4)), Ok(last())]),
    ])
    .await;
    let shown = run(&url, "logs -s s1 -n 9 -f").await;
    assert!(shown.status.success(), "{}", stderr(&shown));
    assert_eq!(texts(&shown), ["line 1", "line 2", "line 3", "line 4"]);
    assert_eq!(
        stderr(&shown),
        "connection lost (it is being restarted), trying again\nconnected again\n\
         connection lost (the session manager ended it early), trying again\nconnected again\n"
    );
    let requests = std::mem::take(&mut *asked.log_requests.lock().unwrap());
    let asked_for: Vec<_> = requests
        .iter()
        .map(|request| {
            let place = request.places.first();
            let read = place.map(|place| (place.begin_us, place.outputs[0].time_us % 1000));
            (request.lines, read)
        })
        .collect();
    assert_eq!(
        asked_for,
        [
            (Some(9), None),
            (None, Some((7, 2))),
            (None, Some((7, 2))),
            (None, Some((7, 2))),
            (None, Some((7, 3))),
            (None, Some((7, 3)))
        ]
    );
}

/// The last lines of all nodes are known when all have come, over however many connections.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_lines_are_found_over_a_restart() {
    let early = v1::LogLines {
        caught_up: false,
        ..lines(1..=3)
    };
    let (asked, url) = answering(vec![
        Ok(vec![Ok(early), Err(lost())]),
        Ok(vec![Ok(lines(4..=4)), Ok(last())]),
    ])
    .await;
    let shown = run(&url, "logs -s s1 -n 2 -f").await;
    assert_eq!(texts(&shown), ["line 3", "line 4"], "{}", stderr(&shown));
    let requests = asked.log_requests.lock().unwrap();
    assert_eq!((requests[1].lines, requests[1].places.len()), (Some(2), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_breaks_off_is_an_error_unless_it_is_followed() {
    for rest in [vec![Err(lost())], Vec::new()] {
        let messages = [Ok(lines(1..=2))].into_iter().chain(rest).collect();
        let (_asked, url) = answering(vec![Ok(messages)]).await;
        let shown = run(&url, "logs -s s1 -o json").await;
        assert_eq!((shown.status.code(), stdout_lines(&shown)), (Some(1), 2));
        let error: serde_json::Value = serde_json::from_str(&stderr(&shown)).expect("JSON");
        assert_eq!(error["error"]["code"], "log_ended");
        let text = error["error"]["message"].as_str().expect("text");
        assert!(
            text.contains("to its end") && text.ends_with("shown: 2"),
            "{text}"
        );
    }
}

fn stdout_lines(output: &std::process::Output) -> usize {
    String::from_utf8_lossy(&output.stdout).lines().count()
}

/// A session manager that was started anew hears of its nodes one by one; what is gone is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_waited_for_and_a_session_that_is_gone_is_an_error() {
    let broken = || Ok(vec![Ok(lines(1..=1)), Err(lost())]);
    let (_asked, url) = answering(vec![
        broken(),
        Err(Status::not_found("node n1 not found")),
        Ok(vec![Ok(lines(2..=2)), Ok(last())]),
    ])
    .await;
    let shown = run(&url, "logs --node n1 -f").await;
    assert_eq!(texts(&shown), ["line 1", "line 2"], "{}", stderr(&shown));
    let (_asked, url) = answering(vec![broken(), Err(Status::not_found("session s1 not found"))]).await;
    let shown = run(&url, "logs -s s1 -f -o json").await;
    assert_eq!(shown.status.code(), Some(1));
    assert!(
        stderr(&shown).contains("session s1 not found"),
        "{}",
        stderr(&shown)
    );
    let notes = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(notes.contains(r#""note":"connection_lost""#), "{notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_a_log_that_waits_for_the_session_manager() {
    let mut logs = vec![Ok(vec![Ok(lines(1..=1)), Err(lost())])];
    logs.resize_with(1000, || Err(Status::new(Code::Unavailable, "not yet")));
    let (_asked, url) = answering(logs).await;
    let mut child = command(&["logs", "-s", "s1", "-f"])
        .env("FLAME_ENDPOINT", &url)
        .spawn()
        .unwrap();
    let mut errors = child.stderr.take().unwrap();
    let mut said = [0; 15];
    tokio::io::AsyncReadExt::read_exact(&mut errors, &mut said)
        .await
        .unwrap();
    assert_eq!(&said, b"connection lost");
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
}
