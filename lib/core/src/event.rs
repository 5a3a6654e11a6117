//! Codes of the events that sessions carry. A task's events have the code of the state that was
//! reached, see [`crate::state::TaskState::code`].

/// An executor could not be bound to the session; the message says which, where and why.
pub const BIND_FAILED: i32 = 1001;
/// The session failed to bind too often and gets no new executors; the message says the last reason.
pub const BIND_RETRIES_EXHAUSTED: i32 = 1002;

/// Why an executor could not be bound: the codes a node agent reports.
pub mod bind {
    /// The application could not be installed on the node.
    pub const INSTALL: i32 = 10;
    /// The service process could not be started, or ended before it listened.
    pub const PROCESS: i32 = 11;
    /// The service refused the session.
    pub const SESSION_ENTER: i32 = 12;
    /// Anything else.
    pub const UNKNOWN: i32 = 19;
}
