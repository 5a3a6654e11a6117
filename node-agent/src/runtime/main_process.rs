//! The main process of a service, held by a pidfd: its end is seen at once, whoever is its parent and its user.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;

/// A hold on one process: unlike its number, it is never that of another one.
#[derive(Debug)]
pub(super) struct MainProcess(AsyncFd<OwnedFd>);

impl MainProcess {
    /// Takes hold of the process with this number.
    ///
    /// # Errors
    /// There is no such process (any more), or descriptors have run out.
    pub(super) fn open(pid: Pid) -> io::Result<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        // Its successor is unsafe because of types that do not keep their descriptor; OwnedFd does.
        #[allow(deprecated)]
        AsyncFd::new(pidfd).map(Self)
    }

    /// Completes when it has ended, collected by its parent or not.
    pub(super) async fn ended(&self) {
        // It becomes readable then, and stays so. Waiting for it fails only when the agent itself ends.
        if self.0.readable().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn an_end_is_seen_before_and_after_it_is_collected_by_everybody_who_asks() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let pid = Pid::from_child(&child);
        let process = MainProcess::open(pid).expect("it lives");
        let lives = timeout(Duration::from_millis(20), process.ended()).await.is_err();
        assert!(lives);
        drop(child.stdin.take());
        tokio::join!(process.ended(), process.ended());
        child.wait().expect("ended");
        process.ended().await;
        let error = MainProcess::open(pid).expect_err("it is gone");
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::SRCH.raw_os_error()));
    }
}
