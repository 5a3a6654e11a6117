//! `flmping`: checks that a Flame cluster runs tasks, and how fast.

mod args;
mod batched;
mod run;
mod tally;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use flame_rs::stop::StopRequest;
use flame_rs::{Bytes, Client, ClientOptions, Error, Session, SessionOptions, client, error};
use flmping::Ping;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::{Args, Output};
use crate::run::Running;
use crate::tally::Tally;

/// Exit status of a program that was interrupted, as shells have it.
const INTERRUPTED: u8 = 130;

/// How long to try to close a session whose tasks still run after an interruption.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// Tasks under way unless asked otherwise: enough that all parts of a cluster on one machine are
/// busy. A single call costs its client more than a place in a batch.
const BATCHED_WINDOW: u64 = 10_000;
const UNARY_WINDOW: u64 = 1_000;

/// Why the tasks were not followed to the last one.
enum Cut {
    Interrupted,
    TimedOut(Duration),
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match ping(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("flmping: {}", error::report(&error));
            if let Some(hint) = error.hint() {
                eprintln!("flmping: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn ping(args: &Args) -> Result<ExitCode, Error> {
    let mut stop = StopRequest::watch().map_err(Error::Signals)?;
    let config = client::config(args.config.as_deref(), args.endpoint.clone())?;
    let options = ClientOptions {
        connections: connections(args),
        ..ClientOptions::default()
    };
    let client = Client::connect_with(&config, options).await?;
    let mut wanted = SessionOptions::new(&args.application);
    if let Some(id) = &args.session {
        wanted = wanted.id(id);
    }
    let session = client.create_session(wanted).await?;
    let (mut tally, took, cut) = follow(args, &session, &mut stop).await?;
    print(args, &mut tally, &session, took);
    if let Some(Cut::TimedOut(limit)) = cut {
        eprintln!("flmping: not all tasks ended within {limit:?}");
    }
    if !close(&session, cut.is_some()).await && cut.is_none() {
        return Ok(ExitCode::FAILURE);
    }
    Ok(match cut {
        Some(Cut::Interrupted) => ExitCode::from(INTERRUPTED),
        None if tally.all_succeeded() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// One connection carries what one core can send.
fn connections(args: &Args) -> usize {
    args.connections
        .and_then(|number| usize::try_from(number).ok())
        .unwrap_or(1)
}

/// Runs the tasks until the last one ends, the time is over or the user has enough.
async fn follow(
    args: &Args,
    session: &Session,
    stop: &mut StopRequest,
) -> Result<(Tally, Duration, Option<Cut>), Error> {
    let ping = Ping {
        duration: args.duration,
        memory: args.memory,
    };
    // Two numbers are always JSON.
    let input = ping.to_input().ok().flatten().map(Bytes::from);
    let bar = progress(args);
    let mut tally = Tally::new(args.tasks, !args.benchmark && args.output == Output::Table);
    // Asked before the clock starts: servers without batches say so here.
    let ends = if args.unary {
        None
    } else {
        session.watch_ends(0).await?
    };
    let started = Instant::now();
    let mut running = match ends {
        Some(ends) => batched::start(
            session,
            ends,
            args.tasks,
            args.window.unwrap_or(BATCHED_WINDOW),
            input,
        ),
        None => Running::start(session, args.tasks, args.window.unwrap_or(UNARY_WINDOW), input),
    };
    let mut ended = 0;
    let limit = async {
        match args.timeout {
            Some(limit) => {
                tokio::time::sleep(limit).await;
                limit
            }
            None => std::future::pending().await,
        }
    };
    tokio::pin!(limit);
    let cut = loop {
        if ended == args.tasks {
            break None;
        }
        tokio::select! {
            biased;
            () = stop.requested() => break Some(Cut::Interrupted),
            limit = &mut limit => break Some(Cut::TimedOut(limit)),
            next = running.next() => match next {
                Some(task) => {
                    tally.add(task);
                    ended += 1;
                    bar.inc(1);
                }
                None => break None,
            },
        }
    };
    let took = started.elapsed();
    running.stop().await;
    bar.finish_and_clear();
    Ok((tally, took, cut))
}

fn progress(args: &Args) -> ProgressBar {
    if !args.benchmark || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    // Ten pictures a second cost nothing that the benchmark would measure.
    let bar = ProgressBar::with_draw_target(Some(args.tasks), ProgressDrawTarget::stderr_with_hz(10));
    match ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} tasks, {per_sec}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn print(args: &Args, tally: &mut Tally, session: &Session, took: Duration) {
    let report = tally.report(session.id(), took);
    let text = match args.output {
        Output::Json => serde_json::to_string(&report).unwrap_or_default(),
        Output::Table if args.benchmark => report.to_string(),
        Output::Table => format!("{}\n\n{report}", tally.table(session.id())),
    };
    // A reader that went away (`flmping | head`) is no failure of the tasks.
    let _ = writeln!(std::io::stdout(), "{text}");
    for failure in tally.failures() {
        eprintln!("flmping: {failure}");
    }
}

/// Closes the session; after an interruption its tasks may still run for a while.
async fn close(session: &Session, cut: bool) -> bool {
    let limit = if cut { CLOSE_LIMIT } else { Duration::ZERO };
    let closed = session.close_within(limit).await;
    if let Err(error) = &closed {
        eprintln!("flmping: {}; close it later with flmctl", error::report(error));
    }
    closed.is_ok()
}
