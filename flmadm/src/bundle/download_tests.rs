//! Downloads from servers that break off, lie, and change their minds.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::bundle::keys::with_extension;
use crate::bundle::partial::Part;

/// A request as the server got it.
#[derive(Debug)]
struct Request {
    path: String,
    headers: Vec<String>,
}

impl Request {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let first = lines.next()?;
        Some(Self {
            path: first.split(' ').nth(1)?.to_owned(),
            headers: lines
                .take_while(|line| !line.is_empty())
                .map(|line| line.to_ascii_lowercase())
                .collect(),
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let start = format!("{name}: ");
        self.headers
            .iter()
            .find_map(|line| line.strip_prefix(start.as_str()))
    }
}

/// What the server does with one connection: an answer as it goes over the wire, or nothing for a while.
enum Answer {
    Send(Vec<u8>),
    Stall(Vec<u8>),
}

/// A server that answers one request after the other, and then no more.
struct Server {
    address: String,
    requests: Receiver<Request>,
}

impl Server {
    fn new(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (sender, requests) = channel();
        std::thread::spawn(move || {
            for answer in answers {
                let Ok((mut stream, _)) = listener.accept() else {
                    return;
                };
                if let Some(request) = Request::read(&stream) {
                    let _ = sender.send(request);
                }
                match answer {
                    Answer::Send(bytes) => drop(stream.write_all(&bytes)),
                    Answer::Stall(bytes) => {
                        let _ = stream.write_all(&bytes);
                        // Until the client gives up.
                        let _ = stream.read(&mut [0]);
                    }
                }
            }
        });
        Self { address, requests }
    }

    fn url(&self) -> Url {
        Url::parse(&format!("http://{}/flame.tar.zst", self.address)).expect("an address")
    }

    fn request(&self) -> Request {
        self.requests.try_recv().expect("a request")
    }
}

fn contents() -> Vec<u8> {
    (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn answer(head: &str, body: &[u8]) -> Answer {
    let head = head.replace('\n', "\r\n");
    Answer::Send(
        [
            format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes(),
            body,
        ]
        .concat(),
    )
}

/// An answer with all of `body`, of which only `sent` bytes come.
fn whole(body: &[u8], tag: &str, sent: usize) -> Answer {
    answer(
        &format!("200 OK\nContent-Length: {}\nETag: {tag}", body.len()),
        &body[..sent],
    )
}

/// The rest of `body` from `first` on.
fn rest(body: &[u8], tag: &str, first: usize) -> Answer {
    let (last, all) = (body.len() - 1, body.len());
    let head = format!(
        "206 Partial Content\nContent-Length: {}\nContent-Range: bytes {first}-{last}/{all}\nETag: {tag}",
        all - first
    );
    answer(&head, &body[first..])
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("temporary directory"),
        }
    }

    fn get(&self, server: &Server, limit: u64) -> Outcome<Found> {
        let path = self.directory.path().join("flame.tar.zst");
        Downloader::hasty(limit).get(&server.url(), &path, limit, &mut |_| {})
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.directory.path().join(name)).ok()
    }

    fn is_complete(&self, expected: &[u8]) {
        assert!(self.file("flame.tar.zst").as_deref() == Some(expected));
        assert_eq!(std::fs::read_dir(self.directory.path()).expect("read").count(), 1);
    }
}

const LIMIT: u64 = 10 << 20;

#[test]
fn a_download_shows_its_progress() {
    let body = contents();
    let server = Server::new(vec![whole(&body, "\"1\"", body.len())]);
    let place = Place::new();
    let path = place.directory.path().join("flame.tar.zst");
    let mut seen = Vec::new();
    let found =
        Downloader::hasty(LIMIT).get(&server.url(), &path, LIMIT, &mut |progress| seen.push(progress));
    assert_eq!(found.expect("downloaded"), Found::Complete);
    place.is_complete(&body);
    let total = Some(body.len() as u64);
    assert_eq!(seen.first(), Some(&Progress { received: 0, total }));
    assert_eq!(seen.last().map(|progress| progress.received), total);
    assert!(seen.is_sorted_by_key(|progress| progress.received));
    let request = server.request();
    assert_eq!(request.header("range"), None);
    assert_eq!(request.header("accept-encoding"), Some("identity"));
}

#[test]
fn a_download_goes_on_where_it_was_cut_off() {
    let body = contents();
    let server = Server::new(vec![
        whole(&body, "\"1\"", 300_000),
        rest(&body, "\"1\"", 300_000),
    ]);
    let place = Place::new();
    place.get(&server, LIMIT).expect("downloaded");
    place.is_complete(&body);
    server.request();
    let second = server.request();
    assert_eq!(second.header("range"), Some("bytes=300000-"));
    assert_eq!(second.header("if-range"), Some("\"1\""));
}

#[test]
fn the_next_run_goes_on_as_well() {
    let body = contents();
    let place = Place::new();
    // The server has gone after the first answer: connections are refused.
    let server = Server::new(vec![whole(&body, "\"1\"", 300_000)]);
    let (url, path) = (server.url(), place.directory.path().join("flame.tar.zst"));
    let failure = place.get(&server, LIMIT).expect_err("gone");
    assert!(
        failure.report().contains("it goes on from where it was"),
        "{}",
        failure.report()
    );
    assert_eq!(
        place.file("flame.tar.zst.partial").map(|part| part.len()),
        Some(300_000)
    );
    // Another address has nothing to do with it, so all comes anew.
    let other = Server::new(vec![whole(&body, "\"1\"", body.len())]);
    assert_ne!(other.url(), url);
    place.get(&other, LIMIT).expect("downloaded");
    assert_eq!(other.request().header("range"), None);
    place.is_complete(&body);
    // The same address: as if the record had been written by the run before.
    std::fs::write(path.with_extension("zst.partial"), &body[..1_000]).expect("written");
    let again = Server::new(vec![rest(&body, "\"7\"", 1_000)]);
    let part = Part {
        url: again.url().to_string(),
        state: "\"7\"".to_owned(),
    };
    let record = path.with_extension("zst.partial.json");
    std::fs::write(record, serde_json::to_vec(&part).expect("text")).expect("written");
    place.get(&again, LIMIT).expect("downloaded");
    assert_eq!(again.request().header("range"), Some("bytes=1000-"));
    place.is_complete(&body);
}

#[test]
fn a_file_that_has_changed_comes_anew() {
    let (old, mut new) = (contents(), contents());
    new.reverse();
    for second in [
        // If-Range was honoured, ranges are not known, or the rest is of another file.
        vec![whole(&new, "\"2\"", new.len())],
        vec![answer(&format!("200 OK\nContent-Length: {}", new.len()), &new)],
        vec![rest(&new, "\"2\"", 300_000), whole(&new, "\"2\"", new.len())],
        vec![rest(&old, "\"1\"", 299_999), whole(&new, "\"2\"", new.len())],
        vec![
            answer("416 Range Not Satisfiable\nContent-Length: 0", b""),
            whole(&new, "\"2\"", new.len()),
        ],
    ] {
        let answers = std::iter::once(whole(&old, "\"1\"", 300_000)).chain(second);
        let server = Server::new(answers.collect());
        let place = Place::new();
        place.get(&server, LIMIT).expect("downloaded");
        place.is_complete(&new);
    }
}

#[test]
fn without_a_name_for_the_state_nothing_is_gone_on_with() {
    let body = contents();
    for head in ["200 OK", "200 OK\nETag: W/\"1\""] {
        let head = format!("{head}\nContent-Length: {}", body.len());
        let server = Server::new(vec![answer(&head, &body[..5_000]), answer(&head, &body)]);
        let place = Place::new();
        place.get(&server, LIMIT).expect("downloaded");
        place.is_complete(&body);
        server.request();
        assert_eq!(server.request().header("range"), None);
    }
    // The time of the last change will do.
    let head = format!(
        "200 OK\nLast-Modified: Tue, 15 Nov 1994 12:45:26 GMT\nContent-Length: {}",
        body.len()
    );
    let server = Server::new(vec![answer(&head, &body[..5_000]), rest(&body, "", 5_000)]);
    // The second answer names no state of its own that could differ.
    let place = Place::new();
    drop(place.get(&server, LIMIT));
    server.request();
    assert_eq!(server.request().header("range"), Some("bytes=5000-"));
}

#[test]
fn what_is_too_large_is_not_taken() {
    let body = contents();
    let limit = 100_000;
    let chunked = [b"30D40\r\n".as_slice(), &body[..200_000], b"\r\n0\r\n\r\n"].concat();
    for answer in [
        whole(&body, "\"1\"", body.len()),
        answer("200 OK\nContent-Length: 99999999999999", b""),
        // It does not say how much will come.
        answer("200 OK\nTransfer-Encoding: chunked", &chunked),
        answer("200 OK", &body),
    ] {
        let server = Server::new(vec![answer]);
        let place = Place::new();
        let failure = place.get(&server, limit).expect_err("too large");
        assert_eq!(failure.kind, Kind::Build);
        assert!(failure.report().contains("--max-size"), "{}", failure.report());
        assert_eq!(place.file("flame.tar.zst"), None);
        assert_eq!(
            std::fs::read_dir(place.directory.path()).expect("read").count(),
            0
        );
    }
}

#[test]
fn answers_that_are_no_file() {
    let nothing = |status: &str| Server::new(vec![answer(&format!("{status}\nContent-Length: 0"), b"")]);
    for status in ["404 Not Found", "410 Gone"] {
        let place = Place::new();
        assert_eq!(
            place.get(&nothing(status), LIMIT).expect("looked"),
            Found::Nothing
        );
        assert_eq!(
            std::fs::read_dir(place.directory.path()).expect("read").count(),
            0
        );
    }
    for status in ["403 Forbidden", "401 Unauthorized", "500 Internal Server Error"] {
        let failure = Place::new().get(&nothing(status), LIMIT).expect_err(status);
        assert_eq!(failure.kind, Kind::Build);
    }
    // A server that is busy for a moment is asked again.
    let body = contents();
    let server = Server::new(vec![
        answer("503 Service Unavailable\nContent-Length: 0", b""),
        whole(&body, "\"1\"", body.len()),
    ]);
    let place = Place::new();
    place.get(&server, LIMIT).expect("downloaded");
    place.is_complete(&body);
}

#[test]
fn a_server_that_says_nothing_more_is_left() {
    let body = contents();
    let head = format!(
        "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let stalled = [head.as_bytes(), &body[..1_000]].concat();
    let server = Server::new(vec![Answer::Stall(stalled), rest(&body, "\"1\"", 1_000)]);
    let place = Place::new();
    place.get(&server, LIMIT).expect("downloaded");
    place.is_complete(&body);
}

#[test]
fn redirects_stay_protected() {
    let body = contents();
    let target = Server::new(vec![whole(&body, "\"1\"", body.len())]);
    let to = |url: &str| {
        let head = format!("302 Found\nLocation: {url}\nContent-Length: 0");
        Server::new(vec![answer(&head, b"")])
    };
    let place = Place::new();
    place.get(&to(target.url().as_str()), LIMIT).expect("downloaded");
    assert_eq!(target.request().path, "/flame.tar.zst");
    place.is_complete(&body);
    for url in ["http://192.0.2.1/x", "ftp://127.0.0.1/x", "file:///etc/passwd"] {
        let failure = Place::new().get(&to(url), LIMIT).expect_err(url);
        assert!(
            failure.report().contains("cannot download"),
            "{}",
            failure.report()
        );
        assert!(!failure.report().contains("goes on"), "{}", failure.report());
    }
}

#[test]
fn two_downloads_of_one_file_do_not_mix() {
    let place = Place::new();
    let url = Url::parse("http://127.0.0.1/x").expect("an address");
    let path = place.directory.path().join("x");
    let first = Partial::open(&path, &url).expect("opened");
    let failure = Partial::open(&path, &url).err().expect("taken");
    assert!(
        failure.report().contains("being downloaded already"),
        "{}",
        failure.report()
    );
    drop(first);
    Partial::open(&path, &url).expect("free again");
}

#[test]
fn a_link_in_the_place_of_the_partial_file_is_not_followed() {
    let place = Place::new();
    let url = Url::parse("http://127.0.0.1/x").expect("an address");
    let (path, victim) = (
        place.directory.path().join("x"),
        place.directory.path().join("victim"),
    );
    std::fs::write(&victim, "precious").expect("written");
    std::os::unix::fs::symlink(&victim, with_extension(&path, ".partial")).expect("linked");
    assert!(Partial::open(&path, &url).is_err());
    assert_eq!(std::fs::read_to_string(&victim).expect("read"), "precious");
}

#[test]
fn a_bundle_and_its_signature_are_fetched_together() {
    use crate::bundle::fetch::fetch;
    use crate::bundle::fixture::{Fixture, Shelf};
    use crate::bundle::open::open;
    let shelf = Shelf::new();
    let bytes = Fixture::small().bytes();
    let signature = shelf.sign(&shelf.keys, &bytes);
    let server = Server::new(vec![
        whole(signature.as_bytes(), "\"s\"", signature.len()),
        whole(&bytes, "\"b\"", bytes.len()),
        answer("404 Not Found\nContent-Length: 0", b""),
        whole(&bytes, "\"b\"", bytes.len()),
        answer("404 Not Found\nContent-Length: 0", b""),
        answer("404 Not Found\nContent-Length: 0", b""),
    ]);
    let url = server.url();
    let cache = shelf.path("cache/below");
    let download = || fetch(&url, &cache, &Downloader::hasty(LIMIT), &mut |_| {});
    let fetched = download().expect("fetched");
    assert_eq!(server.request().path, "/flame.tar.zst.minisig");
    open(&fetched.located, &shelf.policy()).expect("taken");
    fetched.discard().expect("removed");
    assert!(!cache.exists(), "with the directory that was made for it");
    let fetched = download().expect("fetched");
    assert_eq!(fetched.located.signature, None);
    fetched.discard().expect("removed");
    let failure = download().expect_err("nothing there");
    assert!(
        failure.report().contains("there is nothing"),
        "{}",
        failure.report()
    );
    assert!(!cache.exists());
}
