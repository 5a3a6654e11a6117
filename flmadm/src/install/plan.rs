//! What an installation would change: decided before the first change, from what is there.

mod release;
mod services;
mod settings;

use std::path::{Path, PathBuf};

use flame_core::{HostNames, InstanceName};

use super::extras::Extras;
use super::preflight;
use crate::cluster_config::{self, Decision};
use crate::failure::Outcome;
use crate::host::Host;
use crate::manifest::{DirectoryRecord, FORMAT, FileKind, FileRecord, Manifest, sha256};
use crate::node_config::{self, AgentFile};
use crate::ports;
use crate::prefix::Prefix;
use crate::profile::{FLMADM, Profile};
use crate::programs::Programs;
use crate::release::{GOOD, Release, TEXT};
use crate::restore;
use crate::step::Step;
use crate::transaction::{Finish, Place};
use crate::unit_files;
use crate::work_directories;

pub(crate) use release::{UNITS, forget_release};
pub(crate) use services::{ACCOUNTS, all_accounts, drop_ins};

/// Releases that are kept: the current one and the two before.
const KEPT_RELEASES: usize = 3;
/// What the mark of a release says that has worked.
pub(crate) const GOOD_TEXT: &str =
    "This release has worked here: its services were ready and a task went through.\n";

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) prefix: &'a Prefix,
    /// What is installed there.
    pub(crate) old: Option<&'a Manifest>,
    pub(crate) instance: Option<InstanceName>,
    pub(crate) has_units: bool,
    /// All profiles of the installation after this.
    pub(crate) profiles: Vec<Profile>,
    /// What is installed.
    pub(crate) programs: &'a Programs,
    /// Endpoint for a new configuration.
    pub(crate) endpoint: Option<&'a str>,
    /// Whether configuration and units of others may be replaced.
    pub(crate) force: bool,
    /// Whether the services will be started and tried.
    pub(crate) is_tried: bool,
    /// Backup to take configuration and data from.
    pub(crate) restore: Option<&'a Path>,
    /// What it has besides programs and services.
    pub(crate) extras: Extras,
}

/// A checked plan.
pub(crate) struct Plan {
    /// What is done, in this order.
    pub(crate) steps: Vec<Step>,
    /// What is left to do when nothing can fail any more.
    pub(crate) finish: Vec<Finish>,
    /// What will be installed then.
    pub(crate) manifest: Manifest,
    /// Address of the session manager, if this run has chosen it.
    pub(crate) endpoint: Option<String>,
    /// What the agents of this machine will use.
    pub(crate) agents: Vec<AgentFile>,
    /// Where executors in units may write besides their own directories.
    pub(crate) work_directories: Vec<PathBuf>,
}

/// The profiles of the installation after this one: those that are there already are kept.
pub(crate) fn profiles(old: Option<&Manifest>, selected: &[Profile]) -> Vec<Profile> {
    let before = old
        .map(|manifest| manifest.profiles.as_slice())
        .unwrap_or_default();
    crate::profile::ALL
        .into_iter()
        .filter(|profile| before.contains(profile) || selected.contains(profile))
        .collect()
}

/// All programs of `profiles`.
pub(crate) fn programs(profiles: &[Profile]) -> Vec<&'static str> {
    let all = profiles.iter().flat_map(|profile| profile.programs());
    all.copied().chain([FLMADM]).collect()
}

/// Plans an installation on a machine that is known to be fit.
///
/// # Errors
/// Something forbids it; nothing has been changed.
pub(crate) fn make(host: &dyn Host, request: &Request<'_>) -> Outcome<Plan> {
    let Request {
        prefix,
        old,
        profiles,
        ..
    } = request;
    // What is there keeps its name, also if it is not said again.
    let instance = match old {
        Some(old) if old.is_installed() => old.instance.clone(),
        _ => request.instance.clone(),
    };
    let names = HostNames::new(instance.clone());
    let scope = host.scope();
    let made = |path: &Path| old.is_some_and(|old| old.made(path));
    let place = Place::of(prefix, &made);
    let units = match request.has_units {
        true => unit_files::render(prefix, &names, scope, place.path(), profiles),
        false => Vec::new(),
    };
    preflight::units(host, request, &names, &units)?;
    preflight::writable(prefix)?;
    let works = profiles.contains(&Profile::Worker);
    let agents = match works {
        true => node_config::read_in(&conf(request))?,
        false => Vec::new(),
    };
    // Only services of the machine have accounts, and executors in units, of their own.
    let has_accounts = scope.is_system() && !units.is_empty();
    let work_directories = match has_accounts {
        false => Vec::new(),
        true => work_directories::checked(prefix, &agents)?,
    };
    let owner = has_accounts.then(|| names.stem());
    let mut planner = Planner {
        prefix,
        names,
        steps: Vec::new(),
        finish: Vec::new(),
        manifest: Manifest {
            format: FORMAT,
            version: request.programs.version(),
            release: String::new(),
            releases: old.map(|old| old.releases.clone()).unwrap_or_default(),
            prefix: prefix.path().to_owned(),
            instance,
            scope,
            systemd: request.has_units,
            profiles: profiles.clone(),
            units: units.iter().map(|unit| unit.name.clone()).collect(),
            user: old.and_then(|old| old.user.clone()),
            directories: old.map(|old| old.directories.clone()).unwrap_or_default(),
            files: Vec::new(),
        },
    };
    planner.outer_directories();
    if owner.is_some() {
        planner.accounts(host, request.force)?;
    }
    planner.inner_directories(owner.as_deref());
    let release = planner.release(request, scope, &units)?;
    planner.restore(request, owner.as_deref())?;
    let mut chosen = None;
    if request.restore.and_then(restore::config).is_none() {
        let otherwise = new_endpoint(host, prefix, request.force, &planner.manifest)?;
        let decision = cluster_config::decide(prefix, request.endpoint, &otherwise, request.force)?;
        let is_chosen = decision != Decision::Keep && request.endpoint.is_none();
        chosen = is_chosen.then_some(otherwise);
        planner.config(decision);
    }
    planner.gone_units(host, *old)?;
    planner.units(host, &units);
    if works
        && request
            .restore
            .is_none_or(|from| !from.join("conf").join(node_config::FILE).exists())
    {
        planner.node_config();
    }
    if works && has_accounts {
        planner.rule(host);
        planner.drop_ins(host, &work_directories)?;
    }
    planner.switch(&release)?;
    planner.python(request, &release)?;
    planner.finish(*old, request.is_tried, &release)?;
    if !units.is_empty() {
        planner.steps.push(Step::Reload);
    }
    Ok(Plan {
        steps: planner.steps,
        finish: planner.finish,
        manifest: planner.manifest,
        endpoint: chosen,
        agents,
        work_directories,
    })
}

/// Where the configuration is now that the installation will have.
fn conf(request: &Request<'_>) -> PathBuf {
    let of_backup = request.restore.map(|from| from.join("conf"));
    let restored = of_backup.filter(|conf| conf.is_dir());
    restored.unwrap_or_else(|| request.prefix.join("conf"))
}

/// Where the session manager is reached if nobody says it: one of several on a host has ports of its own, and that of a
/// user seldom is the only one.
pub(super) fn new_endpoint(
    host: &dyn Host,
    prefix: &Prefix,
    force: bool,
    manifest: &Manifest,
) -> Outcome<String> {
    let is_new = force || !prefix.config().exists();
    let is_of_several = manifest.instance.is_some() || !manifest.scope.is_system();
    match is_new && is_of_several && manifest.profiles.contains(&Profile::ControlPlane) {
        true => ports::free_endpoint(host, prefix),
        false => Ok(cluster_config::DEFAULT_ENDPOINT.to_owned()),
    }
}

struct Planner<'a> {
    prefix: &'a Prefix,
    names: HostNames,
    steps: Vec<Step>,
    finish: Vec<Finish>,
    manifest: Manifest,
}

impl Planner<'_> {
    fn directory(&mut self, path: PathBuf, mode: u32, owner: Option<&str>, contents: bool) {
        if !path.exists() && !self.manifest.made(&path) {
            self.manifest.directories.push(DirectoryRecord {
                path: path.clone(),
                contents,
            });
        }
        let owner = owner.map(str::to_owned);
        self.steps.push(Step::Directory {
            path,
            mode,
            owner,
            contents,
        });
    }

    /// A directory for anybody to look into, with its parents, as far as they are missing.
    fn missing_directories(&mut self, path: &Path) {
        let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
        for path in missing.into_iter().rev() {
            self.directory(path.to_path_buf(), 0o755, None, false);
        }
    }

    /// The prefix with its missing parents, and where programs and settings lie.
    fn outer_directories(&mut self) {
        self.missing_directories(self.prefix.path());
        self.directory(self.prefix.releases(), 0o755, None, false);
        self.directory(self.prefix.join("conf"), 0o755, None, true);
    }

    /// What the services write to.
    fn inner_directories(&mut self, owner: Option<&str>) {
        for (below, mode) in [("data", 0o700), ("work", 0o750), ("logs", 0o750)] {
            self.directory(self.prefix.join(below), mode, owner, true);
        }
    }

    fn text(&mut self, path: PathBuf, kind: FileKind, text: String) {
        self.record(&path, kind, sha256(text.as_bytes()));
        self.steps.push(Step::Text {
            path,
            text,
            mode: TEXT,
        });
    }

    fn record(&mut self, path: &Path, kind: FileKind, sha256: String) {
        self.manifest.files.push(FileRecord {
            path: path.to_path_buf(),
            kind,
            sha256,
        });
    }

    /// The manifest, as what the installation will be. Releases that are too many go when everything works.
    fn finish(&mut self, old: Option<&Manifest>, is_tried: bool, release: &Release) -> Outcome<()> {
        let good = self.prefix.release(&release.id).join(GOOD);
        if is_tried {
            self.record(&good, FileKind::Release, sha256(GOOD_TEXT.as_bytes()));
        }
        // Files of an earlier installation stay its own: the kept configuration, other releases.
        let known = old.map(|old| old.files.as_slice()).unwrap_or_default();
        for file in known {
            let is_kept = match file.kind {
                // Drop-ins are made anew from the settings, and all units from this version.
                FileKind::DropIn | FileKind::Unit => false,
                _ => true,
            };
            if is_kept && !self.manifest.files.iter().any(|newer| newer.path == file.path) {
                self.manifest.files.push(file.clone());
            }
        }
        let surplus = self.manifest.releases.len().saturating_sub(KEPT_RELEASES);
        let unwanted: Vec<String> = self.manifest.releases.drain(..surplus).collect();
        for id in unwanted {
            self.finish
                .extend(forget_release(self.prefix, &mut self.manifest, &id));
        }
        // In one order, so that a run without a change writes the same manifest.
        self.manifest
            .files
            .sort_by(|one, other| one.path.cmp(&other.path));
        self.steps.push(Step::Text {
            path: self.prefix.manifest(),
            text: self.manifest.text()?,
            mode: TEXT,
        });
        Ok(())
    }
}
