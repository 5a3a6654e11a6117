//! Ports for a session manager that is not the first on its host.

use std::collections::BTreeSet;

use flame_core::config::{ClusterConfig, Endpoint};

use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::prefix::Prefix;
use crate::profile::SESSION_MANAGER;
use crate::unit_files::{self, Owner};

/// From one installation to the next: neighbours are for the node link and whatever comes.
const STEP: usize = 10;
/// Where the search ends; the ports for metrics, 1000 higher, follow it.
const LAST: u16 = 8_990;

/// The address for a new session manager on this machine: the first whose ports nobody uses, and no installation
/// that does not run at the moment.
///
/// # Errors
/// There is none, or the units of other installations cannot be read.
pub(crate) fn free_endpoint(host: &dyn Host, prefix: &Prefix) -> Outcome<String> {
    let first = Endpoint::local_default().port;
    let others = of_installations(host, prefix)?;
    let mut bases = (first..=LAST).step_by(STEP);
    let free = bases.find(|base| {
        let ports = ports(&endpoint(*base));
        ports
            .iter()
            .all(|port| !others.contains(port) && host.is_free(*port))
    });
    match free {
        Some(base) => Ok(endpoint(base)),
        None => Err(Failure::installation(format!(
            "no ports from {first} to {LAST} are free for another session manager"
        ))
        .hint("name its address with --endpoint http://127.0.0.1:PORT")),
    }
}

fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// The ports of the Frontend, the node link and the metrics that come with an endpoint.
pub(crate) fn ports(endpoint: &str) -> BTreeSet<u16> {
    let text = format!("cluster:\n  name: flame\n  endpoint: {endpoint}\n");
    ClusterConfig::parse(&text).map_or_else(|_| BTreeSet::new(), |config| used_by(&config))
}

fn used_by(config: &ClusterConfig) -> BTreeSet<u16> {
    let link = config.endpoint.node_link().ok().map(|link| link.port);
    let metrics = config.metrics.map(|address| address.port());
    [Some(config.endpoint.port), link, metrics]
        .into_iter()
        .flatten()
        .collect()
}

/// The ports of all other installations with a session manager in a unit.
fn of_installations(host: &dyn Host, prefix: &Prefix) -> Outcome<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    let ending = SESSION_MANAGER.trim_start_matches("flame");
    let Ok(entries) = std::fs::read_dir(host.unit_directory()) else {
        return Ok(ports);
    };
    for entry in entries.flatten() {
        let is_one = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.ends_with(ending));
        let Owner::Prefix(of) = (match is_one {
            true => unit_files::owner(&entry.path())?,
            false => Owner::Nobody,
        }) else {
            continue;
        };
        // One whose configuration is broken uses no ports that anybody knew of.
        if of != prefix.path()
            && let Ok(config) = ClusterConfig::load(&of.join("conf/flame-cluster.yaml"))
        {
            ports.extend(used_by(&config));
        }
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn the_first_ports_that_nobody_has_are_taken() {
        let mut host = FakeHost::new();
        let prefix = Prefix::new(&host.path("opt/flame-new")).expect("a prefix");
        for (listening, endpoint) in [
            (vec![], "http://127.0.0.1:8080"),
            (vec![8080], "http://127.0.0.1:8090"),
            (vec![8081, 9090], "http://127.0.0.1:8100"),
            (vec![8085, 8091], "http://127.0.0.1:8080"),
        ] {
            host.listening = listening.iter().copied().collect();
            assert_eq!(
                free_endpoint(&host, &prefix).expect("free"),
                endpoint,
                "{listening:?}"
            );
        }
        host.listening = (8_000..=9_000).collect();
        free_endpoint(&host, &prefix).expect_err("none is free");
    }

    #[test]
    fn an_installation_that_does_not_run_keeps_its_ports() {
        let host = FakeHost::new();
        let other = host.path("opt/flame");
        std::fs::create_dir_all(other.join("conf")).expect("made");
        std::fs::write(
            other.join("conf/flame-cluster.yaml"),
            "cluster:\n  name: a\n  endpoint: http://127.0.0.1:8080\n  metrics: {listen: \"127.0.0.1:8090\"}\n",
        )
        .expect("written");
        let unit = host.path("etc/systemd/system/flame-session-manager.service");
        std::fs::write(unit, format!("[X-Flame]\nPrefix={}\n", other.display())).expect("written");
        for (prefix, endpoint) in [
            ("opt/flame-new", "http://127.0.0.1:8100"),
            ("opt/flame", "http://127.0.0.1:8080"),
        ] {
            let prefix = Prefix::new(&host.path(prefix)).expect("a prefix");
            assert_eq!(free_endpoint(&host, &prefix).expect("free"), endpoint);
        }
    }
}
