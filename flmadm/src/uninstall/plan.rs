//! What an uninstall does, decided before the first of it is done.

use std::path::{Path, PathBuf};

use super::kept::{self, Kept};
use crate::backup::Backup;
use crate::change::traces;
use crate::cli::UninstallArgs;
use crate::failure::Outcome;
use crate::host::{Host, is_system};
use crate::install::{ACCOUNTS, all_accounts};
use crate::manifest::{FileKind, Manifest, UserRecord};
use crate::prefix::Prefix;
use crate::release::TEXT;
use crate::step::Step;
use crate::transaction::{Finish, ServiceBefore};
use crate::unit_removal;

/// Where what is removed waits until there is no way back.
const TRASH: &str = ".flmadm-trash";

/// A checked plan.
pub(super) struct Plan {
    /// Ends what runs.
    pub(super) stops: Vec<Step>,
    /// Removes the rest, so that it can be put back.
    pub(super) removals: Vec<Step>,
    /// What is done when nothing can fail any more.
    pub(super) finish: Vec<Finish>,
    /// Where configuration and data are copied to.
    pub(super) backup: Option<PathBuf>,
    /// What stays because it was asked for.
    pub(super) preserved: Vec<PathBuf>,
}

/// Plans the removal of what `manifest` lists.
///
/// # Errors
/// Something cannot be looked at.
pub(super) fn make(
    host: &dyn Host,
    args: &UninstallArgs,
    prefix: &Prefix,
    manifest: &Manifest,
    notes: &mut Vec<String>,
) -> Outcome<Plan> {
    let (ours, others) = unit_removal::ours(host, manifest)?;
    notes.extend(others);
    let stops = match manifest.units.is_empty() {
        true => Vec::new(),
        false => stops(host, manifest, &ours)?,
    };
    let kept = Kept::of(args, prefix);
    let mut removals = Vec::new();
    let backup = kept::backup(args, prefix);
    if let Some(Backup { parts, to }) = &backup {
        removals.extend(missing_directories(to.parent()));
        removals.push(Step::Save {
            parts: parts.clone(),
            to: to.clone(),
        });
    }
    let mut finish = Vec::new();
    if !manifest.units.is_empty() {
        removals.extend(unit_removals(host, manifest, &ours)?);
        finish.push(Finish::Traces {
            traces: traces(host, manifest),
        });
    }
    let into = prefix.join(TRASH);
    removals.push(Step::Trash {
        paths: trash(prefix, manifest, &kept),
        into: into.clone(),
    });
    let keeps_something = kept.0.iter().any(|path| manifest.made(path));
    if keeps_something {
        removals.push(Step::Text {
            path: prefix.manifest(),
            text: kept.manifest(manifest, prefix).text()?,
            mode: TEXT,
        });
    } else {
        removals.push(Step::Remove {
            path: prefix.manifest(),
            directory: None,
        });
    }
    finish.extend(accounts(host, args, prefix, manifest, notes)?);
    finish.push(Finish::Tree { path: into });
    finish.push(Finish::Empty {
        paths: empty(prefix, manifest, &kept, keeps_something),
    });
    Ok(Plan {
        stops,
        removals,
        finish,
        backup: backup.map(|backup| backup.to),
        preserved: kept.0,
    })
}

/// Stops everything.
fn stops(host: &dyn Host, manifest: &Manifest, ours: &[&str]) -> Outcome<Vec<Step>> {
    let stops = unit_removal::running(host, ours)?;
    let names = manifest.names();
    let startable = stops
        .iter()
        .rev()
        .filter(|unit| unit_removal::is_startable(&names, unit));
    let services = startable.map(|unit| unit_removal::before(host, unit.clone()));
    let services = services.collect::<Outcome<Vec<ServiceBefore>>>()?;
    let mut steps = vec![Step::Services {
        services,
        traces: None,
    }];
    steps.extend(stops.into_iter().map(unit_removal::stop));
    Ok(steps)
}

fn unit_removals(host: &dyn Host, manifest: &Manifest, ours: &[&str]) -> Outcome<Vec<Step>> {
    let mut steps = unit_removal::removals(host, manifest, ours, &[])?;
    let rules = manifest.files.iter().filter(|file| file.kind == FileKind::Rule);
    steps.extend(rules.map(|record| Step::Remove {
        path: record.path.clone(),
        directory: None,
    }));
    steps.push(Step::Reload);
    Ok(steps)
}

/// Makes `directory` and those above it, as far as they are missing.
fn missing_directories(directory: Option<&Path>) -> Vec<Step> {
    let above = directory.into_iter().flat_map(Path::ancestors);
    let mut missing: Vec<Step> = above
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .map(|path| Step::Directory {
            path: path.to_path_buf(),
            mode: 0o755,
            owner: None,
            contents: false,
        })
        .collect();
    missing.reverse();
    missing
}

/// Files, and directories in which all is the installation's, that are below the prefix and have to go.
fn trash(prefix: &Prefix, manifest: &Manifest, kept: &Kept) -> Vec<PathBuf> {
    let inside = |path: &Path| path != prefix.path() && path.starts_with(prefix.path());
    let store = prefix.join(ACCOUNTS);
    let directories = manifest.directories.iter().filter(|record| record.contents);
    let whole: Vec<PathBuf> = directories
        .map(|record| record.path.clone())
        // It is still needed for the accounts.
        .filter(|path| inside(path) && *path != store)
        .collect();
    let files = manifest.files.iter().map(|record| record.path.clone());
    let single = files.filter(|path| {
        inside(path) && !kept.has(path) && !whole.iter().any(|directory| path.starts_with(directory))
    });
    let mut all: Vec<PathBuf> = single.collect();
    all.extend(whole.iter().flat_map(|directory| kept.rest_of(directory)));
    all.retain(|path| path.symlink_metadata().is_ok());
    all
}

/// Directories that go if nothing is left in them, from the inside out.
fn empty(prefix: &Prefix, manifest: &Manifest, kept: &Kept, keeps_something: bool) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = manifest
        .directories
        .iter()
        .filter(|record| !kept.has(&record.path) && !kept.is_below(&record.path))
        .filter(|record| !(keeps_something && prefix.path().starts_with(&record.path)))
        .map(|record| record.path.clone())
        .collect();
    // What is below another directory sorts after it.
    paths.sort();
    paths.reverse();
    paths
}

/// Removes the accounts if that is asked for, and in any case what is remembered of them.
fn accounts(
    host: &dyn Host,
    args: &UninstallArgs,
    prefix: &Prefix,
    manifest: &Manifest,
    notes: &mut Vec<String>,
) -> Outcome<Option<Finish>> {
    let Some(UserRecord { name, created }) = &manifest.user else {
        if args.remove_user {
            notes.push("this installation has no user of its own".to_owned());
        }
        return Ok(None);
    };
    let mut unwanted = Vec::new();
    if !args.remove_user {
        notes.push(format!("the user {name} stays; --remove-user removes it"));
    } else {
        for account in all_accounts(&manifest.names()) {
            match account.look_up(host)? {
                Some(number) if created.is_none() && !is_system(number) => notes.push(format!(
                    "the {account} stays: it was there before, and is a person's account"
                )),
                Some(_) => unwanted.push(account),
                None => {}
            }
        }
    }
    Ok(Some(Finish::Accounts {
        accounts: unwanted,
        record: created.clone().filter(|_| args.remove_user),
        store: prefix.join(ACCOUNTS),
    }))
}
