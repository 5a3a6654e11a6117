//! `wordcount`: counts lines, words and bytes of all files below a directory, one task per file.

mod args;
mod files;
mod register;
mod report;

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use flame_rs::stop::StopRequest;
use flame_rs::{Client, Error, Session, SessionOptions, error};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wordcount::{Counts, to_input};

use crate::args::Args;
use crate::files::{PIECE, Pieces};
use crate::register::RegisterError;
use crate::report::Report;

/// Exit status of a program that was interrupted, as shells have it.
const INTERRUPTED: u8 = 130;

/// Tasks under way at the same time, each with up to a piece of memory.
const WINDOW: usize = 32;

/// How long to try to close a session whose tasks still run after an interruption.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("wordcount: {}", error::report(&failure));
            if let RegisterError::Flame(error) = &failure
                && let Some(hint) = error.hint()
            {
                eprintln!("wordcount: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<ExitCode, RegisterError> {
    let mut stop = StopRequest::watch().map_err(Error::Signals)?;
    let config = args.cluster.load()?;
    let client = Client::connect(&config).await?;
    register::ensure(&client, args).await?;
    let session = client
        .create_session(SessionOptions::new(&args.application))
        .await?;

    let (paths, unreadable) = files::below(&args.directory);
    let mut report = Report::new(&args.application, session.id(), paths);
    for (path, error) in unreadable {
        report.fail(path, error.to_string());
    }
    let stopped = tokio::select! {
        () = count_all(&session, &mut report) => false,
        () = stop.requested() => true,
    };
    let limit = if stopped { CLOSE_LIMIT } else { Duration::ZERO };
    if let Err(error) = session.close_within(limit).await {
        eprintln!("wordcount: {}; close it later with flmctl", error::report(&error));
    }
    if stopped {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let complete = report.print(args.output);
    Ok(if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What became of a piece of the file with that number.
type Counted = (usize, Result<Counts, String>);

/// Counts every file of the report.
async fn count_all(session: &Session, report: &mut Report) {
    let places = Arc::new(Semaphore::new(WINDOW));
    let mut tasks: JoinSet<Counted> = JoinSet::new();
    for number in 0..report.len() {
        if let Err(error) = submit(session, report.path(number), number, &places, &mut tasks).await {
            report.give_up(number, error.to_string());
        }
        while let Some(counted) = tasks.try_join_next() {
            note(report, counted);
        }
    }
    while let Some(counted) = tasks.join_next().await {
        note(report, counted);
    }
}

fn note(report: &mut Report, counted: Result<Counted, tokio::task::JoinError>) {
    // Our tasks neither panic nor are they cancelled, as long as this future is polled.
    if let Ok((number, counted)) = counted {
        match counted {
            Ok(counts) => report.add(number, counts),
            Err(error) => report.give_up(number, error),
        }
    }
}

/// Submits the pieces of one file.
async fn submit(
    session: &Session,
    path: PathBuf,
    number: usize,
    places: &Arc<Semaphore>,
    tasks: &mut JoinSet<Counted>,
) -> std::io::Result<()> {
    let mut pieces = Pieces::new(File::open(path)?, PIECE);
    while let Some(piece) = pieces.next()? {
        let place = places.clone().acquire_owned().await;
        let input = to_input(&piece.content, piece.in_word);
        let session = session.clone();
        tasks.spawn(async move {
            let counted = count_piece(&session, input).await;
            drop(place);
            (number, counted)
        });
    }
    Ok(())
}

async fn count_piece(session: &Session, input: Vec<u8>) -> Result<Counts, String> {
    let output = session.invoke(Some(input.into())).await;
    let output = output.map_err(|failure| error::report(&failure))?;
    serde_json::from_slice(&output.unwrap_or_default())
        .map_err(|error| format!("the service's answer is not what wordcount-service says ({error})"))
}
