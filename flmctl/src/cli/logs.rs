//! The flags of `logs`.

use clap::{ArgGroup, Args};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whose").args(["session", "node"]).required(true).multiple(true)))]
#[command(
    after_help = "Lines are shown by their times. With -t those that were written while the task ran: of tasks of a few \
                  milliseconds, also some of their neighbours."
)]
pub(crate) struct LogsArgs {
    /// Session whose processes have written
    #[arg(short, long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// Only what was written while this task of the session ran
    #[arg(short, long, value_name = "ID", requires = "session")]
    pub(crate) task: Option<u64>,
    /// Only of this node; without a session the log of its agent
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Go on with what is written from now on, until the session is closed or the task has ended
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines of what is there [default: all]
    #[arg(short = 'n', long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub(crate) lines: Option<u32>,
}
