//! `flmadm rollback`: an earlier release becomes the current one again, with the units that it had.

use clap::Args;

use super::{HealthArgs, fit, runs, started};
use crate::change::{self, Change};
use crate::cli::{OutputArg, PrefixArg};
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::install::{self, Report, UNITS};
use crate::manifest::{FileKind, FileRecord, Manifest, sha256};
use crate::output::Output;
use crate::prefix::Prefix;
use crate::release::{GOOD, Record, TEXT};
use crate::step::Step;
use crate::unit_removal;

/// Arguments of `flmadm rollback`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    /// Release to go back to, see flmadm releases [default: the newest other one that has worked]
    #[arg(long, value_name = "RELEASE")]
    pub(crate) to: Option<String>,
    #[command(flatten)]
    pub(crate) health: HealthArgs,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// Switches to another release that is there.
///
/// # Errors
/// [`Failure`]; the current release stays.
pub(crate) fn run(host: &dyn Host, args: &RollbackArgs, output: &mut Output<'_>) -> Outcome<()> {
    let (prefix, old) = args.at.find()?;
    let has_units = fit(host, &prefix, old.as_ref())?;
    let locks = change::enter(host, &prefix, has_units, output)?;
    let (prefix, Some(old)) = args.at.find()? else {
        return Err(install::none_there(&args.at.prefix()?));
    };
    let target = chosen(&prefix, &old, args.to.as_deref())?;
    let record = Record::load(&prefix.release(&target))?.ok_or_else(|| {
        Failure::installation(format!("the release {target} is not there any more"))
            .hint("flmadm releases shows those that are")
    })?;
    let is_tried = runs(host, &old)?;
    let (steps, manifest) = plan(host, &prefix, &old, &target, &record, is_tried)?;
    let change = Change {
        verb: "rollback",
        prefix: &prefix,
        old: Some(&old),
        new: &manifest,
        steps: &steps,
        finish: Vec::new(),
        start: started(is_tried),
        limit: args.health.limit(),
        keep_failed: args.health.keep_failed,
    };
    let done = change.run(host, output)?;
    drop(locks);
    let report = Report::new(&manifest, Some(&old), done, &[], Vec::new(), true);
    install::say(host, &report, output);
    Ok(())
}

/// The release to go back to.
fn chosen(prefix: &Prefix, old: &Manifest, asked: Option<&str>) -> Outcome<String> {
    let others = || old.releases.iter().filter(|id| **id != old.release);
    let names: Vec<&str> = others().map(String::as_str).collect();
    if let Some(asked) = asked {
        if asked == old.release {
            return Err(Failure::arguments(format!(
                "{asked} is the current release already"
            )));
        }
        return match others().find(|id| *id == asked) {
            Some(id) => Ok(id.clone()),
            None => Err(Failure::arguments(format!("there is no release {asked}")).hint(
                match names.is_empty() {
                    true => "there is no other than the current one".to_owned(),
                    false => format!("there are {}", names.join(", ")),
                },
            )),
        };
    }
    // Without services nothing can have proved itself.
    let is_good = |id: &&String| old.units.is_empty() || prefix.release(id).join(GOOD).exists();
    others().rev().find(is_good).cloned().ok_or_else(|| {
        Failure::installation("there is no earlier release that has worked").hint(match names.is_empty() {
            true => "flmadm releases shows what is there".to_owned(),
            false => format!("--to RELEASE takes one nevertheless: {}", names.join(", ")),
        })
    })
}

/// The steps to `target`, and what is installed then.
fn plan(
    host: &dyn Host,
    prefix: &Prefix,
    old: &Manifest,
    target: &str,
    record: &Record,
    is_tried: bool,
) -> Outcome<(Vec<Step>, Manifest)> {
    let directory = prefix.release(target);
    let mut new = old.clone();
    target.clone_into(&mut new.release);
    new.version.clone_from(&record.version);
    new.profiles.clone_from(&record.profiles);
    new.units.clone_from(&record.units);
    // The newest is the one that rollback would not choose next.
    new.releases.retain(|id| id != target);
    new.releases.push(target.to_owned());
    let of_units = |file: &FileRecord| matches!(file.kind, FileKind::Unit | FileKind::Rule);
    let mut steps = unit_removal::gone(host, old, &new.units)?;
    let removed = unit_removal::removed(&steps);
    new.files
        .retain(|file| !of_units(file) && !removed.contains(&file.path));
    let texts = record
        .files
        .keys()
        .filter_map(|path| path.strip_prefix(UNITS)?.strip_prefix('/'));
    for name in texts {
        let source = directory.join(UNITS).join(name);
        let text = std::fs::read_to_string(&source).map_err(|error| Failure::path("read", &source, error))?;
        let (kind, path) = match name.ends_with(".rules") {
            true => (FileKind::Rule, host.rules_directory().join(name)),
            false => (FileKind::Unit, host.unit_directory().join(name)),
        };
        new.files.push(FileRecord {
            path: path.clone(),
            kind,
            sha256: sha256(text.as_bytes()),
        });
        steps.push(Step::Text {
            path,
            text,
            mode: TEXT,
        });
    }
    let gone = old.files.iter().filter(|file| file.kind == FileKind::Rule);
    for file in gone.filter(|file| !new.files.iter().any(|newer| newer.path == file.path)) {
        steps.push(Step::Remove {
            path: file.path.clone(),
            directory: None,
        });
    }
    let link = std::path::Path::new("releases").join(target);
    for file in new.files.iter_mut().filter(|file| file.path == prefix.current()) {
        file.sha256 = link.display().to_string();
    }
    steps.push(Step::Link {
        path: prefix.current(),
        target: link,
    });
    let good = directory.join(GOOD);
    if is_tried && !new.files.iter().any(|file| file.path == good) {
        new.files.push(FileRecord {
            path: good,
            kind: FileKind::Release,
            sha256: sha256(install::GOOD_TEXT.as_bytes()),
        });
    }
    new.files.sort_by(|one, other| one.path.cmp(&other.path));
    steps.push(Step::Text {
        path: prefix.manifest(),
        text: new.text()?,
        mode: TEXT,
    });
    if !new.units.is_empty() || !old.units.is_empty() {
        steps.push(Step::Reload);
    }
    Ok((steps, new))
}
