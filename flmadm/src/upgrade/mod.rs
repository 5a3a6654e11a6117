//! `flmadm upgrade` and `flmadm rollback`: another release becomes the current one, and is taken back by itself if it
//! does not work.

mod rollback;

use std::time::Duration;

use clap::Args;

use crate::bundle::SourceArgs;
use crate::change::{self, Change, Start};
use crate::cli::{OutputArg, PrefixArg};
use crate::compile::BuildArgs;
use crate::doctor::preflight;
use crate::failure::{Failure, Outcome};
use crate::gate;
use crate::host::Host;
use crate::install::{self, Extras, ExtrasArgs, Report, Request};
use crate::manifest::Manifest;
use crate::output::Output;
use crate::prefix::Prefix;
use crate::programs::{self, Wanted};
use crate::rights;
use crate::transaction::Place;

pub(crate) use rollback::{RollbackArgs, run as run_rollback};

/// Arguments of `flmadm upgrade`.
#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    #[command(flatten)]
    pub(crate) build: BuildArgs,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) health: HealthArgs,
    /// Upgrade although this check of the machine fails (repeatable; flmadm doctor --list)
    #[arg(long, value_name = "ID")]
    pub(crate) ignore_check: Vec<String>,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// How a release has to prove that it works.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Longest wait in seconds until a service is ready, and until a task has gone through [default: 12]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) health_timeout: Option<u64>,
    /// Leave a release that does not work for a closer look; do not take it back
    #[arg(long)]
    pub(crate) keep_failed: bool,
}

impl HealthArgs {
    /// Longest wait.
    pub(crate) fn limit(&self) -> Duration {
        self.health_timeout.map_or(gate::LIMIT, Duration::from_secs)
    }
}

/// Installs another release beside the current one and switches to it. Services that run are restarted, in the order
/// of the manifest.
///
/// # Errors
/// [`Failure`]; the old release is the current one again.
pub(crate) fn run(host: &dyn Host, args: &UpgradeArgs, output: &mut Output<'_>) -> Outcome<()> {
    let (prefix, old) = args.at.find()?;
    let has_units = fit(host, &prefix, old.as_ref())?;
    let bundle = args.source.open(host, &prefix, old.as_ref(), output)?;
    let mut locks = change::enter(host, &prefix, has_units, output)?;
    let (prefix, Some(old)) = args.at.find()? else {
        return Err(install::none_there(&args.at.prefix()?));
    };
    if args.source.bundle.is_none() {
        // The version of a bundle was looked at when it was checked.
        let is_allowed = args.source.bundles.allow_downgrade;
        refuse_older(env!("CARGO_PKG_VERSION"), &old.version, is_allowed)?;
    }
    let ready = preflight::of_upgrade(host, &prefix, &old, &args.ignore_check)?;
    let wanted = Wanted {
        build: &args.build,
        source: &args.source,
        bundle,
        programs: &install::programs(&old.profiles),
        dry_run: false,
    };
    let place = Place::of(&prefix, &|path| old.made(path));
    let Some(programs) = programs::find(host, wanted, &place, &mut locks, output)? else {
        return Ok(());
    };
    let request = Request {
        prefix: &prefix,
        old: Some(&old),
        instance: old.instance.clone(),
        has_units: old.systemd,
        profiles: old.profiles.clone(),
        programs: &programs,
        endpoint: None,
        force: false,
        is_tried: runs(host, &old)?,
        restore: None,
        extras: Extras::find(
            host,
            &ExtrasArgs::default(),
            &prefix,
            &programs.share().unwrap_or_else(|| args.build.src_dir.clone()),
            old.systemd,
        )?,
    };
    let plan = install::make(host, &request)?;
    let change = Change {
        verb: "upgrade",
        prefix: &prefix,
        old: Some(&old),
        new: &plan.manifest,
        steps: &plan.steps,
        finish: plan.finish,
        start: started(request.is_tried),
        limit: args.health.limit(),
        keep_failed: args.health.keep_failed,
    };
    let done = change.run(host, output)?;
    drop(locks);
    let report = Report::new(&plan.manifest, Some(&old), done, &plan.agents, ready, true);
    install::say(host, &report, output);
    Ok(())
}

/// Whether there is something that can be changed by this user. Gives whether it has units.
fn fit(host: &dyn Host, prefix: &Prefix, old: Option<&Manifest>) -> Outcome<bool> {
    let interrupted = crate::transaction::Place::left(prefix).is_some();
    let Some(old) = old.filter(|old| old.is_installed()) else {
        return match interrupted {
            true => Ok(host.rules_units()),
            false => Err(install::none_there(prefix)),
        };
    };
    rights::over(host, old, "change")?;
    Ok(!old.units.is_empty())
}

/// Whether any service of an installation runs, or tries to.
fn runs(host: &dyn Host, manifest: &Manifest) -> Outcome<bool> {
    if manifest.units.is_empty() {
        return Ok(false);
    }
    let systemd = host.systemd()?;
    for service in manifest.services() {
        if systemd.status(service)?.active_state != "inactive" {
            return Ok(true);
        }
    }
    Ok(false)
}

fn started(runs: bool) -> Start {
    match runs {
        true => Start::Running,
        false => Start::None,
    }
}

/// Refuses to go back by mistake.
fn refuse_older(new: &str, old: &str, is_allowed: bool) -> Outcome<()> {
    let parse = |text: &str| semver::Version::parse(text).ok();
    match (parse(new), parse(old)) {
        (Some(new), Some(old)) if new < old && !is_allowed => Err(Failure::arguments(format!(
            "version {new} is older than {old}, which is installed"
        ))
        .hint(
            "flmadm rollback goes back to an earlier release; --allow-downgrade installs an older one, which may not \
             be able to read the data of the newer",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
