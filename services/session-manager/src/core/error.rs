//! Why the core refuses a command. The same command gets the same error whatever the store.

/// A refused command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// What the command is about does not exist.
    #[error("{0}")]
    NotFound(String),
    /// What it would make exists.
    #[error("{0}")]
    AlreadyExists(String),
    /// It makes no sense, as such or in the present state.
    #[error("{0}")]
    Invalid(String),
    /// It makes sense, but not while something else goes on. The wire contract wants INTERNAL.
    #[error("{0}")]
    Busy(String),
    /// It makes sense, but what it is about is not in a state for it.
    #[error("{0}")]
    Precondition(String),
    /// State cannot be stored at the moment, so nothing new is taken.
    #[error("{0}")]
    Unavailable(String),
}

impl From<CoreError> for tonic::Status {
    fn from(error: CoreError) -> Self {
        match error {
            CoreError::NotFound(text) => Self::not_found(text),
            CoreError::AlreadyExists(text) => Self::already_exists(text),
            CoreError::Invalid(text) => Self::invalid_argument(text),
            CoreError::Busy(text) => Self::internal(text),
            CoreError::Precondition(text) => Self::failed_precondition(text),
            CoreError::Unavailable(text) => Self::unavailable(text),
        }
    }
}
