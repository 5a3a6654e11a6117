//! Logs of the fake machine.

use crate::host::fake::FakeHost;
use crate::installed::testing::{everything, run};

use super::*;

const ENTRY: &str = r#"{"__REALTIME_TIMESTAMP":"1763743848123456","_SYSTEMD_UNIT":"flame-node-agent.service","_PID":"42","PRIORITY":"6","MESSAGE":"registered"}"#;

fn host() -> FakeHost {
    let mut host = FakeHost::new();
    host.root = false;
    host.sight.journal = Some(
        ["1", "2", "3"]
            .map(|end| ENTRY.replace("registered", end))
            .to_vec(),
    );
    everything(&host, true);
    host
}

fn asked(host: &FakeHost) -> JournalQuery {
    host.sight.queries.borrow_mut().pop().expect("asked")
}

#[test]
fn the_journal_is_asked_for_the_units_of_the_installation() {
    let host = host();
    for (line, units) in [
        (
            "logs",
            "flame-session-manager.service flame-node-agent.service flame.target flame-node-agent@*.service",
        ),
        ("logs node-agent", "flame-node-agent.service"),
        ("logs executor@3", "flame-executor@3.service"),
        (
            "logs node-agent executor-strict@3",
            "flame-executor-strict@3.service flame-node-agent.service",
        ),
        (
            "logs --all session-manager",
            "flame-session-manager.service flame-executor@*.service flame-executor-strict@*.service \
             flame-executor-open@*.service",
        ),
    ] {
        let (code, out, err) = run(&host, line);
        assert_eq!(code, 0, "{line}: {err}");
        assert_eq!(out.lines().count(), 3, "{out}");
        let query = asked(&host);
        assert_eq!(query.units.join(" "), units, "{line}");
        assert_eq!((query.lines, query.follow), (Some(100), false));
    }
}

#[test]
fn lines_and_times_are_bounds() {
    let host = host();
    assert_eq!(run(&host, "logs -n 2 -f").0, 0);
    let query = asked(&host);
    assert_eq!((query.lines, query.follow, query.since_us), (Some(2), true, None));
    // Which lines are the last from some time on is not journalctl's to say.
    let (_, out, _) = run(&host, "logs -n 2 --since 2025-11-21");
    assert!(
        out.contains(": 2\n") && out.ends_with(": 3\n") && out.lines().count() == 2,
        "{out}"
    );
    let query = asked(&host);
    assert!(query.lines.is_none() && query.since_us.is_some());
    for line in [
        "logs --since tomorrow",
        "logs -n 2 --since 1h -f",
        "logs sshd",
        "logs -n many",
    ] {
        assert_eq!(run(&host, line).0, 1, "{line}");
    }
}

#[test]
fn each_entry_is_an_object_on_a_line() {
    let host = host();
    let (_, out, _) = run(&host, "logs -o json");
    let first: serde_json::Value =
        serde_json::from_str(out.lines().next().expect("a line")).expect("an object");
    assert_eq!(
        first,
        serde_json::json!({
            "time_us": 1_763_743_848_123_456_u64, "unit": "flame-node-agent.service", "pid": 42, "priority": 6,
            "message": "1",
        })
    );
    assert_eq!(out.lines().count(), 3);
}

#[test]
fn a_journal_that_may_not_be_read_is_an_error() {
    let mut host = host();
    host.sight.journal = None;
    assert_eq!(run(&host, "logs").0, 4);
}

#[test]
fn without_systemd_files_are_shown() {
    let host = FakeHost::new();
    let installed = everything(&host, false);
    let (code, out, _) = run(&host, "logs");
    assert_eq!((code, out.as_str()), (0, ""), "nothing is there yet");
    let (code, _, err) = run(&host, "logs node-agent");
    assert!(code == 1 && err.contains("nothing has been logged"), "{err}");
    let write = |name: &str, text: &str| {
        std::fs::write(installed.prefix.join("logs").join(name), text).expect("written");
    };
    write("flame-session-manager.log", "2025-01-01T00:00:02Z INFO two\n");
    write(
        "flame-node-agent.log",
        "2025-01-01T00:00:01Z INFO one\n2025-01-02T00:00:00Z INFO three\n",
    );
    for (line, expected) in [
        ("logs", "one two three"),
        ("logs node-agent", "one three"),
        ("logs flame-session-manager.service", "two"),
        ("logs -n 1", "three"),
        ("logs --since 2025-01-01T12:00:00Z", "three"),
    ] {
        let (code, out, err) = run(&host, line);
        assert_eq!(code, 0, "{line}: {err}");
        let last: Vec<&str> = out.lines().filter_map(|line| line.rsplit(' ').next()).collect();
        assert_eq!(last.join(" "), expected, "{line}");
    }
    let (code, _, err) = run(&host, "logs cache");
    assert!(
        code == 1 && err.contains("there are: flame-node-agent, flame-session-manager"),
        "{err}"
    );
}
