//! The administrator: takes nodes out of service, brings them back, forgets them, and updates
//! applications, one thing after the other. A call without an answer is made again. When all faults
//! are over, every node is brought back, a drained one when nothing runs there any more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use flame_core::ApplicationName;

use super::client::{Answer, Call};
use super::manager::{Caller, Job, Request};
use super::scenario::{ApplicationPlan, Chore, Time};
use super::world::{Checked, Event, World};
use crate::core::{Core, CoreError, Effects, Now};

/// A drained node is looked at that often.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For the loss of a node that is silent, and for messages on their way; what runs comes on top.
const DRAINED_WITHIN: Duration = Duration::from_secs(90);
const REASON: &str = "a new kernel";

/// A request of the administrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    Does(Chore),
    /// How many executors are there.
    LooksAt(usize),
}

#[derive(Debug)]
pub(super) enum AdminEvent {
    Begins(usize),
    Sends(u64),
    Answered(u64, Result<Answer, CoreError>),
    Lost(u64),
    Again(Errand),
    Restores,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Admin {
    todo: VecDeque<Errand>,
    /// What is under way, and its number if a call is.
    pending: Option<(Option<u64>, Errand)>,
    /// Nodes that may be out of service: whoever has no answer does not know.
    out: BTreeSet<usize>,
    /// Those of which it was told so, and whether they are drained.
    pub(super) acknowledged: BTreeMap<usize, bool>,
    /// What applications are since an update that was acknowledged.
    updated: BTreeMap<usize, ApplicationPlan>,
    /// Brings back what is out of service since then.
    restoring: Option<Time>,
}

fn node_name(node: usize) -> String {
    format!("n{node}")
}

fn application_name(application: usize) -> String {
    format!("app{application}")
}

/// Applies it.
pub(super) fn answer(
    core: &mut Core,
    errand: Errand,
    now: Now,
    fx: &mut Effects,
) -> Result<Answer, CoreError> {
    match errand {
        Errand::Does(Chore::Cordon { node, drain }) => {
            let reason = Some(REASON.to_owned());
            core.cordon_node(&node_name(node), drain, reason, now, fx)?;
        }
        Errand::Does(Chore::Uncordon { node }) => core.uncordon_node(&node_name(node), fx)?,
        Errand::Does(Chore::Forget { node }) => core.forget_node(&node_name(node), now, fx)?,
        Errand::Does(Chore::Update { application, plan }) => {
            let name = ApplicationName::new(&application_name(application))
                .map_err(|error| CoreError::Invalid(error.to_string()))?;
            core.update_application(&name, plan.spec(), fx)?;
        }
        Errand::LooksAt(node) => {
            let status = core.get_node(&node_name(node))?.status.unwrap_or_default();
            return Ok(Answer::Executors(status.executors));
        }
    }
    Ok(Answer::Done)
}

impl Admin {
    pub(super) fn is_done(&self) -> bool {
        self.restoring.is_some() && self.todo.is_empty() && self.pending.is_none() && self.out.is_empty()
    }
}

impl World {
    pub(super) fn on_admin(&mut self, event: AdminEvent) -> Checked {
        match event {
            AdminEvent::Begins(chore) => {
                let errand = Errand::Does(self.scenario.chores[chore].1);
                self.admin.todo.push_back(errand);
                self.next_errand();
            }
            AdminEvent::Restores => {
                self.admin.restoring = Some(self.now);
                self.next_errand();
            }
            AdminEvent::Again(errand) => self.call_for(errand),
            AdminEvent::Sends(id) => {
                let Some((Some(pending), errand)) = self.admin.pending else {
                    return Ok(());
                };
                if pending == id && self.manager.process.is_none() {
                    self.errand_failed(id);
                } else if pending == id {
                    self.post(Job::Call(Box::new(Call {
                        id,
                        by: Caller::Admin,
                        session: String::new(),
                        request: Request::Admin(errand),
                    })));
                }
            }
            AdminEvent::Lost(id) => self.errand_failed(id),
            AdminEvent::Answered(id, answer) => {
                if let Some((_, errand)) = self.admin.pending.take_if(|(call, _)| *call == Some(id)) {
                    return self.errand_answered(errand, answer);
                }
            }
        }
        Ok(())
    }

    fn next_errand(&mut self) {
        if self.admin.pending.is_some() {
            return;
        }
        let next = self.admin.todo.pop_front();
        let out = self.admin.out.first().filter(|_| self.admin.restoring.is_some());
        let back = out.map(|node| match self.admin.acknowledged.get(node) {
            Some(true) => Errand::LooksAt(*node),
            _ => Errand::Does(Chore::Uncordon { node: *node }),
        });
        if let Some(errand) = next.or(back) {
            self.call_for(errand);
        }
    }

    fn call_for(&mut self, errand: Errand) {
        self.note(|| format!("ADMIN {errand:?}"));
        if let Errand::Does(Chore::Cordon { node, .. }) = errand {
            self.admin.out.insert(node);
        }
        self.judge.calls += 1;
        let id = self.judge.calls;
        self.admin.pending = Some((Some(id), errand));
        let delay = self.millis(0, 3);
        self.after(delay, Event::Admin(AdminEvent::Sends(id)));
    }

    fn errand_failed(&mut self, id: u64) {
        if let Some((_, errand)) = self.admin.pending.filter(|(call, _)| *call == Some(id)) {
            self.errand_again(errand, 1_000);
        }
    }

    fn errand_again(&mut self, errand: Errand, within: u64) {
        self.admin.pending = Some((None, errand));
        let wait = self.millis(10, within);
        self.after(wait, Event::Admin(AdminEvent::Again(errand)));
    }

    /// The administrator loses the connection.
    pub(super) fn cut_admin(&mut self) {
        if let Some((Some(id), _)) = self.admin.pending {
            self.after(Duration::ZERO, Event::Admin(AdminEvent::Lost(id)));
        }
    }

    pub(super) fn tell_admin(&mut self, id: u64, answer: Result<Answer, CoreError>) {
        let delay = self.millis(0, 3);
        self.after(delay, Event::Admin(AdminEvent::Answered(id, answer)));
    }

    fn errand_answered(&mut self, errand: Errand, answer: Result<Answer, CoreError>) -> Checked {
        match (errand, answer) {
            (errand, Err(CoreError::Unavailable(_))) => {
                self.errand_again(errand, 1_000);
                return Ok(());
            }
            (Errand::LooksAt(node), answer) => return self.looked_at(node, answer),
            (Errand::Does(Chore::Cordon { node, drain }), Ok(_)) => {
                *self.admin.acknowledged.entry(node).or_default() |= drain;
                self.nothing_acknowledged_by_admin_is_lost()?;
            }
            // It is not known, or connected: the administrator leaves it at that.
            (Errand::Does(Chore::Cordon { .. }), Err(CoreError::NotFound(_)))
            | (Errand::Does(Chore::Forget { .. }), Err(CoreError::Precondition(_)))
            | (Errand::Does(Chore::Update { .. }), Err(CoreError::Invalid(_))) => {}
            (
                Errand::Does(Chore::Uncordon { node } | Chore::Forget { node }),
                Ok(_) | Err(CoreError::NotFound(_)),
            ) => {
                self.admin.out.remove(&node);
                if self.disk.cordon(&node_name(node)).is_some() {
                    return Err(format!("node {node} is out of service after {errand:?}"));
                }
            }
            (Errand::Does(Chore::Update { application, plan }), Ok(_)) => {
                self.admin.updated.insert(application, plan);
                self.nothing_acknowledged_by_admin_is_lost()?;
            }
            (errand, answer) => return Err(format!("{errand:?} was answered with {answer:?}")),
        }
        self.next_errand();
        Ok(())
    }

    fn looked_at(&mut self, node: usize, answer: Result<Answer, CoreError>) -> Checked {
        let count = match answer {
            Ok(Answer::Executors(count)) => count,
            // The manager was started anew, and the node has not come back.
            Err(CoreError::NotFound(_)) => 0,
            answer => return Err(format!("a look at node {node} was answered with {answer:?}")),
        };
        let since = self.admin.restoring.unwrap_or_default();
        let limit = DRAINED_WITHIN + self.scenario.longest_task();
        if count > 0 && self.now > since + limit {
            return Err(format!(
                "node {node} is drained, but has {count} executors {limit:?} later"
            ));
        }
        if count > 0 {
            self.errand_again(Errand::LooksAt(node), LOOK_EVERY.as_millis() as u64);
            return Ok(());
        }
        // What the manager believes is so, unless the agent has not told yet what it runs.
        let agent = &self.agents[node];
        if agent.link.is_some_and(|link| self.judge.is_present(node, link)) && agent.has_executors() {
            return Err(format!("node {node} is drained, but its agent runs executors"));
        }
        self.call_for(Errand::Does(Chore::Uncordon { node }));
        Ok(())
    }

    /// What is true at the moment at which an errand was done.
    pub(super) fn errand_done(
        &mut self,
        core: &Core,
        errand: Errand,
        answer: &Result<Answer, CoreError>,
    ) -> Checked {
        match (errand, answer) {
            (Errand::Does(Chore::Forget { node }), Ok(_)) => {
                self.admin.acknowledged.remove(&node);
                let name = node_name(node);
                let held = core.executors.values().find(|e| e.node.as_str() == name);
                if let Some(executor) = held {
                    return Err(format!("node {node} is forgotten and has {}", executor.id));
                }
                if core.nodes.contains_key(name.as_str()) || core.links.values().any(|n| n.as_str() == name) {
                    return Err(format!("node {node} is forgotten and is still there"));
                }
            }
            (Errand::Does(Chore::Uncordon { node }), Ok(_)) => {
                self.admin.acknowledged.remove(&node);
            }
            (
                Errand::Does(Chore::Uncordon { node } | Chore::Forget { node }),
                Err(CoreError::NotFound(_)),
            ) if self.admin.acknowledged.contains_key(&node) => {
                return Err(format!("node {node} is out of service, but not known"));
            }
            (Errand::Does(Chore::Update { application, .. }), Ok(_) | Err(CoreError::Invalid(_))) => {
                let name = application_name(application);
                let mut sessions = core.sessions.values();
                let used = sessions.any(|s| s.is_open() && s.row.application.as_str() == name);
                if used == answer.is_ok() {
                    return Err(format!(
                        "{name}, with open sessions: {used}, was updated: {answer:?}"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn nothing_acknowledged_by_admin_is_lost(&self) -> Checked {
        for (node, drain) in &self.admin.acknowledged {
            let stored = self.disk.cordon(&node_name(*node));
            // It may be drained since before a forgetting that was lost with the manager.
            if stored.is_none_or(|drained| *drain && !drained) {
                return Err(format!(
                    "node {node} was taken out of service (drained: {drain}), and is stored as {stored:?}"
                ));
            }
        }
        for (application, plan) in &self.admin.updated {
            let stored = self.disk.application(&application_name(*application));
            let spec = plan.spec();
            let same = |application: &crate::core::Application| {
                application.spec.max_instances == spec.max_instances.or(application.spec.max_instances)
                    && application.spec.delay_release == spec.delay_release
            };
            let pending = self.admin.pending.is_some_and(|(_, errand)| {
                matches!(errand, Errand::Does(Chore::Update { application: other, .. }) if other == *application)
            });
            if !pending && !stored.is_some_and(same) {
                return Err(format!(
                    "the update of application {application} to {plan:?} is lost"
                ));
            }
        }
        Ok(())
    }
}
