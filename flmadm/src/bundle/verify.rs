//! `flmadm bundle verify`: says what install and upgrade would say.

use schemars::JsonSchema;
use serde::Serialize;

use super::args::VerifyArgs;
use super::open::{VerifiedBundle, open};
use super::signature::Trust;
use super::{fetch_shown, size_text};
use crate::failure::Outcome;
use crate::host::Host;
use crate::manifest::Manifest;
use crate::output::Output;

/// A bundle that can be used.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Verified {
    /// File or address of the bundle.
    pub(crate) bundle: String,
    /// Version of Flame in it.
    pub(crate) version: String,
    /// Lowest version of an installation that can be upgraded to this one.
    pub(crate) minimum_version: String,
    /// Version that is installed here, if any.
    pub(crate) installed: Option<String>,
    /// Machine that it is for.
    pub(crate) architecture: String,
    /// Who made it.
    pub(crate) trust: Trust,
    /// Number of its files.
    pub(crate) files: usize,
    /// Bytes of the bundle.
    pub(crate) size: u64,
    /// Bytes of all its files.
    pub(crate) unpacked_size: u64,
    /// SHA-256 hash of the bundle in hexadecimal.
    pub(crate) sha256: String,
}

/// Checks a bundle.
///
/// # Errors
/// It is refused, or cannot be read or downloaded.
pub(super) fn run(host: &dyn Host, args: &VerifyArgs, output: &mut Output<'_>) -> Outcome<()> {
    let (prefix, manifest) = args.at.find()?;
    let installed = manifest
        .filter(Manifest::is_installed)
        .map(|manifest| manifest.version);
    let policy = args.bundles.policy(prefix.path(), installed.as_deref())?;
    let fetched = fetch_shown(host, &args.bundle, &args.bundles.download)?;
    let bundle = open(&fetched.located, &policy);
    // Whatever came of it: a refused download is of no use either.
    fetched.discard()?;
    let verified = report(&args.bundle, installed, &bundle?);
    output.json(&verified);
    for line in lines(&verified) {
        output.line(&line);
    }
    Ok(())
}

fn report(name: &str, installed: Option<String>, bundle: &VerifiedBundle) -> Verified {
    let manifest = bundle.manifest();
    Verified {
        bundle: name.to_owned(),
        version: bundle.version().to_string(),
        minimum_version: manifest.minimum_version.to_string(),
        installed,
        architecture: manifest.architecture.clone(),
        trust: bundle.trust().clone(),
        files: manifest.files.len(),
        size: bundle.size(),
        unpacked_size: manifest.unpacked_size(),
        sha256: bundle.sha256().to_owned(),
    }
}

/// Who made a bundle, for people.
pub(super) fn origin(trust: &Trust) -> String {
    match trust {
        Trust::Signed {
            key_id,
            from,
            comment,
        } => format!(
            "signed with the key {key_id} ({from}): {}",
            comment.replace('\t', ", ")
        ),
        Trust::UnknownKey { key_id } => format!("signed with the unknown key {key_id}: NOT CHECKED"),
        Trust::Unsigned => "NOT SIGNED: it is complete, but anybody could have made it".to_owned(),
    }
}

/// The result for people.
pub(super) fn lines(verified: &Verified) -> Vec<String> {
    let mut lines = vec![
        format!(
            "{} is complete: Flame {} for {}",
            verified.bundle, verified.version, verified.architecture
        ),
        format!(
            "  {} files, {}, unpacked {}",
            verified.files,
            size_text(verified.size),
            size_text(verified.unpacked_size)
        ),
        format!("  SHA-256 {}", verified.sha256),
    ];
    lines.push(format!("  {}", origin(&verified.trust)));
    if let Some(installed) = &verified.installed {
        lines.push(format!("  can replace {installed}, which is installed"));
    }
    lines
}
