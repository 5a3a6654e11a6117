//! `flmadm logs`: what the services of an installation logged, from the journal or from files.

mod entry;
mod files;
mod since;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::cli::{OutputArg, PrefixArg};
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::host::sight::JournalQuery;
use crate::installed::{self, Installed};
use crate::output::Output;
use crate::services::{Names, spellings};
use crate::unit_files::instances;

pub(crate) use entry::Entry;

/// Lines that are shown if nothing else is asked for.
const DEFAULT_LINES: u32 = 100;

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Units, also as session-manager, node-agent, node-agent@NAME or executor@SLOT [default: all services]
    #[arg(value_name = "UNIT")]
    pub(crate) units: Vec<String>,
    /// Wait for more lines
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Number of lines, the last ones [default: 100, or all with --since]
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) lines: Option<u32>,
    /// Lines from then on: 90s, 30m, 2h or 1d before now, today, 2026-01-31, or "2026-01-31 14:00"
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Executors, too
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// What of a log is wanted.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    last: Option<u32>,
    since_us: Option<i64>,
    follow: bool,
}

impl Wanted {
    fn of(args: &LogsArgs) -> Outcome<Self> {
        let since_us = match &args.since {
            Some(text) => Some(since::parse(text, &Zoned::now())?),
            None => None,
        };
        if args.follow && since_us.is_some() && args.lines.is_some() {
            return Err(
                Failure::arguments("--lines, --since and --follow do not go together")
                    .hint("with --follow, leave out --lines or --since"),
            );
        }
        Ok(Self {
            last: args.lines.or(match since_us {
                Some(_) => None,
                None => Some(DEFAULT_LINES),
            }),
            since_us,
            follow: args.follow,
        })
    }
}

/// Shows the logs.
///
/// # Errors
/// A name or a time is none, or the log cannot be read.
pub(crate) fn run(host: &dyn Host, args: &LogsArgs, output: &mut Output<'_>) -> Outcome<()> {
    let installed = installed::find(&args.at)?;
    let wanted = Wanted::of(args)?;
    let zone = TimeZone::system();
    match installed.manifest.units.is_empty() {
        true => of_files(&installed, args, wanted, &zone, output),
        false => of_journal(host, &installed, args, wanted, &zone, output),
    }
}

/// Prints an entry; breaks when nobody reads.
fn print(entry: &Entry, zone: &TimeZone, output: &mut Output<'_>) -> ControlFlow<()> {
    let printed = match output.is_for_people() {
        true => output.stream(&entry.line(zone)),
        false => output.stream_json(entry),
    };
    match printed {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    }
}

fn of_journal(
    host: &dyn Host,
    installed: &Installed,
    args: &LogsArgs,
    wanted: Wanted,
    zone: &TimeZone,
    output: &mut Output<'_>,
) -> Outcome<()> {
    // With --since, journalctl would take the first lines from then on.
    let keep = wanted.last.filter(|_| wanted.since_us.is_some());
    let query = JournalQuery {
        units: units(installed, args)?,
        lines: wanted.last.filter(|_| keep.is_none()),
        since_us: wanted.since_us,
        follow: wanted.follow,
        ..JournalQuery::default()
    };
    let mut kept = VecDeque::new();
    host.sight().journal(&query, &mut |line| {
        let Some(entry) = Entry::parse(line) else {
            return ControlFlow::Continue(());
        };
        let Some(keep) = keep else {
            return print(&entry, zone, output);
        };
        kept.push_back(entry);
        if kept.len() > usize::try_from(keep).unwrap_or(usize::MAX) {
            kept.pop_front();
        }
        ControlFlow::Continue(())
    })?;
    let _ = kept.iter().try_for_each(|entry| print(entry, zone, output));
    Ok(())
}

/// Units, and patterns of those that come and go.
fn units(installed: &Installed, args: &LogsArgs) -> Outcome<Vec<String>> {
    let names = Names::new(installed, Vec::new());
    let (executors, services): (Vec<&String>, Vec<&String>) = args
        .units
        .iter()
        .partition(|word| executor(installed, word).is_some());
    let services: Vec<String> = services.into_iter().cloned().collect();
    let mut units: Vec<String> = executors
        .into_iter()
        .filter_map(|word| executor(installed, word))
        .collect();
    if args.units.is_empty() || !services.is_empty() {
        let chosen = names.choose(&services)?;
        let further = |unit: &String| chosen.all && unit.contains('@');
        units.extend(chosen.units.iter().filter(|unit| !further(unit)).cloned());
        if chosen.all && installed.has_further_agents() {
            units.push(installed.further_agent("*"));
        }
    }
    if args.all {
        units.extend(installed.executor_templates().map(|template| instances(template)));
    }
    Ok(units)
}

/// The unit of the executor that `word` names.
fn executor(installed: &Installed, word: &str) -> Option<String> {
    let family = format!("{}-", installed.manifest.names().stem());
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let is_one = |unit: &String| {
        let slot = unit
            .trim_end_matches(".service")
            .split_once('@')
            .map(|(_, slot)| slot);
        installed.is_executor(unit) && slot.is_some_and(|slot| !slot.is_empty() && slot.chars().all(plain))
    };
    spellings(&family, word).into_iter().find(is_one)
}

fn of_files(
    installed: &Installed,
    args: &LogsArgs,
    wanted: Wanted,
    zone: &TimeZone,
    output: &mut Output<'_>,
) -> Outcome<()> {
    let directory = installed.prefix.join("logs");
    let look = || {
        let found = files::find(&directory, args.all)?;
        let is_meant = |path: &PathBuf| means(&args.units, &directory, path);
        Ok(found.into_iter().filter(is_meant).collect::<Vec<_>>())
    };
    let found = look()?;
    if found.is_empty() && !args.units.is_empty() {
        let names: Vec<String> = files::find(&directory, args.all)?
            .iter()
            .map(|path| files::name(&directory, path))
            .collect();
        return Err(
            Failure::arguments(format!("there is no log of {}", args.units.join(", "))).hint(
                match names.is_empty() {
                    true => format!("nothing has been logged to {} yet", directory.display()),
                    false => format!("there are: {}", names.join(", ")),
                },
            ),
        );
    }
    let mut reader = files::Reader::default();
    let mut entries = reader.read(&directory, &found)?;
    if let Some(since) = wanted.since_us {
        entries.retain(|entry| entry.time_us.is_some_and(|time| time >= since));
    }
    let last = wanted.last.and_then(|last| usize::try_from(last).ok());
    let skipped = last.map_or(0, |last| entries.len().saturating_sub(last));
    for entry in entries.iter().skip(skipped) {
        if print(entry, zone, output).is_break() {
            return Ok(());
        }
    }
    match wanted.follow {
        true => reader.follow(&look, &directory, &mut |entry| print(entry, zone, output)),
        false => Ok(()),
    }
}

/// Whether `words`, names of units or files, mean the file; without any, every file is meant.
fn means(words: &[String], directory: &Path, path: &Path) -> bool {
    let name = files::name(directory, path);
    let short = |text: &str| {
        let text = text.trim_end_matches(".service");
        text.strip_prefix("flame-").unwrap_or(text).to_owned()
    };
    words.is_empty() || words.iter().any(|word| short(word) == short(&name))
}

#[cfg(test)]
mod tests;
