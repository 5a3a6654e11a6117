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
use change::{ChangedSetting, Wanted};
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
    /// Change settings of a file together, if the services can use the new ones
    Set(SetArgs),
    /// Remove settings of a file together, so that their defaults are in effect
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
    /// More settings of the same file, which is written once with all of them; if one of these values begins with a
    /// dash, write -- before the first KEY
    #[arg(value_name = "KEY VALUE")]
    pub(crate) more: Vec<String>,
    /// Remove this setting of the same file in the same go (repeatable)
    #[arg(long, value_name = "KEY")]
    pub(crate) unset: Vec<String>,
    /// Restart the services that have read it
    #[arg(long)]
    pub(crate) restart: bool,
    #[command(flatten)]
    pub(crate) of: FileArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UnsetArgs {
    /// The settings, as cluster.endpoint or node.labels
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Restart the services that have read it
    #[arg(long)]
    pub(crate) restart: bool,
    #[command(flatten)]
    pub(crate) of: FileArgs,
}

impl SetArgs {
    /// Each setting with its new value, or none.
    ///
    /// # Errors
    /// The last has none.
    fn wanted(&self) -> Outcome<Vec<Wanted<'_>>> {
        let mut wanted = vec![(self.key.as_str(), Some(self.value.as_str()))];
        for pair in self.more.chunks(2) {
            match pair {
                [key, value] => wanted.push((key, Some(value))),
                _ => {
                    let key = pair.concat();
                    return Err(Failure::arguments(format!("there is no value for {key}"))
                        .hint("flmadm config set KEY VALUE KEY VALUE sets two settings together"));
                }
            }
        }
        wanted.extend(self.unset.iter().map(|key| (key.as_str(), None)));
        Ok(wanted)
    }
}

impl UnsetArgs {
    fn wanted(&self) -> Vec<Wanted<'_>> {
        self.keys.iter().map(|key| (key.as_str(), None)).collect()
    }
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
        ConfigCommand::Set(args) => set(host, &args.of, &args.wanted()?, args.restart, output),
        ConfigCommand::Unset(args) => set(host, &args.of, &args.wanted(), args.restart, output),
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
    wanted: &[Wanted<'_>],
    restart: bool,
    output: &mut Output<'_>,
) -> Outcome<()> {
    let installed = installed::find(&args.at)?;
    let which = match &args.file {
        Some(which) => which.clone(),
        None => Which::of_all(wanted.iter().map(|(key, _)| *key))?,
    };
    let mut changed = change::change(host, &installed, &which, wanted)?;
    let file = changed.file.display();
    if !changed.changed {
        output.line(&format!("{file} says so already; nothing was changed."));
    }
    for ChangedSetting { key, now, .. } in changed.settings.iter().filter(|_| changed.changed) {
        output.line(&match now {
            Value::Null => format!("{key} is removed from {file}."),
            now => format!("{key} is {} in {file}.", plain(now)),
        });
    }
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
