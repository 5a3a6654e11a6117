//! The stream to the session manager: connecting, registering, noticing its end. It never gives
//! up, and it logs changes, not attempts.

use std::error::Error;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use flame_rpc::channel::{self, ChannelError};
use flame_rpc::node::node_link_client::NodeLinkClient;
use flame_rpc::node::{FromAgent, Hello, Leave, ToAgent, Welcome, from_agent, to_agent};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::backoff::{Backoff, spread};

/// How long the manager may take from the connection to its Welcome.
const WELCOME_LIMIT: Duration = Duration::from_secs(15);
/// Wait after a refusal that does not say how long; half of it is spread.
const REFUSED_WAIT: Duration = Duration::from_secs(30);
/// Messages between the agent's loop and the connection. A slow link makes results wait in
/// front of it, where they are put together into larger batches.
const OUTBOUND: usize = 16;
/// How long the manager may take to end the stream after Leave.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// What happens on the link.
#[derive(Debug)]
pub enum LinkEvent {
    /// There is a connection; [`Link::open`] is due.
    Connected,
    /// The manager has registered the node; messages may be sent.
    Welcome(Welcome),
    /// The manager asks for something.
    Message(Box<to_agent::Message>),
    /// The manager does not want this node.
    Refused {
        /// In its words.
        reason: String,
        /// Asking again is of no use. Otherwise it is asked again after a while.
        is_final: bool,
    },
    /// There is no link; another attempt follows by itself.
    Down(String),
}

enum State {
    /// Until the next attempt.
    Waiting,
    Connecting(BoxFuture<'static, Result<Channel, tonic::transport::Error>>),
    /// The owner is to call [`Link::open`].
    Connected(Channel),
    Opening(BoxFuture<'static, Result<Streaming<ToAgent>, Status>>),
    Open {
        inbound: Box<Streaming<ToAgent>>,
        welcomed: bool,
    },
}

/// The link, with one state at a time. Whatever an older stream still holds ends with it.
pub struct Link {
    url: String,
    endpoint: Endpoint,
    max_message_size: usize,
    backoff: Backoff,
    state: State,
    /// The end of the present state if it has one: of the wait, or of the patience with a
    /// manager that does not say Welcome.
    limit: Pin<Box<Sleep>>,
    outbound: Option<mpsc::Sender<FromAgent>>,
    /// For chunks of logs, which everything else overtakes.
    logs: Option<mpsc::Sender<FromAgent>>,
}

impl Link {
    /// A link to `url` that begins to connect with the first [`Link::next`].
    ///
    /// # Errors
    /// The URL or the certificate cannot be used.
    pub fn new(url: String, ca_file: Option<&Path>, max_message_size: usize) -> Result<Self, ChannelError> {
        let endpoint = channel::endpoint(&url, ca_file)?;
        Ok(Self {
            url,
            endpoint,
            max_message_size,
            backoff: Backoff::default(),
            state: State::Waiting,
            limit: Box::pin(sleep(Duration::ZERO)),
            outbound: None,
            logs: None,
        })
    }

    /// Where the manager is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where messages go; nothing unless the manager has sent its Welcome.
    #[must_use]
    pub fn outbound(&self) -> Option<&mpsc::Sender<FromAgent>> {
        match &self.state {
            State::Open { welcomed: true, .. } => self.outbound.as_ref(),
            _ => None,
        }
    }

    /// Where chunks of logs go, as [`Self::outbound`].
    #[must_use]
    pub fn logs(&self) -> Option<&mpsc::Sender<FromAgent>> {
        match &self.state {
            State::Open { welcomed: true, .. } => self.logs.as_ref(),
            _ => None,
        }
    }

    /// The next thing that happens. Dropping the future loses nothing.
    pub async fn next(&mut self) -> LinkEvent {
        loop {
            match &mut self.state {
                State::Waiting => {
                    self.limit.as_mut().await;
                    let endpoint = self.endpoint.clone();
                    self.state = State::Connecting(async move { endpoint.connect().await }.boxed());
                }
                State::Connecting(attempt) => match attempt.await {
                    Ok(channel) => {
                        self.state = State::Connected(channel);
                        return LinkEvent::Connected;
                    }
                    Err(error) => return self.down(chain(&error)),
                },
                // There is nothing to wait for until the owner has said Hello.
                State::Connected(_) => std::future::pending().await,
                State::Opening(call) => tokio::select! {
                    answer = call => match answer {
                        Ok(inbound) => {
                            self.state = State::Open { inbound: Box::new(inbound), welcomed: false };
                        }
                        Err(status) => return self.down(in_words(&status)),
                    },
                    () = self.limit.as_mut() => return self.down(NO_WELCOME.to_owned()),
                },
                State::Open { inbound, welcomed } => {
                    let message = tokio::select! {
                        message = inbound.message() => message,
                        () = self.limit.as_mut(), if !*welcomed => {
                            return self.down(NO_WELCOME.to_owned());
                        }
                    };
                    match message {
                        Ok(Some(ToAgent {
                            message: Some(message),
                        })) => return self.received(message),
                        // Of a newer manager; what it means is not known here.
                        Ok(Some(ToAgent { message: None })) => {}
                        Ok(None) => return self.down("the session manager ended the link".to_owned()),
                        Err(status) => return self.down(in_words(&status)),
                    }
                }
            }
        }
    }

    /// Says Hello on a new connection.
    pub fn open(&mut self, hello: Hello) {
        let State::Connected(channel) = std::mem::replace(&mut self.state, State::Waiting) else {
            return;
        };
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let (logs, messages) = crate::logs::behind(messages);
        // A new channel has room.
        let _ = outbound.try_send(FromAgent {
            message: Some(from_agent::Message::Hello(hello)),
        });
        let mut client = NodeLinkClient::new(channel)
            // What is too much is refused where clients hand it in. Refused here, a task with an
            // input of just the allowed size, or some that come together, would break the link
            // each time that they are handed out again.
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(self.max_message_size);
        let call = async move {
            let answer = client.link(messages).await?;
            Ok(answer.into_inner())
        };
        self.outbound = Some(outbound);
        self.logs = Some(logs);
        self.limit = Box::pin(sleep(WELCOME_LIMIT));
        self.state = State::Opening(call.boxed());
    }

    /// Says Leave and waits until the manager has heard it, or for a moment.
    pub async fn leave(&mut self, reason: &str) {
        let Some(outbound) = self.outbound().cloned() else {
            return;
        };
        let leave = FromAgent {
            message: Some(from_agent::Message::Leave(Leave {
                reason: reason.to_owned(),
            })),
        };
        self.outbound = None;
        let said = async move {
            let sent = outbound.send(leave).await;
            // The last sender: its end is the end of our side of the stream.
            drop(outbound);
            if sent.is_ok()
                && let State::Open { inbound, .. } = &mut self.state
            {
                while let Ok(Some(_)) = inbound.message().await {}
            }
        };
        if timeout(GOODBYE_LIMIT, said).await.is_err() {
            tracing::debug!("the session manager did not end the link after Leave");
        }
    }

    fn received(&mut self, message: to_agent::Message) -> LinkEvent {
        match (message, &mut self.state) {
            (to_agent::Message::Refuse(refuse), _) => {
                let wait = match refuse.retry_after_ms {
                    0 => REFUSED_WAIT,
                    millis => Duration::from_millis(u64::from(millis)).min(REFUSED_WAIT),
                };
                self.close(wait.mul_f64(0.5 + 0.5 * spread()));
                LinkEvent::Refused {
                    reason: refuse.reason,
                    is_final: refuse.r#final,
                }
            }
            (to_agent::Message::Welcome(welcome), State::Open { welcomed, .. }) => {
                *welcomed = true;
                self.backoff.reset();
                LinkEvent::Welcome(welcome)
            }
            (_, State::Open { welcomed: false, .. }) => {
                self.down("the session manager sent something before its Welcome".to_owned())
            }
            (message, _) => LinkEvent::Message(Box::new(message)),
        }
    }

    fn down(&mut self, reason: String) -> LinkEvent {
        let wait = self.backoff.after_failure(spread());
        self.close(wait);
        LinkEvent::Down(reason)
    }

    fn close(&mut self, wait: Duration) {
        self.state = State::Waiting;
        self.outbound = None;
        self.logs = None;
        self.limit = Box::pin(sleep(wait));
    }
}

/// What is said of a manager that stays silent.
const NO_WELCOME: &str = "the session manager accepted the connection but did not answer Hello";

fn in_words(status: &Status) -> String {
    match status.source() {
        Some(source) => format!("the link broke: {}", chain(source)),
        None => format!(
            "the session manager answered {}: {}",
            status.code(),
            status.message()
        ),
    }
}

/// An error with its causes, each said once.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_says_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] Repeats);
        #[derive(Debug, thiserror::Error)]
        #[error("middle: inner")]
        struct Repeats(#[source] std::io::Error);
        let error = Outer(Repeats(std::io::Error::other("inner")));
        assert_eq!(chain(&error), "outer: middle: inner");
    }

    #[tokio::test]
    async fn a_manager_that_is_not_there_is_a_reason_and_no_end() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let mut link = Link::new(format!("http://{address}"), None, 1 << 20).expect("usable");
        for _ in 0..2 {
            match link.next().await {
                LinkEvent::Down(reason) => assert!(reason.contains("refused"), "{reason}"),
                other => panic!("{other:?}"),
            }
            assert!(link.outbound().is_none());
        }
    }
}
