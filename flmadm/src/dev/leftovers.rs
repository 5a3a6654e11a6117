//! Processes of a cluster, found by the mark in their environment, whoever started them in it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::process::{self, Handle};
use crate::failure::{Failure, Kind, Outcome};

/// In the environment of every process of a cluster; its value is the prefix.
pub(super) const MARK: &str = "FLAME_LOCAL_CLUSTER";
/// How long processes that were left alone have to end by themselves: executors do when their agent dies.
const GRACE: Duration = Duration::from_millis(500);
/// The kernel ends what is killed within this time, unless a disk or a network hangs.
const KILL_LIMIT: Duration = Duration::from_secs(15);

/// Processes of the cluster at `prefix`, without ourselves and those that we run in.
pub(super) fn find(prefix: &Path) -> Vec<Handle> {
    let spared = lineage(std::process::id());
    let candidates = process::all().into_iter().filter(|pid| !spared.contains(pid));
    candidates
        .filter(|pid| is_marked(*pid, prefix))
        .filter_map(|pid| Handle::open(pid, |_| is_marked(pid, prefix)))
        .collect()
}

/// Ends all of them; gives those that had to be killed, as lines for people.
///
/// # Errors
/// One does not end.
pub(super) fn end(prefix: &Path) -> Outcome<Vec<String>> {
    let found = find(prefix);
    if found.is_empty() || process::await_end(&found, GRACE)? {
        return Ok(Vec::new());
    }
    let mut killed = Vec::new();
    // What is killed may just have started something.
    loop {
        let found = find(prefix);
        if found.is_empty() {
            return Ok(killed);
        }
        for handle in &found {
            killed.push(format!("{} {}", handle.pid, command_line(handle.pid)));
            handle.signal(Signal::KILL);
        }
        if !process::await_end(&found, KILL_LIMIT)? {
            let pids: Vec<String> = found.iter().map(|handle| handle.pid.to_string()).collect();
            return Err(
                Failure::new(Kind::Start, format!("processes do not end: {}", pids.join(", ")))
                    .hint("they wait for a disk or a network that hangs; try again later"),
            );
        }
    }
}

fn is_marked(pid: u32, prefix: &Path) -> bool {
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    has_mark(&environment, prefix)
}

fn has_mark(environment: &[u8], prefix: &Path) -> bool {
    environment.split(|byte| *byte == 0).any(|entry| {
        entry
            .strip_prefix(MARK.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
            == Some(prefix.as_os_str().as_bytes())
    })
}

/// A process and its ancestors.
fn lineage(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut next = pid;
    while let Some(stat) = process::stat(next).filter(|stat| stat.parent != 0) {
        pids.push(stat.parent);
        next = stat.parent;
    }
    pids
}

fn command_line(pid: u32) -> String {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words)
        .replace('\0', " ")
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_mark_is_a_whole_entry() {
        let prefix = Path::new("/tmp/a");
        for (environment, expected) in [
            ("FLAME_LOCAL_CLUSTER=/tmp/a", true),
            ("A=1\0FLAME_LOCAL_CLUSTER=/tmp/a\0B=2\0", true),
            ("FLAME_LOCAL_CLUSTER=/tmp/ab\0", false),
            ("FLAME_LOCAL_CLUSTER=/tmp/\0", false),
            ("XFLAME_LOCAL_CLUSTER=/tmp/a\0", false),
            ("A=FLAME_LOCAL_CLUSTER=/tmp/a\0", false),
            ("", false),
        ] {
            assert_eq!(
                has_mark(environment.as_bytes(), prefix),
                expected,
                "{environment:?}"
            );
        }
    }

    #[test]
    fn marked_processes_are_ended_and_others_left() {
        let prefix = Path::new("/nonexistent/of-a-unit-test");
        let start = |mark: &Path| {
            let mut command = Command::new("sleep");
            let child = command.arg("60").env(MARK, mark).spawn().expect("started");
            // The kernel lets us go on a moment before it shows the new program's environment.
            let place = format!("/proc/{}/environ", child.id());
            while std::fs::read(&place).expect("it runs").is_empty() {
                std::thread::yield_now();
            }
            child
        };
        let (mut ours, mut other) = (start(prefix), start(Path::new("/nonexistent/of")));
        let killed = end(prefix).expect("ended");
        assert_eq!(killed, [format!("{} sleep 60", ours.id())]);
        ours.wait().expect("ended");
        assert!(other.try_wait().expect("looked at").is_none());
        assert!(end(prefix).expect("ended").is_empty());
        other.kill().expect("killed");
        other.wait().expect("ended");
    }

    #[test]
    fn we_are_never_left_over() {
        let pids = lineage(std::process::id());
        assert!(
            pids.contains(&std::process::id()) && pids.contains(&1),
            "{pids:?}"
        );
    }
}
