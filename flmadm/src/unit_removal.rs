//! Units that an installation will not have any more: what runs of them is stopped, what starts at boot is disabled,
//! and then their files are removed.

use std::path::{Path, PathBuf};

use flame_core::HostNames;

use crate::failure::Outcome;
use crate::host::Host;
use crate::install::drop_ins;
use crate::manifest::Manifest;
use crate::profile::MORE_AGENTS;
use crate::step::Step;
use crate::transaction::ServiceBefore;
use crate::unit_files::{self, Owner, RECOVERY};

/// Steps for the units of `old` that are not among `new`. Those whose files are another installation's by now are left
/// alone.
///
/// # Errors
/// Something cannot be looked at.
pub(crate) fn gone(host: &dyn Host, old: &Manifest, new: &[String]) -> Outcome<Vec<Step>> {
    let (mut units, _others) = ours(host, old)?;
    units.retain(|unit| !new.iter().any(|staying| staying == unit));
    if units.is_empty() {
        return Ok(Vec::new());
    }
    // It watches over this very change, and ends with it.
    let recovery = old.names().own(RECOVERY);
    let mut stopped = running(host, &units)?;
    stopped.retain(|unit| *unit != recovery);
    let mut steps: Vec<Step> = stopped.into_iter().map(stop).collect();
    steps.extend(removals(host, old, &units, new)?);
    Ok(steps)
}

/// The units that are this installation's, also without their files or masked: another one may have taken a name over.
/// Gives lines about those.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn ours<'a>(host: &dyn Host, manifest: &'a Manifest) -> Outcome<(Vec<&'a str>, Vec<String>)> {
    let (mut units, mut others) = (Vec::new(), Vec::new());
    for unit in manifest.units.iter().map(String::as_str) {
        let path = host.unit_directory().join(unit);
        let of_package = |directory: &PathBuf| directory.join(unit).exists();
        match unit_files::owner(&path)? {
            Owner::Prefix(of) if of == manifest.prefix => units.push(unit),
            Owner::Nobody if host.package_unit_directories().iter().any(of_package) => {}
            Owner::Nobody | Owner::Mask => units.push(unit),
            _ => others.push(format!(
                "{} belongs to another installation now and stays",
                path.display()
            )),
        }
    }
    Ok((units, others))
}

/// The step that stops a unit.
pub(crate) fn stop(unit: String) -> Step {
    Step::Stop {
        unit,
        executors: Vec::new(),
    }
}

/// What may run of `units`, which are in the order of their starts, in the order in which it is stopped. The target last
/// stops nothing more, the agent before the manager can still say goodbye. Executors come after the agent, which ends
/// them in order.
///
/// # Errors
/// systemd cannot be asked.
pub(crate) fn running(host: &dyn Host, units: &[&str]) -> Outcome<Vec<String>> {
    let systemd = host.systemd()?;
    let mut all = Vec::new();
    for unit in units.iter().rev() {
        match unit_files::is_template(unit) {
            false => all.push((*unit).to_owned()),
            true => all.extend(systemd.loaded(&unit_files::instances(unit))?),
        }
    }
    Ok(all)
}

/// Whether a unit can be started again by us: executors are started by their agent alone.
pub(crate) fn is_startable(names: &HostNames, unit: &str) -> bool {
    let more = names.own(MORE_AGENTS);
    let stem = |unit: &str| unit.split_once('@').map(|(stem, _)| stem.to_owned());
    !unit.contains('@') || stem(unit) == stem(&more)
}

/// What a unit does before anything is changed.
///
/// # Errors
/// systemd cannot be asked.
pub(crate) fn before(host: &dyn Host, unit: String) -> Outcome<ServiceBefore> {
    let status = host.systemd()?.status(&unit)?;
    Ok(ServiceBefore {
        unit,
        active: status.is_active(),
        invocation: status.invocation_id,
    })
}

/// Steps that disable `units` of `manifest` and remove their files, with the drop-ins of templates that do not stay.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn removals(
    host: &dyn Host,
    manifest: &Manifest,
    units: &[&str],
    staying: &[String],
) -> Outcome<Vec<Step>> {
    let mut steps = Vec::new();
    let installable = manifest.installable().filter(|unit| units.contains(unit));
    let mut enabled: Vec<String> = installable.map(str::to_owned).collect();
    let more = manifest.names().own(MORE_AGENTS);
    if units.contains(&more.as_str()) {
        enabled.extend(enabled_instances(host, &more));
    }
    if !enabled.is_empty() {
        steps.push(Step::Disable { units: enabled });
    }
    let files = units.iter().map(|unit| Step::Remove {
        path: host.unit_directory().join(unit),
        directory: None,
    });
    steps.extend(files);
    // systemd does not find those of a unit that is masked, or whose file is gone.
    for path in links(host, units) {
        let directory = path.parent().filter(|parent| *parent != host.unit_directory());
        let directory = directory.map(Path::to_path_buf);
        steps.push(Step::Remove { path, directory });
    }
    for path in drop_ins(host, &manifest.names()) {
        let directory = path.parent().map(Path::to_path_buf);
        let unit = directory.as_deref().and_then(Path::file_stem);
        let stays = staying.iter().any(|staying| unit == Some(staying.as_ref()));
        if !stays && unit_files::is_of(&path, &manifest.prefix)? {
            steps.push(Step::Remove {
                path,
                directory: directory.filter(|directory| manifest.made(directory)),
            });
        }
    }
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

/// Files that `steps` remove.
pub(crate) fn removed(steps: &[Step]) -> Vec<PathBuf> {
    let removed = steps.iter().filter_map(|step| match step {
        Step::Remove { path, .. } => Some(path.clone()),
        _ => None,
    });
    removed.collect()
}
