//! What really arrives at a service manager's socket.
#![allow(clippy::expect_used)] // a test may fail that way; clippy only knows functions marked as tests

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use flame_systemd::Notifier;

/// Variable that makes the test process play the daemon.
const ROLE: &str = "FLAME_TEST_PLAYS_DAEMON";
/// Longest wait for a datagram that was sent before the child ended.
const AT_MOST: Duration = Duration::from_secs(5);

/// Runs this test program again as a daemon, because the environment of a process with threads
/// must not be changed.
fn daemon(environment: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "plays_the_daemon", "--nocapture"])
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .env(ROLE, "1")
        .envs(environment.iter().copied())
        .output()
        .expect("started");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn plays_the_daemon() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let notifier = Notifier::from_env();
    println!("interval {:?}", notifier.watchdog_interval());
    notifier.status("loading\nREADY=1");
    notifier.ready();
    notifier.watchdog();
    notifier.extend_timeout(Duration::from_secs(3));
    notifier.stopping();
}

#[test]
fn every_message_arrives() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_read_timeout(Some(AT_MOST)).expect("set");
    let path = path.to_str().expect("text");
    let printed = daemon(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "30000000")]);
    assert!(printed.contains("interval Some(15s)"), "{printed}");
    let mut buffer = [0; 256];
    for expected in [
        "STATUS=loading READY=1",
        "READY=1",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=3000000",
        "STOPPING=1",
    ] {
        let length = socket.recv(&mut buffer).expect(expected);
        assert_eq!(String::from_utf8_lossy(&buffer[..length]).trim_end(), expected);
    }
}

#[test]
fn nobody_listens() {
    assert!(daemon(&[("WATCHDOG_USEC", "30000000")]).contains("interval None"));
    // A socket that is gone is not an error of the daemon.
    daemon(&[("NOTIFY_SOCKET", "/nonexistent/notify")]);
}

#[test]
fn the_watchdog_of_another_process_is_not_ours() {
    let printed = daemon(&[
        ("NOTIFY_SOCKET", "/nonexistent/notify"),
        ("WATCHDOG_USEC", "30000000"),
        ("WATCHDOG_PID", "1"),
    ]);
    assert!(printed.contains("interval None"), "{printed}");
}
