//! What the session manager says of its nodes.

use std::time::Duration;

use flame_core::config::{ClientConfig, ClusterConfig};
use flame_rs::{Client, ClientOptions, v1};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use crate::failure::chain;

/// How often the session manager is asked while it is waited for.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct NodeReport {
    /// Its name.
    pub(crate) name: String,
    /// Ready, NotReady or Unknown.
    pub(crate) state: String,
}

impl NodeReport {
    /// Whether it takes tasks.
    pub(super) fn is_ready(&self) -> bool {
        self.state == v1::NodeState::Ready.as_str_name()
    }
}

/// All nodes of the cluster.
///
/// # Errors
/// Why there is no answer, for people.
pub(super) async fn list(config: &ClusterConfig) -> Result<Vec<NodeReport>, String> {
    let asked = async {
        let mut client = ClientConfig::load_for(None, Some(config.endpoint.clone()))?;
        // Whoever runs the daemons trusts what they trust.
        let own = config.tls.as_ref().and_then(|tls| tls.ca_file.clone());
        client.ca_file = client.ca_file.or(own);
        let options = ClientOptions {
            reconnect_limit: Duration::ZERO,
            ..ClientOptions::default()
        };
        Client::connect_with(&client, options).await?.list_nodes().await
    };
    match tokio::time::timeout(ANSWER_LIMIT, asked).await {
        Ok(Ok(nodes)) => Ok(nodes.into_iter().map(report).collect()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!(
            "the session manager does not answer within {} s",
            ANSWER_LIMIT.as_secs()
        )),
    }
}

/// As [`list`], for whoever does nothing else meanwhile.
///
/// # Errors
/// As [`list`].
pub(super) fn list_now(config: &ClusterConfig) -> Result<Vec<NodeReport>, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| chain(&error))?
        .block_on(list(config))
}

/// Waits until `count` nodes are ready; gives all.
///
/// # Errors
/// They are not within `limit`; the text says what was seen at last.
pub(super) async fn await_ready(
    config: &ClusterConfig,
    count: usize,
    limit: Duration,
) -> Result<Vec<NodeReport>, String> {
    let deadline = Instant::now() + limit;
    loop {
        let seen = match list(config).await {
            Ok(nodes) => {
                let ready = nodes.iter().filter(|node| node.is_ready()).count();
                if ready >= count {
                    return Ok(nodes);
                }
                format!("{ready} of {count} nodes were ready")
            }
            Err(problem) => problem,
        };
        if Instant::now() >= deadline {
            return Err(format!(
                "the nodes were not ready within {} s: {seen}",
                limit.as_secs()
            ));
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

fn report(node: v1::Node) -> NodeReport {
    let state = node
        .status
        .map_or(v1::NodeState::Unknown, |status| status.state());
    NodeReport {
        name: node.metadata.map(|metadata| metadata.name).unwrap_or_default(),
        state: state.as_str_name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_answers_where_nobody_listens() {
        let text = "cluster:\n  name: a\n  endpoint: http://127.0.0.1:1\n";
        let config = ClusterConfig::parse(text).expect("valid");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let problem = runtime
            .block_on(await_ready(&config, 1, Duration::ZERO))
            .expect_err("nobody");
        assert!(
            problem.contains("within 0 s: ") && problem.contains("127.0.0.1:1"),
            "{problem}"
        );
    }

    #[test]
    fn a_node_is_ready_when_it_says_so() {
        let node = |state| {
            report(v1::Node {
                metadata: None,
                spec: None,
                status: Some(v1::NodeStatus {
                    state,
                    ..v1::NodeStatus::default()
                }),
            })
        };
        assert!(node(1).is_ready() && !node(2).is_ready() && !node(0).is_ready() && !node(77).is_ready());
        assert_eq!(node(2).state, "NotReady");
    }
}
