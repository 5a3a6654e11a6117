//! How executors outlive the agent: it goes on with those of its last run, and leaves its own to the next one.

use std::time::Duration;

use flame_core::lifecycle::LifecycleEvent;
use tokio::time::sleep;

use super::Agent;
use crate::executor::{Beginning, Command};
use crate::runtime::Survivor;

/// How long tasks that run may go on before the agent ends to be started again, and their results may take to be
/// acknowledged. What takes longer is done again: nobody should have to wait for a restart.
const HANDOVER_LIMIT: Duration = Duration::from_secs(1);

impl Agent {
    /// Goes on with the executors that an earlier run of the agent has bound. Called before [`Agent::run`], so that
    /// the first Hello lists them.
    pub fn adopt(&mut self, survivors: Vec<Survivor>) {
        for survivor in survivors {
            let id = survivor.owner.executor.clone();
            let order = survivor.order();
            tracing::info!(
                executor = %id, session = order.session_id, node = %self.identity.node, pid = survivor.process.pid(),
                "goes on with an executor of the agent's last run"
            );
            self.life.worked();
            self.logs.goes_on(&order);
            self.ledger.adopted(id.clone(), &order);
            self.begin(id, Beginning::Survived(survivor));
        }
    }

    /// Begins to leave the executors to the next run of the agent. The session manager is told nothing: for it, the
    /// link is away for a moment.
    pub(super) fn hand_over(&mut self) {
        self.notifier.stopping();
        let reason = "it is started again";
        self.status.stopping(reason);
        tracing::info!(
            message_id = %LifecycleEvent::DaemonStopping.message_id(),
            flame_node = %self.identity.node,
            flame_executors = self.ledger.live(),
            "stopping, because {reason}: executors go on"
        );
        for commands in self.commands.values() {
            // What has not begun goes back unharmed. One that has just ended has nothing to give.
            let _ = commands.send(Command::Recall);
        }
        self.handover = Some(Box::pin(sleep(HANDOVER_LIMIT)));
    }

    /// Whether the agent can end to be started again: nothing is in hand, and the session manager, if there is one,
    /// knows everything.
    pub(super) fn is_handed_over(&self) -> bool {
        if self.handover.is_none() || self.ledger.has_tasks_in_hand() {
            return false;
        }
        self.link.outbound().is_none() || self.ledger.is_settled()
    }
}
