//! The node link: carries messages between the agents and the core.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flame_core::state::Shim;
use flame_core::{NodeName, Resources};
use flame_rpc::node::node_link_server::NodeLink;
use flame_rpc::node::{self, FromAgent, Hello, ToAgent, from_agent, to_agent};
use futures::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::{Request, Response, Status, Streaming};
use tower::util::MapRequestLayer;

use crate::core::{LinkId, NodeHello};
use crate::engine::{Ear, Engine};

/// How long an agent may take to introduce itself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// The node link, on top of an engine.
pub struct NodeLinkService {
    engine: Engine,
    cluster: String,
}

type HttpRequest = tonic::codegen::http::Request<Body>;
type ToAgentStream = Pin<Box<dyn Stream<Item = Result<ToAgent, Status>> + Send>>;

impl NodeLinkService {
    /// Serves the nodes of the cluster with that name.
    #[must_use]
    pub fn new(engine: Engine, cluster: String) -> Self {
        Self { engine, cluster }
    }
}

/// For the server of the node link: notes each piece of a message when it arrives. One large message
/// on a slow line takes longer than a node may be silent, and a heartbeat behind it, too.
pub(crate) fn listening(engine: Engine) -> MapRequestLayer<impl Fn(HttpRequest) -> HttpRequest + Clone> {
    MapRequestLayer::new(move |request: HttpRequest| {
        let ear = engine.ear();
        let (mut head, body) = request.into_parts();
        head.extensions.insert(Arc::clone(&ear));
        let heard = body.map_frame(move |frame| {
            ear.hear();
            frame
        });
        HttpRequest::from_parts(head, Body::new(heard))
    })
}

/// What the core wants to know, or why this agent cannot be had.
fn checked(hello: &Hello) -> Result<NodeHello, String> {
    let name = NodeName::new(&hello.node).map_err(|error| error.to_string())?;
    let labels =
        flame_core::label::set(hello.labels.iter().map(String::as_str)).map_err(|error| error.to_string())?;
    let capacity = hello.capacity.as_ref().map(Resources::from).unwrap_or_default();
    Ok(NodeHello {
        name,
        id: hello.node_id.clone(),
        agent_instance: hello.agent_instance.clone(),
        hostname: hello.hostname.clone(),
        capacity,
        allocatable: hello.allocatable.as_ref().map_or(capacity, Resources::from),
        arch: hello.arch.clone(),
        os: hello.os.clone(),
        shims: hello.shims().map(Shim::from).collect(),
        labels: Arc::new(labels),
        addresses: hello.addresses.clone(),
        slots: (hello.slots > 0).then_some(hello.slots),
        ephemeral: hello.ephemeral,
    })
}

#[tonic::async_trait]
impl NodeLink for NodeLinkService {
    type LinkStream = ToAgentStream;

    async fn link(&self, request: Request<Streaming<FromAgent>>) -> Result<Response<ToAgentStream>, Status> {
        // Without the layer that hears every piece of a message (tests), nothing is heard.
        let ear = request.extensions().get::<Arc<Ear>>().cloned();
        let mut from_agent = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, from_agent.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the agent did not say hello"))??;
        let Some(FromAgent {
            message: Some(from_agent::Message::Hello(mut hello)),
        }) = first
        else {
            return Err(Status::invalid_argument(
                "the first message of an agent must be Hello",
            ));
        };
        let checked = match checked(&hello) {
            Ok(checked) => checked,
            Err(reason) => {
                let refuse = to_agent::Message::Refuse(node::Refuse {
                    reason,
                    ..node::Refuse::default()
                });
                let only = stream::iter([Ok(ToAgent {
                    message: Some(refuse),
                })]);
                return Ok(Response::new(Box::pin(only)));
            }
        };
        let (link, to_agent) = self.engine.open_link();
        if let Some(ear) = ear {
            self.engine.listen(link, checked.name.clone(), ear);
        }
        let (cluster, executors) = (self.cluster.clone(), std::mem::take(&mut hello.executors));
        self.engine
            .tell(move |core, now, fx| core.node_connected(link, &cluster, checked, executors, now, fx));
        tokio::spawn(receive(self.engine.clone(), link, from_agent));
        Ok(Response::new(Box::pin(
            UnboundedReceiverStream::new(to_agent).map(Ok),
        )))
    }
}

/// Hands the agent's messages to the core until the stream ends.
async fn receive(engine: Engine, link: LinkId, mut from_agent: Streaming<FromAgent>) {
    loop {
        match from_agent.message().await {
            Ok(Some(FromAgent {
                message: Some(message),
            })) => {
                if let from_agent::Message::Log(chunk) = message {
                    engine.log_arrived(link, chunk);
                    continue;
                }
                engine.tell(move |core, now, fx| core.node_message(link, message, now, fx));
            }
            // A message of a later version that this one does not know.
            Ok(Some(FromAgent { message: None })) => {}
            Ok(None) => break,
            Err(status) => {
                tracing::debug!(link, %status, "a link to an agent broke");
                break;
            }
        }
    }
    engine.close_link(link);
    // What it sent before may still wait in the queue, and counts until then.
    let listening = engine.clone();
    engine.tell(move |core, _, fx| {
        listening.stop_listening(link);
        core.node_disconnected(link, fx);
    });
}

#[cfg(test)]
mod tests {
    use flame_rpc::v1;

    use super::*;

    #[test]
    fn a_hostile_node_name_is_refused_and_capacity_is_the_default_of_allocatable() {
        let hello = |node: &str| Hello {
            node: node.to_owned(),
            capacity: Some(v1::ResourceRequirement {
                cpu: 4,
                memory: 5,
                gpu: -1,
            }),
            shims: vec![v1::Shim::Host.into()],
            ..Hello::default()
        };
        assert!(checked(&hello("../n")).is_err());
        let node = checked(&hello("n1")).expect("valid");
        assert_eq!(
            node.allocatable,
            Resources {
                cpu: 4,
                memory: 5,
                gpu: 0
            }
        );
        assert_eq!(node.shims, [Shim::Host]);
    }
}
