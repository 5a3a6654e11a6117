//! Processes that are not children of ours: found again by pid and start time, signalled without mistaking one for another.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use flame_core::fsutil::write_atomic;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::failure::{Failure, Outcome};

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// It has ended, and its parent has not looked yet.
    pub(super) is_zombie: bool,
    /// Its parent.
    pub(super) parent: u32,
    /// When it started, in clock ticks since boot: tells a pid that was used again.
    pub(super) started: u64,
}

/// Looks at a process; `None` if there is none.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The program's name comes first, in parentheses, and may itself have some.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        is_zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Pids of all processes.
pub(super) fn all() -> Vec<u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// A living process that can be signalled, and only it: a pidfd never means another one.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) pid: u32,
    fd: OwnedFd,
}

impl Handle {
    /// The process `pid`, if it lives, and if `is_it` still says so when nothing can take its pid any more.
    pub(super) fn open(pid: u32, is_it: impl FnOnce(&Stat) -> bool) -> Option<Self> {
        let fd = pidfd_open(Pid::from_raw(pid.try_into().ok()?)?, PidfdFlags::empty()).ok()?;
        let stat = stat(pid)?;
        (!stat.is_zombie && is_it(&stat)).then_some(Self { pid, fd })
    }

    /// The process that a pid file names, if it lives and is the one that was meant.
    pub(super) fn read(pid_file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(pid_file).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let started: u64 = started.parse().ok()?;
        Self::open(pid.parse().ok()?, |stat| stat.started == started)
    }

    /// Sends a signal; a process that has ended meanwhile is none to complain about.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.fd, signal);
    }
}

/// Writes the pid file of a process: pid and start time.
///
/// # Errors
/// It cannot be written, or the process is gone.
pub(super) fn write_pid_file(path: &Path, pid: u32) -> Outcome<()> {
    let Some(stat) = stat(pid) else {
        return Err(Failure::installation(format!(
            "the process {pid} was gone before {} was written",
            path.display()
        )));
    };
    Ok(write_atomic(
        path,
        format!("{pid} {}\n", stat.started).as_bytes(),
        0o644,
    )?)
}

/// Waits until all of these have ended; false if one has not within `limit`.
///
/// # Errors
/// The kernel does not let us wait.
pub(super) fn await_end(handles: &[Handle], limit: Duration) -> Outcome<bool> {
    let deadline = Instant::now() + limit;
    for handle in handles {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that no round is without any wait.
            let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let mut ended = [PollFd::new(handle.fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ended, left) {
                Ok(0) if Instant::now() >= deadline => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => break,
                Err(error) => {
                    return Err(Failure::installation("cannot wait for processes").because(error));
                }
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().expect("started")
    }

    #[test]
    fn a_name_with_parentheses_is_read_over() {
        let text = "7 (a) Z (b)) S 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        let stat = parse_stat(text).expect("read");
        assert_eq!((stat.is_zombie, stat.parent, stat.started), (false, 3, 4711));
        assert_eq!(parse_stat("7 (a) S 3"), None);
    }

    #[test]
    fn a_pid_that_was_used_again_is_not_taken() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("a.pid");
        let mut child = sleeper();
        write_pid_file(&file, child.id()).expect("written");
        assert_eq!(Handle::read(&file).expect("lives").pid, child.id());
        let started = stat(child.id()).expect("lives").started;
        std::fs::write(&file, format!("{} {}\n", child.id(), started + 1)).expect("written");
        assert!(Handle::read(&file).is_none());
        for text in ["", "7", "x y", "0 0", "99999999999 1"] {
            std::fs::write(&file, text).expect("written");
            assert!(Handle::read(&file).is_none(), "{text:?}");
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    #[test]
    fn the_end_of_a_process_is_awaited() {
        let mut child = sleeper();
        let handle = Handle::open(child.id(), |_| true).expect("lives");
        let mut handles = vec![handle];
        assert!(!await_end(&handles, Duration::from_millis(1)).expect("waited"));
        handles[0].signal(Signal::KILL);
        assert!(await_end(&handles, Duration::from_secs(5)).expect("waited"));
        // Not waited for yet, and dead nevertheless.
        assert!(Handle::open(child.id(), |_| true).is_none());
        child.wait().expect("ended");
        handles.clear();
        assert!(await_end(&handles, Duration::ZERO).expect("waited"));
    }
}
