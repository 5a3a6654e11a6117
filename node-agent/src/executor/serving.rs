//! A bound executor: gives the service its tasks, by a stream if it offers one, until the end.

use std::time::Duration;

use flame_core::ExecutorId;
use flame_rpc::node::{TaskAttempt, TaskDone};
use flame_rpc::v1::TaskOutcome;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::ConnectError;
use super::inbox::Inbox;
use super::kind::Kind;
use super::service::{InvokeError, Service, in_words};
use super::stream::{News, Over, Remains, TaskStream};
use super::{DEATH_LIMIT, Ended, Happened, LEAVE_LIMIT, death, end, obituary};
use crate::runtime::{Exit, Running};

/// How long to read what a process had sent before it ended; it is all there.
const REST_LIMIT: Duration = Duration::from_millis(500);

/// How long a process may take to end that lives and does not listen any more: it is most likely about to, and
/// then its task is given to another one instead of having failed.
const PARTING_LIMIT: Duration = Duration::from_secs(1);

/// A bound executor.
pub(super) struct Serving<'a> {
    pub(super) id: &'a ExecutorId,
    pub(super) process: &'a dyn Running,
    pub(super) service: Service,
    pub(super) inbox: &'a mut Inbox,
    /// The sessions that may have the process afterwards. None if it must not serve another one, as
    /// after any failure of the service.
    pub(super) kind: Option<Kind>,
}

/// How an executor's service is left.
pub(super) enum Parting {
    /// With the end of its process.
    Ended(Ended),
    /// Released, and the process lives: it has left the session in order, and nothing of that goes on
    /// in it.
    Left(Box<(Service, Kind)>),
}

impl From<Ended> for Parting {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

/// What one invocation came to.
enum Turn {
    Finished(Result<TaskDone, InvokeError>),
    Exited(Exit),
    Released,
}

/// What happened while tasks are streamed.
enum Step {
    Response(Result<News, Over>),
    Exited(Exit),
    Command,
    FinishLimit,
}

type Exited<'a> = BoxFuture<'a, Exit>;

impl Serving<'_> {
    pub(super) async fn until_the_end(mut self) -> Parting {
        let mut exited = self.process.exited();
        loop {
            let mut stream = self.service.open_stream();
            let over = match self.stream_tasks(&mut stream, &mut exited).await {
                Ok(over) => over,
                Err(ended) => return self.ended(stream, ended).await,
            };
            let remains = stream.into_remains();
            match self.stream_over(over, remains, &mut exited).await {
                Ok(Again::Stream) => {}
                Ok(Again::Calls) => return self.call_tasks(exited).await,
                Err(ended) => return ended.into(),
            }
        }
    }

    /// Streams tasks until the stream is over, or the executor.
    async fn stream_tasks(
        &mut self,
        stream: &mut TaskStream,
        exited: &mut Exited<'_>,
    ) -> Result<Over, Ending> {
        let mut finish_by = None;
        loop {
            if self.inbox.given_up {
                let running = stream.in_hand() > 0;
                return Err(Ending::Released { running });
            }
            if self.inbox.released {
                if finish_by.is_none() {
                    finish_by = Some(Instant::now() + self.inbox.finish);
                    if stream.in_hand() > 1 {
                        stream.recall(Vec::new());
                    }
                }
                // An answer to a recall is not waited for: what it names is lost in any case.
                if stream.in_hand() == 0 {
                    return Err(Ending::Released { running: false });
                }
            } else {
                if self.inbox.recalls > 0 {
                    self.recall(stream);
                }
                stream.send(&mut self.inbox.queue);
            }
            let step = tokio::select! {
                biased;
                response = stream.next() => Step::Response(response),
                exit = &mut *exited => Step::Exited(exit),
                () = self.inbox.take() => Step::Command,
                () = reached(finish_by) => Step::FinishLimit,
            };
            match step {
                Step::Response(Ok(news)) => self.tell(news),
                Step::Response(Err(over)) => return Ok(over),
                Step::Exited(exit) => {
                    // What it had finished before is not lost.
                    let rest = async {
                        while let Ok(news) = stream.next().await {
                            self.tell(news);
                        }
                    };
                    let _ = timeout(REST_LIMIT, rest).await;
                    let running = stream.in_hand() > 0;
                    return Err(Ending::Died { exit, running });
                }
                Step::Command => {}
                Step::FinishLimit => return Err(Ending::Released { running: true }),
            }
        }
    }

    /// Has everything given back that has not begun.
    fn recall(&mut self, stream: &mut TaskStream) {
        // A single one has begun, or will before a recall could reach it.
        if stream.in_hand() <= 1 && !stream.is_recalling() {
            self.inbox.give_back();
            return;
        }
        for _ in 0..std::mem::take(&mut self.inbox.recalls) {
            let unsent = self.inbox.drain();
            stream.recall(unsent);
        }
    }

    fn tell(&mut self, news: News) {
        let ended = news.ended.into_iter();
        let done = ended.map(|(task, outcome)| self.done(task, outcome)).collect();
        self.inbox.tell_done(done);
        // After a release nobody waits for it; what is in hand then is lost.
        if let Some(returned) = news.returned
            && !self.inbox.released
        {
            self.inbox.tell(Happened::Returned(returned));
        }
    }

    fn done(&self, task: TaskAttempt, outcome: TaskOutcome) -> TaskDone {
        TaskDone {
            executor_id: self.id.to_string(),
            session_id: self.service.session().to_owned(),
            task_id: task.task_id,
            attempt: task.attempt,
            return_code: outcome.return_code,
            output: outcome.output,
            message: outcome.message,
            duration_us: outcome.duration_us,
        }
    }

    /// How it goes on without the stream.
    async fn stream_over(
        &mut self,
        over: Over,
        remains: Remains,
        exited: &mut Exited<'_>,
    ) -> Result<Again, Ended> {
        let Remains { mut tasks, recalls } = remains;
        // A service that ends the stream by itself is about to stop.
        if !matches!(over, Over::Refused) {
            self.kind = None;
        }
        let failure = match &over {
            Over::Refused | Over::Orderly => None,
            Over::Failed(message) => Some(message.clone()),
            Over::Broken(status) => Some(in_words("OnTaskStream", status)),
        };
        let mut deaf = None;
        match over {
            // An end in order comes from a process that is about to go.
            Over::Orderly => {
                if let Ok(exit) = timeout(DEATH_LIMIT, &mut *exited).await {
                    return Err(self.died(exit, false).await);
                }
            }
            Over::Broken(_) => match self.reconnect().await {
                Reconnected::Lives => {}
                Reconnected::Died(exit) => return Err(self.died(exit, !tasks.is_empty()).await),
                Reconnected::Deaf(error) => deaf = Some(error),
            },
            Over::Refused | Over::Failed(_) => {}
        }
        if let Some(message) = failure
            && let Some(task) = tasks.pop_front()
        {
            let session = self.service.session();
            tracing::warn!(executor = %self.id, session, task = task.task_id, "{message}");
            let outcome = TaskOutcome {
                task_id: task.task_id,
                return_code: -1,
                message: Some(message),
                ..TaskOutcome::default()
            };
            let done = self.done(super::inbox::attempt_of(&task), outcome);
            self.inbox.tell_done(vec![done]);
        }
        tasks.append(&mut self.inbox.queue);
        self.inbox.queue = tasks;
        for unsent in recalls {
            let mut returned = self.inbox.drain();
            returned.extend(unsent);
            self.inbox.tell(Happened::Returned(returned));
        }
        match (over, deaf) {
            (_, Some(error)) => Err(self.deaf(&error).await),
            (Over::Refused | Over::Orderly | Over::Failed(_), None) => Ok(Again::Calls),
            (Over::Broken(_), None) => Ok(Again::Stream),
        }
    }

    /// Calls the service for each task until the executor's end.
    async fn call_tasks(mut self, mut exited: Exited<'_>) -> Parting {
        loop {
            self.inbox.give_back();
            if self.inbox.released {
                return self.leave(false).await;
            }
            let Some(task) = self.inbox.queue.pop_front() else {
                tokio::select! {
                    exit = &mut exited => return self.died(exit, false).await.into(),
                    () = self.inbox.take() => continue,
                    () = self.service.idle() => continue,
                }
            };
            let turn = {
                let mut invoke = std::pin::pin!(self.service.invoke(self.id, task));
                let turn = tokio::select! {
                    biased;
                    finished = &mut invoke => Turn::Finished(finished),
                    exit = &mut exited => Turn::Exited(exit),
                    () = self.inbox.released() => Turn::Released,
                };
                match turn {
                    Turn::Released => {
                        let limit = tokio::time::sleep(self.inbox.finish);
                        tokio::select! {
                            finished = &mut invoke => Turn::Finished(finished),
                            exit = &mut exited => Turn::Exited(exit),
                            () = self.inbox.given_up() => Turn::Released,
                            () = limit => Turn::Released,
                        }
                    }
                    other => other,
                }
            };
            match turn {
                Turn::Finished(Ok(done)) => self.inbox.tell_done(vec![done]),
                Turn::Finished(Err(InvokeError { done, broken })) => {
                    self.kind = None;
                    let after = match broken {
                        true => self.reconnect().await,
                        false => Reconnected::Lives,
                    };
                    if let Reconnected::Died(exit) = after {
                        return self.died(exit, true).await.into();
                    }
                    self.inbox.tell_done(vec![done]);
                    if let Reconnected::Deaf(error) = after {
                        return self.deaf(&error).await.into();
                    }
                }
                Turn::Exited(exit) => return self.died(exit, true).await.into(),
                Turn::Released => return self.leave(true).await,
            }
        }
    }

    /// After a broken connection: a new one, if the process lives.
    async fn reconnect(&mut self) -> Reconnected {
        if let Some(exit) = death(self.process).await {
            return Reconnected::Died(exit);
        }
        let Err(error) = self.service.reconnect().await else {
            return Reconnected::Lives;
        };
        match timeout(PARTING_LIMIT, self.process.exited()).await {
            Ok(exit) => Reconnected::Died(exit),
            Err(_) => Reconnected::Deaf(error),
        }
    }

    /// Ends a process that does not listen any more.
    async fn deaf(&self, error: &ConnectError) -> Ended {
        end(self.process).await;
        let error = crate::link::chain(error);
        Ended::Died {
            message: format!("the service no longer answers on its socket: {error}"),
            running: false,
        }
    }

    async fn ended(mut self, stream: TaskStream, ending: Ending) -> Parting {
        match ending {
            Ending::Died { exit, running } => self.died(exit, running).await.into(),
            Ending::Released { running } => {
                if running || self.kind.is_none() {
                    // Ends it on the service's side too, which then has no reason to stay.
                    drop(stream);
                } else if !matches!(timeout(LEAVE_LIMIT, stream.close()).await, Ok(true)) {
                    tracing::warn!(executor = %self.id, "the service did not end its stream of tasks");
                    self.kind = None;
                }
                self.leave(running).await
            }
        }
    }

    async fn died(&self, exit: Exit, running: bool) -> Ended {
        Ended::Died {
            message: obituary(exit, self.process).await,
            running,
        }
    }

    /// OnSessionLeave, unless a task still runs (a service is asked one thing at a time), and
    /// the process's end, unless another session may have it.
    async fn leave(mut self, running: bool) -> Parting {
        self.service.no_more_calls();
        let left = !running && self.has_left().await;
        match self.kind {
            Some(kind) if left => Parting::Left(Box::new((self.service, kind))),
            _ => {
                end(self.process).await;
                Ended::Released { running }.into()
            }
        }
    }

    /// Calls OnSessionLeave. Returns whether that went well.
    async fn has_left(&mut self) -> bool {
        let leave = timeout(LEAVE_LIMIT, self.service.leave());
        let problem = tokio::select! {
            left = leave => match left {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => error,
                Err(_) => format!("no answer within {} s", LEAVE_LIMIT.as_secs()),
            },
            exit = self.process.exited() => format!("the service process {exit}"),
        };
        tracing::warn!(executor = %self.id, error = problem, "OnSessionLeave failed");
        false
    }
}

async fn reached(limit: Option<Instant>) {
    match limit {
        Some(limit) => sleep_until(limit).await,
        None => std::future::pending().await,
    }
}

/// What came of a process whose connection broke.
enum Reconnected {
    /// It has a new one.
    Lives,
    Died(Exit),
    /// It lives, and nobody listens on its socket.
    Deaf(ConnectError),
}

/// How tasks are given on.
enum Again {
    Stream,
    Calls,
}

/// How a stream ends together with its executor.
enum Ending {
    Died { exit: Exit, running: bool },
    Released { running: bool },
}
