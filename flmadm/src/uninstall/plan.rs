//! What an uninstall does, decided before the first of it is done.

use std::path::{Path, PathBuf};

use super::kept::{self, Kept};
use crate::backup::Backup;
use crate::change::traces;
use crate::cli::UninstallArgs;
use crate::failure::Outcome;
use crate::host::{Host, is_system};
use crate::install::{ACCOUNTS, all_accounts, drop_ins};
use crate::manifest::{FileKind, Manifest, UserRecord};
use crate::prefix::Prefix;
use crate::profile::MORE_AGENTS;
use crate::release::TEXT;
use crate::step::Step;
use crate::transaction::{Finish, ServiceBefore};
use crate::unit_files::{self, Owner};

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
    let ours = ours(host, manifest, notes)?;
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

/// The units that are this installation's, also without their files or masked: another one may have taken a name over.
fn ours<'a>(host: &dyn Host, manifest: &'a Manifest, notes: &mut Vec<String>) -> Outcome<Vec<&'a str>> {
    let mut units = Vec::new();
    for unit in manifest.units.iter().map(String::as_str) {
        let path = host.unit_directory().join(unit);
        let of_package = |directory: &PathBuf| directory.join(unit).exists();
        match unit_files::owner(&path)? {
            Owner::Prefix(of) if of == manifest.prefix => units.push(unit),
            Owner::Nobody if host.package_unit_directories().iter().any(of_package) => {}
            Owner::Nobody | Owner::Mask => units.push(unit),
            _ => notes.push(format!(
                "{} belongs to another installation now and stays",
                path.display()
            )),
        }
    }
    Ok(units)
}

/// Stops everything. The target last stops nothing more, the agent before the manager can still say goodbye.
/// Executors come after the agent, which ends them in order.
fn stops(host: &dyn Host, manifest: &Manifest, ours: &[&str]) -> Outcome<Vec<Step>> {
    let systemd = host.systemd()?;
    let (mut services, mut stops) = (Vec::new(), Vec::new());
    for unit in ours.iter().rev() {
        match unit_files::is_template(unit) {
            false => stops.push((*unit).to_owned()),
            true => stops.extend(systemd.loaded(&unit_files::instances(unit))?),
        }
    }
    let more = manifest.names().own(MORE_AGENTS);
    let is_agent =
        |unit: &str| unit.split_once('@').map(|(name, _)| name) == more.split_once('@').map(|(name, _)| name);
    for unit in stops.iter().rev() {
        // Executors cannot be started again by anybody but their agent.
        if unit.contains('@') && !is_agent(unit) {
            continue;
        }
        let status = systemd.status(unit)?;
        services.push(ServiceBefore {
            unit: unit.clone(),
            active: status.is_active(),
            invocation: status.invocation_id,
        });
    }
    let mut steps = vec![Step::Services {
        services,
        traces: None,
    }];
    steps.extend(stops.into_iter().map(|unit| Step::Stop {
        unit,
        executors: Vec::new(),
    }));
    Ok(steps)
}

fn unit_removals(host: &dyn Host, manifest: &Manifest, ours: &[&str]) -> Outcome<Vec<Step>> {
    let mut steps = Vec::new();
    let mut enabled: Vec<String> = manifest
        .installable()
        .filter(|unit| ours.contains(unit))
        .map(str::to_owned)
        .collect();
    enabled.extend(enabled_instances(host, &manifest.names().own(MORE_AGENTS)));
    if !enabled.is_empty() {
        steps.push(Step::Disable { units: enabled });
    }
    let remove = |path: PathBuf, directory: Option<PathBuf>| Step::Remove { path, directory };
    for unit in ours {
        steps.push(remove(host.unit_directory().join(unit), None));
    }
    // systemd does not find those of a unit that is masked, or whose file is gone.
    for link in links(host, ours) {
        let directory = link.parent().filter(|parent| *parent != host.unit_directory());
        let directory = directory.map(Path::to_path_buf);
        steps.push(remove(link, directory));
    }
    for path in drop_ins(host, &manifest.names()) {
        if unit_files::is_of(&path, &manifest.prefix)? {
            let directory = path.parent().map(Path::to_path_buf);
            steps.push(remove(
                path,
                directory.filter(|directory| manifest.made(directory)),
            ));
        }
    }
    for record in manifest.files.iter().filter(|file| file.kind == FileKind::Rule) {
        steps.push(remove(record.path.clone(), None));
    }
    steps.push(Step::Reload);
    Ok(steps)
}

/// Links through which `units` start at boot, and their other names.
fn links(host: &dyn Host, units: &[&str]) -> Vec<PathBuf> {
    let is_one = |name: Option<&std::ffi::OsStr>| units.iter().any(|unit| name == Some(unit.as_ref()));
    let found = walkdir::WalkDir::new(host.unit_directory())
        .min_depth(1)
        .max_depth(2)
        .sort_by_file_name();
    found
        .into_iter()
        .flatten()
        .filter(|entry| entry.path_is_symlink())
        .map(walkdir::DirEntry::into_path)
        .filter(|link| is_one(link.file_name()) || link.read_link().is_ok_and(|to| is_one(to.file_name())))
        .collect()
}

/// Instances of `template` that start at boot: disabling the template would remove their links, but could not be undone.
fn enabled_instances(host: &dyn Host, template: &str) -> Vec<String> {
    let Some((name, _)) = template.split_once("@.") else {
        return Vec::new();
    };
    let links = walkdir::WalkDir::new(host.unit_directory())
        .min_depth(2)
        .max_depth(2);
    let mut found: Vec<String> = links
        .into_iter()
        .flatten()
        .filter(|entry| entry.path_is_symlink())
        .filter_map(|entry| entry.file_name().to_str().map(str::to_owned))
        .filter(|unit| unit.starts_with(&format!("{name}@")) && unit.ends_with(".service"))
        .collect();
    found.sort();
    found.dedup();
    found
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
