//! `flmadm dev restart`: down, then up in the background as before.

use std::time::Duration;

use clap::Args;

use super::begin::{self, Wish};
use super::{DevPrefix, down, installing, up};
use crate::cli::OutputArg;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::output::Output;

#[derive(Debug, Args)]
pub(super) struct RestartArgs {
    #[command(flatten)]
    at: DevPrefix,
    /// Seconds within which nodes have to be ready
    #[arg(long, value_name = "SECONDS", default_value_t = up::READY_SECONDS)]
    timeout: u64,
    #[command(flatten)]
    pub(super) output: OutputArg,
}

/// Stops the cluster and starts it in the background.
///
/// # Errors
/// Nothing is installed, or it does not end or start.
pub(super) fn run(_host: &dyn Host, args: &RestartArgs, output: &mut Output<'_>) -> Outcome<()> {
    let cluster = args.at.cluster()?;
    // Before anything is stopped: a configuration that is broken must not cost a cluster that runs.
    let Some(config) = cluster.config()? else {
        return Err(installing::nothing_installed(&cluster));
    };
    let shape = cluster.shape().unwrap_or_default();
    down::end(&cluster, output)?;
    let wish = Wish {
        shape,
        in_background: true,
        ready_within: Duration::from_secs(args.timeout),
    };
    let lock = cluster.lock()?;
    if cluster.supervisor().is_some() {
        return Err(Failure::arguments(
            "somebody else has started the cluster meanwhile",
        ));
    }
    begin::begin(&cluster, &config, &wish, lock, output)
}
