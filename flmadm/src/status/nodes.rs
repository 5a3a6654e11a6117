//! The nodes of this machine, as the session manager sees them.

use std::time::Duration;

use flame_core::config::ClusterConfig;
use flame_core::config::node::Key;
use flame_rpc::v1;
use schemars::JsonSchema;
use serde::Serialize;

use crate::host::Host;
use crate::host::sight::Manager;
use crate::installed::Installed;
use crate::node_config;

/// Longest wait for the session manager: status has to be there within a second.
const ANSWER_LIMIT: Duration = Duration::from_millis(400);

/// A node of this machine.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NodeReport {
    /// Name in the cluster.
    pub(crate) name: String,
    /// ready, suspect, lost, left, or unknown if the session manager does not know it.
    pub(crate) state: String,
    /// It gets no new executors, because somebody asked for that.
    pub(crate) cordoned: bool,
    /// It finishes what runs.
    pub(crate) draining: bool,
    /// Executors in any state.
    pub(crate) executors: u32,
}

/// Asks the session manager of `config` for the nodes of this machine.
///
/// # Errors
/// It does not answer, in words.
pub(super) fn look(
    host: &dyn Host,
    installed: &Installed,
    config: &ClusterConfig,
) -> Result<Vec<NodeReport>, String> {
    let manager = Manager {
        url: config.endpoint.url(),
        ca_file: config.tls.as_ref().and_then(|tls| tls.ca_file.clone()),
    };
    let nodes = host.sight().nodes(&manager, ANSWER_LIMIT)?;
    let names = names(host, installed);
    let ours = nodes.iter().filter(|node| {
        let name = node.metadata.as_ref().map(|metadata| metadata.name.as_str());
        name.is_some_and(|name| names.iter().any(|ours| ours == name))
    });
    Ok(ours.map(report).collect())
}

/// Names that agents of this machine have.
fn names(host: &dyn Host, installed: &Installed) -> Vec<String> {
    let host_name = host.sight().host_name();
    let mut names = vec![host_name.clone()];
    // Settings that cannot be read are what `config check` is for.
    for file in node_config::read(&installed.prefix).unwrap_or_default() {
        if let Some(name) = file.said(Key::Name).and_then(|setting| setting.value.as_str()) {
            names.push(name.to_owned());
        }
        names.extend(file.agent().map(|agent| format!("{host_name}-{agent}")));
    }
    names
}

fn report(node: &v1::Node) -> NodeReport {
    let status = node.status.clone().unwrap_or_default();
    let state = match status.phase() {
        v1::NodePhase::Ready => "ready",
        v1::NodePhase::Suspect => "suspect",
        v1::NodePhase::Lost => "lost",
        v1::NodePhase::Left => "left",
        v1::NodePhase::Unspecified => "unknown",
    };
    NodeReport {
        name: node.metadata.clone().unwrap_or_default().name,
        state: state.to_owned(),
        cordoned: status.cordoned,
        draining: status.draining,
        executors: status.executors,
    }
}
