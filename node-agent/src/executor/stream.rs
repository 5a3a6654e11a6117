//! Tasks as a stream to the service: what was sent, and what the responses mean for it.

use std::collections::VecDeque;

use flame_rpc::node::{TaskAttempt, TaskItem};
use flame_rpc::v1::instance_stream_client::InstanceStreamClient;
use flame_rpc::v1::{StreamedTask, TaskOutcome, TaskStreamRequest, TaskStreamResponse};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::connection::Connection;
use super::inbox::attempt_of;

/// Bytes of input that are sent ahead; more would only lie at the service instead of here.
const AHEAD_BYTES: usize = 1 << 20;

/// One stream.
pub(super) struct TaskStream {
    /// None once our side has ended.
    requests: Option<UnboundedSender<TaskStreamRequest>>,
    responses: Responses,
    /// The service has sent a response, so it does offer streams.
    answered: bool,
    books: Books,
}

enum Responses {
    Asked(BoxFuture<'static, Result<Streaming<TaskStreamResponse>, Status>>),
    Open(Box<Streaming<TaskStreamResponse>>),
}

/// The tasks that were sent and have no outcome. Knows no I/O.
#[derive(Debug, Default)]
struct Books {
    /// In the order in which they were sent, with their inputs: should the stream end, they may
    /// be sent otherwise.
    sent: VecDeque<TaskItem>,
    sent_bytes: usize,
    /// Tasks that were ever sent.
    total: u64,
    recalls: VecDeque<Recall>,
    one_by_one: bool,
}

/// A recall that the service has not answered.
#[derive(Debug)]
struct Recall {
    /// Tasks that had been sent before it.
    total: u64,
    /// Tasks of the same recall that had not been sent.
    unsent: Vec<TaskAttempt>,
}

/// What a response tells.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Tasks that have ended.
    pub(super) ended: Vec<(TaskAttempt, TaskOutcome)>,
    /// The answer to a recall.
    pub(super) returned: Option<Vec<TaskAttempt>>,
}

/// Why there are no more responses.
#[derive(Debug)]
pub(super) enum Over {
    /// The service does not offer streams: nothing has begun.
    Refused,
    /// The service ended it: nothing without an outcome has begun.
    Orderly,
    /// The service failed, or what it says makes no sense.
    Failed(String),
    /// The connection broke.
    Broken(Status),
}

/// What the service has at the end of a stream.
#[derive(Debug)]
pub(super) struct Remains {
    /// Tasks without an outcome, in order.
    pub(super) tasks: VecDeque<TaskItem>,
    /// Of each recall that is not answered: its tasks that had not been sent.
    pub(super) recalls: Vec<Vec<TaskAttempt>>,
}

impl TaskStream {
    /// Asks for a stream. The answer need not be awaited: a service that refuses it says so
    /// instead of a response.
    pub(super) fn open(connection: Connection, max_response_size: usize) -> Self {
        let (requests, outbound) = unbounded_channel();
        // The receiver is in the call below.
        let _ = requests.send(TaskStreamRequest {
            max_response_size: u64::try_from(max_response_size).unwrap_or(u64::MAX),
            ..TaskStreamRequest::default()
        });
        let mut client = InstanceStreamClient::with_origin(connection, Connection::origin())
            .max_decoding_message_size(max_response_size);
        let call = async move {
            let answer = client
                .on_task_stream(UnboundedReceiverStream::new(outbound))
                .await?;
            Ok(answer.into_inner())
        };
        Self {
            requests: Some(requests),
            responses: Responses::Asked(call.boxed()),
            answered: false,
            books: Books::default(),
        }
    }

    /// Sends tasks of `queue` as far as they may be sent ahead.
    pub(super) fn send(&mut self, queue: &mut VecDeque<TaskItem>) {
        let tasks = self.books.take(queue);
        if !tasks.is_empty() {
            self.request(TaskStreamRequest {
                tasks,
                ..TaskStreamRequest::default()
            });
        }
    }

    fn request(&self, request: TaskStreamRequest) {
        if let Some(requests) = &self.requests {
            // A stream that is over says so in `next`; what was sent is in the books.
            let _ = requests.send(request);
        }
    }

    /// Asks for the tasks that have not begun; `unsent` become part of the answer.
    pub(super) fn recall(&mut self, unsent: Vec<TaskAttempt>) {
        self.books.recalls.push_back(Recall {
            total: self.books.total,
            unsent,
        });
        self.request(TaskStreamRequest {
            recall: true,
            ..TaskStreamRequest::default()
        });
    }

    /// Tasks without an outcome.
    pub(super) fn in_hand(&self) -> usize {
        self.books.sent.len()
    }

    /// Whether a recall is not answered.
    pub(super) fn is_recalling(&self) -> bool {
        !self.books.recalls.is_empty()
    }

    /// The next response. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<News, Over> {
        let response = loop {
            match &mut self.responses {
                Responses::Asked(call) => match call.await {
                    Ok(stream) => self.responses = Responses::Open(Box::new(stream)),
                    Err(status) => break Err(status),
                },
                Responses::Open(stream) => break stream.message().await,
            }
        };
        match response {
            Ok(Some(response)) => {
                self.answered = true;
                self.books.apply(response).map_err(Over::Failed)
            }
            Ok(None) => Err(Over::Orderly),
            Err(status) if super::service::is_broken(&status) => Err(Over::Broken(status)),
            Err(status) if !self.answered => {
                tracing::debug!(%status, "the service takes no stream of tasks");
                Err(Over::Refused)
            }
            Err(status) => Err(Over::Failed(super::service::in_words("OnTaskStream", &status))),
        }
    }

    /// Ends our side while no task is in hand, and waits until the service has ended its own. Returns
    /// whether it did so in order: then it does nothing more for the session.
    pub(super) async fn close(mut self) -> bool {
        self.requests = None;
        loop {
            match self.next().await {
                // The answer to a recall.
                Ok(_) => {}
                Err(over) => return matches!(over, Over::Orderly | Over::Refused),
            }
        }
    }

    /// Ends the stream.
    pub(super) fn into_remains(self) -> Remains {
        Remains {
            tasks: self.books.sent,
            recalls: self
                .books
                .recalls
                .into_iter()
                .map(|recall| recall.unsent)
                .collect(),
        }
    }
}

impl Books {
    /// Tasks of `queue` that are to be sent now, as sent from now on.
    fn take(&mut self, queue: &mut VecDeque<TaskItem>) -> Vec<StreamedTask> {
        let mut tasks = Vec::new();
        while self.sent.is_empty() || (!self.one_by_one && self.sent_bytes < AHEAD_BYTES) {
            let Some(task) = queue.pop_front() else {
                break;
            };
            tasks.push(StreamedTask {
                task_id: task.task_id,
                input: task.input.clone(),
            });
            self.sent_bytes += input_bytes(&task);
            self.total += 1;
            self.sent.push_back(task);
        }
        tasks
    }

    fn apply(&mut self, response: TaskStreamResponse) -> Result<News, String> {
        self.one_by_one = response.one_by_one;
        let mut news = News {
            ended: Vec::with_capacity(response.outcomes.len()),
            returned: None,
        };
        for outcome in response.outcomes {
            match self.sent.front() {
                Some(task) if task.task_id == outcome.task_id => {
                    self.sent_bytes -= input_bytes(task);
                    news.ended.push((attempt_of(task), outcome));
                    self.sent.pop_front();
                }
                expected => {
                    return Err(format!(
                        "OnTaskStream: the service sent an outcome of task {} where that of {} is due",
                        outcome.task_id,
                        expected.map_or("none".to_owned(), |task| task.task_id.to_string())
                    ));
                }
            }
        }
        if let Some(given_back) = response.given_back {
            let tasks = self.give_back(&given_back.task_ids);
            news.returned = Some(tasks.ok_or_else(|| {
                format!(
                    "OnTaskStream: the service gave back tasks {:?}, which do not fit",
                    given_back.task_ids
                )
            })?);
        }
        Ok(news)
    }

    /// Takes the tasks out that the service gives back on the oldest recall: the last ones of
    /// those sent before it. None if they are not; then the recall is still to be answered.
    fn give_back(&mut self, task_ids: &[u64]) -> Option<Vec<TaskAttempt>> {
        let recall = self.recalls.front()?;
        let sent_after = usize::try_from(self.total.checked_sub(recall.total)?).ok()?;
        let end = self.sent.len().checked_sub(sent_after)?;
        let begin = end.checked_sub(task_ids.len())?;
        let given_back = self.sent.range(begin..end);
        if !given_back.map(|task| task.task_id).eq(task_ids.iter().copied()) {
            return None;
        }
        let recall = self.recalls.pop_front()?;
        let mut attempts = Vec::with_capacity(task_ids.len() + recall.unsent.len());
        for task in self.sent.drain(begin..end) {
            self.sent_bytes -= input_bytes(&task);
            attempts.push(attempt_of(&task));
        }
        // They do not count for later recalls either.
        for later in &mut self.recalls {
            later.total -= task_ids.len() as u64;
        }
        self.total -= task_ids.len() as u64;
        attempts.extend(recall.unsent);
        Some(attempts)
    }
}

fn input_bytes(task: &TaskItem) -> usize {
    task.input.as_ref().map_or(0, |input| input.len())
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
