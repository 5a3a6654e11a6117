//! Tells when a service's socket has appeared, without polling.

use std::io;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use inotify::{Inotify, WatchMask, Watches};
use tokio::sync::watch;

/// Room for the kernel's events of one read, in bytes.
const EVENT_BYTES: usize = 4096;

/// What is seen of a directory.
fn mask() -> WatchMask {
    WatchMask::CREATE | WatchMask::MOVED_TO
}

/// Watches directories of sockets, with one inotify instance for the whole agent.
#[derive(Debug, Clone)]
pub struct SocketWatch {
    directory: PathBuf,
    watches: Watches,
    /// Counts changes; whoever waits looks again after each.
    changes: watch::Receiver<u64>,
}

impl SocketWatch {
    /// Watches `directory` from now on.
    ///
    /// # Errors
    /// Those of inotify, e.g. its limit of instances is reached.
    pub fn start(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut watches = inotify.watches();
        watches.add(directory, mask())?;
        let mut events = inotify.into_event_stream(vec![0_u8; EVENT_BYTES])?;
        let (sender, changes) = watch::channel(0);
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let Err(error) = event {
                    tracing::error!(%error, "the directory of sockets is no longer watched");
                    return;
                }
                sender.send_modify(|count| *count += 1);
                if sender.is_closed() {
                    return;
                }
            }
        });
        Ok(Self {
            directory: directory.to_path_buf(),
            watches,
            changes,
        })
    }

    /// Completes when there is something at `path`. Its directory may be another one, which is then watched until
    /// it is removed.
    pub async fn appeared(&self, path: &Path) {
        let mut changes = self.changes.clone();
        if let Some(directory) = path.parent().filter(|directory| **directory != self.directory)
            && let Err(error) = self.watches.clone().add(directory, mask())
        {
            tracing::warn!(%error, "cannot watch {}", directory.display());
        }
        loop {
            // Marked before looking, so that a change in between is not missed.
            changes.borrow_and_update();
            if path.exists() {
                return;
            }
            if changes.changed().await.is_err() {
                // Without a watch there is nothing to wait for but the caller's own time limit.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn what_is_there_and_what_comes_later_is_seen() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let watch = SocketWatch::start(directory.path()).expect("inotify");
        let below = directory.path().join("below");
        std::fs::create_dir(&below).expect("made");
        let (early, late) = (directory.path().join("early"), below.join("late"));
        std::fs::write(&early, "").expect("writable");
        tokio::time::timeout(LIMIT, watch.appeared(&early))
            .await
            .expect("is there");
        let waiting = {
            let (watch, late) = (watch.clone(), late.clone());
            tokio::spawn(async move { watch.appeared(&late).await })
        };
        std::fs::write(directory.path().join("other"), "").expect("writable");
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        std::fs::rename(directory.path().join("other"), &late).expect("renamed");
        tokio::time::timeout(LIMIT, waiting)
            .await
            .expect("seen")
            .expect("no panic");
    }
}
