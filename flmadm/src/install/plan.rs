//! What an installation would change: decided before the first change, from what is there.

use std::path::{Path, PathBuf};

use flame_core::HostNames;

use super::preflight;
use super::step::Step;
use crate::accounts;
use crate::cli::InstallArgs;
use crate::cluster_config::{self, Decision};
use crate::failure::{Failure, Outcome};
use crate::host::{Account, Host, is_system};
use crate::manifest::{DirectoryRecord, FileKind, FileRecord, Manifest, UserRecord, sha256, sha256_of};
use crate::node_config::{self, AgentFile};
use crate::ports;
use crate::prefix::Prefix;
use crate::profile::{FLMADM, Profile};
use crate::unit_files::{self, UnitFile};
use crate::work_directories::{self, DROP_IN};

/// All accounts: the user of the services, that of applications without a sandbox, and the group of all executors.
pub(crate) fn all_accounts(names: &HostNames) -> [Account; 3] {
    [
        Account::User(names.stem()),
        Account::User(names.own("flame-exec")),
        Account::Group(names.own(work_directories::GROUP)),
    ]
}
/// Where copies of the account tools' files lie; only root may look.
pub(crate) const ACCOUNTS: &str = ".accounts";

/// A checked plan.
pub(crate) struct Plan {
    /// What is done, in this order.
    pub(crate) steps: Vec<Step>,
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

/// Plans the installation of `profiles` with the programs in `built`.
///
/// # Errors
/// Something forbids it; nothing has been changed.
pub(crate) fn make(
    host: &dyn Host,
    args: &InstallArgs,
    prefix: &Prefix,
    old: Option<&Manifest>,
    profiles: &[Profile],
    built: &Path,
) -> Outcome<Plan> {
    preflight::machine(host, args, prefix, old)?;
    unchecked(host, args, prefix, old, profiles, built)
}

/// As [`make`], on a machine that is known to be fit.
pub(super) fn unchecked(
    host: &dyn Host,
    args: &InstallArgs,
    prefix: &Prefix,
    old: Option<&Manifest>,
    profiles: &[Profile],
    built: &Path,
) -> Outcome<Plan> {
    // What is there keeps its name, also if it is not said again.
    let instance = match old {
        Some(old) if old.is_installed() => old.instance.clone(),
        _ => args.at.instance.clone(),
    };
    let names = HostNames::new(instance.clone());
    let units = if args.no_systemd {
        Vec::new()
    } else {
        unit_files::render(prefix, &names, profiles)
    };
    preflight::units(host, args, prefix, &names, &units)?;
    preflight::writable(prefix)?;
    let works = profiles.contains(&Profile::Worker);
    let agents = match works {
        true => node_config::read(prefix)?,
        false => Vec::new(),
    };
    let work_directories = match units.is_empty() {
        true => Vec::new(),
        false => work_directories::checked(prefix, &agents)?,
    };
    let owner = (!units.is_empty()).then(|| names.stem());
    let mut planner = Planner {
        prefix,
        names,
        steps: Vec::new(),
        manifest: Manifest {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            prefix: prefix.path().to_owned(),
            instance,
            systemd: !args.no_systemd,
            profiles: profiles.to_vec(),
            units: units.iter().map(|unit| unit.name.clone()).collect(),
            user: old.and_then(|old| old.user.clone()),
            directories: old.map(|old| old.directories.clone()).unwrap_or_default(),
            files: Vec::new(),
        },
    };
    planner.outer_directories();
    if owner.is_some() {
        planner.accounts(host, args.force)?;
    }
    planner.inner_directories(owner.as_deref());
    planner.programs(profiles, built)?;
    let otherwise = new_endpoint(host, args, prefix, &planner.manifest)?;
    let decision = cluster_config::decide(prefix, args.endpoint.as_deref(), &otherwise, args.force)?;
    let is_chosen = decision != Decision::Keep && args.endpoint.is_none();
    planner.config(decision);
    planner.units(host, &units);
    if works {
        planner.node_config();
    }
    if !units.is_empty() {
        if works {
            planner.executors(host);
            planner.drop_ins(host, &work_directories)?;
        }
        planner.steps.push(Step::Reload);
    }
    planner.finish(old)?;
    Ok(Plan {
        steps: planner.steps,
        manifest: planner.manifest,
        endpoint: is_chosen.then_some(otherwise),
        agents,
        work_directories,
    })
}

/// Where the session manager is reached if nobody says it: one of several on a host has ports of its own.
pub(super) fn new_endpoint(
    host: &dyn Host,
    args: &InstallArgs,
    prefix: &Prefix,
    manifest: &Manifest,
) -> Outcome<String> {
    let is_new = args.force || !prefix.config().exists();
    match is_new && manifest.instance.is_some() && manifest.profiles.contains(&Profile::ControlPlane) {
        true => ports::free_endpoint(host, prefix),
        false => Ok(cluster_config::DEFAULT_ENDPOINT.to_owned()),
    }
}

struct Planner<'a> {
    prefix: &'a Prefix,
    names: HostNames,
    steps: Vec<Step>,
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
        self.steps.push(Step::Directory { path, mode, owner });
    }

    /// A directory for anybody to look into, with its parents, as far as they are missing.
    fn missing_directories(&mut self, path: &Path) {
        let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
        for path in missing.into_iter().rev() {
            self.directory(path.to_path_buf(), 0o755, None, false);
        }
    }

    /// The prefix with its missing parents, and where programs lie.
    fn outer_directories(&mut self) {
        self.missing_directories(self.prefix.path());
        for below in ["bin", "sbin"] {
            self.directory(self.prefix.join(below), 0o755, None, false);
        }
        self.directory(self.prefix.join("conf"), 0o755, None, true);
    }

    /// What the services write to.
    fn inner_directories(&mut self, owner: Option<&str>) {
        for (below, mode) in [("data", 0o700), ("work", 0o750), ("logs", 0o750)] {
            self.directory(self.prefix.join(below), mode, owner, true);
        }
    }

    fn accounts(&mut self, host: &dyn Host, force: bool) -> Outcome<()> {
        let mut missing = Vec::new();
        let all = all_accounts(&self.names);
        let count = all.len();
        for account in all {
            match account.look_up(host)? {
                Some(number) if !is_system(number) && !force => {
                    return Err(Failure::installation(format!(
                        "the {account} is there already, and with the number {number} it is a person's account"
                    ))
                    .hint("rename that account, or use --force to let the services have it"));
                }
                Some(_) => {}
                None => missing.push(account),
            }
        }
        let known = self.manifest.user.take();
        // What the account files were like is known only before the first of them was made.
        let first = missing.len() == count;
        let record = match first {
            true => Some(accounts::look(host.account_directory())?),
            false => None,
        };
        self.manifest.user = match (known, &record) {
            (Some(known), None) => Some(known),
            (_, record) => Some(UserRecord {
                name: self.names.stem(),
                created: record.clone(),
            }),
        };
        if missing.is_empty() {
            return Ok(());
        }
        let store = self.prefix.join(ACCOUNTS);
        if !self.manifest.made(&store) {
            self.manifest.directories.push(DirectoryRecord {
                path: store.clone(),
                contents: true,
            });
        }
        self.steps.push(Step::Accounts {
            accounts: missing,
            sysusers: unit_files::sysusers(self.prefix, &self.names),
            record: record.unwrap_or_default(),
            store,
        });
        Ok(())
    }

    fn programs(&mut self, profiles: &[Profile], built: &Path) -> Outcome<()> {
        for program in programs(profiles) {
            let folder = if program == FLMADM { "sbin" } else { "bin" };
            let (from, path) = (built.join(program), self.prefix.join(folder).join(program));
            // In a dry run before the first build there is nothing to hash yet.
            let sha256 = sha256_of(&from)?.unwrap_or_default();
            self.record(&path, FileKind::Program, sha256.clone());
            self.steps.push(Step::Program { from, path, sha256 });
        }
        let target = "../sbin/flmadm";
        let path = self.prefix.bin().join(FLMADM);
        self.record(&path, FileKind::Link, target.to_owned());
        self.steps.push(Step::Link { path, target });
        Ok(())
    }

    fn config(&mut self, decision: Decision) {
        let path = self.prefix.config();
        let text = match decision {
            Decision::Keep => return,
            Decision::Create(text) => text,
            Decision::Replace(text) => {
                self.steps.push(Step::Backup { path: path.clone() });
                text
            }
        };
        self.record(&path, FileKind::Config, sha256(text.as_bytes()));
        self.steps.push(Step::Text {
            path,
            text,
            mode: 0o644,
        });
    }

    fn units(&mut self, host: &dyn Host, units: &[UnitFile]) {
        for unit in units {
            let path = host.unit_directory().join(&unit.name);
            self.record(&path, FileKind::Unit, sha256(unit.text.as_bytes()));
            self.steps.push(Step::Text {
                path,
                text: unit.text.clone(),
                mode: 0o644,
            });
        }
    }

    /// A file of settings for the agent, in which none is set, unless there is one.
    fn node_config(&mut self) {
        let path = self.prefix.join("conf").join(node_config::FILE);
        if path.symlink_metadata().is_ok() {
            return;
        }
        let text = node_config::new_text(&self.names);
        self.record(&path, FileKind::Config, sha256(text.as_bytes()));
        self.steps.push(Step::Text {
            path,
            text,
            mode: 0o644,
        });
    }

    /// Lets executors write to `directories`, and no longer to those that an earlier installation had.
    fn drop_ins(&mut self, host: &dyn Host, directories: &[PathBuf]) -> Outcome<()> {
        let text = work_directories::drop_in(self.prefix, directories);
        for path in drop_ins(host, &self.names) {
            let Some(directory) = path.parent().map(Path::to_path_buf) else {
                continue;
            };
            if !directories.is_empty() {
                self.missing_directories(&directory);
                self.record(&path, FileKind::DropIn, sha256(text.as_bytes()));
                let text = text.clone();
                self.steps.push(Step::Text {
                    path,
                    text,
                    mode: 0o644,
                });
            } else if unit_files::is_of(&path, self.prefix.path())? {
                self.steps.push(Step::Remove { path, directory });
            }
        }
        Ok(())
    }

    /// What executors need besides their units.
    fn executors(&mut self, host: &dyn Host) {
        let rules = host.rules_directory();
        self.missing_directories(rules);
        let share = self.prefix.join("share");
        self.directory(share.clone(), 0o755, None, false);
        for (path, kind, text) in [
            (
                rules.join(unit_files::rule_name(&self.names)),
                FileKind::Rule,
                unit_files::rule(self.prefix, &self.names),
            ),
            (
                share.join(unit_files::PROCESS_RUNTIME),
                FileKind::Config,
                unit_files::process_runtime(self.prefix, &self.names),
            ),
        ] {
            self.record(&path, kind, sha256(text.as_bytes()));
            self.steps.push(Step::Text {
                path,
                text,
                mode: 0o644,
            });
        }
    }

    fn record(&mut self, path: &Path, kind: FileKind, sha256: String) {
        self.manifest.files.push(FileRecord {
            path: path.to_path_buf(),
            kind,
            sha256,
        });
    }

    /// Puts the manifest before everything that it lists, as soon as there is a place for it: what a
    /// crash leaves can then be uninstalled.
    fn finish(&mut self, old: Option<&Manifest>) -> Outcome<()> {
        // Files of an earlier installation stay its own: the kept configuration, programs of another version.
        let known = old.map(|old| old.files.as_slice()).unwrap_or_default();
        for file in known {
            // Drop-ins are made anew from the settings.
            let is_kept = file.kind != FileKind::DropIn;
            if is_kept && !self.manifest.files.iter().any(|newer| newer.path == file.path) {
                self.manifest.files.push(file.clone());
            }
        }
        // In one order, so that a run without a change writes the same manifest.
        self.manifest
            .files
            .sort_by(|one, other| one.path.cmp(&other.path));
        let place = self
            .steps
            .iter()
            .take_while(
                |step| matches!(step, Step::Directory { path, .. } if self.prefix.path().starts_with(path)),
            )
            .count();
        let manifest = Step::Text {
            path: self.prefix.manifest(),
            text: self.manifest.text()?,
            mode: 0o644,
        };
        self.steps.insert(place, manifest);
        Ok(())
    }
}

/// The drop-ins that let executors write to work directories.
pub(crate) fn drop_ins(host: &dyn Host, names: &HostNames) -> [PathBuf; 2] {
    work_directories::TEMPLATES.map(|unit| {
        let directory = host.unit_directory().join(format!("{}.d", names.own(unit)));
        directory.join(DROP_IN)
    })
}
