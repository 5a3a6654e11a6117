//! Names that users choose. They end up in paths, unit names and log fields, so every one is
//! checked once, when it comes in, and carried as its own type from then on.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name in bytes: that of a DNS name.
pub const MAX_NAME_LENGTH: usize = 253;

/// Number of a task within its session, from 1.
pub type TaskId = u64;

/// Why a name cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// It is empty.
    #[error("{kind} must not be empty")]
    Empty {
        /// What the name is for, e.g. "session id".
        kind: &'static str,
    },
    /// It is longer than [`MAX_NAME_LENGTH`].
    #[error("{kind} is {length} characters long; at most {MAX_NAME_LENGTH} are possible")]
    TooLong {
        /// What the name is for.
        kind: &'static str,
        /// How long it is, in bytes.
        length: usize,
    },
    /// It has a character other than `A-Z a-z 0-9 . _ -`, starts with `.` or `-`, or has `..`.
    #[error("{kind} {name:?} is not valid: {reason}")]
    Invalid {
        /// What the name is for.
        kind: &'static str,
        /// The name as it came.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Checks `name` against the rule for all names: 1 to 253 of `A-Z a-z 0-9 . _ -`, not starting
/// with `.` or `-`, without `..`. `kind` says in the error what the name is for.
///
/// # Errors
/// [`IdError`] says which part of the rule is broken.
pub fn validate(kind: &'static str, name: &str) -> Result<(), IdError> {
    let invalid = |reason| {
        Err(IdError::Invalid {
            kind,
            name: name.to_owned(),
            reason,
        })
    };
    if name.is_empty() {
        return Err(IdError::Empty { kind });
    }
    if name.len() > MAX_NAME_LENGTH {
        return Err(IdError::TooLong {
            kind,
            length: name.len(),
        });
    }
    if name.starts_with(['.', '-']) {
        return invalid("it must not start with '.' or '-'");
    }
    if name.contains("..") {
        return invalid("it must not contain \"..\"");
    }
    if !name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    {
        return invalid("only letters, digits, '.', '_' and '-' are possible");
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes `name` if it is valid, see [`validate`].
            ///
            /// # Errors
            /// [`IdError`] says which part of the rule is broken.
            pub fn new(name: &str) -> Result<Self, IdError> {
                validate($kind, name)?;
                Ok(Self(Arc::from(name)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(name: String) -> Result<Self, IdError> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_type!(
    /// Name of an application.
    ApplicationName,
    "application name"
);
name_type!(
    /// Id of a session, chosen by the client.
    SessionId,
    "session id"
);
name_type!(
    /// Name of a node, its host name unless configured otherwise.
    NodeName,
    "node name"
);
name_type!(
    /// Id of an executor, made by the session manager.
    ExecutorId,
    "executor id"
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_and_broken_names_are_refused() {
        let long = "a".repeat(MAX_NAME_LENGTH + 1);
        for wrong in [
            "", ".", "..", "../x", "a/b", "a\\b", "-rf", ".hidden", "a..b", "a b", "ä", "a\0", "a\n", &long,
        ] {
            assert!(SessionId::new(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn usual_names_are_taken() {
        let longest = "a".repeat(MAX_NAME_LENGTH);
        for right in ["a", "flmping-a1B2c3", "node_1.example.com", "0", "_x", &longest] {
            assert_eq!(
                SessionId::new(right).map(|id| id.to_string()),
                Ok(right.to_owned())
            );
        }
    }

    #[test]
    fn the_error_names_the_kind_and_the_name() {
        let error = SessionId::new("../x").expect_err("traversal").to_string();
        assert_eq!(
            error,
            "session id \"../x\" is not valid: it must not start with '.' or '-'"
        );
    }

    proptest! {
        /// Whatever is accepted is one plain path component.
        #[test]
        fn an_accepted_name_is_a_single_path_component(name in ".{0,300}") {
            if SessionId::new(&name).is_ok() {
                let path = std::path::Path::new(&name);
                prop_assert_eq!(path.components().count(), 1);
                prop_assert!(matches!(path.components().next(), Some(std::path::Component::Normal(_))));
            }
        }
    }
}
