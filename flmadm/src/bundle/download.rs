//! Downloads one file by HTTP: goes on where an earlier attempt was cut off, and never takes more than it may.
//!
//! Only if the server says that the file is still what a part of it is here (`If-Range`), the rest is taken; otherwise
//! the download begins anew. What is here of it is kept by [`super::partial`].

use std::error::Error;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use reqwest::blocking::{Client, Response};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, IF_RANGE, RANGE};
use reqwest::{StatusCode, Url, redirect};

use super::fetch::Progress;
use super::partial::{Partial, number, state};
use super::source::{is_protected, shown};
use crate::failure::{Failure, Kind, Outcome, chain};

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// Longest wait for an answer or for more of it.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Attempts in a row that brought nothing before it is given up.
const ATTEMPTS: u32 = 5;
/// Wait before the second attempt in a row; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// Bytes that are taken at once.
const PIECE: usize = 64 << 10;

/// What was found at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The file, now in its place.
    Complete,
    /// No such file.
    Nothing,
}

/// Downloads files.
pub(crate) struct Downloader {
    client: Client,
    limit: u64,
    first_pause: Duration,
}

/// Why an attempt ended early.
enum Stop {
    /// Another attempt may do better.
    Again(String),
    /// It cannot.
    Never(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Never(failure)
    }
}

impl Failure {
    /// Something could not be downloaded.
    pub(super) fn downloading(url: &Url) -> Self {
        Self::new(Kind::Build, format!("cannot download {}", shown(url)))
    }
}

impl Downloader {
    /// Takes files of up to `limit` bytes from `url`, through the proxy that the environment names.
    ///
    /// # Errors
    /// This machine has no certificates to check servers with.
    pub(crate) fn new(limit: u64, url: &Url) -> Outcome<Self> {
        let builder = Self::builder(STALL_LIMIT);
        // A minimal system has no certificates, and does not need any for itself.
        let builder = match url.scheme() {
            "https" => builder,
            _ => builder.tls_certs_only([]),
        };
        Self::with(limit, FIRST_PAUSE, builder)
    }

    /// For tests: without a proxy and without patience.
    #[cfg(test)]
    pub(super) fn hasty(limit: u64) -> Self {
        let builder = Self::builder(Duration::from_millis(500))
            .no_proxy()
            .tls_certs_only([]);
        Self::with(limit, Duration::ZERO, builder).expect("a client")
    }

    fn builder(stall: Duration) -> reqwest::blocking::ClientBuilder {
        // An error says that it is set already, which is as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::builder()
            .user_agent(concat!("flmadm/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .timeout(stall)
            .redirect(redirect::Policy::custom(follow))
    }

    fn with(limit: u64, first_pause: Duration, builder: reqwest::blocking::ClientBuilder) -> Outcome<Self> {
        let client = builder.build().map_err(|error| {
            Failure::new(Kind::Build, "cannot prepare a download")
                .because(error)
                .hint(
                    "install the package ca-certificates, or download the bundle yourself and give the file",
                )
        })?;
        Ok(Self {
            client,
            limit,
            first_pause,
        })
    }

    /// Most bytes of a bundle.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Downloads the file at `url` to `path`; it may have `limit` bytes.
    ///
    /// # Errors
    /// It cannot be downloaded, or is too large.
    pub(super) fn get(
        &self,
        url: &Url,
        path: &Path,
        limit: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Outcome<Found> {
        let mut partial = Partial::open(path, url)?;
        let mut idle = 0;
        loop {
            let before = partial.length;
            match self.attempt(url, &mut partial, limit, progress) {
                Ok(Found::Nothing) => {
                    partial.discard()?;
                    return Ok(Found::Nothing);
                }
                Ok(Found::Complete) => {
                    partial.complete(path)?;
                    return Ok(Found::Complete);
                }
                Err(Stop::Never(failure)) => {
                    partial.leave()?;
                    return Err(failure);
                }
                Err(Stop::Again(why)) => {
                    idle = if partial.length > before { 1 } else { idle + 1 };
                    if idle >= ATTEMPTS {
                        partial.leave()?;
                        return Err(Failure::downloading(url)
                            .because(why)
                            .hint("run it again later; it goes on from where it was"));
                    }
                    std::thread::sleep(self.first_pause * (1 << (idle - 1)));
                }
            }
        }
    }

    fn attempt(
        &self,
        url: &Url,
        partial: &mut Partial,
        limit: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Found, Stop> {
        // Compressed once more it would not have the length that a range is about.
        let mut request = self.client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(part) = &partial.part
            && partial.length > 0
        {
            request = request
                .header(RANGE, format!("bytes={}-", partial.length))
                .header(IF_RANGE, &part.state);
        }
        let answer = request.send().map_err(|error| unsent(url, error))?;
        let total = match answer.status() {
            StatusCode::OK => {
                partial.begin(url, state(answer.headers()))?;
                number(answer.headers(), CONTENT_LENGTH)
            }
            StatusCode::PARTIAL_CONTENT => match partial.continues(answer.headers()) {
                Some(total) => Some(total),
                None => {
                    partial.begin(url, None)?;
                    return Err(Stop::Again(
                        "the server sent another part than asked for".to_owned(),
                    ));
                }
            },
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(Found::Nothing),
            // It has become shorter than what is here.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                partial.begin(url, None)?;
                return Err(Stop::Again("the file has changed on the server".to_owned()));
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Stop::Again(format!("the server answers {status}")));
            }
            status => {
                return Err(Failure::downloading(url)
                    .because(format!("the server answers {status}"))
                    .into());
            }
        };
        if total.is_some_and(|total| total > limit) {
            partial.begin(url, None)?;
            return Err(too_large(url, limit).into());
        }
        receive(url, answer, partial, total, limit, progress)
    }
}

/// Takes the body of the answer.
fn receive(
    url: &Url,
    mut answer: Response,
    partial: &mut Partial,
    total: Option<u64>,
    limit: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Found, Stop> {
    let mut buffer = vec![0; PIECE];
    loop {
        progress(Progress {
            received: partial.length,
            total,
        });
        let length = answer
            .read(&mut buffer)
            .map_err(|error| Stop::Again(chain(&error)))?;
        if length == 0 {
            break;
        }
        if partial.length + length as u64 > limit {
            partial.begin(url, None)?;
            return Err(too_large(url, limit).into());
        }
        partial.append(&buffer[..length])?;
    }
    match total {
        Some(total) if partial.length < total => Err(Stop::Again(format!(
            "the server sent {} of {total} bytes",
            partial.length
        ))),
        Some(total) if partial.length > total => {
            partial.begin(url, None)?;
            Err(Stop::Again("the server sent more than it said".to_owned()))
        }
        _ => Ok(Found::Complete),
    }
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > REDIRECTS {
        return attempt.error("there are too many redirects");
    }
    let was_local = attempt.previous().iter().all(|url| url.scheme() == "http");
    let is_local = attempt.url().scheme() == "http";
    // From elsewhere nobody may lead us to a server of this machine.
    if !is_protected(attempt.url()) || (is_local && !was_local) {
        return attempt.error("the server redirects to an address that is not protected by https");
    }
    attempt.follow()
}

fn unsent(url: &Url, error: reqwest::Error) -> Stop {
    let error = error.without_url();
    if error.is_redirect() || error.is_builder() {
        Stop::Never(Failure::downloading(url).because(error))
    } else if is_untrusted(&error) {
        Stop::Never(Failure::downloading(url).because(error).hint(
            "nobody that this machine trusts says who the server is; SSL_CERT_FILE names a file with other \
             authorities",
        ))
    } else {
        Stop::Again(chain(&error))
    }
}

/// Whether the server has no certificate that is trusted here, which no further attempt changes.
fn is_untrusted(error: &(dyn Error + 'static)) -> bool {
    // An error of I/O hides the one that it is made of.
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
        .map(|inner| inner as &(dyn Error + 'static));
    let is_certificate = |error: &(dyn Error + 'static)| {
        matches!(
            error.downcast_ref::<rustls::Error>(),
            Some(rustls::Error::InvalidCertificate(_))
        )
    };
    is_certificate(error) || inner.is_some_and(is_untrusted) || error.source().is_some_and(is_untrusted)
}

fn too_large(url: &Url, limit: u64) -> Failure {
    let most = bytesize::ByteSize::b(limit).display().iec().to_string();
    Failure::downloading(url)
        .because(format!("it is larger than {most}"))
        .hint("--max-size lets a bundle be larger")
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
