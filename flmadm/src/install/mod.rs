//! `flmadm install`: plan, apply with undo, start and verify.

mod plan;
mod preflight;
mod start;
mod step;

use serde_json::json;

use crate::cli::InstallArgs;
use crate::compile;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::manifest::Manifest;
use crate::node_config::AgentFile;
use crate::output::Output;
use crate::ports;
use crate::profile;
use crate::work_directories;

use plan::Plan;
use step::{Status, Step, Undo};

pub(crate) use plan::{ACCOUNTS, all_accounts, drop_ins};
pub(crate) use step::replaced;

/// Installs, or brings an installation up to date.
///
/// # Errors
/// [`Failure`]; up to a failed start, what this run changed is undone.
pub(crate) fn run(host: &dyn Host, args: &InstallArgs, output: &mut Output<'_>) -> Outcome<()> {
    let selected = profile::selected(args)?;
    let (prefix, old) = args.at.find()?;
    let profiles = plan::profiles(old.as_ref(), &selected);
    let ready = preflight::doctor(host, args, &prefix, old.as_ref(), &profiles)?;
    let built = compile::directory(&args.build, &plan::programs(&profiles), args.dry_run, output)?;
    let plan = plan::make(host, args, &prefix, old.as_ref(), &profiles, &built)?;
    if args.dry_run {
        return dry_run(host, args, &plan, ready, output);
    }
    let changed = apply(host, &plan.steps, output)?;
    let mut notes = ready;
    notes.extend(work_directories::left_to_do(
        host,
        &plan.manifest.names(),
        &plan.work_directories,
    )?);
    let units = if args.enable {
        start::run(host, &plan.manifest, &changed, output)?
    } else {
        Vec::new()
    };
    if !output.is_for_people() {
        output.json(&json!({
            "prefix": plan.manifest.prefix,
            "version": plan.manifest.version,
            "profiles": plan.manifest.profiles,
            "systemd": plan.manifest.systemd,
            "changed": changed.iter().map(|step| step.id()).collect::<Vec<_>>(),
            "units": units,
            "endpoint": plan.endpoint,
            "agents": plan.agents.iter().map(AgentFile::json).collect::<Vec<_>>(),
            "notes": notes,
        }));
        return Ok(());
    }
    if changed.is_empty() {
        output.line("Nothing had to be changed.");
    }
    output.line(&format!(
        "Flame {} is installed in {}.",
        plan.manifest.version,
        prefix.path().display()
    ));
    if let Some(endpoint) = &plan.endpoint {
        output.line(&addresses(endpoint));
    }
    for note in notes {
        output.line(&format!("Note: {note}"));
    }
    if !args.enable {
        next_step(host, &plan.manifest, old.as_ref(), &changed, output);
    }
    Ok(())
}

/// The address that was chosen, in words.
fn addresses(endpoint: &str) -> String {
    let ports: Vec<String> = ports::ports(endpoint).iter().map(u16::to_string).collect();
    format!(
        "The session manager's address is {endpoint} (ports {}); for clients: export FLAME_ENDPOINT={endpoint}",
        ports.join(", ")
    )
}

fn next_step(
    host: &dyn Host,
    manifest: &Manifest,
    old: Option<&Manifest>,
    changed: &[&Step],
    output: &mut Output<'_>,
) {
    let installable: Vec<&str> = manifest.installable().collect();
    if installable.is_empty() {
        return;
    }
    output.line(&format!(
        "To start the services now and at every boot, use install --enable, or: systemctl enable --now {}",
        installable.join(" ")
    ));
    if !old.is_some_and(Manifest::is_installed) {
        return;
    }
    if changed.iter().any(|step| start::is_drop_in(host, manifest, step)) {
        output.line("Agents that run already keep their old work directories until they are restarted.");
    }
    let updated = changed.iter().any(|step| matches!(step, Step::Program { .. }));
    if updated {
        output.line("Services that run already keep their old programs until they are restarted.");
    }
}

fn dry_run(
    host: &dyn Host,
    args: &InstallArgs,
    plan: &Plan,
    mut notes: Vec<String>,
    output: &mut Output<'_>,
) -> Outcome<()> {
    let mut steps = Vec::new();
    for step in &plan.steps {
        // A step may rest on an earlier one, so what cannot be looked at yet is needed.
        let needed = step.check(host).map_or(true, |status| status == Status::Needed);
        steps.push(json!({"id": step.id(), "text": step.describe(), "needed": needed}));
        if output.is_for_people() {
            output.line(&format!(
                "  {}  {}",
                if needed { "would make" } else { "is there  " },
                step.describe()
            ));
        }
    }
    notes.extend(work_directories::left_to_do(
        host,
        &plan.manifest.names(),
        &plan.work_directories,
    )?);
    let starts = if args.enable {
        plan.manifest.loadable().map(str::to_owned).collect()
    } else {
        Vec::new()
    };
    if !output.is_for_people() {
        output.json(&json!({
            "dry_run": true,
            "prefix": plan.manifest.prefix,
            "steps": steps,
            "starts": starts,
            "agents": plan.agents.iter().map(AgentFile::json).collect::<Vec<_>>(),
            "notes": notes,
        }));
    } else {
        for line in plan.agents.iter().flat_map(AgentFile::lines) {
            output.line(&format!("  agent uses  {line}"));
        }
        for note in notes {
            output.line(&format!("  note        {note}"));
        }
        for unit in starts {
            output.line(&format!("  would start {unit}"));
        }
        output.line("Nothing was changed (--dry-run).");
    }
    Ok(())
}

/// Does the steps that are not done yet; undoes them all if one fails. Gives those that changed something.
fn apply<'a>(host: &dyn Host, steps: &'a [Step], output: &mut Output<'_>) -> Outcome<Vec<&'a Step>> {
    let mut changed: Vec<&Step> = Vec::new();
    let mut undos: Vec<Undo> = Vec::new();
    for step in steps {
        let one = || -> Outcome<Option<Undo>> {
            let idle = matches!(step, Step::Reload) && !changed.iter().any(|step| start::is_unit(host, step));
            if idle || step.check(host)? == Status::Done {
                Ok(None)
            } else {
                step.apply(host).map(Some)
            }
        };
        match one() {
            Ok(None) => {}
            Ok(Some(undo)) => {
                output.progress(&step.describe());
                undos.push(undo);
                changed.push(step);
            }
            Err(failure) => {
                return Err(undo_all(
                    host,
                    undos,
                    failure.also(format!("(at: {})", step.describe())),
                ));
            }
        }
    }
    for undo in &undos {
        undo.forget()?;
    }
    Ok(changed)
}

fn undo_all(host: &dyn Host, undos: Vec<Undo>, mut failure: Failure) -> Failure {
    let count = undos.len();
    let mut left = 0;
    for undo in undos.into_iter().rev() {
        if let Err(problem) = undo.undo(host) {
            left += 1;
            failure = failure.also(format!("could not undo: {}", problem.report()));
        }
    }
    match (count, left) {
        (0, _) => failure.also("nothing was changed"),
        (_, 0) => failure.also(format!("the {count} changes made before were undone")),
        _ => failure.also(format!(
            "{} of {count} changes made before were undone",
            count - left
        )),
    }
}

#[cfg(test)]
mod instance_tests;
#[cfg(test)]
mod settings_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::install_services as install_on_fake;
