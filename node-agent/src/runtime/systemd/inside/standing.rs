//! How the launcher of a unit that stands by is told what to run: at a socket, once, by the agent and nobody else.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::spec::Service;

/// Name of the socket in the directory of the service's own one.
pub const SOCKET: &str = "spec.sock";
/// What the launcher answers when it is about to become the process.
pub const ACCEPTED: &[u8] = b"accepted";
/// What `systemctl status` shows of such a unit.
pub const STATUS: &str = "standing by for an executor";
/// Longest spec, in bytes: more than the environment of a process can have.
const SPEC_LIMIT: u64 = 16 << 20;
/// How long the agent may take to send it, once it is connected.
const SEND_LIMIT: Duration = Duration::from_secs(2);

/// Why the launcher was not told what to run.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// The socket cannot be made or listened at.
    #[error("the socket {path}: {source}", path = path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What came is no spec.
    #[error("what the node agent sent is no spec: {0}")]
    Spec(#[from] serde_json::Error),
    /// The connection to the agent broke.
    #[error("the connection to the node agent: {0}")]
    Connection(io::Error),
}

/// A socket that the agent will connect to.
#[derive(Debug)]
pub struct Standing {
    listener: UnixListener,
    path: PathBuf,
}

/// The agent, which waits for an answer.
#[derive(Debug)]
pub struct Caller(UnixStream);

impl Standing {
    /// Listens in `directory`.
    ///
    /// # Errors
    /// [`StandingError::Socket`].
    pub fn listen(directory: &Path) -> Result<Self, StandingError> {
        let path = directory.join(SOCKET);
        match UnixListener::bind(&path) {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(StandingError::Socket { path, source }),
        }
    }

    /// Waits, for as long as it takes, until the user `agent` has sent what to run, and closes the socket.
    ///
    /// # Errors
    /// The spec does not come as a whole, or is none.
    pub fn wait(self, agent: u32) -> Result<(Service, Caller), StandingError> {
        let mut stream = self.caller(agent)?;
        std::fs::remove_file(&self.path).map_err(|source| self.failed(source))?;
        let mut text = Vec::new();
        stream
            .set_read_timeout(Some(SEND_LIMIT))
            .and_then(|()| (&mut stream).take(SPEC_LIMIT).read_to_end(&mut text))
            .map_err(StandingError::Connection)?;
        Ok((serde_json::from_slice(&text)?, Caller(stream)))
    }

    /// The first connection of the user `agent`. The directory is closed to all others but root and this unit itself.
    fn caller(&self, agent: u32) -> Result<UnixStream, StandingError> {
        loop {
            let (stream, _) = self.listener.accept().map_err(|source| self.failed(source))?;
            let peer = rustix::net::sockopt::socket_peercred(&stream);
            match peer {
                Ok(peer) if peer.uid.as_raw() == agent => return Ok(stream),
                // It is told nothing, and waits for nothing.
                Ok(_) | Err(_) => drop(stream),
            }
        }
    }

    fn failed(&self, source: io::Error) -> StandingError {
        StandingError::Socket {
            path: self.path.clone(),
            source,
        }
    }
}

impl Caller {
    /// Tells the agent that its spec is understood: all that happens from now on happens to the process.
    ///
    /// # Errors
    /// The agent is gone. Nobody wants the process then.
    pub fn accept(mut self) -> Result<(), StandingError> {
        self.0.write_all(ACCEPTED).map_err(StandingError::Connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    fn service() -> Service {
        Service {
            process: Spec {
                command: "/bin/true".to_owned(),
                arguments: Vec::new(),
                environment: [("SECRET".to_owned(), "s".to_owned())].into(),
                working_directory: "/tmp".into(),
                parent: None,
            },
            identifier: "app".to_owned(),
        }
    }

    fn own_user() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn send(path: &Path, bytes: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(path).expect("listens");
        stream.write_all(bytes).expect("sent");
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("said to be all");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answered or closed");
        answer
    }

    #[test]
    fn the_agent_says_once_what_to_run() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let standing = Standing::listen(directory.path()).expect("listens");
        let path = directory.path().join(SOCKET);
        let text = serde_json::to_vec(&service()).expect("JSON");
        let agent = std::thread::spawn({
            let path = path.clone();
            move || send(&path, &text)
        });
        let (told, caller) = standing.wait(own_user()).expect("told");
        assert_eq!(told, service());
        assert!(!path.exists(), "nobody else is heard");
        caller.accept().expect("it waits");
        assert_eq!(agent.join().expect("no panic"), ACCEPTED);
    }

    #[test]
    fn what_is_no_spec_is_refused_without_an_answer() {
        for text in ["", "{}", "{\"process\": 1, \"identifier\": \"a\"}"] {
            let directory = tempfile::tempdir().expect("temporary directory");
            let standing = Standing::listen(directory.path()).expect("listens");
            let path = directory.path().join(SOCKET);
            let agent = std::thread::spawn(move || send(&path, text.as_bytes()));
            let error = standing.wait(own_user()).expect_err(text);
            assert!(matches!(error, StandingError::Spec(_)), "{error}");
            assert_eq!(agent.join().expect("no panic"), b"");
        }
    }

    #[test]
    fn other_users_are_not_heard() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let standing = Standing::listen(directory.path()).expect("listens");
        let path = directory.path().join(SOCKET);
        // This user is not the agent.
        let _waits = std::thread::spawn(move || standing.wait(own_user() + 1));
        let mut stream = UnixStream::connect(&path).expect("listens");
        // It may be closed before all is sent.
        let _ = stream.write_all(&serde_json::to_vec(&service()).expect("JSON"));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"");
        assert!(path.exists(), "the agent may still come");
    }
}
