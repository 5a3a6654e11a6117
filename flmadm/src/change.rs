//! A change of an installation as one transaction: its steps, the start of services, and the proof that they work.

use std::collections::BTreeSet;
use std::time::Duration;

use flame_core::HostNames;
use flame_systemd::manager::UnitStatus;

use crate::failure::{Failure, Kind, Outcome};
use crate::gate;
use crate::host::{Host, Probed};
use crate::install::{GOOD_TEXT, drop_ins};
use crate::manifest::Manifest;
use crate::output::Output;
use crate::prefix::Prefix;
use crate::profile::{MORE_AGENTS, NODE_AGENT};
use crate::release::{GOOD, Record, TEXT};
use crate::step::{Status, Step};
use crate::transaction::{Finish, Interrupted, Left, Lock, Patience, Place, Traces, Transaction, lock};
use crate::unit_files::{EXECUTORS, RECOVERY, TARGET, instances, is_template};
use crate::unit_removal;

/// What becomes of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// They are left as they are.
    None,
    /// They are enabled, and all are started.
    All,
    /// Those that run are restarted if what they run with has changed.
    Running,
}

/// A change that is planned and checked.
pub(crate) struct Change<'a> {
    /// The command, for the journal.
    pub(crate) verb: &'static str,
    pub(crate) prefix: &'a Prefix,
    pub(crate) old: Option<&'a Manifest>,
    pub(crate) new: &'a Manifest,
    pub(crate) steps: &'a [Step],
    pub(crate) finish: Vec<Finish>,
    pub(crate) start: Start,
    /// Longest wait until a service is ready, and then until a task has gone through.
    pub(crate) limit: Duration,
    /// Whether what was installed stays although it does not work.
    pub(crate) keep_failed: bool,
}

/// What a change did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Ids of the steps that had something to do.
    pub(crate) changed: Vec<String>,
    /// Whether a program was replaced.
    pub(crate) has_new_programs: bool,
    /// Whether the directories changed that executors may write to.
    pub(crate) has_new_work_directories: bool,
    /// The units afterwards, if any was started.
    pub(crate) units: Vec<UnitStatus>,
    /// What the task that proves it all found.
    pub(crate) probe: Option<Probed>,
    pub(crate) left: Left,
}

/// Takes the locks for a change. What an interrupted one has left is put in order first; gives a line about it.
///
/// # Errors
/// Another flmadm is at work, or the order cannot be restored.
pub(crate) fn enter(
    host: &dyn Host,
    prefix: &Prefix,
    has_units: bool,
    output: &mut Output<'_>,
) -> Outcome<Vec<Lock>> {
    let locks = lock(host, prefix, has_units, Patience::None)?;
    if let Some(interrupted) = Interrupted::find(prefix, true)? {
        output.line(&format!("Found: {}.", interrupted.describe()));
        let repaired = interrupted.repair(host, output)?;
        output.line(match repaired.finished {
            true => "It was finished.",
            false => "It was undone.",
        });
    }
    Ok(locks)
}

impl Change<'_> {
    /// The steps from the first on that has something to do; none if nothing has to be done, nor started.
    ///
    /// # Errors
    /// A step is impossible.
    fn needed(&self, host: &dyn Host) -> Outcome<Option<&[Step]>> {
        for (number, step) in self.steps.iter().enumerate() {
            if !step.is_secondary() && step.check(host)? == Status::Needed {
                return Ok(Some(&self.steps[number..]));
            }
        }
        for step in self.starts(host, &[])? {
            if step.check(host)? == Status::Needed {
                return Ok(Some(&[]));
            }
        }
        Ok(None)
    }

    /// Carries it out.
    ///
    /// # Errors
    /// Everything was undone, unless the failure says otherwise.
    pub(crate) fn run(self, host: &dyn Host, output: &mut Output<'_>) -> Outcome<Done> {
        // A step that cannot even be looked at is told when the steps before it are done: it may rest on them.
        let Some(steps) = self.needed(host).unwrap_or(Some(self.steps)) else {
            return Ok(Done::default());
        };
        let made = |path: &std::path::Path| self.old.is_some_and(|old| old.made(path));
        let place = Place::of(self.prefix, &made);
        let mut transaction = Transaction::begin(host, place, self.verb, self.prefix)?;
        self.watch(host);
        let mut done = Done::default();
        match self.all(host, steps, &mut transaction, &mut done, output) {
            Ok(()) => {}
            Err(failure) if self.keep_failed && failure.kind == Kind::Start => {
                transaction.commit(Vec::new())?;
                return Err(failure.also("what was installed stays, as --keep-failed says"));
            }
            Err(failure) => return Err(transaction.roll_back(failure)),
        }
        done.left = transaction.commit(self.finish)?;
        Ok(done)
    }

    /// Lets systemd watch over a change of an installation that has units: it undoes the change if we die.
    fn watch(&self, host: &dyn Host) {
        let recovery = self.new.names().own(RECOVERY);
        if self.start == Start::None || !host.unit_directory().join(&recovery).exists() {
            return;
        }
        // Without it somebody has to run flmadm repair, no more.
        let _no_watch = host.systemd().and_then(|systemd| systemd.launch(&recovery));
    }

    fn all(
        &self,
        host: &dyn Host,
        steps: &[Step],
        transaction: &mut Transaction<'_>,
        done: &mut Done,
        output: &mut Output<'_>,
    ) -> Outcome<()> {
        if self.has_units() {
            transaction.run(&self.remember(host)?)?;
        }
        let mut changed: Vec<&Step> = Vec::new();
        for step in steps {
            let idle = matches!(step, Step::Reload) && !changed.iter().any(|step| is_unit(host, step));
            let is_done = match idle {
                true => Ok(false),
                false => transaction.run(step),
            };
            if is_done.map_err(|failure| failure.also(format!("(at: {})", step.describe())))? {
                output.progress(&step.describe());
                changed.push(step);
            }
        }
        let starts = self.starts(host, &changed)?;
        let mut has_started = false;
        for step in &starts {
            output.doing(&step.describe());
            let started = transaction.run(step);
            if started.map_err(|failure| explain(host, failure, step))? {
                output.progress(&step.describe());
                has_started |= matches!(step, Step::Start { .. });
                done.changed.push(step.id());
            }
        }
        if has_started {
            let proof = gate::prove(host, self.prefix, self.new, self.limit, output)?;
            done.units = proof.units;
            done.probe = proof.probe;
        }
        if self.start != Start::None && self.has_units() {
            transaction.run(&self.mark())?;
        }
        let before = changed.iter().map(|step| step.id());
        done.changed.splice(0..0, before);
        done.has_new_programs = changed
            .iter()
            .any(|step| matches!(step, Step::Release { .. } | Step::Copy { .. }));
        done.has_new_work_directories = changed.iter().any(|step| self.is_drop_in(host, step));
        Ok(())
    }

    fn has_units(&self) -> bool {
        !self.new.units.is_empty() || self.old.is_some_and(|old| !old.units.is_empty())
    }

    /// The step that knows what ran before.
    fn remember(&self, host: &dyn Host) -> Outcome<Step> {
        let names = self.new.names();
        let systemd = host.systemd()?;
        let mut units: Vec<String> = self.new.services().map(str::to_owned).collect();
        units.extend(self.stopped(&names));
        units.extend(systemd.loaded(&instances(&names.own(MORE_AGENTS)))?);
        let mut known = BTreeSet::new();
        units.retain(|unit| known.insert(unit.clone()));
        let before = |unit| unit_removal::before(host, unit);
        let services = units.into_iter().map(before).collect::<Outcome<_>>()?;
        let is_first = self.old.is_none_or(|old| old.units.is_empty());
        Ok(Step::Services {
            services,
            traces: is_first.then(|| traces(host, self.new)),
        })
    }

    /// What the steps stop because it goes, in the order in which it would have to be started again.
    fn stopped(&self, names: &HostNames) -> impl Iterator<Item = String> {
        let stopped = self.steps.iter().rev().filter_map(|step| match step {
            Step::Stop { unit, .. } => Some(unit.clone()),
            _ => None,
        });
        // A slice comes with what is in it.
        stopped.filter(|unit| !unit.ends_with(".slice") && unit_removal::is_startable(names, unit))
    }

    /// The steps that enable and start services after `changed` was done.
    fn starts(&self, host: &dyn Host, changed: &[&Step]) -> Outcome<Vec<Step>> {
        let mut steps = Vec::new();
        if self.start == Start::None || self.new.units.is_empty() {
            return Ok(steps);
        }
        if self.start == Start::All {
            steps.push(Step::Enable {
                units: self.new.installable().map(str::to_owned).collect(),
            });
        }
        let systemd = host.systemd()?;
        let names = self.new.names();
        for service in self.new.services() {
            let is_agent = service == names.own(NODE_AGENT);
            // A unit that systemd has not read yet is not there.
            let runs = systemd.status(service)?.active_state != "inactive";
            if self.start == Start::All || runs {
                steps.push(Step::Start {
                    restart: runs && self.is_stale(host, service, changed)?,
                    executors: match is_agent {
                        true => executor_patterns(&names),
                        false => Vec::new(),
                    },
                    unit: service.to_owned(),
                    limit: self.limit,
                });
            }
        }
        // An administrator started further agents, so those that do not run stay so.
        let more = names.own(MORE_AGENTS);
        if self.new.units.contains(&more) && self.is_stale(host, &more, changed)? {
            for unit in systemd.loaded(&instances(&more))? {
                if systemd.status(&unit)?.is_active() {
                    steps.push(Step::Start {
                        unit,
                        restart: true,
                        executors: Vec::new(),
                        limit: self.limit,
                    });
                }
            }
        }
        if self.start == Start::All {
            steps.push(Step::Start {
                unit: names.own(TARGET),
                restart: false,
                executors: Vec::new(),
                limit: self.limit,
            });
        }
        Ok(steps)
    }

    /// Whether `service` runs, or would, with something else than what is installed after `changed`.
    fn is_stale(&self, host: &dyn Host, service: &str, changed: &[&Step]) -> Outcome<bool> {
        let names = self.new.names();
        let agents = [NODE_AGENT, MORE_AGENTS].map(|unit| names.own(unit));
        let is_touched = |step: &Step| match step {
            // The agents have to learn of it, too.
            step if self.is_drop_in(host, step) => agents.iter().any(|agent| agent == service),
            Step::Text { path, .. } => {
                *path == self.prefix.config() || *path == host.unit_directory().join(service)
            }
            Step::Copy { path, .. } => {
                Some(path.as_path()) == self.program(service, &self.new.release).as_deref()
            }
            Step::Restore { .. } => true,
            _ => false,
        };
        if changed.iter().any(|step| is_touched(step)) {
            return Ok(true);
        }
        let Some(program) = program_of(self.new, service) else {
            return Ok(false);
        };
        let hash = |release: &str| -> Outcome<Option<String>> {
            let record = Record::load(&self.prefix.release(release))?;
            Ok(record.and_then(|record| record.files.get(&program).cloned()))
        };
        // The same release has the same program.
        let is_other = |release: &str| -> Outcome<bool> {
            Ok(release != self.new.release && hash(release)? != hash(&self.new.release)?)
        };
        // What it really runs counts; what the manifest says if that cannot be known.
        let running = match is_template(service) {
            true => None,
            false => host.systemd()?.status(service)?.main_pid,
        };
        match running.and_then(|pid| host.program_of(pid)) {
            Some(path) => {
                let of =
                    self.new.releases.iter().find(|id| {
                        path == flame_core::fsutil::resolve(&self.prefix.release(id)).join(&program)
                    });
                match of {
                    Some(id) => is_other(id),
                    None => Ok(true),
                }
            }
            None => match self.old.filter(|old| !old.release.is_empty()) {
                Some(old) => is_other(&old.release),
                None => Ok(false),
            },
        }
    }

    /// Path of the program of `service` in a release.
    fn program(&self, service: &str, release: &str) -> Option<std::path::PathBuf> {
        Some(self.prefix.release(release).join(program_of(self.new, service)?))
    }

    /// Whether `step` changed where executors may write.
    fn is_drop_in(&self, host: &dyn Host, step: &Step) -> bool {
        let (Step::Text { path, .. } | Step::Remove { path, .. }) = step else {
            return false;
        };
        drop_ins(host, &self.new.names()).contains(path)
    }

    /// The mark of a release that has worked.
    fn mark(&self) -> Step {
        Step::Text {
            path: self.prefix.release(&self.new.release).join(GOOD),
            text: GOOD_TEXT.to_owned(),
            mode: TEXT,
        }
    }
}

/// What the services of `manifest` leave outside of the prefix.
pub(crate) fn traces(host: &dyn Host, manifest: &Manifest) -> Traces {
    let names = manifest.names();
    Traces {
        directories: host.runtime_directories(&names).to_vec(),
        control: host.control_directory().to_path_buf(),
        executors: EXECUTORS.iter().map(|unit| names.own(unit)).collect(),
        units: manifest.loadable().map(str::to_owned).collect(),
    }
}

/// Patterns of the units of all executors.
fn executor_patterns(names: &HostNames) -> Vec<String> {
    let own = EXECUTORS.iter().map(|unit| names.own(unit));
    own.map(|unit| instances(&unit)).collect()
}

/// Path of the program that `service` runs, below a release.
fn program_of(manifest: &Manifest, service: &str) -> Option<String> {
    let names = manifest.names();
    let own = |(unit, program): (&str, &'static str)| (names.own(unit) == service).then_some(program);
    crate::profile::daemons()
        .find_map(own)
        .map(|program| format!("bin/{program}"))
}

/// Whether `step` changed a unit file.
pub(crate) fn is_unit(host: &dyn Host, step: &Step) -> bool {
    let (Step::Text { path, .. } | Step::Remove { path, .. }) = step else {
        return false;
    };
    path.starts_with(host.unit_directory())
}

/// Adds what the service said last.
fn explain(host: &dyn Host, failure: Failure, step: &Step) -> Failure {
    match step {
        Step::Start { unit, .. } => gate::explain(host, failure, unit),
        _ => failure,
    }
}
