//! What has to be true: of every batch, of the whole state now and then, of quiet times, and of
//! the end. The rules are written from the outside (what was sent, what was stored) where that is
//! possible, so that the core is not asked whether the core is right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flame_core::state::TaskState;
use flame_core::{ExecutorId, Resources, TaskId};
use flame_rpc::node::{ResultBatch, from_agent, to_agent::Message};

use super::payload::{Content, Kind};
use super::running::Times;
use super::scenario::Time;
use super::world::{Checked, World};
use crate::core::model::{LOST_AFTER, SUSPECT_AFTER};
use crate::core::recent::Recent;
use crate::core::{
    Core, Effects, Executor, ExecutorState, LinkId, Node, Session, SessionKey, TaskPhase, TaskRow,
};
use crate::store::Record;

/// How often a service has to die under a task before the task may fail for that.
const KILLS: u32 = 3;
/// On top of the length of tasks: a process ends, another one starts and binds.
const CHANGE_OVER: Duration = Duration::from_secs(3);
/// On top of the length of tasks: an executor is recalled from, released, and tells of its end, all
/// of which may wait behind slow messages.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// A node as the manager has heard of it.
#[derive(Debug, Default)]
struct Heard {
    link: Option<LinkId>,
    at: Duration,
    draining: bool,
}

/// What the simulation remembers to judge by.
#[derive(Debug, Default)]
pub(super) struct Judge {
    pub(super) calls: u64,
    nonces: u64,
    /// How often the service died under a task.
    kills: BTreeMap<u64, u32>,
    nodes: BTreeMap<usize, Heard>,
    pub(super) times: Times,
    /// Since when executors are on their way out of nodes that can be told.
    leaving: BTreeMap<ExecutorId, Time>,
    /// Since when sessions are behind one of lower priority, or without any executor.
    behind: BTreeMap<SessionKey, Time>,
    starved: BTreeMap<SessionKey, Time>,
}

/// Results that may be accepted.
pub(super) type Acceptable = BTreeSet<(SessionKey, TaskId)>;

impl Judge {
    pub(super) fn nonce(&mut self) -> u64 {
        self.nonces += 1;
        self.nonces
    }

    pub(super) fn killed(&mut self, nonce: u64) {
        *self.kills.entry(nonce).or_default() += 1;
    }

    pub(super) fn manager_started(&mut self) {
        self.nodes.clear();
        self.times.manager_started();
        self.leaving.clear();
        self.behind.clear();
        self.starved.clear();
    }

    pub(super) fn hello(&mut self, node: usize, link: LinkId, now: Duration) {
        let heard = Heard {
            link: Some(link),
            at: now,
            draining: false,
        };
        self.nodes.insert(node, heard);
    }

    pub(super) fn link_ended(&mut self, node: usize, link: LinkId) {
        if let Some(heard) = self.nodes.get_mut(&node) {
            heard.link.take_if(|present| *present == link);
        }
    }

    /// Whether that link of the node is the one that counts.
    pub(super) fn is_present(&self, node: usize, link: LinkId) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|heard| heard.link == Some(link))
    }

    /// Whether a message of that link counts.
    pub(super) fn heard(
        &mut self,
        node: usize,
        link: LinkId,
        message: &from_agent::Message,
        now: Duration,
    ) -> bool {
        let Some(heard) = self.nodes.get_mut(&node).filter(|heard| heard.link == Some(link)) else {
            return false;
        };
        heard.at = now;
        match message {
            from_agent::Message::Draining(_) => heard.draining = true,
            from_agent::Message::Leave(_) => heard.link = None,
            _ => {}
        }
        true
    }

    /// Nothing new for a node that is not ready or `out` of service (true: drained); nothing handed
    /// out that is not sent.
    pub(super) fn orders(&mut self, fx: &Effects, now: Duration, out: &BTreeMap<usize, bool>) -> Checked {
        let mut sent = 0;
        let mut handed_out = fx.handed_out.iter();
        for (link, message) in &fx.orders {
            let (what, is_start) = match &message.message {
                Some(Message::Start(start)) => (format!("executor {}", start.executor_id), true),
                Some(Message::Tasks(batch)) => {
                    sent += batch.tasks.len();
                    for (item, task) in batch.tasks.iter().zip(&mut handed_out) {
                        if item.task_id != task.1 {
                            return Err(format!(
                                "task {task:?} is handed out, but {} is sent",
                                item.task_id
                            ));
                        }
                        let given = (batch.executor_id.as_str(), item.attempt);
                        self.times.handed_out(*task, given, now);
                    }
                    (format!("tasks of {}", batch.executor_id), false)
                }
                _ => continue,
            };
            let node = self.nodes.iter().find(|(_, heard)| heard.link == Some(*link));
            let ready = node.is_some_and(|(_, heard)| !heard.draining && now - heard.at < SUSPECT_AFTER);
            let drained = node.and_then(|(node, _)| out.get(node));
            if drained.is_some_and(|drained| is_start || *drained) {
                return Err(format!(
                    "{what} is sent on link {link} to {node:?}, which is out of service"
                ));
            }
            if !ready {
                return Err(format!(
                    "{what} is sent on link {link} to {node:?} at {now:?}, which is not ready"
                ));
            }
        }
        if sent != fx.handed_out.len() {
            let handed_out = fx.handed_out.len();
            return Err(format!("{handed_out} tasks are handed out, but {sent} are sent"));
        }
        Ok(())
    }

    /// Which of the results are of current attempts.
    pub(super) fn current_attempts(&self, core: &Core, batch: &ResultBatch) -> Acceptable {
        let current = |done: &flame_rpc::node::TaskDone| {
            let executor = core.executors.get(done.executor_id.as_str())?;
            let task = core.sessions.get(&executor.session)?.live.get(&done.task_id)?;
            let expected = TaskPhase::Running {
                executor: executor.id.clone(),
                attempt: done.attempt,
            };
            (task.phase == expected).then_some((executor.session, done.task_id))
        };
        batch.results.iter().filter_map(current).collect()
    }

    pub(super) fn accepted(&self, held: &Acceptable, records: &[Record]) -> Checked {
        for record in records {
            if let Record::TaskFinished(row) = record
                && !held.contains(&(row.session, row.id))
            {
                return Err(format!(
                    "a result of an old attempt of task {} was accepted",
                    row.id
                ));
            }
        }
        Ok(())
    }
}

/// Sessions whose executors came back with a node, and their applications, have no more than they
/// may have, other than those that are on their way out.
pub(super) fn limits_hold(core: &Core, keys: &BTreeSet<SessionKey>) -> Checked {
    keys.iter()
        .try_for_each(|key| within_limits(core, *key, |executor| !is_leaving(&executor.state)))
}

/// Sessions that get new executors, and their applications, have no more than they may have, with
/// those that are on their way out: their processes are still there.
pub(super) fn starts_are_within_limits(core: &Core, keys: &BTreeSet<SessionKey>) -> Checked {
    keys.iter()
        .try_for_each(|key| within_limits(core, *key, |_| true))
}

fn within_limits(core: &Core, key: SessionKey, counts: impl Fn(&Executor) -> bool) -> Checked {
    let Some(session) = core.sessions.get(&key) else {
        return Ok(());
    };
    let (id, name) = (&session.row.id, session.row.application.as_str());
    let counted = || core.executors.values().filter(|executor| counts(executor));
    let own = counted().filter(|e| e.session == key).count();
    let all = counted().filter(|e| e.application.as_str() == name).count();
    let application = core.applications.get(name);
    let most = application.and_then(|application| application.spec.max_instances);
    let within = |count: usize, limit: Option<u32>| limit.is_none_or(|limit| count <= limit as usize);
    if !within(own, session.row.max_instances) || !within(all, most) {
        return Err(format!(
            "session {id} has {own} executors, and application {name} has {all}: more than they may have"
        ));
    }
    Ok(())
}

impl World {
    /// What has ended has ended.
    pub(super) fn nothing_ended_is_handed_out(&self, fx: &Effects) -> Checked {
        for (session, id) in &fx.handed_out {
            let state = self.disk.task(*session, *id).map(|row| row.state);
            if let Some(state) = state.filter(|state| state.is_terminal()) {
                return Err(format!(
                    "task {id} of session {session} is handed out, but has ended as {state}"
                ));
            }
        }
        Ok(())
    }

    /// A task ended as its input says.
    pub(super) fn outcome_is_right(&self, row: &TaskRow) -> Checked {
        let Some(content) = row.input.as_ref().and_then(Content::decode) else {
            return Err(format!("task {} ended without its input", row.id));
        };
        let message = row.message.as_deref().unwrap_or_default();
        let kills = self.judge.kills.get(&content.nonce).copied().unwrap_or_default();
        let right = match row.state {
            TaskState::Succeed => {
                content.kind == Kind::Succeeds
                    && row
                        .output
                        .as_ref()
                        .is_some_and(|output| content.is_answered_by(output))
            }
            TaskState::Failed if message.contains("died") => kills >= KILLS,
            // That it was over its time is judged when that is decided, see `running.rs`.
            TaskState::Failed if message.contains("task_timeout") => true,
            TaskState::Failed => content.kind == Kind::Fails,
            TaskState::Cancelled => {
                let owner = self.clients.iter().find(|client| client.key == Some(row.session));
                owner.is_none_or(|client| client.may_cancel(row.id))
            }
            _ => false,
        };
        if !right {
            let output = row.output.as_ref().map(|output| output.len());
            let state = row.state;
            return Err(format!(
                "task {} ({content:?}, {kills} kills) ended as {state}: {message:?}, output {output:?}",
                row.id
            ));
        }
        Ok(())
    }

    /// What clients were told is on disk.
    pub(super) fn nothing_acknowledged_is_lost(&self) -> Checked {
        for client in &self.clients {
            let Some(key) = client.key else { continue };
            let Some(stored) = self.disk.sessions.get(&key) else {
                if client.closes() {
                    continue; // it may be deleted
                }
                return Err(format!("acknowledged session {key} is lost"));
            };
            if client.knows_it_closed() && stored.is_open() {
                return Err(format!(
                    "the end of session {} was acknowledged, but is lost",
                    stored.row.id
                ));
            }
            for id in &client.cancelled {
                if stored.task(*id).map(|row| row.state) != Some(TaskState::Cancelled) {
                    return Err(format!(
                        "the cancel of task {id} of {} was acknowledged, but is lost",
                        stored.row.id
                    ));
                }
            }
            for (id, nonce) in &client.acknowledged {
                let content = stored
                    .task(*id)
                    .and_then(|row| row.input.as_ref())
                    .and_then(Content::decode);
                if content.map(|content| content.nonce) != Some(*nonce) {
                    return Err(format!(
                        "acknowledged task {id} of {} is {content:?}",
                        stored.row.id
                    ));
                }
            }
            for (id, state) in &client.ended {
                if stored.task(*id).map(|row| row.state) != Some(*state) {
                    return Err(format!(
                        "the end of task {id} of {} was told, but is lost",
                        stored.row.id
                    ));
                }
            }
        }
        Ok(())
    }

    /// Everything that has to be true of the whole state at any time. Dear.
    pub(super) fn audit(&self) -> Checked {
        let Some(process) = &self.manager.process else {
            return Ok(());
        };
        let core = &process.core;
        core.check_books();
        let mut of_applications: BTreeMap<&str, u32> = BTreeMap::new();
        for session in core.sessions.values() {
            let own = session.executors.iter().filter_map(|id| core.executors.get(id));
            let count = own.filter(|executor| !is_leaving(&executor.state)).count() as u32;
            *of_applications
                .entry(session.row.application.as_str())
                .or_default() += count;
            if session.row.max_instances.is_some_and(|max| count > max) {
                return Err(format!("session {} has {count} executors", session.row.id));
            }
            if !session.is_open() && !session.live.is_empty() {
                return Err(format!("closed session {} has open tasks", session.row.id));
            }
        }
        for (name, count) in of_applications {
            let limit = core
                .applications
                .get(name)
                .and_then(|found| found.spec.max_instances);
            if limit.is_some_and(|limit| count > limit) {
                return Err(format!("application {name} has {count} executors"));
            }
        }
        let silent = |node: &Node| process.silence(self.now, node) >= LOST_AFTER + Duration::from_millis(1);
        for node in core.nodes.values() {
            let settled = self.manager.stalls_until + Duration::from_millis(1) < self.now;
            if settled && silent(node) && !node.executors.is_empty() {
                return Err(format!(
                    "{} is lost and has {:?}",
                    node.hello.name, node.executors
                ));
            }
        }
        within_bounds(&core.recent)
    }

    /// Looks at what has to be true when nothing goes wrong: who has the higher right does not
    /// wait longer than it takes to finish a task, and everybody gets a turn.
    pub(super) fn look_at_quiet_times(&mut self) -> Checked {
        let now = self.now;
        self.nobody_runs_for_too_long()?;
        let longest = self.scenario.longest_task();
        let Some(process) = &self.manager.process else {
            return Ok(());
        };
        let core = &process.core;
        let leaving = core
            .leaving
            .iter()
            .filter_map(|id| core.executors.get(id.as_str()));
        let told = leaving.filter(|e| core.nodes.get(e.node.as_str()).is_some_and(Node::is_ready));
        let since = |id: &ExecutorId| *self.judge.leaving.get(id).unwrap_or(&now);
        let leaving: BTreeMap<_, _> = told.map(|e| (e.id.clone(), since(&e.id))).collect();
        self.judge.leaving = leaving;
        let mut slow = self.judge.leaving.iter();
        if let Some((id, since)) = slow.find(|(_, since)| now - **since > longest + GONE_WITHIN) {
            let time = now - *since;
            return Err(format!("executor {id} has been on its way out for {time:?}"));
        }
        let open = u32::try_from(core.open.len()).unwrap_or(u32::MAX);
        let (mut behind, mut starved) = (BTreeMap::new(), BTreeMap::new());
        for key in &core.open {
            let Some(session) = core.sessions.get(key).filter(|session| wants_more(core, session)) else {
                continue;
            };
            let holders = could_have(core, session, self.scenario.max_executors as usize);
            if holders
                .iter()
                .any(|holder| holder.row.priority < session.row.priority)
            {
                behind.insert(*key, *self.judge.behind.get(key).unwrap_or(&now));
            }
            let has_none = !session
                .executors
                .iter()
                .filter_map(|id| core.executors.get(id))
                .any(|e| !is_leaving(&e.state));
            let unprotected = |holder: &&Session| {
                holder.row.priority <= session.row.priority && holder.row.min_instances == 0
            };
            if has_none && holders.into_iter().any(|holder| unprotected(&holder)) {
                starved.insert(*key, *self.judge.starved.get(key).unwrap_or(&now));
            }
        }
        let turn = longest + CHANGE_OVER;
        let oldest = |since: &BTreeMap<SessionKey, Time>, limit: Duration| {
            let found = since.iter().find(|(_, since)| now - **since > limit);
            found.map(|(key, since)| (core.sessions[key].row.id.clone(), now - *since))
        };
        if let Some((id, time)) = oldest(&behind, turn * open) {
            return Err(format!(
                "session {id} has been behind one of lower priority for {time:?}"
            ));
        }
        if let Some((id, time)) = oldest(&starved, (turn + Duration::from_secs(1)) * (open + 1)) {
            return Err(format!(
                "session {id} has had no executor for {time:?} while others of no higher right have"
            ));
        }
        (self.judge.behind, self.judge.starved) = (behind, starved);
        Ok(())
    }

    /// After everything has ended and was put away.
    pub(super) fn nothing_is_left(&self) -> Checked {
        let Some(process) = &self.manager.process else {
            return Err("the manager does not run".to_owned());
        };
        self.audit()?;
        self.nothing_acknowledged_is_lost()?;
        let core = &process.core;
        let connected = core.nodes.values().filter(|node| node.link.is_some()).count();
        let counts = [
            ("executors", core.executors.len(), 0),
            ("leaving executors", core.leaving.len(), 0),
            ("touched sessions", core.touched.len(), 0),
            ("open sessions", core.open.len(), 0),
            ("nodes", core.nodes.len(), self.agents.len()),
            ("links", core.links.len(), connected),
        ];
        for (what, count, most) in counts {
            if count > most {
                return Err(format!("{count} {what} are left where {most} may be"));
            }
        }
        if connected != self.agents.len() {
            return Err(format!(
                "{connected} of {} nodes are connected",
                self.agents.len()
            ));
        }
        for session in core.sessions.values() {
            let left =
                session.live.len() + session.pending.len() + session.idle.len() + session.executors.len();
            if left > 0 || session.requests.len() > 0 {
                return Err(format!(
                    "session {} is closed, but not all of it is gone",
                    session.row.id
                ));
            }
        }
        for stored in self.disk.sessions.values() {
            if stored.is_open() || stored.open_tasks() > 0 {
                return Err(format!("session {} is stored as open", stored.row.id));
            }
        }
        match self.agents.iter().find_map(|agent| agent.leftovers()) {
            Some(left) => Err(left),
            None => Ok(()),
        }
    }
}

fn is_leaving(state: &ExecutorState) -> bool {
    matches!(state, ExecutorState::Draining | ExecutorState::Releasing)
}

/// Ends that are kept for questions are bounded, whatever has ended.
fn within_bounds(recent: &Recent) -> Checked {
    match recent.excess() {
        None => Ok(()),
        Some(excess) => Err(format!("memory grows with finished tasks: {excess}")),
    }
}

/// Whether a session has tasks for which it may have another executor.
fn wants_more(core: &Core, session: &Session) -> bool {
    let own = session.executors.iter().filter_map(|id| core.executors.get(id));
    let (mut have, mut free) = (0, 0);
    for executor in own.filter(|executor| !is_leaving(&executor.state)) {
        have += 1;
        free += u32::from(executor.tasks.is_empty());
    }
    let application = core.applications.get(session.row.application.as_str());
    let used = core
        .executors
        .values()
        .filter(|e| e.application == session.row.application);
    let limit = application.and_then(|application| application.spec.max_instances);
    session.pending.len() > free as usize
        && !session.paused
        && session.avoids.is_empty()
        && session.row.max_instances.is_none_or(|max| have < max)
        && limit.is_none_or(|limit| used.count() < limit as usize)
}

/// Sessions of no higher priority that hold what `session` could use: on some node there would be
/// room if they went.
fn could_have<'a>(core: &'a Core, session: &Session, max_executors: usize) -> Vec<&'a Session> {
    let row = &session.row;
    let mut found: Vec<&Session> = Vec::new();
    for node in core.nodes.values().filter(|node| node.takes_work()) {
        let suits = row
            .node_labels
            .iter()
            .all(|label| node.hello.labels.contains(label));
        if !suits || !node.hello.allocatable.covers(&row.resources) {
            continue;
        }
        // All that lower ones hold there, or all that equal ones hold.
        for below in [true, false] {
            let gives = |holder: &&Session| match below {
                true => holder.row.priority < row.priority,
                false => holder.row.priority <= row.priority && holder.row.key != row.key,
            };
            let executors = node.executors.iter().filter_map(|id| core.executors.get(id));
            let held = executors.filter_map(|e| Some((core.sessions.get(&e.session)?, e)));
            let given: Vec<_> = held.filter(|(holder, _)| gives(holder)).collect();
            let sum = given
                .iter()
                .fold(Resources::default(), |sum, (_, e)| sum.plus(&e.resources));
            let slots = node.executors.len() - given.len() < max_executors;
            if slots && node.free().plus(&sum).covers(&row.resources) {
                let working = given.iter().filter(|(_, e)| !is_leaving(&e.state));
                found.extend(working.map(|(holder, _)| *holder));
            }
        }
    }
    found
}
