//! `flmping`: checks that a Flame cluster runs tasks, and how fast.

mod args;
mod batched;
mod cold;
mod detach;
mod follow;
mod input;
mod run;
mod sessions;
mod tally;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use clap::Parser;
use flame_rs::stop::StopRequest;
use flame_rs::{Client, ClientOptions, Error, Session, error};
use flmping::Ping;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::{Args, Output};
use crate::follow::{Cut, Limits, follow};
use crate::input::Inputs;
use crate::run::{Followed, Plan, Running};
use crate::tally::{Report, Tally};

/// Exit status of a program that was interrupted, as shells have it.
const INTERRUPTED: u8 = 130;

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
    let stop = StopRequest::watch().map_err(Error::Signals)?;
    let mut limits = Limits::new(stop, args.timeout);
    let config = args.cluster.load()?;
    let options = ClientOptions {
        connections: connections(args),
        ..ClientOptions::default()
    };
    let client = Client::connect_with(&config, options).await?;
    let inputs = inputs(args);
    if args.cold {
        return cold(args, &client, &inputs, &mut limits).await;
    }
    let mut opened = Vec::new();
    let ready = tokio::select! {
        ready = sessions::open(&client, args, &mut opened) => ready.map(|()| None),
        cut = limits.over() => Ok(Some(cut)),
    };
    if !matches!(ready, Ok(None)) {
        sessions::close(&opened, true).await;
    }
    if let Some(cut) = ready? {
        tell_cut(&cut);
        return Ok(code(Some(&cut)));
    }
    if args.detach {
        return leave(args, &opened, &inputs, &mut limits).await;
    }
    let measured = measure(args, &opened, &inputs, &mut limits).await;
    let cut = !matches!(&measured, Ok(Measured { cut: None, .. }));
    let closed = sessions::close(&opened, cut).await;
    let measured = measured?;
    Ok(match &measured.cut {
        None if !closed || !measured.succeeded => ExitCode::FAILURE,
        cut => code(cut.as_ref()),
    })
}

/// What became of the tasks; their numbers have been printed.
struct Measured {
    succeeded: bool,
    cut: Option<Cut>,
}

/// Runs the tasks of the warm-up, then those that count, and prints how that went.
async fn measure(
    args: &Args,
    opened: &[Session],
    inputs: &Inputs,
    limits: &mut Limits,
) -> Result<Measured, Error> {
    let plan = |first, tasks| Plan {
        tasks,
        first,
        window: args.window,
        inputs: inputs.clone(),
    };
    if args.warm_up > 0 {
        let mut tally = Tally::new(total(args.warm_up, opened), false);
        let (_, cut) = run(args, opened, &plan(0, args.warm_up), &mut tally, limits).await?;
        if cut.is_some() || !tally.all_succeeded() {
            eprintln!("flmping: the warm-up did not succeed");
            tell(&tally, cut.as_ref());
            return Ok(Measured {
                succeeded: false,
                cut,
            });
        }
    }
    let mut tally = Tally::new(total(args.tasks, opened), shows_tasks(args));
    let (took, cut) = run(args, opened, &plan(args.warm_up, args.tasks), &mut tally, limits).await?;
    let first = opened.first().map_or("-", Session::id);
    let report = tally.report(first, args.sessions, took);
    print(args, &mut tally, &report);
    tell(&tally, cut.as_ref());
    Ok(Measured {
        succeeded: tally.all_succeeded(),
        cut,
    })
}

async fn run(
    args: &Args,
    opened: &[Session],
    plan: &Plan,
    tally: &mut Tally,
    limits: &mut Limits,
) -> Result<(Duration, Option<Cut>), Error> {
    let mut followed = Vec::new();
    for session in opened {
        // Asked before the clock starts: servers without batches say so here.
        let ends = if args.unary {
            None
        } else {
            session.watch_ends(plan.first).await?
        };
        let session = session.clone();
        followed.push(Followed { session, ends });
    }
    let bar = progress(args, total(plan.tasks, opened));
    let began = Instant::now();
    let cut = follow(Running::start(followed, plan), tally, &bar, limits).await;
    let took = began.elapsed();
    bar.finish_and_clear();
    Ok((took, cut))
}

/// As [`measure`], with a session for each task.
async fn cold(args: &Args, client: &Client, inputs: &Inputs, limits: &mut Limits) -> Result<ExitCode, Error> {
    let mut tally = Tally::new(args.tasks, shows_tasks(args));
    let bar = progress(args, args.tasks);
    let current = cold::Current::default();
    let running = cold::start(client, &sessions::options(args), args.tasks, inputs, &current);
    let began = Instant::now();
    let cut = follow(running, &mut tally, &bar, limits).await;
    let report = tally.report("-", args.tasks, began.elapsed());
    bar.finish_and_clear();
    print(args, &mut tally, &report);
    tell(&tally, cut.as_ref());
    let open = current.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(session) = open {
        sessions::close(&[session], true).await;
    }
    Ok(match &cut {
        None if !tally.all_succeeded() => ExitCode::FAILURE,
        cut => code(cut.as_ref()),
    })
}

/// Creates the tasks, and says where they are.
async fn leave(
    args: &Args,
    opened: &[Session],
    inputs: &Inputs,
    limits: &mut Limits,
) -> Result<ExitCode, Error> {
    let created = tokio::select! {
        created = detach::create(opened, args.tasks, args.unary, inputs) => created,
        cut = limits.over() => {
            tell_cut(&cut);
            sessions::close(opened, true).await;
            return Ok(code(Some(&cut)));
        }
    };
    let created = match created {
        Ok(created) => created,
        Err(error) => {
            sessions::close(opened, true).await;
            return Err(error);
        }
    };
    write(&match args.output {
        Output::Json => serde_json::to_string(&created).unwrap_or_default(),
        Output::Table => created.to_string(),
    });
    Ok(ExitCode::SUCCESS)
}

/// One connection carries what one core can send.
fn connections(args: &Args) -> usize {
    args.connections
        .and_then(|number| usize::try_from(number).ok())
        .unwrap_or(1)
}

fn inputs(args: &Args) -> Inputs {
    let tell = shows_tasks(args);
    match args.payload {
        Some(size) => Inputs::echo(size, tell),
        None => Inputs::ping(
            Ping {
                duration: args.duration,
                memory: args.memory,
            },
            tell,
        ),
    }
}

fn total(tasks: u64, opened: &[Session]) -> u64 {
    tasks.saturating_mul(opened.len() as u64)
}

fn shows_tasks(args: &Args) -> bool {
    !args.benchmark && args.output == Output::Table
}

fn progress(args: &Args, tasks: u64) -> ProgressBar {
    if !args.benchmark || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    // Ten pictures a second cost nothing that the benchmark would measure.
    let bar = ProgressBar::with_draw_target(Some(tasks), ProgressDrawTarget::stderr_with_hz(10));
    match ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} tasks, {per_sec}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn print(args: &Args, tally: &mut Tally, report: &Report) {
    write(&match args.output {
        Output::Json => serde_json::to_string(report).unwrap_or_default(),
        Output::Table if args.benchmark => report.to_string(),
        Output::Table => format!("{}\n\n{report}", tally.table()),
    });
}

fn write(text: &str) {
    // A reader that went away (`flmping | head`) is no failure of the tasks.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn tell(tally: &Tally, cut: Option<&Cut>) {
    for failure in tally.failures() {
        eprintln!("flmping: {failure}");
    }
    if let Some(cut) = cut {
        tell_cut(cut);
    }
}

fn tell_cut(cut: &Cut) {
    if let Cut::TimedOut(limit) = cut {
        eprintln!("flmping: not all tasks ended within {limit:?}");
    }
}

fn code(cut: Option<&Cut>) -> ExitCode {
    match cut {
        None => ExitCode::SUCCESS,
        Some(Cut::Interrupted) => ExitCode::from(INTERRUPTED),
        Some(Cut::TimedOut(_)) => ExitCode::FAILURE,
    }
}
