//! What can go wrong, said once: what we were doing, what came back, what to do.

use std::io;
use std::path::PathBuf;

use flame_core::config::ConfigError;
use tonic::Code;

/// Exit status of a request that failed.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Exit status of a command line or an input file that cannot be used.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Exit status after Ctrl-C, as shells count it: 128 + SIGINT.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Every way a command can fail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    /// The arguments do not fit together.
    #[error("{0}")]
    Usage(String),
    /// `flame.yaml` or an environment variable is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The channel cannot be described: TLS files, URL.
    #[error("{0}")]
    Channel(String),
    /// Nobody answers at the endpoint.
    #[error("cannot reach the session manager at {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: String },
    /// The session manager answered with a status.
    #[error("cannot {action}: {message}")]
    Request {
        action: String,
        code: Code,
        message: String,
    },
    /// The session manager refused in its answer (applications).
    #[error("cannot {action}: {message}")]
    Refused { action: String, message: String },
    /// The application file is wrong.
    #[error("{file}: {message}")]
    Manifest { file: String, message: String },
    /// An input file cannot be read or an output file not written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The task ended, but not well.
    #[error("task {task} of session {session} ended as {state}: {reason}")]
    TaskEnded {
        task: String,
        session: String,
        state: String,
        reason: String,
    },
    /// The time to wait for a node that drains is over.
    #[error("node {node} still has {executors} executors")]
    StillRuns { node: String, executors: u32 },
    /// There are no lines where there should be some.
    #[error("cannot {action}: {reason}")]
    NoLogs {
        action: String,
        /// A stable word.
        code: String,
        reason: String,
    },
    /// The stream of a log broke before its end.
    #[error("cannot {action} to its end: {reason}; lines that were shown: {shown}")]
    LogEnded {
        action: String,
        shown: usize,
        reason: String,
    },
    /// The watch ended before the task did.
    #[error("lost sight of task {task} of session {session}, which was {state}: {reason}")]
    WatchEnded {
        task: String,
        session: String,
        state: String,
        reason: String,
    },
    /// The backup is not what the session manager sent; nothing was written.
    #[error("cannot back up the state: {0}")]
    Backup(String),
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
}

impl CtlError {
    /// What the user can do about it, if we know.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { reason, .. } => unreachable_hint(reason).to_owned(),
            Self::Request {
                code,
                action,
                message,
            } => return request_hint(*code, action, message),
            Self::Usage(_) => "see flmctl --help".to_owned(),
            Self::Manifest { .. } => "see flmctl register application --help".to_owned(),
            Self::TaskEnded { task, session, .. } => format!("see flmctl view task {task} -s {session}"),
            Self::StillRuns { node, .. } => {
                format!("flmctl list executors shows them; it goes on, see flmctl view node {node}")
            }
            Self::LogEnded { .. } => "ask again; with -f flmctl goes on by itself".to_owned(),
            Self::WatchEnded { task, session, .. } => {
                format!("go on with flmctl watch task {task} -s {session}")
            }
            _ => return None,
        };
        Some(hint)
    }

    /// A stable word for programs.
    pub(crate) fn code(&self) -> String {
        match self {
            Self::Usage(_) => "usage".to_owned(),
            Self::Config(_) | Self::Channel(_) => "configuration".to_owned(),
            Self::Unreachable { .. } => "unreachable".to_owned(),
            Self::Request { code, .. } => code_name(*code),
            Self::Refused { .. } => "refused".to_owned(),
            Self::Manifest { .. } => "manifest".to_owned(),
            Self::File { .. } => "file".to_owned(),
            Self::TaskEnded { .. } => "task_ended".to_owned(),
            Self::StillRuns { .. } => "still_runs".to_owned(),
            Self::NoLogs { code, .. } => code.clone(),
            Self::LogEnded { .. } => "log_ended".to_owned(),
            Self::WatchEnded { .. } => "watch_ended".to_owned(),
            Self::Backup(_) => "backup".to_owned(),
            Self::Output(_) => "output".to_owned(),
        }
    }

    /// Exit status of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) | Self::Channel(_) | Self::Manifest { .. } => EXIT_USAGE,
            _ => EXIT_FAILED,
        }
    }

    /// The reader went away (`| head`): no error, there is just nobody to talk to.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// For people: one sentence and what to do.
    pub(crate) fn text(&self) -> String {
        match self.hint() {
            Some(hint) => format!("error: {self}\n  {hint}"),
            None => format!("error: {self}"),
        }
    }

    /// For programs: `{"error": {"code", "message", "hint"}}`.
    pub(crate) fn json(&self) -> String {
        let error = serde_json::json!({
            "code": self.code(),
            "message": self.to_string(),
            "hint": self.hint(),
        });
        serde_json::json!({ "error": error }).to_string()
    }
}

/// What TLS says when the peer's certificate is not trusted, and when the peer speaks something else.
/// The plain side of such a mistake only sees a connection that is closed.
fn unreachable_hint(reason: &str) -> &'static str {
    if reason.contains("peer certificate") {
        return "set FLAME_CA_FILE, or tls.ca_file in flame.yaml, to the certificate of the authority to trust";
    }
    if [
        "InvalidContentType",
        "stream closed",
        "connection error",
        "http2 error",
    ]
    .iter()
    .any(|sign| reason.contains(sign))
    {
        return "is it a session manager, does it run (flmadm status), and is it http:// or https://?";
    }
    "is it running? (flmadm status) or set FLAME_ENDPOINT / --endpoint to where it is"
}

/// Kinds of things as messages call them, and where to look for them; what has the more special name
/// comes first.
const WHERE_TO_LOOK: [(&str, &str); 5] = [
    ("task", "flmctl list tasks -s SESSION shows what there is"),
    ("session", "flmctl list sessions shows what there is"),
    ("application", "flmctl list applications shows what there is"),
    ("node", "flmctl list nodes shows what there is"),
    ("executor", "flmctl list executors shows what there is"),
];

fn request_hint(code: Code, action: &str, message: &str) -> Option<String> {
    let hint = match code {
        Code::NotFound => {
            // The answer starts with what was missing; that may be another thing than we asked for.
            let named = WHERE_TO_LOOK.iter().find(|(kind, _)| message.starts_with(kind));
            let asked = || WHERE_TO_LOOK.iter().find(|(kind, _)| action.contains(kind));
            named.or_else(asked)?.1
        }
        Code::AlreadyExists => "choose another name, or leave it out to get a new one",
        Code::Unauthenticated | Code::PermissionDenied => "check the credentials and the CA file",
        Code::Unimplemented => "check that the endpoint is a session manager of this version",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// `NotFound` as `not_found`.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_words_in_snake_case() {
        assert_eq!(code_name(Code::NotFound), "not_found");
        assert_eq!(code_name(Code::Internal), "internal");
        assert_eq!(code_name(Code::DeadlineExceeded), "deadline_exceeded");
    }

    #[test]
    fn a_failed_request_says_what_we_did_what_came_back_and_what_to_do() {
        let error = CtlError::Request {
            action: "view session \"x\"".to_owned(),
            code: Code::NotFound,
            message: "session x not found".to_owned(),
        };
        let text = "error: cannot view session \"x\": session x not found\n  flmctl list sessions shows";
        assert!(error.text().starts_with(text), "{}", error.text());
        let json: serde_json::Value = serde_json::from_str(&error.json()).expect("JSON");
        assert_eq!(json["error"]["code"], "not_found");
        assert_eq!(error.exit_code(), EXIT_FAILED);
    }

    #[test]
    fn the_hint_is_about_what_is_missing() {
        let hint = |action, message| request_hint(Code::NotFound, action, message).expect("hint");
        let sessions = "flmctl list sessions shows what there is";
        assert_eq!(
            hint("list the tasks of session \"x\"", "session x not found"),
            sessions
        );
        assert_eq!(hint("get session \"x\"", "no such thing"), sessions);
        let create = "create session \"s\" of application \"x\"";
        assert!(hint(create, "application x not found").contains("list applications"));
    }

    #[test]
    fn wrong_usage_has_its_own_exit_status() {
        assert_eq!(CtlError::Usage("no".to_owned()).exit_code(), EXIT_USAGE);
    }
}
