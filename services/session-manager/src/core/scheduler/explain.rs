//! Why a session does not run, or not faster: the same look at sessions and nodes as a pass of the
//! scheduler has, put into words.

use std::collections::BTreeMap;

use flame_core::state::NodeState;
use flame_core::{Resources, event};
use flame_rpc::v1;
use flame_rpc::v1::{ExplainSessionResponse, Holder, Reason};

use super::Counted;
use super::pass::Pass;
use super::quotas::Vacancy;
use super::rooms::{Needs, Room};
use crate::core::{Core, CoreError, ExecutorState, Node, Now, Session, SessionKey};

/// Names in a sentence; the rest are in the data.
const NAMES_SHOWN: usize = 5;

fn reason(code: &str, text: impl Into<String>) -> Reason {
    Reason {
        code: code.to_owned(),
        text: text.into(),
        ..Reason::default()
    }
}

trait With {
    fn nodes(self, nodes: &[&Node]) -> Self;
    fn datum(self, name: &str, value: impl ToString) -> Self;
}

impl With for Reason {
    fn nodes(mut self, nodes: &[&Node]) -> Self {
        self.nodes = nodes.iter().map(|node| node.hello.name.to_string()).collect();
        self
    }

    fn datum(mut self, name: &str, value: impl ToString) -> Self {
        self.data.insert(name.to_owned(), value.to_string());
        self
    }
}

/// `3 executors`, `1 executor`.
fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// Names with commas, and how many more there are.
fn listed(names: impl Iterator<Item = String>) -> String {
    let all: Vec<_> = names.collect();
    let shown = all
        .iter()
        .take(NAMES_SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match all.len().saturating_sub(NAMES_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn named(nodes: &[&Node]) -> String {
    let word = if nodes.len() == 1 { "node" } else { "nodes" };
    format!(
        "{word} {}",
        listed(nodes.iter().map(|node| node.hello.name.to_string()))
    )
}

/// Why a node takes no work, in a word and in words; nothing if it does.
fn out_of_service(node: &Node) -> Option<(&'static str, &'static str)> {
    let why = match node.state {
        NodeState::Lost => ("node_lost", "lost: silent for too long"),
        NodeState::Left => ("node_left", "stopped"),
        _ if node.draining => ("node_stopping", "stopping"),
        _ if node.cordon.as_ref().is_some_and(|cordon| cordon.drain) => (
            "node_draining",
            "drained; flmctl uncordon takes it into service again",
        ),
        _ if node.cordon.is_some() => (
            "node_cordoned",
            "cordoned; flmctl uncordon takes it into service again",
        ),
        NodeState::Suspect => ("node_suspect", "silent, and perhaps lost"),
        _ if node.link.is_none() => ("node_disconnected", "not connected"),
        _ if node.stability.is_held() => ("node_unstable", "held until its link is stable"),
        NodeState::Ready => return None,
    };
    Some(why)
}

impl Core {
    /// Why session `id` does not run, or not faster.
    ///
    /// # Errors
    /// It does not exist.
    pub fn explain_session(&mut self, id: &str, now: Now) -> Result<ExplainSessionResponse, CoreError> {
        let key = self.session_key(id)?;
        let mut pass = self.prepare(now);
        // What the last pass had found out is forgotten by that, so there has to be another one.
        self.dirty = true;
        let counted = match self.sessions.get_mut(&key) {
            Some(session) => session.count(&self.executors),
            None => Counted::default(),
        };
        let session = self.session(id)?;
        let wanted = super::wanted(session, counted.busy);
        let mut reasons = Vec::new();
        if !session.is_open() {
            reasons.push(reason("closed", "the session is closed"));
        } else if wanted == 0 {
            let text = "there is nothing to do: the session has no task that waits or runs";
            reasons.push(reason("nothing_to_do", text));
        } else {
            let lacking = wanted.saturating_sub(counted.have);
            if lacking > 0 {
                self.explain_lack(&mut pass, session, counted, wanted, now, &mut reasons);
            }
            self.explain_executors(session, counted, wanted, &mut reasons);
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(ExplainSessionResponse {
            session_id: id.to_owned(),
            state: v1::SessionState::from(session.row.state).into(),
            pending: session.pending.len() as u64,
            running: session.running() as u64,
            executors: number(counted.have),
            wanted: number(if session.is_open() { wanted } else { 0 }),
            reasons,
        })
    }

    /// What the executors do that it has.
    fn explain_executors(
        &self,
        session: &Session,
        counted: Counted,
        wanted: usize,
        reasons: &mut Vec<Reason>,
    ) {
        let own = session.executors.iter().filter_map(|id| self.executors.get(id));
        let starting = own.filter(|e| e.state == ExecutorState::Binding).count();
        if starting > 0 {
            let text = format!("{} of the session is being started", count(starting, "executor"));
            reasons.push(reason("starting", text).datum("executors", starting));
        }
        if counted.have > starting {
            let text = format!(
                "it runs on {} of {} that it has use for",
                counted.have - starting,
                count(wanted, "executor")
            );
            let running = reason("running", text)
                .datum("executors", counted.have - starting)
                .datum("wanted", wanted);
            reasons.push(running);
        }
    }

    /// Why it has fewer executors than it has use for.
    fn explain_lack(
        &self,
        pass: &mut Pass,
        session: &Session,
        counted: Counted,
        wanted: usize,
        now: Now,
        reasons: &mut Vec<Reason>,
    ) {
        let failure = self.last_bind_failure(session);
        if session.paused {
            let text = format!(
                "it gets no new executors, because binding failed {} times; mend the cause and close the \
                 session, or add a node; the last failure: {failure}",
                session.bind_failures
            );
            let paused = reason("paused", text).datum("failures", session.bind_failures);
            reasons.push(paused.datum("last_failure", failure));
            return;
        }
        // Those on their way out count until they are gone.
        let existing = session.executors.len();
        if let Some(max) = session.row.max_instances.filter(|max| existing >= *max as usize) {
            let leaving = match existing.saturating_sub(counted.have) {
                0 => String::new(),
                leaving => format!(" ({leaving} on their way out)"),
            };
            let text = format!(
                "it has the {max} executors that max_instances allows{leaving}, and use for {wanted}"
            );
            reasons.push(reason("session_at_max_instances", text).datum("max_instances", max));
            return;
        }
        if let Some(at_limit) = self.application_limit(pass, session) {
            reasons.push(at_limit);
            return;
        }
        let Some(quota) = pass.quotas.of(&session.row.application) else {
            return;
        };
        let needs = session.needs(quota.shim, &pass.reserved);
        if self.nodes.is_empty() {
            reasons.push(reason("no_nodes", "there are no nodes; start a node agent"));
            return;
        }
        self.explain_backoff(session, &failure, now, reasons);
        self.explain_nodes(pass, session, &needs, reasons);
    }

    fn last_bind_failure(&self, session: &Session) -> String {
        let mut latest = session.events.iter().rev();
        let failed = latest.find(|event| event.code == event::BIND_FAILED);
        failed.map_or_else(|| "unknown".to_owned(), |event| event.message.clone())
    }

    fn application_limit(&self, pass: &Pass, session: &Session) -> Option<Reason> {
        let application = self.applications.get(session.row.application.as_str())?;
        let limit = application.spec.max_instances?;
        let quota = pass.quotas.of(&application.name)?;
        if quota.vacancy() == Vacancy::Now {
            return None;
        }
        let used = quota.used();
        let own = |other: &&Session| other.row.application == application.name;
        let sessions = self
            .open
            .iter()
            .filter_map(|key| self.sessions.get(key))
            .filter(own);
        let executors = sessions.flat_map(|session| &session.executors);
        let holders = self.holders(executors.filter_map(|id| self.executors.get(id)), None);
        let text = format!(
            "application {} has the {} that its max_instances allows; they are held by {}",
            application.name,
            count(used, "executor"),
            described(&holders)
        );
        let mut at_limit = reason("application_at_max_instances", text).datum("max_instances", limit);
        at_limit.holders = holders;
        Some(at_limit)
    }

    /// Nodes that are not tried for a while because binding failed there.
    fn explain_backoff(&self, session: &Session, failure: &str, now: Now, reasons: &mut Vec<Reason>) {
        let avoided = session.avoids.iter().filter(|(_, until)| **until > now.mono);
        let Some(next) = avoided.clone().map(|(_, until)| *until).min() else {
            return;
        };
        let wait = next.saturating_sub(now.mono).as_millis();
        let nodes: Vec<_> = avoided
            .filter_map(|(name, _)| self.nodes.get(name.as_str()))
            .collect();
        let text = format!(
            "binding failed {}; {} tried again in {wait} ms; the last failure: {failure}",
            if session.bind_failures == 1 {
                "once".to_owned()
            } else {
                format!("{} times", session.bind_failures)
            },
            if nodes.len() == 1 {
                format!("{} is", named(&nodes))
            } else {
                format!("{} are", named(&nodes))
            },
        );
        let backoff = reason("bind_failed", text).nodes(&nodes);
        let backoff = backoff.datum("failures", session.bind_failures);
        reasons.push(backoff.datum("next_try_ms", wait).datum("last_failure", failure));
    }

    /// What each node lacks that the session would need.
    fn explain_nodes(&self, pass: &mut Pass, session: &Session, needs: &Needs, reasons: &mut Vec<Reason>) {
        let slots = self.config.limits.max_executors;
        let (mut suitable, mut unusable) = (Vec::new(), BTreeMap::<_, Vec<&Node>>::new());
        let mut misfits = Misfits::default();
        for node in self.nodes.values() {
            let room = Room::new(node, slots);
            if !room.has_shim(needs) {
                misfits.shim.push(node);
            } else if !room.has_labels(needs) {
                misfits.labels.push(node);
            } else if !node.hello.allocatable.covers(&needs.unit) {
                misfits.small.push(node);
            } else if node
                .reserved_for
                .is_some_and(|session_of| session_of != session.row.key)
            {
                let why = ("node_reserved", "kept for another session, as an ephemeral node");
                unusable.entry(why).or_default().push(node);
            } else if let Some(why) = out_of_service(node) {
                unusable.entry(why).or_default().push(node);
            } else if !room.is_avoided(needs) {
                suitable.push((node, room));
            }
        }
        if !suitable.is_empty() {
            self.explain_room(pass, session, needs, &suitable, reasons);
        }
        for ((code, text), nodes) in &unusable {
            let verb = if nodes.len() == 1 { "is" } else { "are" };
            reasons.push(reason(code, format!("{} {verb} {text}", named(nodes))).nodes(nodes));
        }
        if suitable.is_empty() && unusable.is_empty() && reasons.is_empty() {
            misfits.explain(needs, reasons);
        }
    }

    /// There are nodes that could run the session, and they have no room.
    fn explain_room(
        &self,
        pass: &mut Pass,
        session: &Session,
        needs: &Needs,
        suitable: &[(&Node, Room)],
        reasons: &mut Vec<Reason>,
    ) {
        let nodes: Vec<_> = suitable.iter().map(|(node, _)| *node).collect();
        if suitable.iter().any(|(_, room)| room.fits(needs)) {
            let text = format!("an executor is about to be started on one of: {}", named(&nodes));
            reasons.push(reason("about_to_start", text).nodes(&nodes));
            return;
        }
        let full: Vec<_> = suitable
            .iter()
            .filter(|(_, room)| room.has_resources(needs))
            .map(|(node, _)| *node)
            .collect();
        if !full.is_empty() {
            let limit = self.config.limits.max_executors;
            let limit = full.iter().map(|node| node.slots(limit)).max().unwrap_or(limit);
            let text = format!(
                "{} {} room, but as many executors as cluster.limits.max_executors or its own slots allow ({limit})",
                named(&full),
                if full.len() == 1 { "has" } else { "have" }
            );
            reasons.push(
                reason("node_slots", text)
                    .nodes(&full)
                    .datum("max_executors", limit),
            );
        }
        if pass.rooms.promise(needs) {
            let text = "executors are on their way out, and it gets their room";
            reasons.push(reason("room_is_coming", text).nodes(&nodes));
        }
        let executors = nodes.iter().flat_map(|node| &node.executors);
        let holders = self.holders(
            executors.filter_map(|id| self.executors.get(id)),
            Some(session.row.key),
        );
        if !holders.is_empty() {
            let highest = holders.iter().map(|holder| holder.priority).max().unwrap_or(0);
            let text = format!(
                "the room for {} on {} is held by {}",
                needs.unit,
                named(&nodes),
                described(&holders)
            );
            let mut held = reason("room_is_held", text).nodes(&nodes);
            held = held.datum("needs", needs.unit).datum("highest_priority", highest);
            held.holders = holders;
            reasons.push(held);
        } else if full.is_empty() {
            let text = format!(
                "it holds all the room for {} on {} itself",
                needs.unit,
                named(&nodes)
            );
            reasons.push(
                reason("room_is_its_own", text)
                    .nodes(&nodes)
                    .datum("needs", needs.unit),
            );
        }
    }

    /// Sessions that hold these executors, but for one of them: the highest priority and the most
    /// executors first.
    fn holders<'a>(
        &self,
        executors: impl Iterator<Item = &'a crate::core::Executor>,
        except: Option<SessionKey>,
    ) -> Vec<Holder> {
        let mut found = BTreeMap::<SessionKey, Holder>::new();
        for executor in executors.filter(|executor| Some(executor.session) != except) {
            let session = self.sessions.get(&executor.session);
            let holder = found.entry(executor.session).or_insert_with(|| Holder {
                session_id: executor.session_id.to_string(),
                priority: session.map_or(0, |session| session.row.priority),
                ..Holder::default()
            });
            holder.executors += 1;
            holder.busy += u32::from(!executor.tasks.is_empty());
        }
        let mut holders: Vec<_> = found.into_values().collect();
        holders.sort_by_key(|holder| std::cmp::Reverse((holder.priority, holder.executors)));
        holders
    }
}

fn described(holders: &[Holder]) -> String {
    let one = |holder: &Holder| {
        let executors = count(holder.executors as usize, "executor");
        format!(
            "session {} ({executors}, priority {})",
            holder.session_id, holder.priority
        )
    };
    match holders {
        [] => "nobody".to_owned(),
        holders => listed(holders.iter().map(one)),
    }
}

/// Nodes that could not run a session if they were empty, by what they lack first.
#[derive(Default)]
struct Misfits<'a> {
    shim: Vec<&'a Node>,
    labels: Vec<&'a Node>,
    small: Vec<&'a Node>,
}

impl Misfits<'_> {
    fn explain(&self, needs: &Needs, reasons: &mut Vec<Reason>) {
        if !self.small.is_empty() {
            let size = |node: &&Node| format!("{} has {}", node.hello.name, node.hello.allocatable);
            let text = format!(
                "no node is large enough for an executor of {}: {}",
                needs.unit,
                listed(self.small.iter().map(size))
            );
            let largest = self.small.iter().fold(Resources::default(), |most, node| {
                let has = &node.hello.allocatable;
                Resources {
                    cpu: most.cpu.max(has.cpu),
                    memory: most.memory.max(has.memory),
                    gpu: most.gpu.max(has.gpu),
                }
            });
            let small = reason("no_node_is_large_enough", text).nodes(&self.small);
            reasons.push(small.datum("needs", needs.unit).datum("most_of_each", largest));
        }
        if !self.labels.is_empty() {
            let wanted = needs.labels.join(", ");
            let text = format!(
                "{} without the labels that it selects: {wanted}",
                named(&self.labels)
            );
            let text = if self.small.is_empty() && self.shim.is_empty() {
                format!("no node has the labels that it selects: {wanted}")
            } else {
                text
            };
            reasons.push(
                reason("no_node_has_the_labels", text)
                    .nodes(&self.labels)
                    .datum("labels", wanted),
            );
        }
        if !self.shim.is_empty() {
            let text = format!("{} cannot run the {} shim", named(&self.shim), needs.shim);
            reasons.push(
                reason("no_node_has_the_shim", text)
                    .nodes(&self.shim)
                    .datum("shim", needs.shim),
            );
        }
    }
}
