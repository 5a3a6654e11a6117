//! Runs the tasks with a server that takes and returns them in batches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flame_rs::batch::EndStream;
use flame_rs::{Bytes, Error, Session, error, v1};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::run::{BACKLOG, Running, message};
use crate::tally::Ended;

/// Tasks of one call: a commit and a round trip for all of them.
const CHUNK: u64 = 1_000;

/// Tasks that were submitted and have not ended, and ends that came before the call that created
/// their tasks had returned.
#[derive(Default)]
struct Book {
    submitted: HashMap<u64, Instant>,
    early: Vec<v1::TaskEnd>,
}

/// What the submitting and the following worker share.
struct Shared {
    session: Session,
    book: Mutex<Book>,
    room: Semaphore,
    ended: mpsc::Sender<Ended>,
}

/// Starts `tasks` tasks with `input`, at most `window` at the same time.
pub(crate) fn start(
    session: &Session,
    ends: EndStream,
    tasks: u64,
    window: u64,
    input: Option<Bytes>,
) -> Running {
    let (sender, ended) = mpsc::channel(BACKLOG);
    let shared = Arc::new(Shared {
        session: session.clone(),
        book: Mutex::default(),
        room: Semaphore::new(usize::try_from(window).unwrap_or(Semaphore::MAX_PERMITS)),
        ended: sender,
    });
    // Half a window at a time, so that one half runs while the other is submitted.
    let chunk = CHUNK.min(window.div_ceil(2)).min(tasks);
    let mut workers = JoinSet::new();
    workers.spawn(submit(Arc::clone(&shared), tasks, chunk, input));
    workers.spawn(async move {
        follow(&shared, ends, tasks).await;
        // Whatever ended it: nobody would see the end of further tasks.
        shared.room.close();
    });
    Running { workers, ended }
}

async fn submit(shared: Arc<Shared>, tasks: u64, chunk: u64, input: Option<Bytes>) {
    let mut left = tasks;
    while left > 0 {
        let count = chunk.min(left);
        left -= count;
        match shared
            .room
            .acquire_many(u32::try_from(count).unwrap_or(u32::MAX))
            .await
        {
            Ok(places) => places.forget(),
            Err(_) => return, // the other worker has ended
        }
        let began = Instant::now();
        let inputs = vec![input.clone(); usize::try_from(count).unwrap_or_default()];
        let ended = match shared.session.create_tasks(inputs).await {
            Ok(Some(created)) => shared.created(created, began),
            Ok(None) => shared.not_created(count, "the server no longer takes batches".to_owned()),
            Err(failed) => shared.not_created(count, error::report(&failed)),
        };
        for task in ended {
            // The receiver is only gone when nobody wants to know any more.
            if shared.ended.send(task).await.is_err() {
                return;
            }
        }
    }
}

async fn follow(shared: &Shared, mut ends: EndStream, tasks: u64) {
    let mut seen = 0;
    while seen < tasks {
        let ended = match ends.next().await {
            Ok(Some(end)) => {
                seen += 1;
                shared.ended(end)
            }
            Ok(None) => return,
            Err(failed) => {
                // Nobody will tell of the others: each of them counts as an error.
                for task in shared.abandoned(&failed) {
                    if shared.ended.send(task).await.is_err() {
                        return;
                    }
                }
                return;
            }
        };
        if let Some(task) = ended
            && shared.ended.send(task).await.is_err()
        {
            return;
        }
    }
}

impl Shared {
    /// Notes new tasks; returns those of them that have ended already.
    fn created(&self, ids: std::ops::Range<u64>, began: Instant) -> Vec<Ended> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.submitted.extend(ids.map(|id| (id, began)));
        let early = std::mem::take(&mut book.early);
        early
            .into_iter()
            .filter_map(|end| self.settle(&mut book, end))
            .collect()
    }

    fn not_created(&self, count: u64, reason: String) -> Vec<Ended> {
        self.room.add_permits(usize::try_from(count).unwrap_or_default());
        (0..count)
            .map(|_| failed(0, Duration::ZERO, reason.clone()))
            .collect()
    }

    fn ended(&self, end: v1::TaskEnd) -> Option<Ended> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        self.settle(&mut book, end)
    }

    fn settle(&self, book: &mut Book, end: v1::TaskEnd) -> Option<Ended> {
        let Some(began) = book.submitted.remove(&end.task_id) else {
            book.early.push(end);
            return None;
        };
        self.room.add_permits(1);
        let (state, text) = match end.state() {
            v1::TaskState::Succeed => ("Succeed", message(end.output.as_deref())),
            v1::TaskState::Cancelled => ("Cancelled", end.message.unwrap_or_default()),
            _ => ("Failed", end.message.unwrap_or_default()),
        };
        Some(Ended {
            id: end.task_id,
            state,
            text,
            latency: began.elapsed(),
        })
    }

    fn abandoned(&self, reason: &Error) -> Vec<Ended> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let text = error::report(reason);
        let open = std::mem::take(&mut book.submitted);
        open.into_iter()
            .map(|(id, began)| failed(id, began.elapsed(), text.clone()))
            .collect()
    }
}

fn failed(id: u64, latency: Duration, text: String) -> Ended {
    Ended {
        id,
        state: "Error",
        text,
        latency,
    }
}
