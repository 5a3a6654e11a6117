//! What an installation would change: decided before the first change, from what is there.

use std::path::{Path, PathBuf};

use super::step::Step;
use crate::accounts;
use crate::cli::InstallArgs;
use crate::cluster_config::{self, Decision};
use crate::failure::{Failure, Kind, Outcome};
use crate::host::Host;
use crate::manifest::{DirectoryRecord, FileKind, FileRecord, Manifest, UserRecord, sha256, sha256_of};
use crate::prefix::Prefix;
use crate::profile::{FLMADM, Profile};
use crate::unit_files::{self, Owner, UnitFile};

/// User and group of the services.
pub(crate) const USER: &str = "flame";
/// All users: that of the services, and that of applications without a sandbox.
pub(crate) const USERS: [&str; 2] = [USER, "flame-exec"];
/// Mode of the directory of polkit's rules, should polkit not be there yet: anybody may read them.
const RULES_MODE: u32 = 0o755;
/// Where copies of the account tools' files lie; only root may look.
pub(crate) const ACCOUNTS: &str = ".accounts";

/// A checked plan.
pub(crate) struct Plan {
    /// What is done, in this order.
    pub(crate) steps: Vec<Step>,
    /// What will be installed then.
    pub(crate) manifest: Manifest,
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
    check_machine(host, args, prefix, old)?;
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
    let units = if args.no_systemd {
        Vec::new()
    } else {
        unit_files::render(prefix, profiles)
    };
    check_units(host, args, prefix, &units)?;
    check_writable(prefix)?;
    let mut planner = Planner {
        prefix,
        steps: Vec::new(),
        manifest: Manifest {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            prefix: prefix.path().to_owned(),
            systemd: !args.no_systemd,
            profiles: profiles.to_vec(),
            units: units.iter().map(|unit| unit.name.to_owned()).collect(),
            user: old.and_then(|old| old.user.clone()),
            directories: old.map(|old| old.directories.clone()).unwrap_or_default(),
            files: Vec::new(),
        },
    };
    planner.outer_directories();
    let owner = if units.is_empty() { None } else { Some(USER) };
    if owner.is_some() {
        planner.users(host, args.force)?;
    }
    planner.inner_directories(owner);
    planner.programs(profiles, built)?;
    planner.config(cluster_config::decide(
        prefix,
        args.endpoint.as_deref(),
        args.force,
    )?);
    planner.units(host, &units);
    if !units.is_empty() && profiles.contains(&Profile::Worker) {
        planner.executors(host);
    }
    planner.finish(old)
}

struct Planner<'a> {
    prefix: &'a Prefix,
    steps: Vec<Step>,
    manifest: Manifest,
}

impl Planner<'_> {
    fn directory(&mut self, path: PathBuf, mode: u32, owner: Option<&'static str>, contents: bool) {
        if !path.exists() && !self.manifest.made(&path) {
            self.manifest.directories.push(DirectoryRecord {
                path: path.clone(),
                contents,
            });
        }
        self.steps.push(Step::Directory { path, mode, owner });
    }

    /// The prefix with its missing parents, and where programs lie.
    fn outer_directories(&mut self) {
        let missing: Vec<PathBuf> = self
            .prefix
            .path()
            .ancestors()
            .take_while(|path| !path.exists())
            .map(Path::to_path_buf)
            .collect();
        for path in missing.into_iter().rev() {
            self.directory(path, 0o755, None, false);
        }
        for below in ["bin", "sbin"] {
            self.directory(self.prefix.join(below), 0o755, None, false);
        }
        self.directory(self.prefix.join("conf"), 0o755, None, true);
    }

    /// What the services write to.
    fn inner_directories(&mut self, owner: Option<&'static str>) {
        for (below, mode) in [("data", 0o700), ("work", 0o750), ("logs", 0o750)] {
            self.directory(self.prefix.join(below), mode, owner, true);
        }
    }

    fn users(&mut self, host: &dyn Host, force: bool) -> Outcome<()> {
        let mut missing = Vec::new();
        for name in USERS {
            match host.user(name)? {
                Some(ids) if !ids.is_system() && !force => {
                    return Err(Failure::installation(format!(
                        "the user {name} is there already, and with uid {} it is a person's account",
                        ids.uid
                    ))
                    .hint("rename that account, or use --force to run the services as that user"));
                }
                Some(_) => {}
                None => missing.push(name),
            }
        }
        let known = self.manifest.user.take();
        // What the account files were like is known only before the first of the users was made.
        let first = missing.len() == USERS.len();
        let record = match first {
            true => Some(accounts::look(host.account_directory())?),
            false => None,
        };
        self.manifest.user = match (known, &record) {
            (Some(known), None) => Some(known),
            (_, record) => Some(UserRecord {
                name: USER.to_owned(),
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
        self.steps.push(Step::Users {
            names: missing,
            sysusers: unit_files::sysusers(self.prefix),
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
            let path = host.unit_directory().join(unit.name);
            self.record(&path, FileKind::Unit, sha256(unit.text.as_bytes()));
            self.steps.push(Step::Text {
                path,
                text: unit.text.clone(),
                mode: 0o644,
            });
        }
        if !units.is_empty() {
            self.steps.push(Step::Reload);
        }
    }

    /// What executors need besides their units.
    fn executors(&mut self, host: &dyn Host) {
        let rules = host.rules_directory();
        let missing: Vec<PathBuf> = rules
            .ancestors()
            .take_while(|path| !path.exists())
            .map(Path::to_path_buf)
            .collect();
        for path in missing.into_iter().rev() {
            self.directory(path, RULES_MODE, None, false);
        }
        let share = self.prefix.join("share");
        self.directory(share.clone(), 0o755, None, false);
        for (path, kind, text) in [
            (
                rules.join(unit_files::RULE),
                FileKind::Rule,
                unit_files::rule(self.prefix),
            ),
            (
                share.join(unit_files::PROCESS_RUNTIME),
                FileKind::Config,
                unit_files::process_runtime(self.prefix),
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
    fn finish(mut self, old: Option<&Manifest>) -> Outcome<Plan> {
        // Files of an earlier installation stay its own: the kept configuration, programs of another version.
        let known = old.map(|old| old.files.as_slice()).unwrap_or_default();
        for file in known {
            if !self.manifest.files.iter().any(|newer| newer.path == file.path) {
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
        Ok(Plan {
            steps: self.steps,
            manifest: self.manifest,
        })
    }
}

fn check_machine(
    host: &dyn Host,
    args: &InstallArgs,
    prefix: &Prefix,
    old: Option<&Manifest>,
) -> Outcome<()> {
    if args.no_systemd {
        return match old {
            Some(old) if old.systemd && old.is_installed() => Err(Failure::arguments(format!(
                "the installation in {} has systemd units, so --no-systemd does not fit",
                prefix.path().display()
            ))
            .hint("uninstall it first, or leave --no-systemd out")),
            _ => Ok(()),
        };
    }
    prefix.check_for_services()?;
    if !host.is_root() {
        return Err(Failure::new(
            Kind::Systemd,
            "only root may install systemd units and the user flame",
        )
        .hint("run it with sudo, or use --no-systemd"));
    }
    host.systemd().map(drop)
}

/// Units have one name on a machine, so a second installation would take over the first one's.
fn check_units(host: &dyn Host, args: &InstallArgs, prefix: &Prefix, units: &[UnitFile]) -> Outcome<()> {
    for unit in units {
        for directory in host.package_unit_directories() {
            let path = directory.join(unit.name);
            if path.exists() {
                return Err(
                    Failure::installation(format!("{} belongs to a package", path.display()))
                        .hint("remove the package first, or use --no-systemd with another --prefix"),
                );
            }
        }
        let path = host.unit_directory().join(unit.name);
        let whose = match unit_files::owner(&path)? {
            Owner::Nobody => continue,
            Owner::Prefix(other) if other == prefix.path() => continue,
            Owner::Prefix(other) => format!("the installation in {}", other.display()),
            Owner::Unknown => "somebody else".to_owned(),
        };
        if !args.force {
            return Err(
                Failure::installation(format!("{} belongs to {whose}", path.display()))
                    .hint("uninstall that one first, use --no-systemd, or use --force to take the unit over"),
            );
        }
    }
    Ok(())
}

fn check_writable(prefix: &Prefix) -> Outcome<()> {
    // The nearest directory that exists is the one that something is made in.
    let Some(nearest) = prefix.path().ancestors().find(|path| path.exists()) else {
        return Ok(());
    };
    if !nearest.is_dir() {
        return Err(Failure::arguments(format!(
            "{} is not a directory",
            nearest.display()
        )));
    }
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(nearest, access).map_err(|error| Failure::path("write to", nearest, error.into()))
}
