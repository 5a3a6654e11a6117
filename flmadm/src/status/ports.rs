//! Where services of the cluster are reached, and whether they answer there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use flame_core::config::ClusterConfig;
use schemars::JsonSchema;
use serde::Serialize;

use crate::host::Host;
use crate::manifest::Manifest;
use crate::profile::Profile;

/// Longest wait for connections: status has to be there within a second.
const CONNECT_LIMIT: Duration = Duration::from_millis(250);

/// A port of the session manager.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Port {
    /// What it is for: frontend (clients), node-link (node agents) or metrics.
    pub(crate) name: &'static str,
    /// Host and port.
    pub(crate) address: String,
    /// Whether it takes connections.
    pub(crate) answers: bool,
}

/// The ports that matter to this machine by `config`, that of clients first.
pub(super) fn look(host: &dyn Host, manifest: &Manifest, config: &ClusterConfig) -> Vec<Port> {
    let mut wanted = vec![("frontend", config.endpoint.authority())];
    if let Ok(link) = config.endpoint.node_link() {
        wanted.push(("node-link", link.authority()));
    }
    if manifest.profiles.contains(&Profile::ControlPlane) {
        wanted.extend(
            config
                .metrics
                .map(|address| ("metrics", reachable(address).to_string())),
        );
    }
    let addresses: Vec<String> = wanted.iter().map(|(_, address)| address.clone()).collect();
    let answers = host.sight().answering(&addresses, CONNECT_LIMIT);
    let port = |((name, address), answers)| Port {
        name,
        address,
        answers,
    };
    wanted.into_iter().zip(answers).map(port).collect()
}

/// An address of all networks is reached on this machine's own.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
