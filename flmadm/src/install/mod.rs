//! `flmadm install`: plans an installation, carries it out as one transaction, and starts it.

mod extras;
mod plan;
mod preflight;
mod report;

use schemars::JsonSchema;
use serde::Serialize;

use crate::change::{self, Change, Start};
use crate::cli::InstallArgs;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::manifest::Manifest;
use crate::node_config::AgentFile;
use crate::output::Output;
use crate::prefix::Prefix;
use crate::profile::{self, Profile};
use crate::programs::{self, Wanted};
use crate::restore;
use crate::step::Status;
use crate::transaction::{Interrupted, Place};
use crate::work_directories;

pub(crate) use extras::{Extras, ExtrasArgs};
pub(crate) use plan::{
    ACCOUNTS, GOOD_TEXT, Plan, Request, UNITS, all_accounts, drop_ins, forget_release, make, programs,
};
pub(crate) use report::{Report, say};

/// Installs, or brings an installation up to date.
///
/// # Errors
/// [`Failure`]; what this run changed is undone.
pub(crate) fn run(host: &dyn Host, args: &InstallArgs, output: &mut Output<'_>) -> Outcome<()> {
    let (prefix, old) = args.at.find()?;
    if let Some(from) = &args.restore {
        restore::check(from, &prefix, args.endpoint.as_deref())?;
    }
    let selected = selected(args)?;
    preflight::user(host, args)?;
    let ready = {
        let profiles = plan::profiles(old.as_ref(), &selected);
        preflight::doctor(host, args, &prefix, old.as_ref(), &profiles)?
    };
    preflight::machine(host, args, &prefix, old.as_ref())?;
    let bundle = args.source.open(host, &prefix, old.as_ref(), output)?;
    let mut locks = match args.dry_run {
        true => {
            say_interrupted(&prefix, output)?;
            Vec::new()
        }
        false => change::enter(host, &prefix, !args.no_systemd, output)?,
    };
    // What an interrupted change left may have been put in order.
    let (prefix, old) = args.at.find()?;
    let profiles = plan::profiles(old.as_ref(), &selected);
    let wanted = Wanted {
        build: &args.build,
        source: &args.source,
        bundle,
        programs: &plan::programs(&profiles),
        dry_run: args.dry_run,
    };
    let place = Place::of(&prefix, &|path| old.as_ref().is_some_and(|old| old.made(path)));
    let Some(programs) = programs::find(host, wanted, &place, &mut locks, output)? else {
        return Ok(());
    };
    let sources = programs.share().unwrap_or_else(|| args.build.src_dir.clone());
    let request = Request {
        prefix: &prefix,
        old: old.as_ref(),
        instance: args.at.instance.clone(),
        has_units: !args.no_systemd,
        profiles,
        programs: &programs,
        endpoint: args.endpoint.as_deref(),
        force: args.force,
        is_tried: args.enable,
        restore: args.restore.as_deref(),
        extras: Extras::find(host, &args.extras, &prefix, &sources, !args.no_systemd)?,
    };
    let plan = plan::make(host, &request)?;
    if args.dry_run {
        return dry_run(host, args, &plan, ready, output);
    }
    let mut report = carry_out(host, args, &prefix, old.as_ref(), plan, output)?;
    report.notes.splice(0..0, ready);
    drop(locks);
    say(host, &report, output);
    Ok(())
}

fn selected(args: &InstallArgs) -> Outcome<Vec<Profile>> {
    let of_backup = args.restore.as_deref().filter(|_| !profile::is_chosen(args));
    match of_backup {
        Some(directory) => Manifest::profiles_of_backup(directory),
        None => profile::selected(args),
    }
}

/// A dry run changes nothing, so it only tells of what has to be put in order first.
fn say_interrupted(prefix: &Prefix, output: &mut Output<'_>) -> Outcome<()> {
    if let Some(interrupted) = Interrupted::find(prefix, false)? {
        output.line(&format!(
            "Found: {}; it would be put in order first.",
            interrupted.describe()
        ));
    }
    Ok(())
}

/// Carries the plan out, with the lock held.
pub(crate) fn carry_out(
    host: &dyn Host,
    args: &InstallArgs,
    prefix: &Prefix,
    old: Option<&Manifest>,
    plan: Plan,
    output: &mut Output<'_>,
) -> Outcome<Report> {
    let change = Change {
        verb: "install",
        prefix,
        old,
        new: &plan.manifest,
        steps: &plan.steps,
        finish: plan.finish,
        start: match args.enable {
            true => Start::All,
            false => Start::None,
        },
        limit: args.health.limit(),
        keep_failed: args.health.keep_failed,
    };
    let done = change.run(host, output)?;
    let mut notes = work_directories::left_to_do(host, &plan.manifest.names(), &plan.work_directories)?;
    notes.extend(of_user(host, &plan.manifest));
    let report = Report::new(&plan.manifest, old, done, &plan.agents, notes, args.enable);
    Ok(report.with_endpoint(plan.endpoint))
}

/// What a user has to know whose services do not run all the time.
fn of_user(host: &dyn Host, manifest: &Manifest) -> Option<String> {
    if manifest.units.is_empty() || host.scope().is_system() {
        return None;
    }
    match host.lingers() {
        Some(true) => None,
        _ => Some(
            "the services end with your last session and start with the next one; loginctl enable-linger lets them start \
             at boot and go on without you"
                .to_owned(),
        ),
    }
}

/// What would be done.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DryRun {
    /// Always true.
    dry_run: bool,
    /// Directory of the installation.
    prefix: std::path::PathBuf,
    /// Steps in their order.
    steps: Vec<PlannedStep>,
    /// Units that would be started.
    starts: Vec<String>,
    /// What the agents of this machine would use.
    agents: Vec<serde_json::Value>,
    /// What else there is to know.
    notes: Vec<String>,
}

/// A step of a plan.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PlannedStep {
    /// What it is, for programs.
    id: String,
    /// What it is, for people.
    text: String,
    /// Whether there is something to do.
    needed: bool,
}

fn dry_run(
    host: &dyn Host,
    args: &InstallArgs,
    plan: &Plan,
    mut notes: Vec<String>,
    output: &mut Output<'_>,
) -> Outcome<()> {
    let left = work_directories::left_to_do(host, &plan.manifest.names(), &plan.work_directories)?;
    notes.extend(left);
    notes.extend(of_user(host, &plan.manifest));
    let all = plan.steps.iter();
    let planned: Vec<PlannedStep> = all
        .filter(|step| !step.is_secondary())
        .map(|step| PlannedStep {
            id: step.id(),
            text: step.describe(),
            // A step may rest on an earlier one, so what cannot be looked at yet is needed.
            needed: step.check(host).map_or(true, |status| status == Status::Needed),
        })
        .collect();
    let starts = match args.enable {
        true => plan.manifest.loadable().map(str::to_owned).collect(),
        false => Vec::new(),
    };
    let result = DryRun {
        dry_run: true,
        prefix: plan.manifest.prefix.clone(),
        steps: planned,
        starts,
        agents: plan.agents.iter().map(AgentFile::json).collect(),
        notes,
    };
    output.json(&result);
    for step in &result.steps {
        let what = if step.needed { "would make" } else { "is there  " };
        output.line(&format!("  {what}  {}", step.text));
    }
    for line in plan.agents.iter().flat_map(AgentFile::lines) {
        output.line(&format!("  agent uses  {line}"));
    }
    for note in &result.notes {
        output.line(&format!("  note        {note}"));
    }
    for unit in &result.starts {
        output.line(&format!("  would start {unit}"));
    }
    output.line("Nothing was changed (--dry-run).");
    Ok(())
}

/// Nothing of an installation is there.
pub(crate) fn none_there(prefix: &Prefix) -> Failure {
    Failure::installation(format!("nothing is installed in {}", prefix.path().display()))
        .hint("flmadm install installs it; --prefix names another directory")
}

#[cfg(test)]
mod bundle_tests;
#[cfg(test)]
mod extras_tests;
#[cfg(test)]
mod instance_tests;
#[cfg(test)]
mod settings_tests;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod user_tests;
#[cfg(test)]
pub(crate) use tests::install_services as install_on_fake;
