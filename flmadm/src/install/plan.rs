//! What an installation would change: decided before the first change, from what is there.

use std::path::{Path, PathBuf};

use flame_core::{HostNames, InstanceName};

use super::extras::{self, Extras};
use super::preflight;
use crate::accounts;
use crate::cluster_config::{self, Decision};
use crate::failure::{Failure, Outcome};
use crate::host::{Account, Host, is_system};
use crate::manifest::{
    DirectoryRecord, FORMAT, FileKind, FileRecord, Manifest, UserRecord, sha256, sha256_of,
};
use crate::node_config::{self, AgentFile};
use crate::ports;
use crate::prefix::Prefix;
use crate::profile::{FLMADM, Profile};
use crate::programs::{self, Programs};
use crate::release::{self, GOOD, PROGRAM, Release, ReleaseFile, TEXT};
use crate::scope::Scope;
use crate::step::{BACKUP, Step, with_ending};
use crate::transaction::{Finish, Place};
use crate::unit_files::{self, UnitFile};
use crate::work_directories::{self, DROP_IN};

/// Where copies of the account tools' files lie; only root may look.
pub(crate) const ACCOUNTS: &str = ".accounts";
/// Where a release has its unit files, as they are installed.
pub(crate) const UNITS: &str = "units";
/// Releases that are kept: the current one and the two before.
const KEPT_RELEASES: usize = 3;
/// What the mark of a release says that has worked.
pub(crate) const GOOD_TEXT: &str =
    "This release has worked here: its services were ready and a task went through.\n";

/// All accounts: the user of the services, that of applications without a sandbox, and the group of all executors.
pub(crate) fn all_accounts(names: &HostNames) -> [Account; 3] {
    [
        Account::User(names.stem()),
        Account::User(names.own("flame-exec")),
        Account::Group(names.own(work_directories::GROUP)),
    ]
}

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
        true => node_config::read(prefix)?,
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
    let has_config = |from: &Path| from.join("conf/flame-cluster.yaml").exists();
    if !request.restore.is_some_and(has_config) {
        let otherwise = new_endpoint(host, prefix, request.force, &planner.manifest)?;
        let decision = cluster_config::decide(prefix, request.endpoint, &otherwise, request.force)?;
        let is_chosen = decision != Decision::Keep && request.endpoint.is_none();
        chosen = is_chosen.then_some(otherwise);
        planner.config(decision);
    }
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

    /// The directory of the release, unless it is there; a file of it that is not what it was is replaced.
    fn release(&mut self, request: &Request<'_>, scope: Scope, units: &[UnitFile]) -> Outcome<Release> {
        let release = contents(request, &self.names, scope, units)?;
        let directory = self.prefix.release(&release.id);
        let is_there =
            release::Record::load(&directory)?.is_some_and(|found| found.content == release.record.content);
        if is_there {
            for file in &release.files {
                let path = directory.join(&file.path);
                if !file.is_at(&path)? {
                    self.steps.push(mended(file, path));
                }
            }
        } else {
            self.steps.push(Step::Release {
                release: Box::new(release.clone()),
                path: directory.clone(),
            });
        }
        for below in release.directories() {
            let path = match below.as_os_str().is_empty() {
                true => directory.clone(),
                false => directory.join(below),
            };
            if !self.manifest.made(&path) {
                self.manifest.directories.push(DirectoryRecord {
                    path,
                    contents: false,
                });
            }
        }
        for file in &release.files {
            let kind = match &file.source {
                release::Source::Link(_) => FileKind::Link,
                _ if file.mode == PROGRAM => FileKind::Program,
                _ => FileKind::Release,
            };
            self.record(&directory.join(&file.path), kind, file.sha256.clone());
        }
        self.manifest.release.clone_from(&release.id);
        self.manifest.releases.retain(|id| *id != release.id);
        self.manifest.releases.push(release.id.clone());
        Ok(release)
    }

    /// Links through which the release is found: one that is swapped, and others that stay.
    fn switch(&mut self, release: &Release) -> Outcome<()> {
        let current = self.prefix.current();
        let target = PathBuf::from("releases").join(&release.id);
        self.record(&current, FileKind::Link, target.display().to_string());
        self.steps.push(Step::Link {
            path: current,
            target,
        });
        let mut tops: Vec<&str> = release
            .files
            .iter()
            .filter_map(|file| file.path.split_once('/'))
            .map(|(top, _)| top)
            .filter(|top| *top != UNITS)
            .collect();
        tops.dedup();
        for top in tops {
            let path = self.prefix.join(top);
            if path.symlink_metadata().is_ok_and(|found| !found.is_symlink()) {
                return Err(Failure::installation(format!(
                    "{} is in the way: it is no link",
                    path.display()
                ))
                .hint("move it away: it becomes a link into the current release"));
            }
            let target = Path::new("current").join(top);
            self.record(&path, FileKind::Link, target.display().to_string());
            self.steps.push(Step::Link { path, target });
        }
        Ok(())
    }

    /// Environments of Python, each whole in a directory of its own.
    fn python(&mut self, request: &Request<'_>, release: &Release) -> Outcome<()> {
        for environment in request.extras.environments(self.prefix, release) {
            let path = environment.directory.clone();
            let ours = self.manifest.made(&path);
            if let Some(above) = path.parent() {
                self.directory(above.to_path_buf(), 0o755, None, false);
            }
            let (steps, finish) = extras::make(environment, self.prefix, ours)?;
            if !ours {
                self.manifest
                    .directories
                    .push(DirectoryRecord { path, contents: true });
            }
            self.steps.extend(steps);
            self.finish.extend(finish);
        }
        Ok(())
    }

    /// Takes configuration and data from a backup.
    fn restore(&mut self, request: &Request<'_>, owner: Option<&str>) -> Outcome<()> {
        let Some(from) = request.restore else {
            return Ok(());
        };
        for (part, owner) in [("conf", None), ("data", owner)] {
            let source = from.join(part);
            if !source.is_dir() {
                continue;
            }
            self.steps.push(Step::Restore {
                from: source,
                to: self.prefix.join(part),
                owner: owner.map(str::to_owned),
            });
        }
        Ok(())
    }

    fn config(&mut self, decision: Decision) {
        let path = self.prefix.config();
        let text = match decision {
            Decision::Keep => return,
            Decision::Create(text) => text,
            Decision::Replace(text) => {
                let backup = with_ending(&path, BACKUP);
                let hash = sha256_of(&path).ok().flatten().unwrap_or_default();
                self.record(&backup, FileKind::Config, hash);
                self.steps.push(Step::Backup { path: path.clone() });
                text
            }
        };
        self.text(path, FileKind::Config, text);
    }

    fn text(&mut self, path: PathBuf, kind: FileKind, text: String) {
        self.record(&path, kind, sha256(text.as_bytes()));
        self.steps.push(Step::Text {
            path,
            text,
            mode: TEXT,
        });
    }

    fn units(&mut self, host: &dyn Host, units: &[UnitFile]) {
        // A user may have none yet.
        if !units.is_empty() {
            self.missing_directories(host.unit_directory());
        }
        for unit in units {
            let path = host.unit_directory().join(&unit.name);
            self.text(path, FileKind::Unit, unit.text.clone());
        }
    }

    /// A file of settings for the agent, in which none is set, unless there is one.
    fn node_config(&mut self) {
        let path = self.prefix.join("conf").join(node_config::FILE);
        if path.symlink_metadata().is_err() {
            let text = node_config::new_text(&self.names);
            self.text(path, FileKind::Config, text);
        }
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
                self.text(path, FileKind::DropIn, text.clone());
            } else if unit_files::is_of(&path, self.prefix.path())? {
                self.steps.push(Step::Remove {
                    path,
                    directory: Some(directory),
                });
            }
        }
        Ok(())
    }

    /// What lets the agent start executors.
    fn rule(&mut self, host: &dyn Host) {
        let rules = host.rules_directory();
        self.missing_directories(rules);
        let path = rules.join(unit_files::rule_name(&self.names));
        let text = unit_files::rule(self.prefix, &self.names);
        self.text(path, FileKind::Rule, text);
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
            // Drop-ins are made anew from the settings.
            let is_kept = file.kind != FileKind::DropIn;
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

/// Takes a release out of `manifest`. Gives what removes it from the disk.
pub(crate) fn forget_release(prefix: &Prefix, manifest: &mut Manifest, id: &str) -> [Finish; 2] {
    let directory = prefix.release(id);
    let is_in = |path: &Path| path.starts_with(&directory);
    let files = manifest.files.extract_if(.., |file| is_in(&file.path));
    let paths = files.map(|file| file.path).collect();
    let directories = manifest.directories.extract_if(.., |record| is_in(&record.path));
    let mut empty: Vec<PathBuf> = directories.map(|record| record.path).collect();
    empty.sort();
    empty.reverse();
    [Finish::Files { paths }, Finish::Empty { paths: empty }]
}

/// What a release of these programs and units consists of.
fn contents(request: &Request<'_>, names: &HostNames, scope: Scope, units: &[UnitFile]) -> Outcome<Release> {
    let mut files = Vec::new();
    for program in programs(&request.profiles) {
        let from = request.programs.path(program);
        files.push(ReleaseFile::copy(programs::place(program), from, PROGRAM)?);
    }
    files.push(ReleaseFile::link(format!("bin/{FLMADM}"), "../sbin/flmadm"));
    for unit in units {
        files.push(ReleaseFile::text(
            format!("{UNITS}/{}", unit.name),
            unit.text.clone(),
        ));
    }
    if request.profiles.contains(&Profile::Worker) && !units.is_empty() && scope.is_system() {
        files.push(ReleaseFile::text(
            format!("{UNITS}/{}", unit_files::rule_name(names)),
            unit_files::rule(request.prefix, names),
        ));
        files.push(ReleaseFile::text(
            format!("share/{}", unit_files::PROCESS_RUNTIME),
            unit_files::process_runtime(request.prefix, names),
        ));
    }
    let has_client = request.profiles.contains(&Profile::Client);
    files.extend(
        request
            .extras
            .files(request.prefix, request.programs, has_client)?,
    );
    files.extend(request.programs.wheels()?);
    let units = units.iter().map(|unit| unit.name.clone()).collect();
    Release::new(
        request.prefix,
        &request.programs.version(),
        &request.profiles,
        units,
        files,
    )
}

/// Replaces a file of a release by what it was.
fn mended(file: &ReleaseFile, path: PathBuf) -> Step {
    match &file.source {
        release::Source::File(from) => Step::Copy {
            from: from.clone(),
            path,
            mode: file.mode,
            sha256: file.sha256.clone(),
        },
        release::Source::Text(text) => Step::Text {
            path,
            text: text.clone(),
            mode: file.mode,
        },
        release::Source::Link(target) => Step::Link {
            path,
            target: PathBuf::from(target),
        },
    }
}

/// The drop-ins that let executors write to work directories.
pub(crate) fn drop_ins(host: &dyn Host, names: &HostNames) -> [PathBuf; 2] {
    work_directories::TEMPLATES.map(|unit| {
        let directory = host.unit_directory().join(format!("{}.d", names.own(unit)));
        directory.join(DROP_IN)
    })
}
