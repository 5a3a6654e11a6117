//! Between the wire's types and those of `flame-core`.

use flame_core::Resources;
use flame_core::state::{SessionState, Shim, TaskState};

use crate::v1;

impl From<Resources> for v1::ResourceRequirement {
    fn from(resources: Resources) -> Self {
        Self {
            cpu: resources.cpu,
            memory: resources.memory,
            gpu: i32::try_from(resources.gpu).unwrap_or(i32::MAX),
        }
    }
}

impl From<&v1::ResourceRequirement> for Resources {
    /// A negative number of devices, which only a broken client sends, counts as none.
    fn from(wire: &v1::ResourceRequirement) -> Self {
        Self {
            cpu: wire.cpu,
            memory: wire.memory,
            gpu: u32::try_from(wire.gpu).unwrap_or(0),
        }
    }
}

impl From<TaskState> for v1::TaskState {
    fn from(state: TaskState) -> Self {
        match state {
            TaskState::Pending => Self::Pending,
            TaskState::Running => Self::Running,
            TaskState::Succeed => Self::Succeed,
            TaskState::Failed => Self::Failed,
            TaskState::Cancelled => Self::Cancelled,
        }
    }
}

impl From<v1::TaskState> for TaskState {
    fn from(state: v1::TaskState) -> Self {
        match state {
            v1::TaskState::Pending => Self::Pending,
            v1::TaskState::Running => Self::Running,
            v1::TaskState::Succeed => Self::Succeed,
            v1::TaskState::Failed => Self::Failed,
            v1::TaskState::Cancelled => Self::Cancelled,
        }
    }
}

impl From<SessionState> for v1::SessionState {
    fn from(state: SessionState) -> Self {
        match state {
            SessionState::Open => Self::Open,
            SessionState::Closed => Self::Closed,
        }
    }
}

impl From<Shim> for v1::Shim {
    fn from(shim: Shim) -> Self {
        match shim {
            Shim::Host => Self::Host,
            Shim::Wasm => Self::Wasm,
        }
    }
}

impl From<v1::Shim> for Shim {
    fn from(shim: v1::Shim) -> Self {
        match shim {
            v1::Shim::Host => Self::Host,
            v1::Shim::Wasm => Self::Wasm,
        }
    }
}
