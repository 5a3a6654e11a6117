//! `flmadm start|stop|restart|enable|disable`: the services of an installation, over D-Bus.

mod names;
mod work;

use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::{OutputArg, PrefixArg};
use crate::failure::{Failure, Kind, Outcome};
use crate::host::{Host, Units};
use crate::installed::{self, Installed};
use crate::output::Output;
use crate::rights;

pub(crate) use names::{Names, spellings};
pub(crate) use work::last_lines;

#[derive(Debug, Args)]
pub(crate) struct UnitsArgs {
    /// Units, also as session-manager, node-agent or node-agent@NAME [default: all services]
    #[arg(value_name = "UNIT")]
    pub(crate) units: Vec<String>,
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

#[derive(Debug, Args)]
pub(crate) struct EnableArgs {
    #[command(flatten)]
    pub(crate) which: UnitsArgs,
    /// Start them now, too (disable: stop them)
    #[arg(long)]
    pub(crate) now: bool,
}

/// What is done to units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    /// Start, and wait until the service works.
    Start,
    /// Stop, and wait until nothing of it runs.
    Stop,
    /// Stop and start.
    Restart,
    /// Start at every boot.
    Enable,
    /// Start at no boot.
    Disable,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Enable => "enable",
            Self::Disable => "disable",
        }
    }
}

/// What was done.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Directory of the installation.
    pub(crate) prefix: PathBuf,
    /// What was asked for.
    pub(crate) verb: Verb,
    /// Each unit, in the order in which it was done.
    pub(crate) units: Vec<UnitReport>,
}

/// What was done to one unit.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UnitReport {
    /// Full name.
    pub(crate) name: String,
    /// Whether anything had to be done.
    pub(crate) changed: bool,
    /// Its state now: active, inactive, failed, ...
    pub(crate) active_state: String,
    /// Whether it is started at boots: enabled, disabled, static, ...
    pub(crate) unit_file_state: String,
    /// Why it failed.
    pub(crate) error: Option<String>,
    /// The last lines that it logged, if it failed.
    pub(crate) log: Vec<String>,
}

/// `start`, `stop` and `restart`.
///
/// # Errors
/// A name is none of the installation's, systemd cannot be asked, or a unit failed.
pub(crate) fn run(host: &dyn Host, verb: Verb, args: &UnitsArgs, output: &mut Output<'_>) -> Outcome<()> {
    let installed = installed::find(&args.at)?;
    let systemd = may_change(host, &installed, verb)?;
    let chosen = Names::of(&installed, systemd)?.choose(&args.units)?;
    let units = work::on(host, &installed, verb, &chosen, output)?;
    finish(&installed, verb, units, output)
}

/// `enable` and `disable`.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_enable(
    host: &dyn Host,
    verb: Verb,
    args: &EnableArgs,
    output: &mut Output<'_>,
) -> Outcome<()> {
    let installed = installed::find(&args.which.at)?;
    let systemd = may_change(host, &installed, verb)?;
    let chosen = Names::of(&installed, systemd)?.choose(&args.which.units)?;
    let mut units = work::set_enabled(systemd, &installed, verb, &chosen, output)?;
    if args.now {
        let now = match verb {
            Verb::Disable => Verb::Stop,
            _ => Verb::Start,
        };
        let done = work::on(host, &installed, now, &chosen, output)?;
        work::merge(&mut units, done);
    }
    finish(&installed, verb, units, output)
}

/// Restarts units that were chosen elsewhere, as for a new configuration.
///
/// # Errors
/// Systemd cannot be asked, or a unit failed.
pub(crate) fn restart(
    host: &dyn Host,
    installed: &Installed,
    units: &[String],
    output: &mut Output<'_>,
) -> Outcome<()> {
    let systemd = may_change(host, installed, Verb::Restart)?;
    let chosen = Names::of(installed, systemd)?.choose(units)?;
    let done = work::on(host, installed, Verb::Restart, &chosen, output)?;
    failed(Verb::Restart, &done)
}

/// The service manager, for whoever may change what it does.
fn may_change<'a>(host: &'a dyn Host, installed: &Installed, verb: Verb) -> Outcome<&'a dyn Units> {
    let systemd = installed.systemd(host)?;
    rights::over_units(host, Kind::Systemd, &format!("{} services", verb.name()))?;
    Ok(systemd)
}

fn finish(installed: &Installed, verb: Verb, units: Vec<UnitReport>, output: &mut Output<'_>) -> Outcome<()> {
    let report = Report {
        prefix: installed.prefix.path().to_owned(),
        verb,
        units,
    };
    output.json(&report);
    for unit in &report.units {
        let state = match verb {
            Verb::Enable | Verb::Disable => format!("{}, {}", unit.unit_file_state, unit.active_state),
            _ => unit.active_state.clone(),
        };
        let already = match unit.changed || unit.error.is_some() {
            true => "",
            false => " already",
        };
        output.line(&format!("{} is{already} {state}", unit.name));
    }
    failed(verb, &report.units)
}

fn failed(verb: Verb, units: &[UnitReport]) -> Outcome<()> {
    let Some(first) = units.iter().find(|unit| unit.error.is_some()) else {
        return Ok(());
    };
    let mut text = first.error.clone().unwrap_or_default();
    for other in units
        .iter()
        .filter(|unit| unit.error.is_some() && unit.name != first.name)
    {
        text.push_str(&format!("\n{}", other.error.as_deref().unwrap_or_default()));
    }
    for line in &first.log {
        text.push_str(&format!("\n  {line}"));
    }
    let kind = match verb {
        Verb::Start | Verb::Restart => Kind::Start,
        _ => Kind::Systemd,
    };
    Err(Failure::new(kind, text).hint(format!("more of its log: flmadm logs -n 100 {}", first.name)))
}

#[cfg(test)]
mod tests;
