//! `flmadm bundle`: one file with everything that an installation needs, for machines without sources or network.
//!
//! A bundle is `flame-VERSION-ARCH.tar.zst`: `manifest.json`, and behind it exactly the files that it lists, laid out
//! as the directory of a release. Beside it lies its signature in the format of minisign, `NAME.minisig`.
//!
//! A command that installs one has [`SourceArgs`]: `open` checks all of it and writes nothing, then its files are
//! [`Unpacked`] beside the prefix, and a plan is made of them as of built programs, see [`crate::programs`].

mod archive;
mod args;
mod contents;
mod create;
mod download;
mod elf;
mod fetch;
#[cfg(test)]
pub(crate) mod fixture;
mod glibc;
mod hashed;
mod keygen;
mod keys;
mod limits;
mod manifest;
mod open;
mod partial;
mod policy;
mod refusal;
mod show;
mod signature;
mod source;
mod unpack;
mod unpacked;
mod verify;
mod write;

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::output::Output;
use crate::terminal;

pub(crate) use args::{BundleCommand, DownloadArgs};
pub(crate) use create::Created;
pub(crate) use fetch::{Fetched, Progress, fetch};
pub(crate) use keygen::Keys;
pub(crate) use open::VerifiedBundle;
pub(crate) use show::Shown;
pub(crate) use unpacked::{SourceArgs, Unpacked, clean};
pub(crate) use verify::Verified;

/// Lowest version of an installation that this release can replace, unless `bundle create` is told otherwise.
pub(crate) const MINIMUM_VERSION: &str = "0.1.0";

/// Carries out `flmadm bundle`.
///
/// # Errors
/// Those of its commands.
pub(crate) fn run(host: &dyn Host, command: &BundleCommand, out: &mut dyn std::io::Write) -> Outcome<()> {
    match command {
        BundleCommand::Create(args) => create::run(args, &mut Output::new(args.output, out)),
        BundleCommand::Verify(args) => verify::run(host, args, &mut Output::new(args.output, out)),
        BundleCommand::Show(args) => show::run(host, args, &mut Output::new(args.output, out)),
        BundleCommand::Keygen(args) => keygen::run(args, &mut Output::new(args.output, out)),
    }
}

/// Brings the bundle that `text` names to this machine, with a progress bar if there is a terminal.
///
/// # Errors
/// It is not there, or cannot be downloaded.
pub(crate) fn fetch_shown(host: &dyn Host, text: &str, args: &DownloadArgs) -> Outcome<Fetched> {
    let url = match source::Source::parse(text)? {
        source::Source::File(path) => return Ok(Fetched::file(&path)),
        source::Source::Url(url) => url,
    };
    let downloader = download::Downloader::new(args.limits().bundle, &url)?;
    let cache = args.cache(host.is_root())?;
    let bar = bar()?;
    let fetched = fetch(&url, &cache, &downloader, &mut |progress: Progress| {
        if let Some(total) = progress.total {
            bar.set_length(total);
        }
        bar.set_position(progress.received);
    });
    bar.finish_and_clear();
    fetched
}

fn bar() -> Outcome<ProgressBar> {
    if !terminal::can_draw() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("  [{bar:30}] {binary_bytes} of {binary_total_bytes}, {eta}")
        .map_err(|error| Failure::arguments("cannot show the progress").because(error))?;
    Ok(ProgressBar::no_length().with_style(style.progress_chars("=> ")))
}

/// Paths of all programs below the directory of a release.
#[cfg(test)]
pub(crate) fn fixture_programs() -> Vec<String> {
    contents::programs()
        .into_iter()
        .map(crate::programs::place)
        .collect()
}

/// A size for people.
fn size_text(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

#[cfg(test)]
mod flip_tests;
#[cfg(test)]
mod tampering_cases;
#[cfg(test)]
mod tampering_tests;
#[cfg(test)]
mod tests;
