//! The session manager's process around the real core and the real `engine/outbox.rs`: what
//! `engine/driver.rs` does with them. Orders leave at once; replies, acknowledgements and news when
//! the outbox lets them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flame_core::{ApplicationName, SessionId, TaskId};
use flame_rpc::node::{RunningExecutor, ToAgent, from_agent, to_agent};
use flame_rpc::v1::SessionSpec;

use super::admin::{self, Errand};
use super::client::{Answer, Call};
use super::early::{self, End};
use super::judge::{limits_hold, starts_are_within_limits};
use super::network::Down;
use super::scenario::Time;
use super::world::{Checked, Event, World};
use crate::core::{
    Core, CoreConfig, CoreError, Effects, LinkId, Node, NodeHello, Now, Session, SessionKey, TaskRow,
};
use crate::engine::outbox::{self, Held, Outbox};
use crate::store::Record;

/// Wait between two tries to store what could not be stored.
const STORE_RETRY: Duration = Duration::from_millis(500);
/// Between two looks at the whole state, in turns.
const AUDIT_EVERY: u64 = 32;
/// Turns at one and the same moment that are no accident any more.
const SPINNING: u32 = 1_000;
/// What the wall clock shows when the simulation begins, in Unix milliseconds.
const EPOCH: i64 = 1_700_000_000_000;

/// A command on its way to the core.
#[expect(
    clippy::large_enum_variant,
    reason = "few are there at a time, and each is moved once"
)]
pub(super) enum Job {
    Hello(LinkId, usize, Box<NodeHello>, Vec<RunningExecutor>),
    Message(LinkId, usize, from_agent::Message),
    LinkEnded(LinkId, usize),
    Call(Box<Call>),
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Create(SessionId, Box<SessionSpec>),
    Tasks(Bytes, Vec<Bytes>),
    Task(Bytes),
    Close,
    Delete,
    /// News of the session's ends after that sequence number.
    Watch(u64),
    /// Something ends before its time.
    End(End),
    Admin(Errand),
}

impl Request {
    fn is_write(&self) -> bool {
        !matches!(self, Self::Watch(_) | Self::Admin(Errand::LooksAt(_)))
    }
}

/// Who makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Client(usize),
    Admin,
}

#[derive(Debug)]
pub(super) enum ManagerEvent {
    Starts,
    Turn(u32),
    Alarm(u32),
    Committed(u32),
    Retries(u32),
}

/// What waits to be told to whom.
struct Reply {
    call: Box<Call>,
    answer: Result<Answer, CoreError>,
}

/// One life of the process.
pub(super) struct Process {
    pub(super) core: Core,
    started: Time,
    jobs: VecDeque<Job>,
    turn_planned: bool,
    alarm: Option<Time>,
    outbox: Outbox<Reply>,
    /// Records of the commit that is under way.
    storing: Vec<Record>,
    /// The store failed and is tried again.
    failing: bool,
    /// Not before that.
    retries_at: Time,
    /// Who follows which session, and up to which end it was told.
    watches: BTreeMap<SessionKey, Vec<ServerWatch>>,
    last_turn: Time,
    turns_at_once: u32,
}

struct ServerWatch {
    client: usize,
    watch: u64,
    sent: u64,
    /// The answer to the call left.
    begun: bool,
    /// The session was closed before that.
    over: bool,
    ends: Vec<Arc<TaskRow>>,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Manager {
    pub(super) incarnation: u32,
    pub(super) process: Option<Process>,
    pub(super) stalls_until: Time,
    pub(super) store_fails_until: Time,
    pub(super) store_slow: (Time, Duration),
    pub(super) wall_offset: i64,
    turns: u64,
}

impl Process {
    fn now(&self, now: Time, wall_offset: i64) -> Now {
        Now {
            wall: EPOCH + now.as_millis() as i64 + wall_offset,
            mono: now - self.started,
        }
    }

    /// For how long a node has not been heard of.
    pub(super) fn silence(&self, now: Time, node: &Node) -> Duration {
        (now - self.started).saturating_sub(node.last_heard)
    }

    pub(super) fn in_words(&self) -> String {
        let executors = self.core.executors.values();
        let executors: Vec<_> = executors
            .map(|e| {
                format!(
                    "{} on {} for {}: {:?} with {} tasks",
                    e.id,
                    e.node,
                    e.session_id,
                    e.state,
                    e.tasks.len()
                )
            })
            .collect();
        let nodes = self.core.nodes.values();
        let nodes: Vec<_> = nodes
            .map(|n| {
                format!(
                    "{} {:?} link {:?} {}/{}",
                    n.hello.name, n.state, n.link, n.used, n.hello.allocatable
                )
            })
            .collect();
        let sessions = self.core.sessions.values().filter(|session| session.is_open());
        let sessions: Vec<_> = sessions
            .map(|s| {
                let (pending, running) = (s.pending.len(), s.running());
                format!(
                    "{} has {pending} pending, {running} running, paused {}",
                    s.row.id, s.paused
                )
            })
            .collect();
        format!(
            "{} jobs, {} records wait, store failing {}\n    {}\n    {}\n    {}",
            self.jobs.len(),
            self.outbox.len(),
            self.failing,
            nodes.join("\n    "),
            executors.join("\n    "),
            sessions.join("\n    ")
        )
    }
}

impl World {
    fn config(&self) -> CoreConfig {
        let mut config = super::super::config();
        config.placement = self.scenario.placement;
        config.limits.max_executors = self.scenario.max_executors;
        config.bind_retries = 5;
        config
    }

    pub(super) fn on_manager(&mut self, event: ManagerEvent) -> Checked {
        let incarnation = self.manager.incarnation;
        match event {
            ManagerEvent::Starts => self.start_manager(),
            ManagerEvent::Turn(of) | ManagerEvent::Alarm(of) if of == incarnation => {
                let stalls_until = self.manager.stalls_until;
                if stalls_until > self.now {
                    self.at(stalls_until, Event::Manager(event));
                    return Ok(());
                }
                self.turn()
            }
            ManagerEvent::Committed(of) if of == incarnation => self.committed(),
            ManagerEvent::Retries(of) if of == incarnation => {
                self.begin_commit();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn start_manager(&mut self) -> Checked {
        let snapshot = self.disk.load();
        self.note(|| format!("manager starts, generation {}", snapshot.generation));
        self.nothing_acknowledged_is_lost()?;
        self.nothing_acknowledged_by_admin_is_lost()?;
        let mut core = Core::new(self.config(), snapshot);
        let mut fx = Effects::default();
        let now = Now {
            wall: EPOCH + self.now.as_millis() as i64 + self.manager.wall_offset,
            mono: Duration::ZERO,
        };
        let plans = self.scenario.applications.iter().enumerate();
        let builtins = plans.map(|(at, plan)| {
            let name = ApplicationName::new(&format!("app{at}")).expect("valid");
            (name, plan.spec())
        });
        core.ensure_builtins(builtins.collect(), now, &mut fx)
            .map_err(|error| format!("the applications are refused: {error}"))?;
        let mut outbox = Outbox::default();
        outbox.applied(fx);
        self.manager.incarnation += 1;
        self.judge.manager_started();
        self.manager.process = Some(Process {
            core,
            started: self.now,
            jobs: VecDeque::new(),
            turn_planned: false,
            alarm: None,
            outbox,
            storing: Vec::new(),
            failing: false,
            retries_at: Time::ZERO,
            watches: BTreeMap::new(),
            last_turn: Time::MAX,
            turns_at_once: 0,
        });
        self.turn()
    }

    /// The process is killed. Of a commit that is under way all is durable, or nothing.
    pub(super) fn kill_manager(&mut self, down: Duration) -> Checked {
        let Some(process) = self.manager.process.take() else {
            return Ok(());
        };
        if self.rng.bool() && self.manager.store_fails_until <= self.now {
            self.store(&process.storing)?;
        }
        self.manager.stalls_until = Time::ZERO;
        self.break_all_links();
        for client in 0..self.clients.len() {
            self.cut_client(client);
        }
        self.cut_admin();
        self.after(down, Event::Manager(ManagerEvent::Starts));
        Ok(())
    }

    /// Something for the core to do.
    pub(super) fn post(&mut self, job: Job) {
        let delay = Duration::from_micros(self.rng.u64(0..200));
        let incarnation = self.manager.incarnation;
        let Some(process) = &mut self.manager.process else {
            return;
        };
        process.jobs.push_back(job);
        if !process.turn_planned {
            process.turn_planned = true;
            self.after(delay, Event::Manager(ManagerEvent::Turn(incarnation)));
        }
    }

    /// One batch: applies what there is, and what is due.
    fn turn(&mut self) -> Checked {
        let Some(mut process) = self.manager.process.take() else {
            return Ok(());
        };
        let result = self.apply(&mut process);
        self.manager.process = Some(process);
        result?;
        self.begin_commit();
        self.set_alarm()?;
        self.manager.turns += 1;
        if self.manager.turns.is_multiple_of(AUDIT_EVERY) {
            self.audit()?;
        }
        Ok(())
    }

    fn apply(&mut self, process: &mut Process) -> Checked {
        process.turn_planned = false;
        let now = process.now(self.now, self.manager.wall_offset);
        let mut fx = Effects {
            records: process.outbox.take_records(),
            ..Effects::default()
        };
        let known = fx.records.len();
        // Sessions that may have got executors.
        let mut grown = BTreeSet::new();
        while let Some(job) = process.jobs.pop_front() {
            let before = fx.records.len();
            match job {
                Job::Hello(link, node, hello, running) => {
                    let running_count = running.len();
                    self.note(|| {
                        format!("manager: hello of node {node} on link {link}, {running_count} executors")
                    });
                    self.judge.hello(node, link, now.mono);
                    self.judge.times.reported(&running, now.mono);
                    let reported = running.iter().map(|running| running.session_number);
                    grown.extend(reported);
                    process
                        .core
                        .node_connected(link, "simulation", *hello, running, now, &mut fx);
                }
                Job::Message(link, node, message) => {
                    self.apply_message(process, (link, node, message), now, &mut fx)?;
                }
                Job::LinkEnded(link, node) => {
                    self.note(|| format!("manager: link {link} of node {node} has ended"));
                    self.judge.link_ended(node, link);
                    process.core.node_disconnected(link, &mut fx);
                }
                Job::Call(call) => {
                    let answer = self.answer(process, &call, now, &mut fx);
                    if let Request::Admin(errand) = call.request {
                        self.errand_done(&process.core, errand, &answer)?;
                    }
                    let promises = call.request.is_write() || fx.records.len() > before;
                    process.outbox.reply(Reply { call, answer }, promises);
                }
            }
        }
        process.core.settle(now, &mut fx);
        for record in &fx.records[known..] {
            if let Record::TaskFinished(row) = record {
                self.judge.times.had_its_time(&process.core, row, now.mono)?;
            }
        }
        self.judge.orders(&fx, now.mono, &self.admin.acknowledged)?;
        self.nothing_ended_is_handed_out(&fx)?;
        let started = fx
            .orders
            .iter()
            .filter_map(|(_, message)| match &message.message {
                Some(to_agent::Message::Start(start)) => Some(start.session_number),
                _ => None,
            });
        starts_are_within_limits(&process.core, &started.collect())?;
        limits_hold(&process.core, &grown)?;
        for (link, message) in std::mem::take(&mut fx.orders) {
            self.send_order(link, message);
        }
        process.outbox.applied(fx);
        if process.failing {
            self.refuse(process);
        } else if let Some(held) = process.outbox.release() {
            self.release(process, held);
        }
        Ok(())
    }

    fn apply_message(
        &mut self,
        process: &mut Process,
        (link, node, message): (LinkId, usize, from_agent::Message),
        now: Now,
        fx: &mut Effects,
    ) -> Checked {
        if !matches!(message, from_agent::Message::Heartbeat(_)) {
            let brief = message_in_words(&message);
            self.note(|| format!("manager: node {node} on link {link} says {brief}"));
        }
        let (records, answers) = (fx.records.len(), fx.answers.len());
        let counts = self.judge.heard(node, link, &message, now.mono);
        let held = match &message {
            from_agent::Message::Results(batch) => Some(self.judge.current_attempts(&process.core, batch)),
            _ => None,
        };
        if let (true, from_agent::Message::Results(batch), Some(held)) = (counts, &message, &held) {
            self.judge.times.results(batch, held, now.mono);
        }
        process.core.node_message(link, message, now, fx);
        if !counts && (fx.records.len(), fx.answers.len()) != (records, answers) {
            return Err(format!(
                "a message on link {link} of node {node} counted, but a later one exists"
            ));
        }
        if let Some(held) = held {
            self.judge.accepted(&held, &fx.records[records..])?;
        }
        Ok(())
    }

    fn send_order(&mut self, link: LinkId, message: ToAgent) {
        if let Some(message) = message.message {
            let brief = order_in_words(&message);
            self.note(|| format!("manager: on link {link} {brief}"));
            self.send_down(link, Down::Message(message));
        }
    }

    fn answer(
        &mut self,
        process: &mut Process,
        call: &Call,
        now: Now,
        fx: &mut Effects,
    ) -> Result<Answer, CoreError> {
        let core = &mut process.core;
        let session = call.session.as_str();
        if process.failing && call.request.is_write() {
            return Err(CoreError::Unavailable("the store fails".to_owned()));
        }
        match call.request.clone() {
            Request::Create(id, spec) => {
                core.create_session(&id, *spec, now, fx)?;
                Ok(Answer::Session(core.session_progress(session)?.key))
            }
            Request::Tasks(request, inputs) => {
                let inputs = inputs.into_iter().map(Some).collect();
                let first = core.create_tasks_once(session, &request, inputs, now, fx)?;
                Ok(Answer::Tasks(core.session_progress(session)?.key, first))
            }
            Request::Task(input) => {
                let row = core.create_task(session, Some(input), now, fx)?;
                Ok(Answer::Tasks(row.session, row.id))
            }
            Request::Close => {
                core.close_session(session, now, fx)?;
                Ok(Answer::Done)
            }
            Request::Delete => {
                core.delete_session(session, fx)?;
                Ok(Answer::Done)
            }
            Request::End(end) => early::answer(core, session, end, now, fx),
            Request::Admin(errand) => admin::answer(core, errand, now, fx),
            Request::Watch(after) => {
                let Caller::Client(client) = call.by else {
                    return Err(CoreError::Invalid("administrators do not watch".to_owned()));
                };
                let progress = core.session_progress(session)?;
                let watch = ServerWatch {
                    client,
                    watch: call.id,
                    sent: after,
                    begun: false,
                    over: false,
                    ends: Vec::new(),
                };
                let watches = process.watches.entry(progress.key).or_default();
                watches.retain(|known| known.client != client);
                watches.push(watch);
                Ok(Answer::Watching(progress.key, progress.open))
            }
        }
    }

    fn refuse(&mut self, process: &mut Process) {
        for outbox::Reply { mut reply, promises } in process.outbox.take_replies() {
            if promises {
                let text = "whether this request takes effect is not known yet";
                reply.answer = Err(CoreError::Unavailable(text.to_owned()));
            }
            self.reply(process, reply);
        }
    }

    fn begin_commit(&mut self) {
        let slow = self.manager.store_slow;
        let time = match slow.0 > self.now {
            true => slow.1,
            false => Duration::from_micros(self.rng.u64(50..3_000)),
        };
        let incarnation = self.manager.incarnation;
        let Some(process) = &mut self.manager.process else {
            return;
        };
        let waits = process.failing && process.retries_at > self.now;
        if waits {
            return;
        }
        if let Some(records) = process.outbox.begin_commit() {
            process.storing = records;
            self.after(time, Event::Manager(ManagerEvent::Committed(incarnation)));
        }
    }

    fn committed(&mut self) -> Checked {
        let incarnation = self.manager.incarnation;
        let Some(mut process) = self.manager.process.take() else {
            return Ok(());
        };
        let records = std::mem::take(&mut process.storing);
        if self.manager.store_fails_until > self.now {
            self.note(|| "the store failed".to_owned());
            process.failing = true;
            process.retries_at = self.now + STORE_RETRY;
            process.outbox.failed(records);
            self.refuse(&mut process);
            self.manager.process = Some(process);
            self.after(STORE_RETRY, Event::Manager(ManagerEvent::Retries(incarnation)));
            return Ok(());
        }
        process.failing = false;
        self.store(&records)?;
        let held = process.outbox.committed();
        self.release(&mut process, held);
        self.manager.process = Some(process);
        self.begin_commit();
        Ok(())
    }

    fn store(&mut self, records: &[Record]) -> Checked {
        let count = records.len();
        self.note(|| format!("store: {count} records are durable"));
        self.disk.commit(records)?;
        for record in records {
            if let Record::TaskFinished(row) = record {
                self.outcome_is_right(row)?;
                self.judge.times.stored(row, self.now);
            }
        }
        Ok(())
    }

    fn release(&mut self, process: &mut Process, batch: Held<Reply>) {
        for (link, message) in batch.answers {
            self.send_order(link, message);
        }
        for link in batch.hang_up {
            self.hang_up(link);
        }
        for row in batch.updates {
            for watch in process.watches.get_mut(&row.session).into_iter().flatten() {
                watch.ends.push(Arc::clone(&row));
                self.send_ends(watch);
            }
        }
        for key in batch.closed {
            for mut watch in process.watches.remove(&key).into_iter().flatten() {
                if !watch.begun {
                    watch.over = true;
                    process.watches.entry(key).or_default().push(watch);
                    continue;
                }
                self.catch_up(key, &mut watch);
                self.send_ends(&mut watch);
                self.tell_closed(watch.client, watch.watch);
            }
        }
        for outbox::Reply { reply, .. } in batch.replies {
            self.reply(process, reply);
        }
    }

    fn reply(&mut self, process: &mut Process, reply: Reply) {
        let id = reply.call.id;
        let watching = match (&reply.answer, reply.call.by) {
            (Ok(Answer::Watching(key, open)), Caller::Client(client)) => Some((client, *key, *open)),
            _ => None,
        };
        let answer = self.look_up_end(&reply.call, reply.answer);
        self.send_answer(&reply.call, answer);
        let Some((client, key, open)) = watching else {
            return;
        };
        let watches = process.watches.entry(key).or_default();
        let Some(at) = watches.iter().position(|watch| watch.watch == id) else {
            return;
        };
        let mut watch = watches.swap_remove(at);
        watch.begun = true;
        // What ended before the watch began is on disk, or was published since.
        self.catch_up(key, &mut watch);
        self.send_ends(&mut watch);
        let ended = process.core.sessions.get(&key).map_or(0, Session::ended);
        if !open && watch.sent < ended {
            // The store fails and does not have the last ends yet: they are looked for again.
            self.tell_unfinished(client, id);
        } else if open && !watch.over {
            process.watches.entry(key).or_default().push(watch);
        } else {
            self.tell_closed(client, id);
        }
    }

    fn catch_up(&mut self, key: SessionKey, watch: &mut ServerWatch) {
        let stored = self.disk.sessions.get(&key);
        let mut ends: Vec<_> = stored
            .into_iter()
            .flat_map(|s| s.ends_after(watch.sent))
            .cloned()
            .collect();
        ends.append(&mut watch.ends);
        watch.ends = ends;
    }

    fn send_ends(&mut self, watch: &mut ServerWatch) {
        if !watch.begun {
            return;
        }
        for row in std::mem::take(&mut watch.ends) {
            if row.sequence.is_some_and(|sequence| sequence > watch.sent) {
                watch.sent = row.sequence.unwrap_or_default();
                self.send_end(watch.client, watch.watch, row);
            }
        }
    }

    /// Sets the alarm to the next moment at which something is due by itself.
    fn set_alarm(&mut self) -> Checked {
        let incarnation = self.manager.incarnation;
        let (true_now, offset) = (self.now, self.manager.wall_offset);
        let Some(process) = &mut self.manager.process else {
            return Ok(());
        };
        process.turns_at_once = match process.last_turn == true_now {
            true => process.turns_at_once + 1,
            false => 0,
        };
        process.last_turn = true_now;
        if process.turns_at_once > SPINNING {
            return Err("the core spins: its next deadline is always now".to_owned());
        }
        let now = process.now(true_now, offset);
        let Some(next) = process.core.next_deadline(now) else {
            return Ok(());
        };
        let at = (process.started + next).max(true_now);
        if process.alarm.is_none_or(|known| known <= true_now || at < known) {
            process.alarm = Some(at);
            self.at(at, Event::Manager(ManagerEvent::Alarm(incarnation)));
        }
        Ok(())
    }
}

/// The first task's id and how many there are, for the trace.
fn span(first: Option<TaskId>, count: usize) -> String {
    first.map_or_else(
        || "no tasks".to_owned(),
        |first| format!("{count} tasks from {first}"),
    )
}

fn message_in_words(message: &from_agent::Message) -> String {
    match message {
        from_agent::Message::Hello(_) => "hello".to_owned(),
        from_agent::Message::Heartbeat(_) => "heartbeat".to_owned(),
        from_agent::Message::Executor(update) => {
            let lost = update.lost.len();
            format!(
                "{} is {:?}, {lost} tasks lost",
                update.executor_id,
                update.phase()
            )
        }
        from_agent::Message::Results(batch) => {
            let results = batch.results.iter();
            let results: Vec<_> = results
                .map(|done| format!("{}@{:x}", done.task_id, done.attempt))
                .collect();
            format!("results {}: {}", batch.sequence, results.join(" "))
        }
        from_agent::Message::Returned(returned) => {
            let tasks = span(
                returned.tasks.first().map(|task| task.task_id),
                returned.tasks.len(),
            );
            format!("{} returns {tasks}", returned.executor_id)
        }
        from_agent::Message::Draining(_) => "draining".to_owned(),
        from_agent::Message::LeaveRequest(_) => "may it leave".to_owned(),
        from_agent::Message::Leave(_) => "leave".to_owned(),
        from_agent::Message::Log(_) => "lines of a log".to_owned(),
    }
}

fn order_in_words(message: &to_agent::Message) -> String {
    match message {
        to_agent::Message::Start(start) => format!("start {} for {}", start.executor_id, start.session_id),
        to_agent::Message::Release(release) if release.give_up => {
            format!("give up {}: {}", release.executor_id, release.reason)
        }
        to_agent::Message::Release(release) => format!("release {}: {}", release.executor_id, release.reason),
        to_agent::Message::Tasks(batch) => {
            let tasks: Vec<_> = batch
                .tasks
                .iter()
                .map(|task| format!("{}@{:x}", task.task_id, task.attempt))
                .collect();
            format!("{} gets {}", batch.executor_id, tasks.join(" "))
        }
        to_agent::Message::Recall(recall) => format!("recall from {}", recall.executor_id),
        to_agent::Message::Ack(ack) => format!("ack {}", ack.sequence),
        to_agent::Message::Welcome(_) => "welcome".to_owned(),
        to_agent::Message::Refuse(_) => "refuse".to_owned(),
        to_agent::Message::LeaveAnswer(_) => "it may leave or not".to_owned(),
        to_agent::Message::Log(_) => "read a log".to_owned(),
    }
}
