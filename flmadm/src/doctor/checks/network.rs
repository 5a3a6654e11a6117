//! Ports of this machine, and the way to the session manager.

use std::net::{IpAddr, SocketAddr};

use flame_core::config::ClusterConfig;

use crate::doctor::check::{Check, Look, Severity, When, good, wrong};
use crate::doctor::facts::Listener;
use crate::doctor::site::Site;
use crate::failure::{Failure, Kind, Outcome};
use crate::profile::Profile::{ControlPlane, Worker};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "ports",
        title: "the ports of the session manager are free, or its own",
        severity: Severity::Error,
        when: &[When::Has(ControlPlane)],
        preflight: Some(Kind::Installation),
        look: ports,
    },
    Check {
        id: "endpoint-name",
        title: "the host of the endpoint has an address",
        severity: Severity::Error,
        when: &[When::Installed],
        preflight: None,
        look: name,
    },
    Check {
        id: "endpoint",
        title: "the session manager can be reached from this node",
        severity: Severity::Error,
        when: &[When::Installed, When::Has(Worker)],
        preflight: None,
        look: endpoint,
    },
];

/// A port that the session manager needs.
struct Port {
    what: &'static str,
    /// Without one, on every address.
    ip: Option<IpAddr>,
    port: u16,
}

fn needed(config: &ClusterConfig) -> Outcome<Vec<Port>> {
    let host = config.listen.as_ref().unwrap_or(&config.endpoint.host);
    let ip = match host.parse::<IpAddr>() {
        Ok(ip) => Some(ip),
        Err(_) if config.endpoint.is_loopback() && config.listen.is_none() => {
            Some(IpAddr::from([127, 0, 0, 1]))
        }
        Err(_) => None,
    };
    let link = config
        .endpoint
        .node_link()
        .map_err(|error| Failure::installation(error.to_string()))?;
    let mut all = vec![
        Port {
            what: "Frontend",
            ip,
            port: config.endpoint.port,
        },
        Port {
            what: "node link",
            ip,
            port: link.port,
        },
    ];
    all.extend(config.metrics.map(|address| Port {
        what: "metrics",
        ip: Some(address.ip()),
        port: address.port(),
    }));
    Ok(all)
}

impl Port {
    fn is_taken_by(&self, address: SocketAddr) -> bool {
        let meets = |ip: IpAddr| ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified();
        self.port == address.port() && self.ip.is_none_or(meets)
    }
}

fn ports(site: &Site<'_>) -> Look {
    let needed = needed(site.config()?)?;
    let numbers: Vec<u16> = needed.iter().map(|port| port.port).collect();
    let mut taken = Vec::new();
    for listener in site.facts().listeners(&numbers)? {
        if is_ours(site, &listener)? {
            continue;
        }
        let ports = needed.iter().filter(|port| port.is_taken_by(listener.address));
        taken.extend(ports.map(|port| {
            format!(
                "{} ({}) is held by {}",
                listener.address,
                port.what,
                holder(&listener)
            )
        }));
    }
    match taken.is_empty() {
        true => {
            let all: Vec<String> = needed
                .iter()
                .map(|port| format!("{} ({})", port.port, port.what))
                .collect();
            good(format!("free or our own: {}", all.join(", ")))
        }
        false => wrong(
            taken.join(", "),
            "end that program, or choose other ports: cluster.endpoint and cluster.metrics.listen (install: --endpoint)",
        ),
    }
}

/// Whether a daemon of this installation listens there.
fn is_ours(site: &Site<'_>, listener: &Listener) -> Outcome<bool> {
    let real = site
        .prefix
        .path()
        .canonicalize()
        .unwrap_or_else(|_| site.prefix.path().to_path_buf());
    if let Some(process) = &listener.process {
        return Ok(process.program.starts_with(real));
    }
    // Without root we do not see whose the socket is, but which user's.
    match site.manifest.and_then(|manifest| manifest.user.as_ref()) {
        Some(user) => Ok(site
            .host
            .user(&user.name)?
            .is_some_and(|ids| ids.uid == listener.uid)),
        None => Ok(false),
    }
}

fn holder(listener: &Listener) -> String {
    match &listener.process {
        Some(process) => format!("process {} ({})", process.pid, process.program.display()),
        None => format!("a process of user {}", listener.uid),
    }
}

fn name(site: &Site<'_>) -> Look {
    let host = &site.config()?.endpoint.host;
    match site.facts().addresses(host) {
        Ok(found) => {
            let all: Vec<String> = found.iter().map(IpAddr::to_string).collect();
            good(format!("{host} is {}", all.join(", ")))
        }
        Err(failure) => wrong(
            failure.chain(),
            format!("mend the name service, or write the address of {host} to /etc/hosts"),
        ),
    }
}

fn endpoint(site: &Site<'_>) -> Look {
    let config = site.config()?;
    if site.has(ControlPlane) && is_stopped(site)? {
        return good("the session manager of this machine does not run, so nobody was called");
    }
    let link = config
        .endpoint
        .node_link()
        .map_err(|error| Failure::installation(error.to_string()))?;
    let mut reached = Vec::new();
    for (what, port) in [("Frontend", config.endpoint.port), ("node link", link.port)] {
        match site.facts().connect(&config.endpoint.host, port) {
            Ok(address) => reached.push(address.to_string()),
            Err(failure) => {
                return wrong(
                    format!("{what}: {}", failure.chain()),
                    "start the session manager, let it listen beyond its own machine (cluster.listen: 0.0.0.0), and \
                     open both ports in the firewall",
                );
            }
        }
    }
    good(format!("{} answer", reached.join(" and ")))
}

/// Whether the session manager of this machine was not started, or stopped by somebody.
fn is_stopped(site: &Site<'_>) -> Outcome<bool> {
    match site.manager() {
        Some(unit) if site.is(When::Units) => {
            let status = site.systemd()?.status(unit)?;
            Ok(["inactive", "failed"].contains(&status.active_state.as_str()))
        }
        _ => Ok(site.facts().running_below(site.prefix.path()).is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::testing::{Found, Machine, expect, expect_facts, expect_of};
    use super::*;
    use crate::doctor::facts::Running;

    fn listener(address: &str, program: Option<PathBuf>) -> Listener {
        Listener {
            address: address.parse().expect("an address"),
            uid: 7,
            process: program.map(|program| Running {
                pid: 42,
                program,
                replaced: false,
            }),
        }
    }

    #[test]
    fn a_port_of_others_is_found_with_its_holder() {
        expect_facts("ports", &Found::Good, |_| {});
        for (address, expected) in [
            (
                "127.0.0.1:8080",
                Found::Wrong("127.0.0.1:8080 (Frontend) is held by process 42 (/usr/bin/python3)"),
            ),
            ("0.0.0.0:8081", Found::Wrong("(node link)")),
            ("[::]:9080", Found::Wrong("(metrics)")),
            ("10.0.0.1:8080", Found::Good),
            ("127.0.0.1:8082", Found::Good),
        ] {
            expect_facts("ports", &expected, |facts| {
                let other = listener(address, Some("/usr/bin/python3".into()));
                facts.listeners.push(other);
            });
        }
    }

    #[test]
    fn our_own_ports_are_no_problem() {
        expect("ports", &Found::Good, |machine| {
            let program = machine
                .prefix
                .path()
                .canonicalize()
                .expect("there")
                .join("bin/flame-session-manager");
            machine
                .facts()
                .listeners
                .push(listener("127.0.0.1:8080", Some(program)));
        });
        for (uid, expected) in [(7, Found::Good), (8, Found::Wrong("a process of user 7"))] {
            expect("ports", &expected, |machine| {
                machine.host.uid = uid;
                machine.facts().listeners.push(listener("127.0.0.1:8080", None));
            });
        }
    }

    #[test]
    fn ports_are_those_of_the_configuration() {
        let text = "cluster:\n  name: a\n  endpoint: http://manager:9000\n  listen: 0.0.0.0\n  metrics:\n    listen: none\n";
        for (address, expected) in [
            ("10.0.0.1:9001", Found::Wrong("node link")),
            ("127.0.0.1:8080", Found::Good),
        ] {
            expect("ports", &expected, |machine| {
                std::fs::write(machine.prefix.config(), text).expect("written");
                machine
                    .facts()
                    .listeners
                    .push(listener(address, Some("/bin/x".into())));
            });
        }
        expect("ports", &Found::Unknown("no valid configuration"), |machine| {
            std::fs::write(machine.prefix.config(), "cluster: [").expect("written");
        });
        expect_facts("ports", &Found::Unknown("cannot read"), |facts| {
            facts.closed.insert("/proc/net/tcp".into());
        });
    }

    #[test]
    fn the_endpoint_is_found_and_answers() {
        for id in ["endpoint-name", "endpoint"] {
            expect(id, &Found::Good, Machine::start);
            expect(id, &Found::Unknown("configuration"), |machine| {
                std::fs::write(machine.prefix.config(), "").expect("written");
            });
        }
        expect_facts("endpoint-name", &Found::Wrong("address of 127.0.0.1"), |facts| {
            facts.hosts.clear()
        });
        for port in [8080, 8081] {
            let break_it = |machine: &mut Machine| {
                machine.start();
                machine.facts().answers.remove(&port);
            };
            expect(
                "endpoint",
                &Found::Wrong("cannot connect to 127.0.0.1:808"),
                break_it,
            );
        }
        // Nobody has started it yet.
        expect_facts("endpoint", &Found::Good, |facts| facts.answers.clear());
        let mut worker = Machine::with("--worker");
        worker.facts().answers.clear();
        expect_of(&worker, "endpoint", &Found::Wrong("Frontend"));
    }
}
