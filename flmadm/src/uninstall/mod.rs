//! `flmadm uninstall`: stops the services and removes exactly what the manifest lists.

mod kept;
mod plan;

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use crate::change;
use crate::cli::UninstallArgs;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::output::Output;
use crate::prefix::Prefix;
use crate::rights;
use crate::step::Step;
use crate::transaction::{Place, Transaction};

use plan::Plan;

/// Removes an installation.
///
/// # Errors
/// [`Failure`]; up to the point of no return everything is put back, after it `flmadm repair` goes on.
pub(crate) fn run(host: &dyn Host, args: &UninstallArgs, output: &mut Output<'_>) -> Outcome<()> {
    let (prefix, found) = args.at.find()?;
    // What an interrupted change left may be all that there is.
    if found.is_none() && Place::left(&prefix).is_none() {
        return nothing(&prefix, output);
    }
    let has_units = found.as_ref().is_some_and(|found| !found.units.is_empty());
    if let Some(found) = &found {
        rights::over(host, found, "remove")?;
        confirm(args, &prefix)?;
    }
    let _locks = change::enter(host, &prefix, has_units, output)?;
    let (prefix, Some(manifest)) = args.at.find()? else {
        return nothing(&prefix, output);
    };
    let mut notes = Vec::new();
    let plan = plan::make(host, args, &prefix, &manifest, &mut notes)?;
    let place = Place::of(&prefix, &|path| manifest.made(path));
    let mut transaction = Transaction::begin(host, place, "uninstall", &prefix)?;
    if let Err(failure) = apply(host, &mut transaction, &plan, &prefix, output) {
        return Err(transaction.roll_back(failure));
    }
    let left = transaction.commit(plan.finish)?;
    notes.extend(left.notes);
    let mut kept = plan.preserved;
    kept.extend(left.kept);
    report(&prefix, plan.backup, &kept, &notes, output);
    Ok(())
}

fn nothing(prefix: &Prefix, output: &mut Output<'_>) -> Outcome<()> {
    output.line(&format!("Nothing is installed in {}.", prefix.path().display()));
    output.json(&Report {
        prefix: prefix.path().to_path_buf(),
        removed: false,
        backup: None,
        kept: Vec::new(),
        notes: Vec::new(),
    });
    Ok(())
}

fn apply(
    host: &dyn Host,
    transaction: &mut Transaction<'_>,
    plan: &Plan,
    prefix: &Prefix,
    output: &mut Output<'_>,
) -> Outcome<()> {
    let mut run = |step: &Step| -> Outcome<()> {
        output.doing(&step.describe());
        if transaction.run(step)? && !step.is_secondary() {
            output.progress(&step.describe());
        }
        Ok(())
    };
    plan.stops.iter().try_for_each(&mut run)?;
    refuse_running(host, prefix)?;
    plan.removals.iter().try_for_each(&mut run)
}

/// What was removed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Directory of the installation.
    prefix: PathBuf,
    /// Whether there was something to remove.
    removed: bool,
    /// Where configuration and data were copied to.
    backup: Option<PathBuf>,
    /// What stays, because it was asked for or because something of somebody else's is in it.
    kept: Vec<PathBuf>,
    /// What else there is to know.
    notes: Vec<String>,
}

fn report(
    prefix: &Prefix,
    backup: Option<PathBuf>,
    kept: &[PathBuf],
    notes: &[String],
    output: &mut Output<'_>,
) {
    output.json(&Report {
        prefix: prefix.path().to_path_buf(),
        removed: true,
        backup,
        kept: kept.to_vec(),
        notes: notes.to_vec(),
    });
    for path in kept {
        output.line(&format!("Kept: {}", path.display()));
    }
    for note in notes {
        output.line(&format!("Note: {note}"));
    }
    output.line(&format!("Flame was removed from {}.", prefix.path().display()));
}

fn confirm(args: &UninstallArgs, prefix: &Prefix) -> Outcome<()> {
    if args.force {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::arguments(
            "uninstall asks before it removes, but there is no terminal to answer on",
        )
        .hint("use --force to remove without a question"));
    }
    let shown = prefix.path().display().to_string();
    // Without a backup a slip of the finger would cost the data.
    let (question, answers) = match args.no_backup {
        false => (
            format!("Remove Flame from {shown}? [y/N] "),
            vec!["y".to_owned(), "yes".to_owned()],
        ),
        true => (
            format!(
                "This removes Flame, its configuration and its data without a backup.\nType {shown} to do so: "
            ),
            vec![shown],
        ),
    };
    eprint!("{question}");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::arguments("cannot read the answer").because(error))?;
    let answer = answer.trim();
    if answers.iter().any(|right| answer.eq_ignore_ascii_case(right)) {
        return Ok(());
    }
    Err(Failure::arguments("nothing was removed, as you wish"))
}

fn refuse_running(host: &dyn Host, prefix: &Prefix) -> Outcome<()> {
    let running = host.running_from(&prefix.releases());
    if running.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = running
        .iter()
        .map(|process| format!("{} ({})", process.program, process.pid))
        .collect();
    Err(
        Failure::installation(format!("programs of this installation run: {}", list.join(", ")))
            .hint("stop them first, then uninstall again"),
    )
}

#[cfg(test)]
mod tests;
