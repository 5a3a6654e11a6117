//! The soak test's client: creates tasks for a while, follows their ends, and checks every one of
//! them by its content. Prints a JSON report; its exit status says whether all was well.

mod check;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use flame_core::duration;
use flame_core::size;
use flame_rs::{Client, Error, error, v1};

/// Creates tasks in many calls, and checks that every one that was acknowledged ends exactly once,
/// with the right output.
#[derive(Debug, Clone, Parser)]
#[command(version)]
struct Args {
    /// For how long tasks are created, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = duration::parse_seconds)]
    time: Duration,
    /// For how long tasks are created in one session; then it is closed and the next one is made
    /// [default: as long as --time].
    #[arg(long, value_name = "SECONDS", value_parser = duration::parse_seconds)]
    session_time: Option<Duration>,
    /// Give up if the last task of a session has not ended that many seconds later.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = duration::parse_seconds)]
    patience: Duration,
    /// Sessions with tasks at the same time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=100))]
    sessions: u64,
    /// Tasks that are created in one call.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    batch: u64,
    /// Tasks of a session that are under way at the same time.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    window: u64,
    /// Most tasks that are created in each session per second.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Size of each input, and of each output.
    #[arg(long, value_name = "SIZE", default_value = "64", value_parser = size::parse)]
    size: u64,
    /// How long the service works on each task, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    work: u64,
    /// Name of the application that the client registers if there is none; each --work has its own.
    #[arg(long, value_name = "NAME", default_value = "flame-soak")]
    application: String,
    /// The service program.
    #[arg(long, value_name = "PATH")]
    service: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match soak(&args).await {
        Ok(report) => {
            println!("{}", serde_json::to_string(&report).unwrap_or_default());
            match report.violations.is_empty() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(failed) => {
            eprintln!("flame-soak: {}", error::report(&failed));
            ExitCode::FAILURE
        }
    }
}

async fn soak(args: &Args) -> Result<check::Report, Error> {
    let client = Client::connect_default().await?;
    if client.get_application(&args.application).await?.is_none() {
        let work = v1::Environment {
            name: flame_soak::WORK_VARIABLE.to_owned(),
            value: args.work.to_string(),
        };
        let spec = v1::ApplicationSpec {
            command: Some(args.service.to_string_lossy().into_owned()),
            environments: vec![work],
            ..Default::default()
        };
        client.register_application(&args.application, spec).await?;
    }
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..args.sessions {
        sessions.spawn(run::sessions(client.clone(), args.clone()));
    }
    let mut report = check::Report::default();
    while let Some(done) = sessions.join_next().await {
        report.add(done.unwrap_or(Err(Error::Interrupted))?);
    }
    Ok(report)
}
