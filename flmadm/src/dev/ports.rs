//! Whether the ports of a cluster are free.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use flame_core::config::ClusterConfig;

use crate::failure::{Failure, Kind, Outcome};

/// Makes sure that the ports of a cluster are not used by another program. Of a name that is not an address, the
/// session manager finds out.
///
/// # Errors
/// One is.
pub(super) fn check(config: &ClusterConfig) -> Outcome<()> {
    let host = config.listen.as_deref().unwrap_or(&config.endpoint.host);
    let address: Option<IpAddr> = match host {
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        host => host.parse().ok(),
    };
    let own = [Some(config.endpoint.port), config.endpoint.port.checked_add(1)];
    let own = own
        .into_iter()
        .flatten()
        .filter_map(|port| Some(SocketAddr::new(address?, port)));
    for address in own.chain(config.metrics) {
        if let Err(error) = TcpListener::bind(address)
            && error.kind() == std::io::ErrorKind::AddrInUse
        {
            return Err(Failure::new(
                Kind::Start,
                format!("port {} is in use by another program", address.port()),
            )
            .hint("stop that one, or choose another port with --endpoint URL"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let port = taken.local_addr().expect("an address").port();
        let config = |text: &str| ClusterConfig::parse(text).expect("valid");
        let endpoint = format!("cluster:\n  name: a\n  endpoint: http://127.0.0.1:{port}\n");
        for text in [
            endpoint.clone(),
            endpoint.replace("127.0.0.1", "localhost"),
            format!(
                "cluster:\n  name: a\n  endpoint: http://h:1\n  metrics: {{listen: \"127.0.0.1:{port}\"}}\n"
            ),
        ] {
            let report = check(&config(&text)).expect_err(&text).report();
            assert!(report.contains(&format!("port {port} is in use")), "{report}");
        }
        drop(taken);
        check(&config(
            &endpoint.replace('\n', "\n  metrics: {listen: none}\n").replacen(
                "\n  metrics: {listen: none}\n",
                "\n",
                2,
            ),
        ))
        .expect("free");
    }
}
