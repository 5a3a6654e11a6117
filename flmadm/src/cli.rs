//! The command line, defined once: help, manual page and completion come from it.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use flame_core::config::DEFAULT_PREFIX;
use flame_core::{HostNames, InstanceName};

use crate::bundle::SourceArgs;
use crate::compile::BuildArgs;
use crate::doctor::DoctorArgs;
use crate::failure::{Failure, Outcome, exit_codes_text};
use crate::install::ExtrasArgs;
use crate::manifest::Manifest;
use crate::prefix::Prefix;
use crate::releases::ReleasesArgs;
use crate::repair::RepairArgs;
use crate::scope::{Home, Scope};
use crate::upgrade::{HealthArgs, RollbackArgs, UpgradeArgs};
use crate::{config, logs, services, verify};

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
    /// Switch to another release; it is taken back if it does not work
    Upgrade(Box<UpgradeArgs>),
    /// Switch back to an earlier release
    Rollback(RollbackArgs),
    /// List the releases that are there
    Releases(ReleasesArgs),
    /// Finish or undo a change that was interrupted
    Repair(RepairArgs),
    /// Remove what install made
    Uninstall(UninstallArgs),
    /// Show the services of an installation; exit code 5 if one is not active
    Status(StatusArgs),
    /// Make and check bundles, with which machines without sources are installed
    #[command(subcommand)]
    Bundle(Box<crate::bundle::BundleCommand>),
    /// Start services and wait until they work
    Start(services::UnitsArgs),
    /// Stop services and wait until nothing of them runs
    Stop(services::UnitsArgs),
    /// Stop and start services; executors go on meanwhile
    Restart(services::UnitsArgs),
    /// Have services started at every boot
    Enable(services::EnableArgs),
    /// Have services started at no boot
    Disable(services::EnableArgs),
    /// Show what services logged
    Logs(logs::LogsArgs),
    /// Check, show and change settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Check that everything is as it was installed; exit code 3 if something is not
    Verify(verify::VerifyArgs),
    /// Run a cluster of plain processes on this machine, without systemd and root
    Dev(Box<crate::dev::DevArgs>),
    /// Look for what is wrong with the machine and the installation; exit code 5 if there are errors
    Doctor(DoctorArgs),
    /// Print a completion script
    Completion {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for man(1): flmadm man | man -l -
    Man {
        /// The command to print the page of, as flmadm man install [default: flmadm itself]
        #[arg(value_name = "COMMAND")]
        words: Vec<String>,
        /// Write the pages of all commands to this directory
        #[arg(long, value_name = "DIR", conflicts_with = "words")]
        dir: Option<PathBuf>,
    },
    /// Print this message, the help of a command, the table of exit-codes, or the json-schema of a command's output
    Help {
        /// A command, exit-codes, or json-schema
        topic: Option<String>,
        /// For json-schema: the command; without one, those that have one are listed
        of: Option<String>,
    },
}

impl Command {
    /// The installation that the command looks at without changing it.
    pub(crate) fn looks_at(&self) -> Option<&PrefixArg> {
        match self {
            Self::Status(args) => Some(&args.at),
            _ => None,
        }
    }
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

/// Part of every command that is about an installation.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PrefixArg {
    /// Directory of the installation [default: /usr/local/flame, with --user ~/.local/share/flame; of an instance
    /// flame-NAME there]
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
    /// Name of the installation, if there are several with units on this machine
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<InstanceName>,
    /// The installation of your own: your service manager runs its units, and nothing needs root
    #[arg(long)]
    pub(crate) user: bool,
}

impl PrefixArg {
    /// The directory of the installation, checked.
    ///
    /// # Errors
    /// It cannot be one.
    pub(crate) fn prefix(&self) -> Outcome<Prefix> {
        let names = HostNames::new(self.instance.clone());
        match (&self.prefix, self.scope()) {
            (Some(path), _) => Prefix::new(path),
            (None, Scope::User) => Prefix::new(&Home::of_this_process().prefix(&names)),
            (None, Scope::System) => Prefix::new(&Path::new(DEFAULT_PREFIX).with_file_name(names.stem())),
        }
    }

    /// Whose units it has.
    pub(crate) fn scope(&self) -> Scope {
        match self.user {
            true => Scope::User,
            false => Scope::System,
        }
    }

    /// The directory and what is installed there: nothing, or what `--instance` says.
    ///
    /// # Errors
    /// As [`Self::prefix`]; the manifest cannot be read; something else is installed there.
    pub(crate) fn find(&self) -> Outcome<(Prefix, Option<Manifest>)> {
        let prefix = self.prefix()?;
        let found = Manifest::load(&prefix)?;
        if let Some(found) = found
            .as_ref()
            .filter(|found| !found.units.is_empty() && found.scope != self.scope())
        {
            let shown = prefix.path().display();
            return Err(match found.scope {
                Scope::User => Failure::arguments(format!("the installation in {shown} is one of a user"))
                    .hint("say so with --user, as the user whose it is"),
                Scope::System => Failure::arguments(format!("the installation in {shown} is the machine's"))
                    .hint("leave --user out"),
            });
        }
        let wrong = found
            .as_ref()
            .filter(|found| self.instance.is_some() && found.instance != self.instance);
        match (wrong, &self.instance) {
            (Some(found), Some(asked)) => Err(Failure::arguments(format!(
                "{} is not the instance {asked}, but {}",
                prefix.path().display(),
                match &found.instance {
                    Some(name) => format!("the instance {name}"),
                    None => "an installation without a name".to_owned(),
                }
            ))
            .hint("leave --prefix or --instance out")),
            _ => Ok((prefix, found)),
        }
    }
}

/// The options that say which installation is meant, for commands that are shown; each has a space before it.
pub(crate) fn which(manifest: &Manifest) -> String {
    let user = manifest.scope == Scope::User;
    let named = PrefixArg {
        prefix: None,
        instance: manifest.instance.clone(),
        user,
    };
    let mut words = if user { " --user".to_owned() } else { String::new() };
    match named.prefix() {
        Ok(prefix) if prefix.path() == manifest.prefix => {
            if let Some(instance) = &manifest.instance {
                words.push_str(&format!(" --instance {instance}"));
            }
        }
        _ => words.push_str(&format!(" --prefix {}", manifest.prefix.display())),
    }
    words
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
    #[arg(long, conflicts_with_all = ["enable", "user"])]
    pub(crate) no_systemd: bool,
    /// Start the services now and at every boot, and wait until they work
    #[arg(long)]
    pub(crate) enable: bool,
    #[command(flatten)]
    pub(crate) build: BuildArgs,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Address of the session manager, for the configuration [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Replace an existing configuration (kept as .bak) and units of another installation
    #[arg(long)]
    pub(crate) force: bool,
    /// Take configuration and data from this backup of an earlier installation, and its profiles if none is chosen
    #[arg(long, value_name = "DIR")]
    pub(crate) restore: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) extras: ExtrasArgs,
    #[command(flatten)]
    pub(crate) health: HealthArgs,
    /// Install although this check of the machine fails (repeatable; flmadm doctor --list)
    #[arg(long, value_name = "ID")]
    pub(crate) ignore_check: Vec<String>,
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

    use super::*;

    #[test]
    fn an_instance_has_a_directory_of_its_own() {
        for (line, prefix) in [
            ("", Some("/usr/local/flame")),
            ("--instance prod", Some("/usr/local/flame-prod")),
            ("--instance prod --prefix /opt/x", Some("/opt/x")),
            ("--prefix /usr", None),
        ] {
            let args = parse_install(&format!("--all {line}")).expect(line);
            let found = args.at.prefix().ok().map(|prefix| prefix.text());
            assert_eq!(found.as_deref(), prefix, "{line}");
        }
        for name in ["executor", "Prod", "a-b", ""] {
            parse_install(&format!("--all --instance={name}")).expect_err(name);
        }
    }

    #[test]
    fn an_installation_is_not_taken_for_another() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let at = |instance: Option<&str>| PrefixArg {
            prefix: Some(directory.path().to_owned()),
            instance: instance.map(|name| name.parse().expect("a name")),
            user: false,
        };
        assert!(at(Some("prod")).find().expect("nothing there").1.is_none());
        let manifest = Manifest {
            prefix: directory.path().to_owned(),
            instance: Some("prod".parse().expect("a name")),
            ..Manifest::default()
        };
        let text = manifest.text().expect("text");
        std::fs::write(directory.path().join("manifest.toml"), text).expect("written");
        assert!(at(None).find().expect("found").1.is_some());
        assert!(at(Some("prod")).find().expect("found").1.is_some());
        at(Some("test")).find().expect_err("another one");
    }

    #[test]
    fn commands_that_are_shown_say_which_installation_is_meant() {
        for (prefix, instance, words) in [
            ("/usr/local/flame", None, ""),
            ("/usr/local/flame-prod", Some("prod"), " --instance prod"),
            ("/opt/x", Some("prod"), " --prefix /opt/x"),
            ("/opt/x", None, " --prefix /opt/x"),
        ] {
            let manifest = Manifest {
                prefix: prefix.into(),
                instance: instance.map(|name| name.parse().expect("a name")),
                ..Manifest::default()
            };
            assert_eq!(which(&manifest), words, "{prefix}");
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
