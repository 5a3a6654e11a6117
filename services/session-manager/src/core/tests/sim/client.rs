//! Clients: each makes a session, creates tasks, follows their ends, and closes and deletes the
//! session. A call whose answer was lost is made again where the contract allows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flame_core::state::TaskState;
use flame_core::{SessionId, TaskId};
use flame_rpc::v1::SessionSpec;

use super::early::{End, patience};
use super::manager::{Caller, Job, Request};
use super::payload::{Content, Kind};
use super::scenario::{ClientPlan, Ending, Time};
use super::world::{Checked, Event, World};
use crate::core::{Cancel, CoreError, SessionKey, TaskRow};

/// A request on its way.
#[derive(Debug)]
pub(super) struct Call {
    /// No two calls have the same one.
    pub(super) id: u64,
    pub(super) by: Caller,
    pub(super) session: String,
    pub(super) request: Request,
}

/// What the manager answers.
#[derive(Debug)]
pub(super) enum Answer {
    Session(SessionKey),
    /// The first of the tasks.
    Tasks(SessionKey, TaskId),
    Done,
    /// The session, and whether it is open.
    Watching(SessionKey, bool),
    /// A task of the session was cancelled.
    Cancelled(SessionKey, Cancel),
    /// So many executors are on the node.
    Executors(u32),
}

#[derive(Debug)]
pub(super) enum ClientEvent {
    /// The next step, whatever it is.
    Goes,
    Wave(u32, usize),
    /// Wants something to end.
    Ends(u32, End),
    Sends(u64),
    Again(Box<Pending>),
    Answered(u64, Result<Answer, CoreError>),
    Lost(u64),
    WatchAgain(u32),
    End(u64, Arc<TaskRow>),
    WatchOver(u64),
    /// There is more to come than the store has.
    WatchUnfinished(u64),
}

/// A call without an answer.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    life: u32,
    request: Request,
    /// Of the tasks that it makes.
    contents: Vec<Content>,
    tries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Creating,
    Working,
    /// Everything is created.
    Waiting,
    Closing,
    /// Is closed; the last ends are on their way.
    Closed,
    Deleting,
    Done,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Client {
    number: usize,
    pub(super) plan: ClientPlan,
    pub(super) life: u32,
    pub(super) stage: Stage,
    pending: BTreeMap<u64, Pending>,
    /// How many were created, or are being so.
    pub(super) waves: usize,
    pub(super) key: Option<SessionKey>,
    /// Acknowledged tasks.
    pub(super) acknowledged: BTreeMap<TaskId, u64>,
    /// Ends that were told, by task.
    pub(super) ended: BTreeMap<TaskId, TaskState>,
    /// Tasks that it wanted to be cancelled, and those of which it was told that they are.
    pub(super) cancels: BTreeSet<TaskId>,
    pub(super) cancelled: BTreeSet<TaskId>,
    /// It wanted all to be cancelled.
    pub(super) cancels_all: bool,
    /// Tasks that may or may not exist.
    unknown: BTreeSet<u64>,
    sequence: u64,
    watch: Option<u64>,
    watch_over: bool,
    /// Messages to this client do not overtake each other.
    hears_at: Time,
}

impl ClientPlan {
    /// Time that all its tasks take one after the other, with what surrounds them.
    pub(super) fn work(&self) -> Duration {
        let limit = self.task_timeout;
        let waves = self.waves.iter().map(|wave| {
            let hanging = (0..wave.tasks).filter(|task| wave.hangs(*task, limit)).count() as u32;
            let tasks = (wave.length * 2 + Duration::from_millis(20)) * wave.tasks;
            wave.pause + tasks + wave.hang(limit) * hanging
        });
        let work = waves.sum::<Duration>() + patience(self.ending);
        (work + Duration::from_secs(10)) * self.lives
    }

    fn spec(&self) -> SessionSpec {
        SessionSpec {
            application: format!("app{}", self.application),
            priority: self.priority,
            min_instances: self.min_instances,
            max_instances: self.max_instances,
            resreq: Some(self.resources.into()),
            task_timeout_ms: self.task_timeout.map(|limit| limit.as_millis() as u64),
            node_selector: self
                .labels
                .iter()
                .filter_map(|label| label.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            ..SessionSpec::default()
        }
    }
}

impl Client {
    pub(super) fn new(number: usize, plan: ClientPlan) -> Self {
        Self {
            number,
            plan,
            life: 0,
            stage: Stage::Creating,
            pending: BTreeMap::new(),
            waves: 0,
            key: None,
            acknowledged: BTreeMap::new(),
            ended: BTreeMap::new(),
            cancels: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            cancels_all: false,
            unknown: BTreeSet::new(),
            sequence: 0,
            watch: None,
            watch_over: false,
            hears_at: Time::ZERO,
        }
    }

    pub(super) fn session(&self) -> String {
        format!("s{}", self.number)
    }

    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Whether a task of its session may end as cancelled.
    pub(super) fn may_cancel(&self, id: TaskId) -> bool {
        self.closes() || self.cancels_all || self.cancels.contains(&id)
    }

    /// Whether it was told that its session is closed.
    pub(super) fn knows_it_closed(&self) -> bool {
        self.stage >= Stage::Closed
    }

    /// Whether its session may have been closed by now.
    pub(super) fn closes(&self) -> bool {
        self.stage >= Stage::Closing
    }

    pub(super) fn progress(&self) -> String {
        let open: Vec<_> = self
            .acknowledged
            .keys()
            .filter(|id| !self.ended.contains_key(id))
            .take(5)
            .collect();
        format!(
            "client {} in life {} is {:?} after {} waves; {} tasks acknowledged, {} ended, open {open:?}, {} calls",
            self.number,
            self.life,
            self.stage,
            self.waves,
            self.acknowledged.len(),
            self.ended.len(),
            self.pending.len()
        )
    }
}

impl World {
    /// Loses a client's connections: calls have no answer, and watches end.
    pub(super) fn cut_client(&mut self, client: usize) {
        let ids: Vec<_> = self.clients[client].pending.keys().copied().collect();
        for id in ids {
            self.after(Duration::ZERO, Event::Client(client, ClientEvent::Lost(id)));
        }
        if self.clients[client].watch.take().is_some() {
            self.watch_again(client);
        }
    }

    fn watch_again(&mut self, client: usize) {
        let (life, wait) = (self.clients[client].life, self.millis(10, 1_000));
        self.after(wait, Event::Client(client, ClientEvent::WatchAgain(life)));
    }

    fn call(&mut self, client: usize, pending: Pending) {
        self.judge.calls += 1;
        let id = self.judge.calls;
        self.clients[client].pending.insert(id, pending);
        let delay = self.millis(0, 3);
        self.after(delay, Event::Client(client, ClientEvent::Sends(id)));
    }

    pub(super) fn simple_call(&mut self, client: usize, request: Request) {
        let life = self.clients[client].life;
        let pending = Pending {
            life,
            request,
            contents: Vec::new(),
            tries: 0,
        };
        self.call(client, pending);
    }

    /// An answer is on its way.
    pub(super) fn send_answer(&mut self, call: &Call, answer: Result<Answer, CoreError>) {
        match call.by {
            Caller::Client(client) => self.tell_client(client, ClientEvent::Answered(call.id, answer)),
            Caller::Admin => self.tell_admin(call.id, answer),
        }
    }

    pub(super) fn send_end(&mut self, client: usize, watch: u64, row: Arc<TaskRow>) {
        self.tell_client(client, ClientEvent::End(watch, row));
    }

    pub(super) fn tell_closed(&mut self, client: usize, watch: u64) {
        self.tell_client(client, ClientEvent::WatchOver(watch));
    }

    pub(super) fn tell_unfinished(&mut self, client: usize, watch: u64) {
        self.tell_client(client, ClientEvent::WatchUnfinished(watch));
    }

    fn tell_client(&mut self, client: usize, event: ClientEvent) {
        let at = (self.now + self.millis(0, 3)).max(self.clients[client].hears_at);
        self.clients[client].hears_at = at;
        self.at(at, Event::Client(client, event));
    }

    pub(super) fn on_client(&mut self, client: usize, event: ClientEvent) -> Checked {
        match event {
            ClientEvent::Goes => self.goes(client),
            ClientEvent::Wave(life, number) if life == self.clients[client].life => self.wave(client, number),
            ClientEvent::Ends(life, end) if life == self.clients[client].life => {
                self.end_early(client, end);
            }
            ClientEvent::Again(pending) if pending.life == self.clients[client].life => {
                self.call(client, *pending);
            }
            ClientEvent::Sends(id) => self.arrives(client, id),
            ClientEvent::Lost(id) => {
                if let Some(pending) = self.clients[client].pending.remove(&id) {
                    self.no_answer(client, pending);
                }
            }
            ClientEvent::Answered(id, answer) => {
                if let Some(pending) = self.clients[client].pending.remove(&id) {
                    return self.answered(client, id, pending, answer);
                }
            }
            ClientEvent::WatchAgain(life) if life == self.clients[client].life => {
                let from = self.clients[client].sequence;
                if !self.clients[client].watch_over && !self.clients[client].is_done() {
                    self.simple_call(client, Request::Watch(from));
                }
            }
            ClientEvent::End(watch, row) if self.clients[client].watch == Some(watch) => {
                return self.on_end(client, &row);
            }
            ClientEvent::WatchUnfinished(watch) if self.clients[client].watch == Some(watch) => {
                self.clients[client].watch = None;
                self.watch_again(client);
            }
            ClientEvent::WatchOver(watch) if self.clients[client].watch == Some(watch) => {
                if !self.clients[client].closes() {
                    return Err(format!(
                        "the session of client {client} is closed, but nobody asked for it"
                    ));
                }
                self.clients[client].watch_over = true;
                return self.finish(client);
            }
            _ => {}
        }
        Ok(())
    }

    fn arrives(&mut self, client: usize, id: u64) {
        let Some(pending) = self.clients[client].pending.get(&id) else {
            return;
        };
        let request = pending.request.clone();
        if self.manager.process.is_none() {
            let soon = self.millis(0, 5);
            self.after(soon, Event::Client(client, ClientEvent::Lost(id)));
            return;
        }
        let session = self.clients[client].session();
        self.post(Job::Call(Box::new(Call {
            id,
            by: Caller::Client(client),
            session,
            request,
        })));
    }

    /// Begins a life.
    fn goes(&mut self, client: usize) {
        let found = &mut self.clients[client];
        *found = Client {
            life: found.life + 1,
            hears_at: found.hears_at,
            ..Client::new(client, found.plan.clone())
        };
        let Ok(id) = SessionId::new(&found.session()) else {
            return;
        };
        let spec = Box::new(found.plan.spec());
        self.simple_call(client, Request::Create(id, spec));
    }

    /// The same again where that can do no harm; of a single task nobody knows whether it exists.
    fn no_answer(&mut self, client: usize, mut pending: Pending) {
        pending.tries += 1;
        let wait = self.millis(10, 1_000);
        match &pending.request {
            Request::Watch(_) => return self.watch_again(client),
            Request::Task(_) => {
                for content in &mut pending.contents {
                    self.clients[client].unknown.insert(content.nonce);
                    content.nonce = self.judge.nonce();
                    pending.request = Request::Task(content.encode());
                }
            }
            _ => {}
        }
        self.after(wait, Event::Client(client, ClientEvent::Again(Box::new(pending))));
    }

    fn answered(
        &mut self,
        client: usize,
        id: u64,
        pending: Pending,
        answer: Result<Answer, CoreError>,
    ) -> Checked {
        let repeated = pending.tries > 0;
        match (&pending.request, answer) {
            (_, Err(CoreError::Unavailable(_))) => self.no_answer(client, pending),
            (Request::Create(..), Ok(Answer::Session(key))) => {
                self.clients[client].key = Some(key);
                self.created(client);
            }
            (Request::Create(..), Err(CoreError::AlreadyExists(_))) if repeated => self.created(client),
            (Request::Watch(_), Ok(Answer::Watching(key, _))) => {
                self.clients[client].key = Some(key);
                self.clients[client].watch = Some(id);
            }
            (_, Ok(Answer::Tasks(key, first))) => {
                self.clients[client].key = Some(key);
                for (content, task) in pending.contents.iter().zip(first..) {
                    if self.clients[client]
                        .acknowledged
                        .insert(task, content.nonce)
                        .is_some()
                    {
                        return Err(format!("client {client} was given task {task} twice"));
                    }
                }
                self.plan_cancels(client, &pending.contents, first);
                return self.proceed(client);
            }
            (Request::End(end), answer) => return self.ended_early(client, *end, answer),
            (Request::Close, Ok(Answer::Done)) => {
                self.clients[client].stage = Stage::Closed;
                return self.finish(client);
            }
            (Request::Close, Err(CoreError::Busy(_))) => {
                let wait = self.millis(50, 500);
                self.after(wait, Event::Client(client, ClientEvent::Again(Box::new(pending))));
            }
            (Request::Delete, Ok(Answer::Done)) => self.session_gone(client),
            (Request::Delete, Err(CoreError::NotFound(_))) if repeated => self.session_gone(client),
            (request, answer) => {
                return Err(format!(
                    "client {client} asked for {request:?} and got {answer:?}"
                ));
            }
        }
        Ok(())
    }

    fn created(&mut self, client: usize) {
        self.clients[client].stage = Stage::Working;
        self.simple_call(client, Request::Watch(0));
        self.plan_wave(client, 0);
    }

    fn plan_wave(&mut self, client: usize, number: usize) {
        let found = &self.clients[client];
        let event = ClientEvent::Wave(found.life, number);
        self.after(found.plan.waves[number].pause, Event::Client(client, event));
    }

    fn wave(&mut self, client: usize, number: usize) {
        let wave = self.clients[client].plan.waves[number].clone();
        let life = self.clients[client].life;
        let contents: Vec<_> = (0..wave.tasks)
            .map(|task| Content {
                nonce: self.judge.nonce(),
                length: wave.length,
                kind: match task {
                    0 if wave.poison => Kind::Poison,
                    _ if wave.hangs(task, self.clients[client].plan.task_timeout) => Kind::Hangs,
                    _ if wave.failing > 0 && task % wave.failing == 0 => Kind::Fails,
                    _ => Kind::Succeeds,
                },
                output_size: wave.output,
                cancelled: wave.cancels(task),
            })
            .collect();
        let size = if wave.single {
            1
        } else {
            contents.len().div_ceil(wave.calls as usize)
        };
        for part in contents.chunks(size) {
            let inputs: Vec<_> = part.iter().map(Content::encode).collect();
            let request = match part {
                [only] if wave.single => Request::Task(only.encode()),
                _ => Request::Tasks(Bytes::from(part[0].nonce.to_be_bytes().to_vec()), inputs),
            };
            let pending = Pending {
                life,
                request,
                contents: part.to_vec(),
                tries: 0,
            };
            self.call(client, pending);
        }
        self.clients[client].waves = number + 1;
    }

    /// What comes after an answer or an end.
    fn proceed(&mut self, client: usize) -> Checked {
        let found = &mut self.clients[client];
        let planned = found.plan.waves[..found.waves]
            .iter()
            .map(|wave| wave.tasks as usize)
            .sum::<usize>();
        if found.stage == Stage::Working && found.acknowledged.len() == planned {
            if found.waves < found.plan.waves.len() {
                let next = found.waves;
                // Not planned twice: the number of acknowledged tasks grows only once to this.
                self.plan_wave(client, next);
                return Ok(());
            }
            found.stage = Stage::Waiting;
            self.plan_ending(client);
        }
        let found = &mut self.clients[client];
        let all_ended = found.acknowledged.keys().all(|id| found.ended.contains_key(id));
        // The other one has another way.
        let closes = !matches!(found.plan.ending, Ending::CancelsSession(_));
        if found.stage == Stage::Waiting && closes && all_ended {
            found.stage = Stage::Closing;
            self.simple_call(client, Request::Close);
        }
        Ok(())
    }

    fn on_end(&mut self, client: usize, row: &TaskRow) -> Checked {
        let found = &mut self.clients[client];
        let expected = found.sequence + 1;
        if row.sequence != Some(expected) {
            let sequence = row.sequence;
            return Err(format!(
                "client {client} was told end {sequence:?} instead of {expected}"
            ));
        }
        found.sequence = expected;
        if found.ended.insert(row.id, row.state).is_some() {
            return Err(format!(
                "client {client} was told the end of task {} twice",
                row.id
            ));
        }
        if found.cancelled.contains(&row.id) && row.state != TaskState::Cancelled {
            return Err(format!(
                "client {client} cancelled task {}, which has ended as {}",
                row.id, row.state
            ));
        }
        let Some(content) = row.input.as_ref().and_then(Content::decode) else {
            return Err(format!("task {} of client {client} has lost its input", row.id));
        };
        let pending = found.pending.values().flat_map(|pending| &pending.contents);
        let known = match found.acknowledged.get(&row.id) {
            Some(nonce) => *nonce == content.nonce,
            None => {
                found.unknown.contains(&content.nonce)
                    || pending.map(|content| content.nonce).any(|nonce| nonce == content.nonce)
                    // A call that is made again is not pending in between.
                    || found.stage == Stage::Working
            }
        };
        if !known {
            return Err(format!("client {client} did not make what task {} is", row.id));
        }
        // Only a task at hand can complete the set.
        if found.stage == Stage::Waiting {
            self.proceed(client)
        } else {
            Ok(())
        }
    }

    pub(super) fn finish(&mut self, client: usize) -> Checked {
        let found = &mut self.clients[client];
        if found.stage != Stage::Closed || !found.watch_over {
            return Ok(());
        }
        let open = found.acknowledged.keys().find(|id| !found.ended.contains_key(id));
        if let Some(open) = open {
            return Err(format!(
                "the session of client {client} was closed, but task {open} did not end"
            ));
        }
        if found.life < found.plan.lives || client.is_multiple_of(2) {
            found.stage = Stage::Deleting;
            self.simple_call(client, Request::Delete);
        } else {
            found.stage = Stage::Done;
        }
        Ok(())
    }

    fn session_gone(&mut self, client: usize) {
        if self.clients[client].life < self.clients[client].plan.lives {
            self.after(Duration::ZERO, Event::Client(client, ClientEvent::Goes));
            self.clients[client].stage = Stage::Creating;
            self.clients[client].key = None;
        } else {
            self.clients[client].stage = Stage::Done;
            self.clients[client].key = None;
        }
    }
}
