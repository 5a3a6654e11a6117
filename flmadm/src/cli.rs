//! The command line, defined once: help, manual page and completion come from it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::failure::exit_codes_text;

/// Installs, removes and watches Flame on this machine.
#[derive(Debug, Parser)]
#[command(name = "flmadm", version, disable_help_subcommand = true, after_help = after_help())]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

fn after_help() -> String {
    format!("Exit codes:\n{}", exit_codes_text())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Install Flame, or bring an installation up to date
    Install(Box<InstallArgs>),
    /// Remove what install made
    Uninstall(UninstallArgs),
    /// Show the services of an installation; exit code 5 if one is not active
    Status(StatusArgs),
    /// Print a completion script
    Completion {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for man(1): flmadm man | man -l -
    Man,
    /// Print this message, the help of a command, the table of exit-codes, or the json-schema of a command's output
    Help {
        /// A command, exit-codes, or json-schema
        topic: Option<String>,
        /// For json-schema: the command; without one, those that have one are listed
        of: Option<String>,
    },
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Part of every command that has a result.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArg {
    /// How to print the result; flmadm help json-schema COMMAND describes the JSON
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct PrefixArg {
    /// Directory of the installation
    #[arg(long, value_name = "DIR", default_value = flame_core::config::DEFAULT_PREFIX)]
    pub(crate) prefix: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    /// Install the session manager
    #[arg(long, help_heading = "Profiles (at least one)")]
    pub(crate) control_plane: bool,
    /// Install the node agent, which runs tasks
    #[arg(long, help_heading = "Profiles (at least one)")]
    pub(crate) worker: bool,
    /// Install the object cache (not part of this release)
    #[arg(long, help_heading = "Profiles (at least one)")]
    pub(crate) cache: bool,
    /// Install the programs of users: flmctl, flmping, flmexec
    #[arg(long, help_heading = "Profiles (at least one)")]
    pub(crate) client: bool,
    /// Install everything that this release has
    #[arg(long, conflicts_with_all = ["control_plane", "worker", "cache", "client"],
          help_heading = "Profiles (at least one)")]
    pub(crate) all: bool,
    /// Do without systemd units, user and root
    #[arg(long, conflicts_with = "enable")]
    pub(crate) no_systemd: bool,
    /// Start the services now and at every boot, and wait until they work
    #[arg(long)]
    pub(crate) enable: bool,
    /// Do not build: take the programs that are built already
    #[arg(long)]
    pub(crate) skip_build: bool,
    /// Directory of prebuilt programs; nothing is built [default: target/release of --src-dir]
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Directory of Flame's sources
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) src_dir: PathBuf,
    /// Address of the session manager, for the configuration [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Replace an existing configuration (kept as .bak) and units of another installation
    #[arg(long)]
    pub(crate) force: bool,
    /// Print what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    /// Keep data/: sessions, tasks and applications
    #[arg(long)]
    pub(crate) preserve_data: bool,
    /// Keep conf/
    #[arg(long)]
    pub(crate) preserve_config: bool,
    /// Keep logs/
    #[arg(long)]
    pub(crate) preserve_logs: bool,
    /// Where the backup of conf/ and data/ goes [default: PREFIX.backup.TIME]
    #[arg(long, value_name = "DIR", conflicts_with = "no_backup")]
    pub(crate) backup_dir: Option<PathBuf>,
    /// Make no backup
    #[arg(long)]
    pub(crate) no_backup: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) force: bool,
    /// Remove the users and groups of Flame, too
    #[arg(long)]
    pub(crate) remove_user: bool,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// Arguments of `flmadm install`, as a shell would split `line`.
#[cfg(test)]
pub(crate) fn parse_install(line: &str) -> Result<InstallArgs, clap::Error> {
    let words = ["flmadm", "install"].into_iter().chain(line.split_whitespace());
    match Cli::try_parse_from(words)?.command {
        Command::Install(args) => Ok(*args),
        other => panic!("{other:?}"),
    }
}

/// Arguments of `flmadm uninstall`.
#[cfg(test)]
pub(crate) fn parse_uninstall(line: &str) -> Result<UninstallArgs, clap::Error> {
    let words = ["flmadm", "uninstall"].into_iter().chain(line.split_whitespace());
    match Cli::try_parse_from(words)?.command {
        Command::Uninstall(args) => Ok(args),
        other => panic!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
