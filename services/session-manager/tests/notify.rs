//! What the daemon tells systemd from its start to its end, as it arrives at the socket.
#![allow(clippy::expect_used, clippy::panic)] // a test may fail that way; clippy only knows functions marked as tests

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a message, on a busy machine.
const AT_MOST: Duration = Duration::from_secs(60);
/// `WatchdogSec=` of the test.
const WATCHDOG: Duration = Duration::from_secs(2);

/// A session manager, and the socket on which it says how it is.
struct Daemon {
    child: Child,
    socket: UnixDatagram,
    port: u16,
}

impl Daemon {
    /// Starts one with this `cluster.storage`.
    fn start(directory: &Path, storage: &str) -> Self {
        let port = free_port();
        let config = directory.join("flame-cluster.yaml");
        let text = format!(
            "cluster:\n  name: test\n  endpoint: http://127.0.0.1:{port}\n  storage: {storage}\n  \
             metrics: {{listen: none}}\n"
        );
        std::fs::write(&config, text).expect("written");
        let notify = directory.join("notify");
        let _old = std::fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).expect("bound");
        socket.set_read_timeout(Some(AT_MOST)).expect("set");
        let child = Command::new(env!("CARGO_BIN_EXE_flame-session-manager"))
            .arg("--config")
            .arg(&config)
            .current_dir(directory)
            .env("NOTIFY_SOCKET", &notify)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        Self { child, socket, port }
    }

    /// The next message.
    fn next(&self) -> String {
        let mut buffer = [0; 1024];
        let length = self.socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned()
    }

    /// All messages up to one that begins with `words`, which comes last.
    fn until(&self, words: &str) -> Vec<String> {
        let mut messages = Vec::new();
        while !messages
            .last()
            .is_some_and(|last: &String| last.starts_with(words))
        {
            messages.push(self.next());
        }
        messages
    }

    fn terminate(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
        self.child.wait().expect("ended")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended unless the test failed.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A port of which the next one is free, too.
fn free_port() -> u16 {
    for _ in 0..100 {
        let one = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = one.local_addr().expect("bound").port();
        if port < 60_000 && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
    panic!("no two ports are free")
}

#[test]
fn a_start_a_life_and_a_stop() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut daemon = Daemon::start(directory.path(), "sqlite://flame.db");
    assert_eq!(
        daemon.until("READY"),
        [
            "STATUS=making a new state in flame.db",
            "EXTEND_TIMEOUT_USEC=30000000",
            "READY=1"
        ]
    );
    // Ready means that both are served.
    for port in [daemon.port, daemon.port + 1] {
        TcpStream::connect(("127.0.0.1", port)).expect("served");
    }
    assert_eq!(
        daemon.next(),
        "STATUS=0 of 0 nodes ready, 0 executors, 0 open sessions, 0 tasks pending, 0 running"
    );
    // At half the watchdog's time: three periods of it take less than two of its.
    assert_eq!(daemon.next(), "WATCHDOG=1");
    let begin = Instant::now();
    for _ in 0..3 {
        assert_eq!(daemon.next(), "WATCHDOG=1");
    }
    assert!(begin.elapsed() < 2 * WATCHDOG, "{:?}", begin.elapsed());
    assert!(
        begin.elapsed() > WATCHDOG,
        "not more often than needed: {:?}",
        begin.elapsed()
    );

    assert!(daemon.terminate().success());
    let last: Vec<String> = daemon
        .until("EXTEND_TIMEOUT_USEC")
        .into_iter()
        .filter(|message| message != "WATCHDOG=1")
        .collect();
    assert_eq!(
        last,
        [
            "STOPPING=1",
            "STATUS=stopping: storing the last changes",
            "EXTEND_TIMEOUT_USEC=30000000"
        ]
    );
    daemon.socket.set_nonblocking(true).expect("set");
    assert!(daemon.socket.recv(&mut [0; 64]).is_err(), "that was all");

    let again = Daemon::start(directory.path(), "sqlite://flame.db");
    let status = again.next();
    assert!(
        status.starts_with("STATUS=loading the state of 0.") && status.ends_with(" MB from flame.db"),
        "{status}"
    );
    again.until("READY");
}

#[test]
fn a_state_that_cannot_be_loaded_is_never_ready() {
    let directory = tempfile::tempdir().expect("temporary directory");
    std::fs::write(
        directory.path().join("flame.db"),
        "this is no database, but long enough to be one",
    )
    .expect("written");
    let mut daemon = Daemon::start(directory.path(), "sqlite://flame.db");
    assert!(!daemon.child.wait().expect("ended").success());
    daemon.socket.set_nonblocking(true).expect("set");
    let mut buffer = [0; 1024];
    while let Ok(length) = daemon.socket.recv(&mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(!message.starts_with("READY"), "{message}");
    }
}
