//! Runs the tasks with a server that takes and returns them in batches.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flame_rs::batch::EndStream;
use flame_rs::{Error, Session, error, v1};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::input::Inputs;
use crate::run::Plan;
use crate::tally::Ended;

/// Tasks of one call: a commit and a round trip for all of them.
pub(crate) const CHUNK: u64 = 1_000;

/// Payloads of one call, in bytes: well below what a message may have, and one at least.
const CHUNK_BYTES: u64 = 8 << 20;

/// A task that was submitted: when, and its number in the plan.
type Submitted = (Instant, u64);

/// Tasks that were submitted and have not ended, and ends that came before the call that created
/// their tasks had returned.
#[derive(Default)]
struct Book {
    submitted: HashMap<u64, Submitted>,
    early: Vec<v1::TaskEnd>,
}

/// What the submitting and the following worker share.
struct Shared {
    session: Session,
    id: Arc<str>,
    plan: Plan,
    book: Mutex<Book>,
    room: Semaphore,
    ended: mpsc::Sender<Ended>,
}

/// Tasks of one call.
pub(crate) fn chunk(inputs: &Inputs) -> u64 {
    let payload = inputs.payload().map_or(0, |bytes| bytes as u64);
    let fitting = CHUNK_BYTES.checked_div(payload).map_or(CHUNK, |fit| fit.max(1));
    CHUNK.min(fitting)
}

/// Starts the tasks of a session, at most `window` at the same time.
pub(crate) fn start(
    workers: &mut JoinSet<()>,
    sender: &mpsc::Sender<Ended>,
    session: &Session,
    ends: EndStream,
    plan: &Plan,
    window: u64,
) {
    let shared = Arc::new(Shared {
        session: session.clone(),
        id: session.id().into(),
        plan: plan.clone(),
        book: Mutex::default(),
        room: Semaphore::new(usize::try_from(window).unwrap_or(Semaphore::MAX_PERMITS)),
        ended: sender.clone(),
    });
    // Half a window at a time, so that one half runs while the other is submitted.
    let chunk = chunk(&plan.inputs).min(window.div_ceil(2));
    let tasks = plan.tasks;
    workers.spawn(submit(Arc::clone(&shared), chunk));
    workers.spawn(async move {
        follow(&shared, ends, tasks).await;
        // Whatever ended it: nobody would see the end of further tasks.
        shared.room.close();
    });
}

async fn submit(shared: Arc<Shared>, chunk: u64) {
    let plan = &shared.plan;
    let mut next = plan.first;
    let end = plan.first + plan.tasks;
    while next < end {
        let numbers = next..end.min(next + chunk);
        next = numbers.end;
        let count = numbers.end - numbers.start;
        match shared
            .room
            .acquire_many(u32::try_from(count).unwrap_or(u32::MAX))
            .await
        {
            Ok(places) => places.forget(),
            Err(_) => return, // the other worker has ended
        }
        let began = Instant::now();
        let inputs = numbers.clone().map(|number| plan.inputs.of(number)).collect();
        let ended = match shared.session.create_tasks(inputs).await {
            Ok(Some(created)) => shared.created(created, numbers, began),
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
    /// Notes new tasks, `ids` in the order of their `numbers`; returns those of them that have
    /// ended already.
    fn created(&self, ids: Range<u64>, numbers: Range<u64>, began: Instant) -> Vec<Ended> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let submitted = numbers.map(|number| (began, number));
        book.submitted.extend(ids.zip(submitted));
        let early = std::mem::take(&mut book.early);
        early
            .into_iter()
            .filter_map(|end| self.settle(&mut book, end))
            .collect()
    }

    fn not_created(&self, count: u64, reason: String) -> Vec<Ended> {
        self.room.add_permits(usize::try_from(count).unwrap_or_default());
        (0..count)
            .map(|_| self.failed(0, Duration::ZERO, reason.clone()))
            .collect()
    }

    fn ended(&self, end: v1::TaskEnd) -> Option<Ended> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        self.settle(&mut book, end)
    }

    fn settle(&self, book: &mut Book, end: v1::TaskEnd) -> Option<Ended> {
        let Some((began, number)) = book.submitted.remove(&end.task_id) else {
            book.early.push(end);
            return None;
        };
        self.room.add_permits(1);
        let (state, text) = match end.state() {
            v1::TaskState::Succeed => match self.plan.inputs.check(number, end.output.as_deref()) {
                Ok(text) => ("Succeed", text),
                Err(wrong) => ("Wrong", wrong),
            },
            v1::TaskState::Cancelled => ("Cancelled", end.message.unwrap_or_default()),
            _ => ("Failed", end.message.unwrap_or_default()),
        };
        Some(Ended {
            session: Arc::clone(&self.id),
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
            .map(|(id, (began, _))| self.failed(id, began.elapsed(), text.clone()))
            .collect()
    }

    fn failed(&self, id: u64, latency: Duration, text: String) -> Ended {
        Ended {
            session: Arc::clone(&self.id),
            id,
            state: "Error",
            text,
            latency,
        }
    }
}

#[cfg(test)]
mod tests {
    use flmping::Ping;

    use super::*;

    #[test]
    fn payloads_share_a_call_as_long_as_they_fit() {
        assert_eq!(chunk(&Inputs::ping(Ping::default(), false)), CHUNK);
        assert_eq!(chunk(&Inputs::echo(1 << 10, false)), CHUNK);
        assert_eq!(chunk(&Inputs::echo(1 << 20, false)), 8);
        assert_eq!(chunk(&Inputs::echo(10 << 20, false)), 1);
    }
}
