//! `flmexec`: runs a script on a node of the Flame cluster.

mod args;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use flame_rs::error::report;
use flame_rs::stop::StopRequest;
use flame_rs::{Bytes, Client, Error, Session, SessionOptions, task};
use flmexec::{Printed, Script};

use crate::args::{Args, Output};

/// Exit status of a program that was interrupted, as shells have it.
const INTERRUPTED: u8 = 130;

/// How long to try to close a session whose script still runs after an interruption.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// How much longer than the script its answer may take, so that the node's own words are seen.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the script {path} is not text", path = path.display())]
    NotText { path: PathBuf },
    #[error("the standard input cannot be both the script and its input; give one of them as a file")]
    InputTwice,
    #[error("the service's answer is not what flmexec-service says; is {application} another application?")]
    Answer {
        application: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot write the request")]
    Request(#[source] serde_json::Error),
    #[error("cannot print the script's output")]
    Print(#[source] io::Error),
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Flame(#[from] Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match exec(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(failure) => {
            eprintln!("flmexec: {}", report(&failure));
            if let Failure::Flame(error) = &failure
                && let Some(hint) = error.hint()
            {
                eprintln!("flmexec: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn exec(args: &Args) -> Result<(), Failure> {
    let script = script(args)?;
    let input = serde_json::to_vec(&script).map_err(Failure::Request)?;
    let mut stop = StopRequest::watch().map_err(Error::Signals)?;
    let config = args.cluster.load()?;
    let client = Client::connect(&config).await?;
    let mut wanted = SessionOptions::new(&args.application).max_instances(1);
    if let Some(id) = &args.session {
        wanted = wanted.id(id);
    }
    let session = client.create_session(wanted).await?;
    let mut id = String::new();
    let outcome = tokio::select! {
        outcome = follow(&session, input.into(), &mut id) => outcome,
        () = stop.requested() => Err(Failure::Interrupted),
        after = over(args.timeout) => Err(Failure::Flame(Error::TimedOut {
            doing: "wait for the script".to_owned(),
            after,
        })),
    };
    let limit = if outcome.is_ok() {
        Duration::ZERO
    } else {
        CLOSE_LIMIT
    };
    if let Err(error) = session.close_within(limit).await {
        eprintln!("flmexec: {}; close it later with flmctl", report(&error));
    }
    match args.output {
        Output::Text => print(&outcome?),
        Output::Json => {
            let result = serde_json::json!({
                "session": session.id(),
                "task": id,
                "succeeded": outcome.is_ok(),
                "stdout": outcome.as_ref().ok().map(|data| String::from_utf8_lossy(data)),
                "error": outcome.as_ref().err().map(|failure| report(failure)),
            });
            print(format!("{result}\n").as_bytes())?;
            outcome.map(drop)
        }
    }
}

/// The script's output; `id` is the task's as soon as it is known.
async fn follow(session: &Session, input: Bytes, id: &mut String) -> Result<Vec<u8>, Failure> {
    let created = session.create_task(Some(input)).await?;
    task::id(&created).clone_into(id);
    let output = task::output(session.wait_task(id).await?)?;
    let application = session
        .record()
        .spec
        .as_ref()
        .map(|spec| spec.application.clone());
    let printed: Printed =
        serde_json::from_slice(&output.unwrap_or_default()).map_err(|source| Failure::Answer {
            application: application.unwrap_or_default(),
            source,
        })?;
    Ok(printed.data)
}

async fn over(limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) => {
            tokio::time::sleep(limit + ANSWER_TIME).await;
            limit
        }
        None => std::future::pending().await,
    }
}

fn script(args: &Args) -> Result<Script, Failure> {
    let dash = Path::new("-");
    if args.file.as_deref() == Some(dash) && args.input.as_deref() == Some(dash) {
        return Err(Failure::InputTwice);
    }
    let code = match (&args.code, &args.file) {
        (Some(code), _) => code.clone(),
        (None, Some(path)) => {
            String::from_utf8(read(path)?).map_err(|_| Failure::NotText { path: path.clone() })?
        }
        (None, None) => String::new(),
    };
    Ok(Script {
        language: Some(args.language(&code)),
        runtime: args.runtime.clone(),
        code,
        input: args.input.as_deref().map(read).transpose()?,
        timeout: args.timeout,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let content = if path == Path::new("-") {
        let mut content = Vec::new();
        io::stdin().read_to_end(&mut content).map(|_| content)
    } else {
        fs::read(path)
    };
    content.map_err(|source| Failure::Read {
        path: path.to_owned(),
        source,
    })
}

fn print(data: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(data)
        .and_then(|()| stdout.flush())
        .map_err(Failure::Print)
}
