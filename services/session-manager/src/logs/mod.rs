//! Logs for clients: the lines of a session from all nodes that it ran on, as one, or the log of a node's agent.

mod merge;
mod reading;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use flame_core::TaskId;
use flame_rpc::log_place::ReadPlace;
use flame_rpc::node::{AgentLog, OpenLog, SessionLog, open_log};
use flame_rpc::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::core::LogPlaces;
use crate::engine::Engine;
use crate::stored;
use reading::Reading;

/// Logs that are read at the same time by all clients, and by those at one address.
const MAX_LOGS: usize = 64;
const MAX_LOGS_OF_ADDRESS: usize = 8;
/// Messages between the merge and the connection: one is sent while the next is made.
const OUTBOUND: usize = 1;

/// The stream of lines that a client gets.
pub type LinesStream = ReceiverStream<Result<v1::LogLines, Status>>;

/// Answers to ReadLogs.
#[derive(Clone)]
pub(crate) struct Logs {
    engine: Engine,
    places: Arc<Mutex<HashMap<Option<IpAddr>, usize>>>,
}

/// One of the logs that may be read, until this is dropped.
struct Place {
    places: Arc<Mutex<HashMap<Option<IpAddr>, usize>>>,
    address: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = places.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                places.remove(&self.address);
            }
        }
    }
}

/// What is read.
#[derive(Debug)]
struct Wanted {
    source: Whose,
    /// Of this node only.
    node: Option<String>,
    lines: Option<u32>,
    follow: bool,
    /// Where the client is in the logs of nodes.
    read: HashMap<String, ReadPlace>,
}

#[derive(Debug, Clone)]
enum Whose {
    Session { id: String, task: Option<TaskId> },
    Agent,
}

impl Logs {
    pub(crate) fn new(engine: Engine) -> Self {
        Self {
            engine,
            places: Arc::default(),
        }
    }

    /// Begins to send lines.
    ///
    /// # Errors
    /// What is asked for is not there, or too many logs are read.
    pub(crate) async fn read(
        &self,
        request: Request<v1::ReadLogsRequest>,
    ) -> Result<Response<LinesStream>, Status> {
        let address = request.remote_addr().map(|address| address.ip());
        let wanted = Wanted::of(request.into_inner())?;
        let places = wanted.places(&self.engine).await?;
        let place = self.take(address)?;
        let (sender, receiver) = mpsc::channel(OUTBOUND);
        let reading = Reading::new(self.engine.clone(), wanted, places, sender);
        tokio::spawn(async move {
            reading.run().await;
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    fn take(&self, address: Option<IpAddr>) -> Result<Place, Status> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = places.values().sum();
        let own = places.entry(address).or_default();
        let limit = match (all, *own) {
            (MAX_LOGS.., _) => Some(format!("{MAX_LOGS} logs are read at the same time")),
            (_, MAX_LOGS_OF_ADDRESS..) => {
                Some(format!("{MAX_LOGS_OF_ADDRESS} logs are read by this address"))
            }
            _ => None,
        };
        if let Some(limit) = limit {
            if *own == 0 {
                places.remove(&address);
            }
            return Err(Status::resource_exhausted(format!("{limit}, and no more may be")));
        }
        *own += 1;
        Ok(Place {
            places: Arc::clone(&self.places),
            address,
        })
    }
}

impl Wanted {
    fn of(request: v1::ReadLogsRequest) -> Result<Self, Status> {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (session, task, node) = (
            some(request.session_id),
            some(request.task_id),
            some(request.node),
        );
        let task = task.as_deref().map(stored::task_id).transpose()?;
        let read = request.places.into_iter();
        let read = read.map(|place| (place.node.clone(), place.into())).collect();
        let source = match (session, task) {
            (Some(id), task) => Whose::Session { id, task },
            (None, Some(_)) => {
                return Err(Status::invalid_argument(
                    "a task is one of a session, which is not named",
                ));
            }
            (None, None) if node.is_some() => Whose::Agent,
            (None, None) => return Err(Status::invalid_argument("neither a session nor a node is named")),
        };
        Ok(Self {
            source,
            node,
            lines: request.lines,
            follow: request.follow,
            read,
        })
    }

    /// Where to look.
    async fn places(&self, engine: &Engine) -> Result<LogPlaces, Status> {
        let (source, node) = (self.source.clone(), self.node.clone());
        let places = engine.read(move |core, _, _| match source {
            Whose::Agent => {
                let place = core.log_place_of_agent(node.as_deref().unwrap_or_default())?;
                Ok(LogPlaces {
                    session: 0,
                    over: false,
                    nodes: vec![place],
                })
            }
            Whose::Session { id, task } => {
                let mut places = core.log_places(&id, task)?;
                if let Some(name) = node {
                    let known = places.nodes.iter().any(|place| place.node.as_str() == name);
                    // A node that is there and has not run it has no lines, which is no error; a name that
                    // nobody knows is.
                    if !known {
                        places.nodes = vec![core.log_place_of_agent(&name)?];
                    }
                    places.nodes.retain(|place| place.node.as_str() == name);
                }
                Ok(places)
            }
        });
        Ok(places.await?)
    }

    /// The order to a node, for the session with that number.
    fn order(&self, session: u64) -> OpenLog {
        let source = match &self.source {
            Whose::Agent => open_log::Source::Agent(AgentLog {}),
            Whose::Session { id, task } => open_log::Source::Session(SessionLog {
                session_id: id.clone(),
                session_number: session,
                task_id: task.unwrap_or_default(),
            }),
        };
        OpenLog {
            source: Some(source),
            lines: self.lines,
            follow: self.follow,
            ..OpenLog::default()
        }
    }
}

#[cfg(test)]
mod tests;
