//! `flmadm verify`: whether everything is still as it was installed.

mod expected;
mod files;
mod units;

use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::{OutputArg, PrefixArg};
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::installed::{self, Installed};
use crate::manifest::{FileKind, Manifest};
use crate::output::Output;
use crate::prefix::Prefix;

pub(crate) use files::{Finding, Kind};

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// What is not as it was installed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Directory of the installation.
    prefix: PathBuf,
    /// Version that is installed.
    version: String,
    /// Files, links and directories that were looked at.
    checked: usize,
    /// Whether nothing has to be mended.
    intact: bool,
    /// All differences, also those that do no harm.
    findings: Vec<Finding>,
}

/// Verifies the installation.
///
/// # Errors
/// Something has to be mended, or cannot be looked at (installation).
pub(crate) fn run(host: &dyn Host, args: &VerifyArgs, output: &mut Output<'_>) -> Outcome<()> {
    let installed = installed::find(&args.at)?;
    let report = look(host, &installed)?;
    output.json(&report);
    for finding in &report.findings {
        output.line(&format!(
            "{:10}  {}: {}",
            finding.kind.name(),
            finding.what,
            finding.difference
        ));
    }
    let wrong = report
        .findings
        .iter()
        .filter(|finding| finding.kind.is_drift())
        .count();
    if wrong == 0 {
        output.line(&format!(
            "Flame {} in {} is as it was installed ({} files and directories).",
            report.version,
            report.prefix.display(),
            report.checked
        ));
        return Ok(());
    }
    let things = if wrong == 1 { "thing is" } else { "things are" };
    Err(Failure::installation(format!(
        "{wrong} {things} not as installed in {}",
        report.prefix.display()
    ))
    .hint("flmadm install with the same profiles puts back what it installed"))
}

/// Compares what is there with what was installed.
///
/// # Errors
/// Something cannot be looked at.
pub(crate) fn look(host: &dyn Host, installed: &Installed) -> Outcome<Report> {
    let all = expected::all(host, &installed.prefix, &installed.manifest)?;
    let mut findings = compare(host, &all)?;
    if !installed.manifest.units.is_empty() {
        findings.extend(units::compare(host, installed).unwrap_or_else(|failure| {
            vec![Finding {
                kind: Kind::Unreadable,
                what: "systemd".to_owned(),
                difference: failure.chain(),
            }]
        }));
    }
    for path in expected::extra(installed)? {
        findings.push(Finding {
            kind: Kind::Extra,
            what: path.display().to_string(),
            difference: "it was not installed".to_owned(),
        });
    }
    Ok(Report {
        prefix: installed.prefix.path().to_owned(),
        version: installed.manifest.version.clone(),
        checked: all.len(),
        intact: !findings.iter().any(|finding| finding.kind.is_drift()),
        findings,
    })
}

/// Compares the files that `wanted` chooses with what was installed. Gives how many there are, and all differences.
///
/// # Errors
/// Something cannot be looked at.
pub(crate) fn files(
    host: &dyn Host,
    prefix: &Prefix,
    manifest: &Manifest,
    wanted: fn(FileKind) -> bool,
) -> Outcome<(usize, Vec<Finding>)> {
    let mut all = expected::all(host, prefix, manifest)?;
    all.retain(|one| one.kind.is_some_and(wanted));
    Ok((all.len(), compare(host, &all)?))
}

fn compare(host: &dyn Host, all: &[expected::Expected]) -> Outcome<Vec<Finding>> {
    let mut findings = Vec::new();
    for one in all {
        findings.extend(files::compare(host, one)?);
    }
    Ok(findings)
}

#[cfg(test)]
mod tests;
