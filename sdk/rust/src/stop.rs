//! Being told to stop: Ctrl-C of a person, SIGTERM of a supervisor.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for a request to stop. From its creation on, the signals no longer end the process.
#[derive(Debug)]
pub struct StopRequest {
    interrupted: Signal,
    terminated: Signal,
}

impl StopRequest {
    /// Watches for SIGINT and SIGTERM. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The signals cannot be watched.
    pub fn watch() -> io::Result<Self> {
        Ok(Self {
            interrupted: signal(SignalKind::interrupt())?,
            terminated: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next request.
    pub async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupted.recv() => {}
            _ = self.terminated.recv() => {}
        }
    }
}
