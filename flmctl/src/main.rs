//! `flmctl`, the user command line of Flame. It speaks the services Frontend,
//! Control and Admin.

mod cli;
mod client;
mod commands;
mod details;
mod error;
mod format;
#[cfg(test)]
mod golden;
mod manifest;
mod model;
mod printer;
mod table;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use flame_core::config::ClientConfig;

use cli::{Cli, Command, Create, Format, Global, Watch};
use client::Client;
use commands::{apply, backup, cancel, create, docs, end, explain, list, logs, node, view, watch};
use error::{CtlError, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE};
use printer::Printer;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    let format = cli.global.output;
    // One request at a time needs one thread.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: cannot start: {error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let outcome = runtime.block_on(until_interrupted(cli));
    // A read of standard input cannot be cancelled; it must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        None => ExitCode::from(EXIT_INTERRUPTED),
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Some(Err(error)) => {
            let text = if format == Format::Json {
                error.json()
            } else {
                error.text()
            };
            let _ = writeln!(std::io::stderr(), "{text}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Help, version or wrong usage; the latter as JSON for programs, as any other error.
fn refused(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && asks_for_json(std::env::args_os().skip(1)) {
        let text = error.to_string();
        let message = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ");
        let _ = writeln!(
            std::io::stderr(),
            "{}",
            CtlError::Usage(message.to_owned()).json()
        );
        return ExitCode::from(EXIT_USAGE);
    }
    error.exit()
}

/// Whether a command line that could not be read has `-o json` in it.
fn asks_for_json(args: impl Iterator<Item = OsString>) -> bool {
    let args: Vec<OsString> = args.collect();
    let joined = ["-ojson", "-o=json", "--output=json"];
    args.iter().any(|arg| joined.iter().any(|json| arg == json))
        || args.windows(2).any(
            |pair| matches!(pair, [flag, value] if (flag == "-o" || flag == "--output") && value == "json"),
        )
}

/// Runs the command; nothing if Ctrl-C came first.
async fn until_interrupted(cli: Cli) -> Option<Result<(), CtlError>> {
    tokio::select! {
        result = run(cli) => Some(result),
        Ok(()) = tokio::signal::ctrl_c() => None,
    }
}

/// Checks the arguments first, so that wrong usage is told apart from a cluster that is down.
async fn run(cli: Cli) -> Result<(), CtlError> {
    let Cli { global, command } = cli;
    let printer = Printer::new(global.output, global.no_color);
    match command {
        Command::Version => docs::version(&printer),
        Command::Completion { shell } => docs::completion(&printer, shell),
        Command::Man { dir } => docs::man(&printer, dir.as_deref()),
        Command::List(args) => {
            let query = list::Query::new(args)?;
            list::run(&connect(&global).await?, &printer, &query).await
        }
        Command::View(args) => {
            let target = view::Target::new(&args)?;
            view::run(&connect(&global).await?, &printer, &target, &args).await
        }
        Command::Create(Create::Session(args)) => {
            let request = create::session_request(args).await?;
            create::session(&connect(&global).await?, &printer, request).await
        }
        Command::Create(Create::Task(args)) => {
            let spec = create::task_spec(&args).await?;
            create::task(&connect(&global).await?, &printer, spec, args.wait).await
        }
        Command::Close(args) => {
            let ids = end::ids(args.which)?;
            let end = if args.cancel_running {
                end::End::CancelAndClose
            } else {
                end::End::Close
            };
            end::run(&connect(&global).await?, &printer, end, &ids).await
        }
        Command::Cancel(args) => cancel::run(&connect(&global).await?, &printer, args).await,
        Command::Explain(args) => explain::run(&connect(&global).await?, &printer, &args.session).await,
        Command::Logs(args) => logs::run(&connect(&global).await?, &printer, args).await,
        Command::Node(command) => node::run(&connect(&global).await?, &printer, command).await,
        Command::Delete(args) => {
            let ids = end::ids(args)?;
            end::run(&connect(&global).await?, &printer, end::End::Delete, &ids).await
        }
        Command::Register(args) => {
            let source = apply::Source::new(args).await?;
            apply::register(&connect(&global).await?, &printer, source).await
        }
        Command::Update(args) => {
            let source = apply::Source::new(args).await?;
            apply::update(&connect(&global).await?, &printer, source).await
        }
        Command::Unregister(args) => {
            let names = apply::names(args)?;
            apply::unregister(&connect(&global).await?, &printer, &names).await
        }
        Command::Backup(args) => {
            let target = backup::Target::new(args)?;
            backup::run(&connect(&global).await?, &printer, &target).await
        }
        Command::Watch(Watch::Task { id, session }) => {
            watch::task(&connect(&global).await?, &printer, &session, &id).await
        }
    }
}

async fn connect(global: &Global) -> Result<Client, CtlError> {
    let config = ClientConfig::load_for(global.config.as_deref(), global.endpoint.clone())?;
    Client::connect(&config).await
}
