//! Command line of `flmping`.

use std::time::Duration;

use clap::{Parser, ValueEnum};
use flame_core::duration;
use flame_core::size;
use flame_rs::cli::ClusterArgs;

const EXAMPLES: &str = "\
Examples:
  flmping                        10 tasks that do nothing
  flmping -t 100 -d 50 -m 64M    100 tasks that each fill 64 MiB for 50 ms
  flmping -p -t 30000            tasks per second and latency
  flmping -p -t 30000 -o json    the same for programs
  flmping -p --cold -t 50        from a new session to its first result
  flmping -p --sessions 10 -t 1000 --executors 2
                                 ten sessions of 1,000 tasks at once, each with two executors
  flmping -p -a echo --payload 100K -t 1000
                                 with data, checked when it comes back

Exit status: 0 all tasks succeeded, 1 some did not or an error, 2 wrong arguments, 130 interrupted.
The session manager is the one of --endpoint, FLAME_ENDPOINT, ~/.flame/flame.yaml, or else
http://127.0.0.1:8080.";

/// Checks that a Flame cluster runs tasks, and how fast.
#[derive(Debug, Parser)]
#[command(name = "flmping", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Number of tasks, in each session.
    #[arg(short, long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) tasks: u64,
    /// How long each task takes, in milliseconds.
    #[arg(short, long, value_name = "MS")]
    pub(crate) duration: Option<u64>,
    /// How much memory each task fills, e.g. 64M.
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) memory: Option<u64>,
    /// Send that much data with each task and check that the same comes back, e.g. 100K; for an
    /// application whose service returns its input, like flmping-echo.
    #[arg(long, value_name = "SIZE", value_parser = payload, conflicts_with_all = ["duration", "memory"])]
    pub(crate) payload: Option<usize>,
    /// Sessions that run at the same time.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "session",
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) sessions: u64,
    /// Executors of each session, exactly that many, and they are ready before the first task.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) executors: Option<u32>,
    /// Tasks that each session runs first and that are not counted.
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub(crate) warm_up: u64,
    /// A new session for each task, one after the other: the latency is from the session's
    /// creation to the result.
    #[arg(long, conflicts_with_all = ["session", "sessions", "warm_up", "executors", "window", "detach"])]
    pub(crate) cold: bool,
    /// Only create the tasks: do not wait for their ends, leave the session open.
    #[arg(long, conflicts_with_all = ["warm_up", "executors"])]
    pub(crate) detach: bool,
    /// Benchmark: no line per task, only the numbers.
    #[arg(short = 'p', long)]
    pub(crate) benchmark: bool,
    /// Tasks under way at the same time [default: 10000, with single calls 1000; with payloads
    /// at most 64 MiB of them].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) window: Option<u64>,
    /// Use only the calls for single tasks, also if the server offers batches.
    #[arg(long)]
    pub(crate) unary: bool,
    /// HTTP/2 connections to spread the requests over [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) connections: Option<u64>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Application to ping: one whose service is flmping-service.
    #[arg(short, long, value_name = "NAME", default_value = "flmping")]
    pub(crate) application: String,
    /// Id of the session to create, instead of a random one.
    #[arg(short, long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// How the result is printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Output,
    /// Give up after that many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = duration::parse_seconds)]
    pub(crate) timeout: Option<Duration>,
}

/// A payload is one message, and no link takes a larger one.
fn payload(text: &str) -> Result<usize, String> {
    let bytes = size::parse(text).map_err(|error| error.to_string())?;
    match usize::try_from(bytes) {
        Ok(0) => Err("a payload has at least one byte".to_owned()),
        Ok(bytes) if bytes <= flame_rs::MAX_MESSAGE_SIZE => Ok(bytes),
        _ => Err(format!(
            "a payload has at most {}",
            size::format(flame_rs::MAX_MESSAGE_SIZE as u64)
        )),
    }
}

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn no_tasks_is_a_mistake() {
        assert!(Args::try_parse_from(["flmping", "-t", "0"]).is_err());
        assert!(Args::try_parse_from(["flmping", "-e", "localhost"]).is_err());
    }

    #[test]
    fn what_contradicts_itself_or_fits_no_message_is_refused() {
        for wrong in [
            &["--payload", "0"][..],
            &["--payload", "1G"],
            &["--payload", "1K", "-d", "5"],
            &["--sessions", "2", "-s", "mine"],
            &["--cold", "--sessions", "2"],
            &["--cold", "--detach"],
            &["--detach", "--warm-up", "5"],
        ] {
            let words = ["flmping"].iter().chain(wrong);
            assert!(Args::try_parse_from(words).is_err(), "{wrong:?}");
        }
        let args = Args::try_parse_from(["flmping", "--payload", "100K"]).expect("valid");
        assert_eq!(args.payload, Some(100 << 10));
    }
}
