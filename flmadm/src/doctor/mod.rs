//! `flmadm doctor`: looks at the machine and the installation, says what is wrong and what mends it.

mod check;
mod checks;
#[cfg(test)]
mod doc;
pub(crate) mod facts;
mod people;
pub(crate) mod preflight;
mod report;
mod site;
#[cfg(test)]
mod tests;

use clap::Args;

use crate::cli::{OutputArg, PrefixArg};
use crate::failure::{Failure, Kind, Outcome};
use crate::host::Host;
use crate::output::Output;

use check::Check;
use site::Site;

pub(crate) use check::Mode;
pub(crate) use report::Printed;
use report::Report;

/// How `flmadm doctor` is called.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    /// Leave a check out (repeatable)
    #[arg(long, value_name = "ID")]
    pub(crate) ignore: Vec<String>,
    /// Look with this check only (repeatable)
    #[arg(long, value_name = "ID")]
    pub(crate) check: Vec<String>,
    /// List all checks and look at nothing
    #[arg(long, conflicts_with_all = ["ignore", "check"])]
    pub(crate) list: bool,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// Looks at the installation, or at the machine if there is none.
///
/// # Errors
/// There is no such check (arguments), or one of severity error found something (start).
pub(crate) fn run(host: &dyn Host, args: &DoctorArgs, output: &mut Output<'_>) -> Outcome<()> {
    if args.list {
        let listed = report::List::new();
        output.json(&listed);
        people::list(&listed, output);
        return Ok(());
    }
    known(args.ignore.iter().chain(&args.check))?;
    let (prefix, manifest) = args.at.find()?;
    let site = Site::new(host, &prefix, manifest.as_ref());
    let wanted = |check: &&'static Check| {
        let is_in = |ids: &[String]| ids.iter().any(|id| id == check.id);
        (args.check.is_empty() || is_in(&args.check)) && !is_in(&args.ignore)
    };
    let report = Report::of(&site, checks::all().filter(wanted), &args.ignore);
    output.json(&report);
    people::report(&report, !args.check.is_empty(), output);
    let errors = report.errors();
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(
            Kind::Start,
            format!("something is wrong: {}", errors.join(", ")),
        )
        .hint("each has a line above that mends it; --ignore ID leaves one out, docs/doctor.md explains them")),
    }
}

/// Whether all of these are checks.
///
/// # Errors
/// One is not; the nearest one is named.
fn known<'a>(ids: impl IntoIterator<Item = &'a String>) -> Outcome<()> {
    for id in ids {
        if checks::all().any(|check| check.id == id) {
            continue;
        }
        let nearest = checks::all().max_by(|a, b| {
            let like = |check: &Check| strsim::jaro_winkler(check.id, id);
            like(a).total_cmp(&like(b))
        });
        let nearest = nearest.map(|check| check.id).unwrap_or_default();
        return Err(
            Failure::arguments(format!("there is no check {id:?}; the nearest is {nearest}"))
                .hint("flmadm doctor --list lists all of them"),
        );
    }
    Ok(())
}
