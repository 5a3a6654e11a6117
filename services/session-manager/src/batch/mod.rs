//! The FrontendBatch service: many tasks in a call, and the ends of a session as one stream.

use std::sync::Arc;
use std::time::Duration;

use flame_rpc::v1;
use flame_rpc::v1::frontend_batch_server::FrontendBatch;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::core::{CoreError, SessionProgress, TaskRow};
use crate::engine::Engine;
use crate::store::TaskReader;
use crate::stored;
use crate::watch::SessionWatch;

/// Most ends in one message, and about the most bytes of output: large enough that the overhead
/// of a message does not count, small enough that clients see progress and no limit is met.
const MAX_ENDS: usize = 1_000;
const MAX_BYTES: usize = 1 << 20;
/// Messages that may wait for a slow client before reading on pauses.
const MESSAGES_AHEAD: usize = 4;
/// Between two looks for ends that a store that fails has not taken yet.
const STORED_SOON: Duration = Duration::from_millis(500);

/// FrontendBatch, on top of an engine and its store.
pub struct BatchService {
    engine: Engine,
    reader: Arc<dyn TaskReader>,
}

impl BatchService {
    /// Serves what `engine` decides and `reader` remembers.
    #[must_use]
    pub fn new(engine: Engine, reader: Arc<dyn TaskReader>) -> Self {
        Self { engine, reader }
    }
}

#[tonic::async_trait]
impl FrontendBatch for BatchService {
    async fn create_tasks(
        &self,
        request: Request<v1::CreateTasksRequest>,
    ) -> Result<Response<v1::CreateTasksResponse>, Status> {
        let request = request.into_inner();
        let inputs: Vec<_> = request.tasks.into_iter().map(|task| task.input).collect();
        let count = inputs.len() as u64;
        let session = request.session_id;
        let id = request.request_id;
        let created = self.engine.write(move |core, now, fx| match &id {
            Some(id) => core.create_tasks_once(&session, id, inputs, now, fx),
            None => core.create_tasks(&session, inputs, now, fx),
        });
        let first_task_id = created.await?;
        Ok(Response::new(v1::CreateTasksResponse { first_task_id, count }))
    }

    type WatchSessionStream = ReceiverStream<Result<v1::TaskEnds, Status>>;

    async fn watch_session(
        &self,
        request: Request<v1::WatchSessionRequest>,
    ) -> Result<Response<Self::WatchSessionStream>, Status> {
        let request = request.into_inner();
        let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
        let ends = Ends {
            engine: self.engine.clone(),
            reader: Arc::clone(&self.reader),
            session: request.session_id,
            sent: request.after_sequence,
            sender,
        };
        // An unknown session is an error of the call and not of its stream.
        let begun = ends.begin().await?;
        tokio::spawn(ends.run(begun));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One client that follows a session.
struct Ends {
    engine: Engine,
    reader: Arc<dyn TaskReader>,
    session: String,
    /// Sequence number of the last end that was sent.
    sent: u64,
    sender: mpsc::Sender<Result<v1::TaskEnds, Status>>,
}

/// A session as it was when the watch began, and what comes after.
type Begun = (SessionProgress, SessionWatch);

/// Why sending ended: the client went away, or was told an error.
struct Gone;

impl Ends {
    async fn begin(&self) -> Result<Begun, CoreError> {
        let (engine, session) = (self.engine.clone(), self.session.clone());
        // The watch starts in the core's own thread, so that no end falls between the two.
        let begin = move |core: &mut crate::core::Core, _, _: &mut crate::core::Effects| {
            let progress = core.session_progress(&session)?;
            let live = match progress.open {
                true => engine.watch_session(progress.key),
                false => SessionWatch::closed(),
            };
            Ok((progress, live))
        };
        self.engine.read(begin).await
    }

    async fn run(mut self, mut begun: Begun) {
        loop {
            let (progress, mut live) = begun;
            if self.catch_up(&progress).await.is_err() {
                return;
            }
            if progress.open {
                if self.follow(&mut live).await.is_err() {
                    return;
                }
            } else if self.sent >= progress.ended {
                return;
            } else {
                // The store fails, and the last ends are not stored yet.
                tokio::select! {
                    () = tokio::time::sleep(STORED_SOON) => {}
                    () = self.sender.closed() => return,
                }
            }
            // The session was closed, or this client was too slow, or the session is removed: look again.
            begun = match self.begin().await {
                Ok(begun) => begun,
                Err(CoreError::NotFound(_)) => return,
                Err(error) => {
                    let _gone = self.sender.send(Err(error.into())).await;
                    return;
                }
            };
        }
    }

    /// Sends what had ended before the watch began.
    async fn catch_up(&mut self, progress: &SessionProgress) -> Result<(), Gone> {
        while self.sent < progress.ended {
            let (key, after) = (progress.key, self.sent);
            let page = stored::read(Arc::clone(&self.reader), move |reader| {
                reader.ends(key, after, MAX_ENDS)
            })
            .await;
            let rows = match page {
                Ok(rows) => rows,
                Err(status) => {
                    let _gone = self.sender.send(Err(status)).await;
                    return Err(Gone);
                }
            };
            if rows.is_empty() {
                return Ok(()); // the session was removed meanwhile, or the store fails
            }
            self.send(rows.iter()).await?;
        }
        Ok(())
    }

    /// Sends what ends, until no more comes.
    async fn follow(&mut self, live: &mut SessionWatch) -> Result<(), Gone> {
        loop {
            let received = tokio::select! {
                received = live.next() => received,
                () = self.sender.closed() => return Err(Gone),
            };
            let Some(rows) = received else {
                return Ok(());
            };
            for rows in rows.chunks(MAX_ENDS) {
                self.send(rows.iter().map(Arc::as_ref)).await?;
            }
        }
    }

    async fn send(&mut self, rows: impl Iterator<Item = &TaskRow>) -> Result<(), Gone> {
        let mut ends = Vec::new();
        let mut bytes = 0;
        for row in rows {
            // Ends of a batch that was on its way when the watch began may come twice.
            let Some(sequence) = row.sequence.filter(|sequence| *sequence > self.sent) else {
                continue;
            };
            self.sent = sequence;
            bytes += row.output.as_ref().map_or(0, bytes::Bytes::len);
            ends.push(end(row, sequence));
            if bytes >= MAX_BYTES {
                bytes = 0;
                self.send_message(std::mem::take(&mut ends)).await?;
            }
        }
        self.send_message(ends).await
    }

    async fn send_message(&self, ends: Vec<v1::TaskEnd>) -> Result<(), Gone> {
        if ends.is_empty() {
            return Ok(());
        }
        self.sender
            .send(Ok(v1::TaskEnds { ends }))
            .await
            .map_err(|_| Gone)
    }
}

fn end(row: &TaskRow, sequence: u64) -> v1::TaskEnd {
    v1::TaskEnd {
        sequence,
        task_id: row.id,
        state: v1::TaskState::from(row.state).into(),
        output: row.output.clone(),
        message: row.message.clone(),
        creation_time: row.created,
        start_time: row.started,
        completion_time: row.finished.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
