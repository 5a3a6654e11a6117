//! States that clients see. Their numbers are those of the wire contract.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! shown_as_variant {
    ($($name:ident),*) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    )* };
}

/// Life of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SessionState {
    /// Takes tasks.
    Open,
    /// Takes no more tasks; none of its tasks is pending or running.
    Closed,
}

/// Life of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaskState {
    /// Waits for an executor.
    Pending,
    /// Was handed to an executor.
    Running,
    /// Ended with an output.
    Succeed,
    /// Ended with an error.
    Failed,
    /// Was ended by a client, before it ran or while it did.
    Cancelled,
}

impl TaskState {
    /// Whether the task has ended.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeed | Self::Failed | Self::Cancelled)
    }

    /// The state's number on the wire, in the store and as an event code.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Pending => 0,
            Self::Running => 1,
            Self::Succeed => 2,
            Self::Failed => 3,
            Self::Cancelled => 4,
        }
    }

    /// The state with that number, see [`TaskState::code`].
    #[must_use]
    pub fn from_code(code: i32) -> Option<Self> {
        [
            Self::Pending,
            Self::Running,
            Self::Succeed,
            Self::Failed,
            Self::Cancelled,
        ]
        .into_iter()
        .find(|state| state.code() == code)
    }
}

/// How an application's process is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Shim {
    /// A process on the host.
    #[default]
    Host,
    /// A WebAssembly component.
    Wasm,
}

/// Life of a node as the session manager sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// Connected and heard of lately.
    Ready,
    /// Silent or disconnected for a while; gets no new work.
    Suspect,
    /// Silent for so long that its tasks were given to others.
    Lost,
    /// Stopped in an orderly way.
    Left,
}

shown_as_variant!(SessionState, TaskState, Shim, NodeState);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_states_have_the_numbers_of_the_contract() {
        for (code, state) in [
            (0, TaskState::Pending),
            (1, TaskState::Running),
            (2, TaskState::Succeed),
            (3, TaskState::Failed),
            (4, TaskState::Cancelled),
        ] {
            assert_eq!(state.code(), code);
            assert_eq!(TaskState::from_code(code), Some(state));
        }
        assert_eq!(TaskState::from_code(5), None);
    }
}
