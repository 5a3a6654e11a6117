//! `flmadm repair`: finishes or undoes a change that was interrupted.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::{OutputArg, PrefixArg};
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::output::Output;
use crate::transaction::{Interrupted, Patience, lock};

/// Arguments of `flmadm repair`.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// What was put in order.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Whether there was anything to do.
    repaired: bool,
    /// The command that was interrupted.
    verb: Option<String>,
    /// Version of the flmadm that ran it.
    version: Option<String>,
    /// Whether it had passed the point of no return and was finished; else it was undone.
    finished: bool,
    /// Steps that were undone, newest first.
    undone: Vec<String>,
    /// What else there is to know.
    notes: Vec<String>,
}

/// Waits until nobody else changes the installation, looks for an interrupted change and puts it in order.
///
/// # Errors
/// Something could not be done; it can be tried again.
pub(crate) fn run(host: &dyn Host, args: &RepairArgs, output: &mut Output<'_>) -> Outcome<()> {
    let prefix = args.at.prefix()?;
    // It is known only from the journal whether units are touched; root's changes mostly do. Whoever has the lock may be
    // the change itself, or systemd's own repair of it.
    output.doing("the end of what another flmadm does here");
    let locks = lock(host, &prefix, host.rules_units(), Patience::Forever)?;
    let mut report = Report::default();
    match Interrupted::find(&prefix, true)? {
        None => output.line("There is nothing to repair."),
        Some(interrupted) => {
            output.line(&format!("Found: {}.", interrupted.describe()));
            let place = interrupted.place().to_path_buf();
            let repaired = interrupted.repair(host, output).map_err(|failure| {
                denied(host, failure).also(format!("the journal is {}", place.join("journal").display()))
            })?;
            output.line(match repaired.finished {
                true => "It was finished.",
                false => "It was undone: everything is as it was before.",
            });
            report = Report {
                repaired: true,
                verb: Some(repaired.verb),
                version: Some(repaired.version),
                finished: repaired.finished,
                undone: repaired.undone,
                notes: repaired.left.notes,
            };
            let kept = repaired.left.kept.iter();
            report.notes.extend(
                kept.map(|path| format!("{} stays: there is something of yours in it", path.display())),
            );
        }
    }
    drop(locks);
    for note in &report.notes {
        output.line(&format!("Note: {note}"));
    }
    output.json(&report);
    Ok(())
}

fn denied(host: &dyn Host, failure: Failure) -> Failure {
    match host.is_root() {
        true => failure,
        false => failure.hint("run it as the user who ran the interrupted command"),
    }
}
