//! `flmadm config`: the settings of the services on this machine.

mod change;
mod effective;
mod file;
mod toml;
mod tree;
mod yaml;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::cli::{OutputArg, PrefixArg};
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::installed::{self, Installed};
use crate::output::Output;
use crate::services;

pub(crate) use change::Changed;
pub(crate) use effective::Setting;
use file::Which;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with the settings; exit code 3 if something is
    Check(FileArgs),
    /// Show all settings as they are in effect, and where each is said
    Show(FileArgs),
    /// Print one setting as it is in effect
    Get(GetArgs),
    /// Change a setting, if the services can use the new one
    Set(SetArgs),
    /// Remove a setting, so that its default is in effect
    Unset(UnsetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// cluster, agent, or agent@NAME [default: for KEY the file that has it, else all]
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<Which>,
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The setting, as cluster.endpoint or node.labels
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) of: FileArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The setting, as cluster.endpoint or node.labels
    pub(crate) key: String,
    /// Its value, a list as [a, b]
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: String,
    /// Restart the services that have read it
    #[arg(long)]
    pub(crate) restart: bool,
    #[command(flatten)]
    pub(crate) of: FileArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UnsetArgs {
    /// The setting, as cluster.endpoint or node.labels
    pub(crate) key: String,
    /// Restart the services that have read it
    #[arg(long)]
    pub(crate) restart: bool,
    #[command(flatten)]
    pub(crate) of: FileArgs,
}

impl ConfigCommand {
    /// How to print the result.
    pub(crate) fn output(&self) -> OutputArg {
        match self {
            Self::Check(of) | Self::Show(of) => of.output,
            Self::Get(args) => args.of.output,
            Self::Set(args) => args.of.output,
            Self::Unset(args) => args.of.output,
        }
    }
}

/// What `config check` found.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CheckReport {
    /// Whether services can use all of it.
    valid: bool,
    /// Each file that was looked at.
    files: Vec<CheckedFile>,
}

/// A file of settings.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CheckedFile {
    /// Where it is.
    file: PathBuf,
    /// All that is wrong with it.
    problems: Vec<String>,
}

/// What `config show` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ShowReport {
    /// Each file.
    files: Vec<ShownFile>,
}

/// The settings of a file.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ShownFile {
    /// Where it is; it need not be there if all of it is defaults.
    file: PathBuf,
    /// All settings that it can have.
    settings: Vec<Setting>,
}

/// Does what is asked for.
///
/// # Errors
/// [`Failure`]; a file that was not changed is as it was.
pub(crate) fn run(host: &dyn Host, command: &ConfigCommand, output: &mut Output<'_>) -> Outcome<()> {
    match command {
        ConfigCommand::Check(args) => check(&installed::find(&args.at)?, args, output),
        ConfigCommand::Show(args) => show(host, &installed::find(&args.at)?, args, output),
        ConfigCommand::Get(args) => get(host, &installed::find(&args.of.at)?, args, output),
        ConfigCommand::Set(args) => set(host, &args.of, &args.key, Some(&args.value), args.restart, output),
        ConfigCommand::Unset(args) => set(host, &args.of, &args.key, None, args.restart, output),
    }
}

fn files(installed: &Installed, args: &FileArgs) -> Vec<Which> {
    match &args.file {
        Some(which) => vec![which.clone()],
        None => Which::all(installed),
    }
}

fn check(installed: &Installed, args: &FileArgs, output: &mut Output<'_>) -> Outcome<()> {
    let mut report = CheckReport {
        valid: true,
        files: Vec::new(),
    };
    for which in files(installed, args) {
        let file = which.path(installed);
        let problems = which.problems(&which.text(installed)?, &file);
        report.valid &= problems.is_empty();
        match problems.is_empty() {
            true => output.line(&format!("{} can be used.", file.display())),
            false => problems.iter().for_each(|problem| output.line(problem)),
        }
        report.files.push(CheckedFile { file, problems });
    }
    output.json(&report);
    match report.valid {
        true => Ok(()),
        false => Err(
            Failure::installation("services could not start with these settings")
                .hint("mend them with an editor, or with flmadm config set"),
        ),
    }
}

fn show(host: &dyn Host, installed: &Installed, args: &FileArgs, output: &mut Output<'_>) -> Outcome<()> {
    let mut report = ShowReport { files: Vec::new() };
    for which in files(installed, args) {
        report.files.push(ShownFile {
            file: which.path(installed),
            settings: effective::settings(host, installed, &which)?,
        });
    }
    output.json(&report);
    let mut first = true;
    for file in &report.files {
        if !std::mem::take(&mut first) {
            output.line("");
        }
        output.line(&format!("{}:", file.file.display()));
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["KEY", "VALUE", "FROM"]);
        for setting in &file.settings {
            table.add_row([setting.key.clone(), plain(&setting.value), setting.from.clone()]);
        }
        for line in table.lines() {
            output.line(line.trim_end());
        }
    }
    Ok(())
}

fn get(host: &dyn Host, installed: &Installed, args: &GetArgs, output: &mut Output<'_>) -> Outcome<()> {
    let which = args.of.file.clone().unwrap_or_else(|| Which::of(&args.key));
    which.check_key(&args.key)?;
    let settings = effective::settings(host, installed, &which)?;
    let Some(setting) = settings.into_iter().find(|setting| setting.key == args.key) else {
        return Err(
            Failure::arguments(format!("{} is not set, and has no default", args.key))
                .hint(format!("flmadm config set {} VALUE sets it", args.key)),
        );
    };
    output.json(&setting);
    output.line(&plain(&setting.value));
    Ok(())
}

fn set(
    host: &dyn Host,
    args: &FileArgs,
    key: &str,
    value: Option<&str>,
    restart: bool,
    output: &mut Output<'_>,
) -> Outcome<()> {
    let installed = installed::find(&args.at)?;
    let which = args.file.clone().unwrap_or_else(|| Which::of(key));
    let mut changed = change::change(host, &installed, &which, key, value)?;
    let words = match (changed.changed, &changed.now) {
        (false, _) => format!("{} says so already; nothing was changed.", changed.file.display()),
        (true, Value::Null) => format!("{key} is removed from {}.", changed.file.display()),
        (true, now) => format!("{key} is {} in {}.", plain(now), changed.file.display()),
    };
    output.line(&words);
    let restarted = match restart && !changed.restart.is_empty() {
        true => services::restart(host, &installed, &changed.restart, output),
        false => Ok(()),
    };
    changed.restarted = restart && !changed.restart.is_empty() && restarted.is_ok();
    if !changed.restart.is_empty() {
        let units = changed.restart.join(" ");
        output.line(&match changed.restarted {
            true => format!("Restarted: {units}"),
            false => format!("In effect after: flmadm restart {units}"),
        });
    }
    for note in &changed.notes {
        output.line(&format!("Note: {note}"));
    }
    output.json(&changed);
    restarted
}

/// A value as people write it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
