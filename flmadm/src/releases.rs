//! `flmadm releases`: which releases are there, and which of them are wanted.

use clap::Args;
use comfy_table::{Table, presets};
use schemars::JsonSchema;
use serde::Serialize;

use crate::change::{self, Change, Start};
use crate::cli::{OutputArg, PrefixArg};
use crate::failure::Outcome;
use crate::gate;
use crate::host::Host;
use crate::install::{self, forget_release};
use crate::manifest::Manifest;
use crate::output::Output;
use crate::prefix::Prefix;
use crate::release::{GOOD, Record, TEXT};
use crate::step::Step;

/// Arguments of `flmadm releases`.
#[derive(Debug, Args)]
pub(crate) struct ReleasesArgs {
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    /// Remove all releases but the current one and the one that rollback would take
    #[arg(long)]
    pub(crate) prune: bool,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// The releases of an installation.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Oldest first.
    releases: Vec<ReleaseReport>,
    /// Names of those that were removed.
    pruned: Vec<String>,
}

/// A release.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ReleaseReport {
    /// Its name: the version, with a part of a hash if there are several of one version.
    release: String,
    /// Version of Flame; `null` if the release is broken.
    version: Option<String>,
    /// Whether it is the current one.
    current: bool,
    /// Whether it has worked: its services were ready and a task went through.
    good: bool,
    /// Bytes of its files.
    size: u64,
    /// When it was installed, as RFC 3339 has it.
    installed: Option<String>,
}

/// Lists releases, and removes those that are not wanted.
///
/// # Errors
/// Nothing is installed, or something cannot be removed.
pub(crate) fn run(host: &dyn Host, args: &ReleasesArgs, output: &mut Output<'_>) -> Outcome<()> {
    let (prefix, found) = args.at.find()?;
    let Some(mut manifest) = found.filter(Manifest::is_installed) else {
        return Err(install::none_there(&prefix));
    };
    let mut pruned = Vec::new();
    if args.prune {
        let locks = change::enter(host, &prefix, !manifest.units.is_empty(), output)?;
        (manifest, pruned) = prune(host, &prefix, &manifest, output)?;
        drop(locks);
    }
    let report = Report {
        releases: manifest
            .releases
            .iter()
            .map(|id| look(&prefix, &manifest, id))
            .collect::<Outcome<_>>()?,
        pruned,
    };
    output.json(&report);
    if output.is_for_people() {
        table(&report, output);
    }
    Ok(())
}

fn look(prefix: &Prefix, manifest: &Manifest, id: &str) -> Outcome<ReleaseReport> {
    let directory = prefix.release(id);
    let entries = walkdir::WalkDir::new(&directory).into_iter().flatten();
    let sizes = entries.filter_map(|entry| entry.metadata().ok().filter(std::fs::Metadata::is_file));
    let made = directory.metadata().ok().and_then(|found| found.modified().ok());
    Ok(ReleaseReport {
        release: id.to_owned(),
        version: Record::load(&directory)?.map(|record| record.version),
        current: manifest.release == id,
        good: directory.join(GOOD).exists(),
        size: sizes.map(|found| found.len()).sum(),
        installed: made
            .and_then(|time| jiff::Timestamp::try_from(time).ok())
            .map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
    })
}

/// Removes what is neither current nor what rollback would take.
fn prune(
    host: &dyn Host,
    prefix: &Prefix,
    old: &Manifest,
    output: &mut Output<'_>,
) -> Outcome<(Manifest, Vec<String>)> {
    let is_good = |id: &&String| prefix.release(id).join(GOOD).exists();
    let others = || old.releases.iter().rev().filter(|id| **id != old.release);
    let back = others().find(is_good).or_else(|| others().next()).cloned();
    let unwanted: Vec<String> = others()
        .filter(|id| Some(*id) != back.as_ref())
        .cloned()
        .collect();
    let mut new = old.clone();
    let mut finish = Vec::new();
    for id in &unwanted {
        new.releases.retain(|release| release != id);
        finish.extend(forget_release(prefix, &mut new, id));
    }
    if unwanted.is_empty() {
        return Ok((new, unwanted));
    }
    let steps = [Step::Text {
        path: prefix.manifest(),
        text: new.text()?,
        mode: TEXT,
    }];
    let change = Change {
        verb: "releases",
        prefix,
        old: Some(old),
        new: &new,
        steps: &steps,
        finish,
        start: Start::None,
        limit: gate::LIMIT,
        keep_failed: false,
    };
    let done = change.run(host, output)?;
    for path in done.left.kept {
        output.line(&format!(
            "Note: {} stays: there is something of yours in it",
            path.display()
        ));
    }
    Ok((new, unwanted))
}

fn table(report: &Report, output: &mut Output<'_>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["RELEASE", "CURRENT", "HAS WORKED", "SIZE", "INSTALLED"]);
    let yes = |is: bool| if is { "yes" } else { "-" };
    for release in &report.releases {
        table.add_row([
            release.release.clone(),
            yes(release.current).to_owned(),
            yes(release.good).to_owned(),
            bytesize::ByteSize::b(release.size).display().iec().to_string(),
            release.installed.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    output.line(&lines.join("\n"));
    for id in &report.pruned {
        output.line(&format!("Removed: {id}"));
    }
}
