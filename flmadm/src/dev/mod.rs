//! `flmadm dev`: a cluster of plain processes on this machine, without systemd and root.

mod begin;
mod cluster;
mod core;
#[cfg(test)]
mod core_tests;
mod down;
mod installing;
mod launch;
mod leftovers;
mod log_file;
mod logs;
mod nodes;
mod ports;
mod process;
mod restart;
mod running;
mod status;
mod supervise;
mod unsupervised;
mod up;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::output::Output;

use cluster::Cluster;

pub(crate) use down::Report as DownReport;
pub(crate) use logs::Report as LogsReport;
pub(crate) use status::Report as StatusReport;
pub(crate) use up::Report as UpReport;

/// A cluster of plain processes on this machine, without systemd and root
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    command: DevCommand,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Install if needed, start everything, and watch over it until Ctrl-C
    Up(up::UpArgs),
    /// Stop the cluster; no process is left
    Down(down::DownArgs),
    /// Stop the cluster if it runs, and start it in the background as it was
    Restart(restart::RestartArgs),
    /// Show daemons and nodes; exit code 5 if something does not run
    Status(status::StatusArgs),
    /// Show the ends of the daemons' logs
    Logs(logs::LogsArgs),
    /// What `up --detach` leaves in the background
    #[command(hide = true)]
    Supervise(supervise::SuperviseArgs),
    /// Becomes a daemon
    #[command(hide = true)]
    Launch(launch::LaunchArgs),
}

/// Where the cluster is.
#[derive(Debug, Clone, Args)]
struct DevPrefix {
    /// Directory of the cluster [default: $XDG_STATE_HOME/flame-dev, else ~/.local/state/flame-dev]
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
}

impl DevPrefix {
    fn cluster(&self) -> Outcome<Cluster> {
        let path = match &self.prefix {
            Some(path) => path.clone(),
            None => default_prefix(
                std::env::var_os("XDG_STATE_HOME").map(PathBuf::from),
                std::env::home_dir(),
            )
            .ok_or_else(|| {
                Failure::arguments("there is no home directory to keep a cluster in").hint("give a --prefix")
            })?,
        };
        Cluster::new(&path)
    }
}

/// The XDG specification has relative paths ignored.
fn default_prefix(state: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    state
        .filter(|path| path.is_absolute())
        .or_else(|| home.map(|home| home.join(".local/state")))
        .map(|state| state.join("flame-dev"))
}

/// Carries out a command of `flmadm dev`.
///
/// # Errors
/// [`Failure`]
pub(crate) fn run(host: &dyn Host, args: &DevArgs, out: &mut dyn std::io::Write) -> Outcome<()> {
    match &args.command {
        DevCommand::Up(args) => up::run(host, args, &mut Output::new(args.output, out)),
        DevCommand::Down(args) => down::run(host, args, &mut Output::new(args.output, out)),
        DevCommand::Restart(args) => restart::run(host, args, &mut Output::new(args.output, out)),
        DevCommand::Status(args) => status::run(args, &mut Output::new(args.output, out)),
        DevCommand::Logs(args) => logs::run(args, out),
        DevCommand::Supervise(args) => supervise::background(args, out),
        DevCommand::Launch(args) => launch::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_prefix_is_in_the_users_state() {
        let path = |text: &str| Some(PathBuf::from(text));
        for (state, home, expected) in [
            (path("/s"), path("/home/me"), path("/s/flame-dev")),
            (
                path("s"),
                path("/home/me"),
                path("/home/me/.local/state/flame-dev"),
            ),
            (
                path(""),
                path("/home/me"),
                path("/home/me/.local/state/flame-dev"),
            ),
            (None, path("/home/me"), path("/home/me/.local/state/flame-dev")),
            (None, None, None),
        ] {
            assert_eq!(default_prefix(state, home), expected);
        }
    }
}
