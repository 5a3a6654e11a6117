//! Where a bundle comes from: a file, or an address.

use std::net::IpAddr;
use std::path::PathBuf;

use reqwest::Url;

use crate::failure::{Failure, Outcome};

/// Where a bundle comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file of this machine.
    File(PathBuf),
    /// To be downloaded.
    Url(Url),
}

impl Source {
    /// What the argument of a command line means.
    ///
    /// # Errors
    /// It is an address that nothing is downloaded from.
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        if !text.contains("://") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let wrong = |why: &str| {
            Failure::arguments(format!("{why}, so no bundle is downloaded from there"))
                .hint("give an https:// address, or download the bundle and its .minisig yourself and give the file")
        };
        let url =
            Url::parse(text).map_err(|error| wrong(&format!("{text:?} is not an address")).because(error))?;
        if !is_protected(&url) {
            return Err(wrong(&format!("{} is not protected", shown(&url))));
        }
        Ok(Self::Url(url))
    }
}

/// Whether nobody between here and there can change what is sent: https, or both ends are this machine.
pub(super) fn is_protected(url: &Url) -> bool {
    match url.scheme() {
        "https" => true,
        "http" => is_loopback(url),
        _ => false,
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// An address for messages: without a password, and without a query, which may be one.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Only addresses that cannot have these refuse to lose them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_protected_is_downloaded() {
        for text in [
            "https://example.com/flame.tar.zst",
            "http://127.0.0.1:8000/x",
            "http://[::1]/x",
            "http://localhost/x",
        ] {
            assert!(matches!(Source::parse(text), Ok(Source::Url(_))), "{text}");
        }
        for text in [
            "http://example.com/x",
            "http://127.0.0.1.example.com/x",
            "ftp://example.com/x",
            "file:///etc/passwd",
            "https://",
        ] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
        for text in ["flame.tar.zst", "/a/b", "https:x"] {
            assert!(matches!(Source::parse(text), Ok(Source::File(_))), "{text}");
        }
    }

    #[test]
    fn messages_have_no_secrets() {
        let url = Url::parse("https://me:secret@example.com/a?token=secret#secret").expect("an address");
        assert_eq!(shown(&url), "https://example.com/a");
    }
}
