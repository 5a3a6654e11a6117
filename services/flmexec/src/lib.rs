//! What `flmexec` and `flmexec-service` say to each other, and how a script is run.

pub mod interpreter;
pub mod script;

mod capture;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Language of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// `/bin/sh`, or the shell that `runtime` names.
    Shell,
    /// `python3`, or the Python that `runtime` or `FLAME_PYTHON_VERSION` names.
    Python,
}

/// What all scripts of a session have in common: the session's common data, as JSON. Its other
/// keys are for the client that made the session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Defaults {
    /// Language of scripts that name none.
    pub language: Option<Language>,
    /// Interpreter of scripts that name none.
    pub runtime: Option<String>,
    /// Time limit of scripts that have none, in seconds.
    #[serde(default, deserialize_with = "time_limit")]
    pub timeout: Option<Duration>,
}

/// Input of a task, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Language; without it the session's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<Language>,
    /// Interpreter, e.g. `bash` or `3.12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The script itself.
    pub code: String,
    /// What the script reads from its standard input.
    pub input: Option<Vec<u8>>,
    /// How long it may run, in seconds.
    #[serde(
        default,
        deserialize_with = "time_limit",
        serialize_with = "as_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub timeout: Option<Duration>,
}

/// Output of a task, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Printed {
    /// What the script wrote to its standard output.
    pub data: Vec<u8>,
}

fn time_limit<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let seconds = Option::<f64>::deserialize(deserializer)?;
    seconds
        .map(|seconds| match Duration::try_from_secs_f64(seconds) {
            Ok(limit) if !limit.is_zero() => Ok(limit),
            _ => Err(serde::de::Error::custom(
                "timeout must be a number of seconds above 0",
            )),
        })
        .transpose()
}

#[allow(clippy::ref_option)] // the signature that serde asks for
fn as_seconds<S: serde::Serializer>(limit: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    limit.map(|limit| limit.as_secs_f64()).serialize(serializer)
}

impl Defaults {
    /// Reads a session's common data.
    ///
    /// # Errors
    /// In words for the client, with what is wanted.
    pub fn from_common_data(data: Option<&[u8]>) -> Result<Self, String> {
        match data {
            None | Some([]) => Ok(Self::default()),
            Some(data) => serde_json::from_slice(data).map_err(|error| {
                format!(
                    "the session's common data is not the JSON that flmexec takes ({error}); \
                     give {{\"language\": \"shell\" or \"python\", \"runtime\": NAME}} or nothing"
                )
            }),
        }
    }
}

impl Script {
    /// Reads a task's input.
    ///
    /// # Errors
    /// In words for the client, with what is wanted.
    pub fn from_input(input: Option<&[u8]>) -> Result<Self, String> {
        serde_json::from_slice(input.unwrap_or_default()).map_err(|error| {
            format!(
                "the input is not the JSON that flmexec takes ({error}); send \
                 {{\"language\": \"shell\" or \"python\", \"code\": TEXT, \"input\": [BYTES] or null}}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_of_the_contract_is_read_and_written() {
        let text = br#"{"language":"python","runtime":"3.12","code":"print()","input":[104,105]}"#;
        let script = Script::from_input(Some(text)).expect("valid");
        assert_eq!(script.language, Some(Language::Python));
        assert_eq!(script.input.as_deref(), Some(b"hi".as_slice()));
        assert_eq!(serde_json::to_vec(&script).expect("json"), text);
        let limited = Script::from_input(Some(br#"{"code":"x","input":null,"timeout":1.5}"#)).expect("valid");
        assert_eq!(limited.timeout, Some(Duration::from_millis(1500)));
        let again = serde_json::to_vec(&limited).expect("json");
        assert_eq!(Script::from_input(Some(&again)), Ok(limited));
    }

    #[test]
    fn mistakes_are_told_with_what_is_wanted() {
        for (text, part) in [
            ("", "EOF"),
            (r#"{"language":"perl","code":""}"#, "perl"),
            (r#"{"language":"shell"}"#, "code"),
            (r#"{"code":"","timeout":0}"#, "above 0"),
            (r#"{"code":"","timeout":-1}"#, "above 0"),
            (r#"{"code":"","input":[256]}"#, "256"),
        ] {
            let error = Script::from_input(Some(text.as_bytes())).expect_err(text);
            assert!(
                error.contains(part) && error.contains("\"code\": TEXT"),
                "{text}: {error}"
            );
        }
        assert!(Script::from_input(None).is_err());
    }

    #[test]
    fn a_sandbox_session_gives_defaults_and_its_other_keys_are_not_ours() {
        let data = br#"{"language":"python","runtime":"3.11","min_instances":1,"resreq":null}"#;
        let defaults = Defaults::from_common_data(Some(data)).expect("valid");
        assert_eq!(defaults.language, Some(Language::Python));
        assert_eq!(defaults.runtime.as_deref(), Some("3.11"));
        assert_eq!(Defaults::from_common_data(None), Ok(Defaults::default()));
        assert!(Defaults::from_common_data(Some(b"x")).is_err());
    }
}
