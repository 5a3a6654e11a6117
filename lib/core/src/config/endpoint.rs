//! Addresses of services, as URLs.

use std::fmt;
use std::str::FromStr;

/// How a service is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// gRPC without TLS: `http://` or `grpc://`.
    Plain,
    /// gRPC with TLS: `https://`, `grpcs://` or `grpc+tls://`.
    Tls,
}

/// A service's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// With or without TLS.
    pub scheme: Scheme,
    /// Host name or IP address (an IPv6 address without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an endpoint ({reason}); write e.g. http://127.0.0.1:8080")]
pub struct EndpointError {
    text: String,
    reason: &'static str,
}

/// Port of the session manager's Frontend unless the endpoint names another.
pub const DEFAULT_PORT: u16 = 8080;

impl Endpoint {
    /// Where a session manager on this machine answers by default.
    #[must_use]
    pub fn local_default() -> Self {
        Self {
            scheme: Scheme::Plain,
            host: "127.0.0.1".to_owned(),
            port: DEFAULT_PORT,
        }
    }

    /// The URL that gRPC channels take.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Plain => "http",
            Scheme::Tls => "https",
        };
        format!("{scheme}://{}", self.authority())
    }

    /// `host:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The node link of the session manager whose Frontend this is: the next port.
    ///
    /// # Errors
    /// There is no next port.
    pub fn node_link(&self) -> Result<Self, EndpointError> {
        let port = self.port.checked_add(1).ok_or_else(|| EndpointError {
            text: self.url(),
            reason: "the node link uses the next port, and there is none",
        })?;
        Ok(Self { port, ..self.clone() })
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let bad = |reason| EndpointError {
            text: text.to_owned(),
            reason,
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
        let scheme = match scheme {
            "http" | "grpc" => Scheme::Plain,
            "https" | "grpcs" | "grpc+tls" => Scheme::Tls,
            _ => return Err(bad("the scheme must be http, https, grpc or grpcs")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) || authority.contains(char::is_whitespace) {
            return Err(bad("only a host and a port may follow the scheme"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, rest) = v6
                    .split_once(']')
                    .ok_or_else(|| bad("the ] of the IPv6 address is missing"))?;
                host.parse::<std::net::Ipv6Addr>()
                    .map_err(|_| bad("the IPv6 address is not valid"))?;
                (host, rest.strip_prefix(':'))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() {
            return Err(bad("it has no host"));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(bad("the port must be a number from 1 to 65535")),
            },
        };
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_written() {
        for (text, url, link) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080", 8081),
            ("grpc://manager:9", "http://manager:9", 10),
            ("https://[::1]:7/", "https://[::1]:7", 8),
            ("http://manager", "http://manager:8080", 8081),
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.url(), url);
            assert_eq!(endpoint.node_link().expect("next port").port, link);
        }
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, why) in [
            ("127.0.0.1:8080", "scheme"),
            ("ftp://host:1", "scheme"),
            ("http://:80", "no host"),
            ("http://host:0", "port"),
            ("http://host:99999", "port"),
            ("http://host:1/path", "host and a port"),
            ("http://[::1:1", "]"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains(why) && error.contains(text), "{text}: {error}");
        }
        let last = Endpoint {
            port: u16::MAX,
            ..Endpoint::local_default()
        };
        assert!(last.node_link().is_err());
    }

    #[test]
    fn loopback_is_recognised() {
        let loopback = |host: &str| {
            Endpoint {
                host: host.to_owned(),
                ..Endpoint::local_default()
            }
            .is_loopback()
        };
        assert!(loopback("127.0.0.1") && loopback("::1") && loopback("localhost"));
        assert!(!loopback("10.0.0.1") && !loopback("manager") && !loopback("0.0.0.0"));
    }
}
