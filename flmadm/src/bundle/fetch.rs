//! Brings a bundle and its signature to this machine.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use reqwest::Url;

use super::download::{Downloader, Found};
use super::keys::with_extension;
use super::limits;
use super::open::Located;
use super::signature::EXTENSION;
use crate::failure::{Failure, Outcome};

/// Name of a downloaded bundle whose address has none that can be used.
const UNNAMED: &str = "bundle.tar.zst";

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes that are here, also from an earlier attempt.
    pub(crate) received: u64,
    /// Bytes of all, if the server says so.
    pub(crate) total: Option<u64>,
}

/// A bundle on this machine.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Where it is.
    pub(crate) located: Located,
    is_download: bool,
    _cache: Cache,
}

/// A directory that was made for a download, and goes when there is nothing in it.
#[derive(Debug, Default)]
struct Cache(Option<PathBuf>);

impl Drop for Cache {
    fn drop(&mut self) {
        if let Some(directory) = &self.0 {
            let _there_is_half_a_download_in_it = std::fs::remove_dir(directory);
        }
    }
}

impl Fetched {
    /// A file of somebody, with its signature if there is one.
    pub(crate) fn file(path: &Path) -> Self {
        let signature = with_extension(path, EXTENSION);
        Self {
            located: Located {
                bundle: path.to_path_buf(),
                signature: signature.exists().then_some(signature),
            },
            is_download: false,
            _cache: Cache::default(),
        }
    }

    /// Removes what was downloaded; a file of somebody else stays.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn discard(self) -> Outcome<()> {
        if !self.is_download {
            return Ok(());
        }
        for path in [Some(&self.located.bundle), self.located.signature.as_ref()]
            .into_iter()
            .flatten()
        {
            std::fs::remove_file(path).map_err(|error| Failure::path("remove", path, error))?;
        }
        Ok(())
    }
}

/// Downloads the bundle at `url` into the directory `cache`, which is made.
///
/// # Errors
/// It cannot be found or downloaded. What is there of it stays, and the next attempt goes on from there.
pub(crate) fn fetch(
    url: &Url,
    cache: &Path,
    downloader: &Downloader,
    progress: &mut dyn FnMut(Progress),
) -> Outcome<Fetched> {
    let is_new = !cache.exists();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(cache)
        .map_err(|error| Failure::path("make the directory", cache, error))?;
    let made = Cache(is_new.then(|| cache.to_path_buf()));
    let bundle = cache.join(name(url));
    let signature = with_extension(&bundle, EXTENSION);
    // First the small one: a mistake in the address shows at once.
    let mut beside = url.clone();
    beside.set_path(&format!("{}{EXTENSION}", url.path()));
    let signature = match downloader.get(&beside, &signature, limits::SIGNATURE, &mut |_| {})? {
        Found::Complete => Some(signature),
        Found::Nothing => None,
    };
    match downloader.get(url, &bundle, downloader.limit(), progress)? {
        Found::Complete => Ok(Fetched {
            located: Located { bundle, signature },
            is_download: true,
            _cache: made,
        }),
        Found::Nothing => Err(Failure::downloading(url).hint("there is nothing at this address")),
    }
}

/// A plain file name for what is at `url`.
fn name(url: &Url) -> PathBuf {
    let last = url.path_segments().and_then(|mut parts| parts.next_back());
    let plain = |name: &&str| !name.starts_with('.') && super::manifest::check_path(name).is_ok();
    PathBuf::from(last.filter(plain).unwrap_or(UNNAMED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_downloads_are_plain() {
        for (url, expected) in [
            (
                "https://a/b/flame-1.0.0-x86_64.tar.zst?x=/y",
                "flame-1.0.0-x86_64.tar.zst",
            ),
            ("https://a/", UNNAMED),
            ("https://a", UNNAMED),
            ("https://a/b/..%2F..%2Fetc", UNNAMED),
            ("https://a/.hidden", UNNAMED),
        ] {
            assert_eq!(name(&Url::parse(url).expect(url)), Path::new(expected), "{url}");
        }
    }
}
