//! What a process prints, kept within bounds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

/// Bytes read at once.
const BUFFER: usize = 64 * 1024;

/// Reads all of a pipe in the background, so that the writer never blocks, and keeps a part.
pub(crate) struct Capture {
    kept: Arc<Mutex<VecDeque<u8>>>,
    reader: JoinHandle<()>,
}

/// Which part is kept.
#[derive(Clone, Copy)]
pub(crate) enum Keep {
    /// The first bytes, up to one more than this, so that "too much" can be told.
    Head(usize),
    /// The last bytes, at most this many.
    Tail(usize),
}

impl Capture {
    /// Reads `pipe` to its end; `full` is called once if a head does not fit.
    pub(crate) fn start(
        mut pipe: impl AsyncRead + Send + Unpin + 'static,
        keep: Keep,
        full: impl FnOnce() + Send + 'static,
    ) -> Self {
        let kept = Arc::new(Mutex::new(VecDeque::new()));
        let sink = kept.clone();
        let reader = tokio::spawn(async move {
            let mut full = Some(full);
            let mut buffer = vec![0; BUFFER];
            while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
                if push(&sink, &buffer[..length], keep)
                    && let Some(full) = full.take()
                {
                    full();
                }
            }
        });
        Self { kept, reader }
    }

    /// Waits until every writer has closed the pipe.
    pub(crate) async fn ended(&mut self) {
        // The reader neither panics nor is it cancelled before this.
        let _ = (&mut self.reader).await;
    }

    /// What was kept.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Keeps what `keep` says; `true` if a head is full.
fn push(sink: &Mutex<VecDeque<u8>>, bytes: &[u8], keep: Keep) -> bool {
    let mut kept = sink.lock().unwrap_or_else(PoisonError::into_inner);
    match keep {
        Keep::Head(limit) => {
            let room = (limit + 1).saturating_sub(kept.len());
            kept.extend(&bytes[..bytes.len().min(room)]);
            kept.len() > limit
        }
        Keep::Tail(limit) => {
            kept.extend(bytes);
            let excess = kept.len().saturating_sub(limit);
            kept.drain(..excess);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_or_the_tail_is_kept() {
        let head = Mutex::default();
        assert!(!push(&head, b"abc", Keep::Head(4)));
        assert!(!push(&head, b"d", Keep::Head(4)));
        assert!(push(&head, b"efg", Keep::Head(4)));
        assert_eq!(head.into_inner().expect("lock"), b"abcde");
        let tail = Mutex::default();
        push(&tail, b"abc", Keep::Tail(4));
        push(&tail, b"defg", Keep::Tail(4));
        assert_eq!(tail.into_inner().expect("lock"), b"defg");
    }
}
