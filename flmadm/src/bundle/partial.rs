//! The part of a download that is here, and what it is a part of.
//!
//! It grows as `NAME.partial` beside its place. `NAME.partial.json` says the address, and what the server calls this
//! state of the file.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flame_core::fsutil::{sync_directory, write_atomic};
use reqwest::Url;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED};
use serde::{Deserialize, Serialize};

use super::keys::with_extension;
use crate::failure::{Failure, Outcome};

/// What a part of a file is a part of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) url: String,
    /// What the server calls this state of the file, as an entity tag or a time.
    pub(super) state: String,
}

/// The part of a file that is here.
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    /// Bytes that are here.
    pub(super) length: u64,
    /// What it is a part of; `None` if it cannot be gone on with.
    pub(super) part: Option<Part>,
}

impl Partial {
    /// What an earlier attempt left, or an empty file.
    pub(super) fn open(target: &Path, url: &Url) -> Outcome<Self> {
        let path = with_extension(target, ".partial");
        let failed = |error| Failure::path("write", &path, error);
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, nofollow);
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        // Two downloads of one file would mix.
        file.try_lock().map_err(|error| {
            Failure::installation(format!("{} is being downloaded already", path.display()))
                .because(error)
                .hint("wait until the other flmadm is done")
        })?;
        let length = file.metadata().map_err(failed)?.len();
        let part = std::fs::read(record(&path))
            .ok()
            .and_then(|text| serde_json::from_slice::<Part>(&text).ok())
            .filter(|part| part.url == url.as_str());
        let mut partial = Self {
            file,
            path,
            length,
            part,
        };
        if partial.part.is_none() {
            partial.begin(url, None)?;
        }
        partial
            .file
            .seek(SeekFrom::End(0))
            .map_err(|error| Failure::path("write", &partial.path, error))?;
        Ok(partial)
    }

    /// Begins anew, with a file that the server calls `state`.
    pub(super) fn begin(&mut self, url: &Url, state: Option<String>) -> Outcome<()> {
        let failed = |error| Failure::path("write", &self.path, error);
        let record = record(&self.path);
        // First the record goes: it must never describe other bytes.
        match std::fs::remove_file(&record) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        self.file.set_len(0).map_err(failed)?;
        self.file.rewind().map_err(failed)?;
        self.length = 0;
        self.part = state.map(|state| Part {
            url: url.to_string(),
            state,
        });
        if let Some(part) = &self.part {
            let text = serde_json::to_vec(part).map_err(|error| {
                Failure::installation("cannot write down what is downloaded").because(error)
            })?;
            // An address can have a password in it.
            write_atomic(&record, &text, 0o600)?;
        }
        Ok(())
    }

    /// The length of all, if the answer is what follows on the bytes that are here.
    pub(super) fn continues(&self, headers: &HeaderMap) -> Option<u64> {
        // A server that knows no If-Range may send the rest of another file.
        let known = self.part.as_ref().map(|part| &part.state);
        if state(headers).is_some_and(|state| known != Some(&state)) {
            return None;
        }
        let range = text(headers, CONTENT_RANGE)?.strip_prefix("bytes ")?;
        let (span, total) = range.split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let end = last.checked_add(1)?;
        let is_rest = total == "*" || total.parse() == Ok(end);
        (self.length > 0 && first == self.length && first <= last && is_rest).then_some(end)
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.file
            .write_all(bytes)
            .map_err(|error| Failure::path("write", &self.path, error))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Puts the file in its place.
    pub(super) fn complete(self, target: &Path) -> Outcome<()> {
        let failed = |error| Failure::path("write", target, error);
        self.file.sync_all().map_err(failed)?;
        std::fs::rename(&self.path, target).map_err(failed)?;
        let _ = std::fs::remove_file(record(&self.path));
        sync_directory(target.parent().unwrap_or(Path::new("."))).map_err(failed)
    }

    /// Keeps it for another run, if there is something to go on with.
    pub(super) fn leave(self) -> Outcome<()> {
        match self.length {
            0 => self.discard(),
            _ => Ok(()),
        }
    }

    /// Removes it.
    pub(super) fn discard(self) -> Outcome<()> {
        let _ = std::fs::remove_file(record(&self.path));
        std::fs::remove_file(&self.path).map_err(|error| Failure::path("remove", &self.path, error))
    }
}

fn record(partial: &Path) -> PathBuf {
    with_extension(partial, ".json")
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The number in a header.
pub(super) fn number(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// What the server calls this state of the file. Weak tags are also for states that are only much alike.
pub(super) fn state(headers: &HeaderMap) -> Option<String> {
    let tag = text(headers, ETAG).filter(|tag| !tag.starts_with("W/"));
    tag.or_else(|| text(headers, LAST_MODIFIED)).map(str::to_owned)
}
