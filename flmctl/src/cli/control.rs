//! The flags of `cancel`, `explain` and `node`.

use std::time::Duration;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(after_help = "A task that runs ends at once; its service process is ended with it.")]
pub(crate) struct CancelArgs {
    /// Session of the tasks
    #[arg(short, long, value_name = "ID")]
    pub(crate) session: String,
    /// Task to cancel, may be given several times [default: all that have not ended]
    #[arg(short = 't', long = "task", value_name = "ID")]
    pub(crate) tasks: Vec<String>,
    /// Why, for whoever looks at the tasks later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The session
    #[arg(short, long, value_name = "ID")]
    pub(crate) session: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Give nodes no new executors; those that they have go on
    Cordon(NodeOut),
    /// As cordon, and the executors end after the tasks that run
    Drain {
        #[command(flatten)]
        out: NodeOut,
        /// Wait until nothing runs on the nodes any more
        #[arg(long)]
        wait: bool,
        /// How long to wait at most [default: as long as it takes]
        #[arg(long, value_name = "TIME", requires = "wait", value_parser = crate::format::time_limit)]
        timeout: Option<Duration>,
    },
    /// Take cordon and drain back
    Uncordon(NodeNames),
    /// Remove nodes that are not connected; their tasks are given to others at once
    Forget(NodeNames),
}

#[derive(Debug, Args)]
pub(crate) struct NodeNames {
    /// Names of the nodes
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NodeOut {
    #[command(flatten)]
    pub(crate) nodes: NodeNames,
    /// Why, for whoever looks at the nodes later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}
