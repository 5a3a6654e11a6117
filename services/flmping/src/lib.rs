//! What `flmping` and `flmping-service` say to each other.

pub mod memory;

use serde::{Deserialize, Serialize};

/// Input of a task: JSON, or nothing at all for a task that does nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// How long the task takes, in milliseconds.
    pub duration: Option<u64>,
    /// How much memory the task fills, in bytes.
    pub memory: Option<u64>,
}

/// Output of a task, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// `Completed on HOST in N milliseconds with M memory`.
    pub message: String,
}

impl Ping {
    /// Reads a task's input.
    ///
    /// # Errors
    /// In words for the client, with what is wanted.
    pub fn from_input(input: Option<&[u8]>) -> Result<Self, String> {
        match input {
            None | Some([]) => Ok(Self::default()),
            Some(input) => serde_json::from_slice(input).map_err(|error| {
                format!(
                    "the input is not the JSON that flmping takes ({error}); \
                     send {{\"duration\": MILLISECONDS, \"memory\": BYTES}} or nothing"
                )
            }),
        }
    }

    /// The input of a task; nothing for a task that does nothing.
    ///
    /// # Errors
    /// None in practice: two numbers are always JSON.
    pub fn to_input(self) -> Result<Option<Vec<u8>>, serde_json::Error> {
        if self == Self::default() {
            return Ok(None);
        }
        serde_json::to_vec(&self).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_json_or_nothing() {
        for input in [
            None,
            Some(b"".as_slice()),
            Some(b"{}"),
            Some(br#"{"duration":null,"memory":null}"#),
        ] {
            assert_eq!(Ping::from_input(input), Ok(Ping::default()), "{input:?}");
        }
        let both = Ping {
            duration: Some(5),
            memory: Some(1 << 20),
        };
        let input = both.to_input().expect("json");
        assert_eq!(Ping::from_input(input.as_deref()), Ok(both));
        assert_eq!(Ping::default().to_input().expect("json"), None);
    }

    #[test]
    fn a_broken_input_is_told_with_what_is_wanted() {
        for input in ["x", "[]", r#"{"duration": "long"}"#, r#"{"duration": -1}"#] {
            let error = Ping::from_input(Some(input.as_bytes())).expect_err(input);
            assert!(error.contains("MILLISECONDS"), "{error}");
        }
    }
}
