//! What can go wrong between a client and its session manager, and how it is told to people.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use flame_core::config::ConfigError;
use flame_core::id::IdError;
use flame_rpc::channel::ChannelError;
use flame_rpc::oversize;
use tonic::{Code, Status};

/// Why a client's request has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client's configuration cannot be used.
    #[error("the client's configuration is not usable")]
    Config(#[from] ConfigError),
    /// The signals that ask a program to stop cannot be watched.
    #[error("cannot watch for signals")]
    Signals(#[source] io::Error),
    /// A name or an id that no server would take.
    #[error("{0}")]
    Name(IdError),
    /// The session manager could not be reached at all.
    #[error("the session manager does not answer")]
    Connect(#[from] ChannelError),
    /// The connection was lost (or could not be made again) while a request was under way.
    #[error("cannot {doing}: the connection to the session manager is lost: {reason}")]
    Lost {
        /// What we were doing, e.g. `create a task of session x`.
        doing: String,
        /// The root cause, e.g. `Connection refused (os error 111)`.
        reason: String,
        /// Whether the request certainly never reached the server.
        unsent: bool,
    },
    /// The server answered with an error.
    #[error("cannot {doing}: {message} ({code:?})")]
    Rpc {
        /// What we were doing.
        doing: String,
        /// The gRPC code of the answer.
        code: Code,
        /// The server's words.
        message: String,
    },
    /// The server refused a change of its registry of applications.
    #[error("cannot {doing}: {message}")]
    Refused {
        /// What we were doing.
        doing: String,
        /// The server's `return_code`, never 0.
        return_code: i32,
        /// The server's words.
        message: String,
    },
    /// The task ran and failed.
    #[error("task {task} of session {session} failed: {message}")]
    TaskFailed {
        /// The task's session.
        session: String,
        /// The task's id within its session.
        task: String,
        /// The service's own words.
        message: String,
    },
    /// The task was withdrawn before it ran, because its session was closed.
    #[error("task {task} of session {session} was cancelled")]
    TaskCancelled {
        /// The task's session.
        session: String,
        /// The task's id within its session.
        task: String,
    },
    /// The time that the caller gave is over.
    #[error("cannot {doing}: it took longer than {after:?}")]
    TimedOut {
        /// What we were doing.
        doing: String,
        /// The time that was given.
        after: Duration,
    },
    /// The answer misses what the contract promises: client and server do not fit together.
    #[error("cannot {doing}: the server's answer has no {missing}; do client and server fit together?")]
    Answer {
        /// What we were doing.
        doing: String,
        /// What is missing.
        missing: &'static str,
    },
    /// The runtime ended while a submitted task was under way.
    #[error("the task was interrupted, because the program's runtime ended")]
    Interrupted,
}

impl Error {
    /// What a failed call means: the server's word, or a lost connection.
    pub(crate) fn from_status(doing: impl Into<String>, status: &Status) -> Self {
        let doing = doing.into();
        if let Some(oversize) = oversize::in_answer(status) {
            return Self::Rpc {
                doing,
                code: oversize.code(),
                message: oversize.message().to_owned(),
            };
        }
        // A status that came over the wire has no source; one that was made here has.
        match StdError::source(status) {
            Some(source) => Self::Lost {
                doing,
                reason: root(source).to_string(),
                unsent: never_sent(source),
            },
            None => Self::Rpc {
                doing,
                code: status.code(),
                message: status.message().to_owned(),
            },
        }
    }

    /// Whether the same request may succeed once the server is reachable again.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Connect(ChannelError::Connect { .. }) => true,
            Self::Rpc { code, .. } => *code == Code::Unavailable,
            _ => false,
        }
    }

    /// Whether the request certainly never reached the server, so that sending it again cannot
    /// do it twice.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Lost { unsent: true, .. })
    }

    /// Whether the server says that the thing does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    /// The gRPC code, if the server answered with one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Rpc { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// What a person can do about it, if that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        if !self.is_lost() {
            return None;
        }
        Some(match report(self).contains("invalid peer certificate") {
            true => {
                "set FLAME_CA_FILE, or tls.ca_file in flame.yaml, to the certificate of the authority to trust"
            }
            false => {
                "is the session manager running there, and is it http:// or https://? Look with \
                 `flmadm status`, or name another one with --endpoint or FLAME_ENDPOINT"
            }
        })
    }
}

/// `error` and its causes in one line, each said once: for the edge where a program gives up.
#[must_use]
pub fn report(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let words = next.to_string();
        // tonic's "transport error" says less than its own cause does.
        let says_less = words == "transport error" && next.source().is_some();
        if !says_less && !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = next.source();
    }
    text
}

fn root<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last
}

/// Whether the connection was never made.
fn never_sent(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(this) = cause {
        if let Some(error) = this.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
            );
        }
        cause = this.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_word_is_an_rpc_error_and_a_local_failure_a_lost_connection() {
        let told = Error::from_status("get session x", &Status::not_found("no session x"));
        assert_eq!(told.to_string(), "cannot get session x: no session x (NotFound)");
        assert!(told.is_not_found() && !told.is_lost() && told.hint().is_none());

        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let lost = Error::from_status("get session x", &Status::from_error(Box::new(refused)));
        assert!(
            lost.is_lost() && lost.is_unsent() && lost.hint().is_some(),
            "{lost:?}"
        );

        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let lost = Error::from_status("get session x", &Status::from_error(Box::new(reset)));
        assert!(lost.is_lost() && !lost.is_unsent(), "{lost:?}");
    }

    #[test]
    fn a_report_says_each_cause_once() {
        let error = Error::Connect(ChannelError::Endpoint {
            endpoint: "x".into(),
            reason: "it has no host".into(),
        });
        assert_eq!(
            report(&error),
            "the session manager does not answer: endpoint \"x\" is not usable: it has no host"
        );
        let error = Error::Config(ConfigError::Read {
            path: "/x".into(),
            source: io::Error::other("gone"),
        });
        assert_eq!(report(&error).matches("gone").count(), 1);
    }
}
