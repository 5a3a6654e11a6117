//! `flmadm`, the administrator's command line: installs, removes and watches Flame on one machine.

mod accounts;
mod backup;
mod bundle;
mod change;
mod cli;
mod cluster_config;
mod compile;
mod config;
mod dev;
mod doctor;
mod environment;
mod examples;
mod failure;
mod files;
mod gate;
#[cfg(test)]
mod golden;
mod host;
mod install;
mod installed;
mod interrupts;
mod logs;
mod manifest;
mod manual;
mod node_config;
mod output;
mod parallel;
mod ports;
mod prefix;
mod processes;
mod profile;
mod programs;
mod python;
mod release;
mod releases;
mod repair;
mod restore;
mod rights;
mod schema;
mod scope;
mod services;
mod status;
mod step;
mod style;
mod sums;
mod terminal;
mod transaction;
mod uninstall;
mod unit_files;
mod unit_removal;
mod upgrade;
mod verify;
mod work_directories;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use cli::{Cli, Command, Format};
use failure::{Failure, Kind, Outcome};
use host::{Host, RealHost};
use output::Output;
use scope::Scope;

fn main() -> ExitCode {
    style::enable();
    // They take colours out where NO_COLOR, CLICOLOR_FORCE or what they lead to says so.
    let (out, err) = (&mut anstream::stdout(), &mut anstream::stderr());
    ExitCode::from(match parse(std::env::args_os(), out, err) {
        Ok(parsed) => perform(&RealHost::new(parsed.scope), parsed, out, err),
        Err(code) => code,
    })
}

/// A command line that was understood.
struct Parsed {
    cli: Cli,
    /// How its result is printed.
    format: Format,
    /// Whose installation it is about.
    scope: Scope,
}

/// Reads a command line. One that asks for help, or cannot be understood, gives the exit code.
fn parse(
    words: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<Parsed, u8> {
    let words: Vec<OsString> = words.into_iter().collect();
    let parsed = Cli::command().try_get_matches_from(&words).and_then(|matches| {
        let format = output::format(&matches);
        let scope = scope::asked(&matches);
        Cli::from_arg_matches(&matches).map(|cli| Parsed { cli, format, scope })
    });
    parsed.map_err(|error| unparsed(&error, &words, out, err))
}

/// Runs a command line on a machine of a test and gives the exit code.
#[cfg(test)]
fn run(
    host: &dyn Host,
    words: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    match parse(words, out, err) {
        Ok(parsed) => perform(host, parsed, out, err),
        Err(code) => code,
    }
}

/// Runs a command and gives the exit code.
fn perform(host: &dyn Host, parsed: Parsed, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let Parsed { cli, format, .. } = parsed;
    if let Some(warning) = warning(host, &cli.command) {
        let _ = writeln!(err, "warning: {warning}");
    }
    let mut out = output::Once::new(out);
    match execute(host, cli.command, &mut out) {
        Ok(()) => 0,
        Err(failure) if failure.is_told() => failure.kind as u8,
        Err(failure) => {
            // A command that has printed its result says in there what is wrong.
            if format == Format::Json && !out.has_begun() {
                output::document(&mut out, &failure.document());
            }
            let _ = writeln!(err, "{}", failure.report());
            failure.kind as u8
        }
    }
}

/// What commands say that only look: those that change something put things in order first.
fn warning(host: &dyn Host, command: &Command) -> Option<String> {
    let prefix = command.looks_at()?.prefix().ok()?;
    transaction::warning(host, &prefix)
}

/// Ends for a command line that asks for help, or cannot be understood.
fn unparsed(error: &clap::Error, words: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let rendered = error.render();
    let text = match style::is_enabled() {
        true => rendered.ansi().to_string(),
        false => rendered.to_string(),
    };
    // --help and --version are no errors; clap's own code for the others would be 2.
    if !error.use_stderr() {
        let _ = write!(out, "{text}");
        return 0;
    }
    if output::wants_json(words) {
        let plain = rendered.to_string();
        let message = plain.split("\n\n").next().unwrap_or_default();
        let failure = Failure::arguments(message.trim_start_matches("error: "))
            .hint("flmadm help COMMAND explains its arguments");
        output::document(out, &failure.document());
    }
    let _ = write!(err, "{text}");
    Kind::Arguments as u8
}

fn execute(host: &dyn Host, command: Command, out: &mut dyn Write) -> Outcome<()> {
    match command {
        Command::Install(args) => install::run(host, &args, &mut Output::new(args.output, out)),
        Command::Upgrade(args) => upgrade::run(host, &args, &mut Output::new(args.output, out)),
        Command::Rollback(args) => upgrade::run_rollback(host, &args, &mut Output::new(args.output, out)),
        Command::Releases(args) => releases::run(host, &args, &mut Output::new(args.output, out)),
        Command::Repair(args) => repair::run(host, &args, &mut Output::new(args.output, out)),
        Command::Uninstall(args) => uninstall::run(host, &args, &mut Output::new(args.output, out)),
        Command::Status(args) => status::run(host, &args, &mut Output::new(args.output, out)),
        Command::Bundle(command) => bundle::run(host, &command, out),
        Command::Start(args) => services(host, services::Verb::Start, &args, out),
        Command::Stop(args) => services(host, services::Verb::Stop, &args, out),
        Command::Restart(args) => services(host, services::Verb::Restart, &args, out),
        Command::Enable(args) => enable(host, services::Verb::Enable, &args, out),
        Command::Disable(args) => enable(host, services::Verb::Disable, &args, out),
        Command::Logs(args) => logs::run(host, &args, &mut Output::new(args.output, out)),
        Command::Config(command) => config::run(host, &command, &mut Output::new(command.output(), out)),
        Command::Verify(args) => verify::run(host, &args, &mut Output::new(args.output, out)),
        Command::Dev(args) => dev::run(host, &args, out),
        Command::Doctor(args) => doctor::run(host, &args, &mut Output::new(args.output, out)),
        Command::Completion { shell } => print(out, manual::completion(shell).as_bytes()),
        Command::Man { words, dir: None } => print(out, manual::page(&words)?.as_bytes()),
        Command::Man { dir: Some(dir), .. } => {
            let count = manual::write(&dir)?;
            print(
                out,
                format!("Wrote {count} pages to {}\n", dir.display()).as_bytes(),
            )
        }
        Command::Help { topic, of } => help(topic.as_deref(), of.as_deref(), out),
    }
}

fn services(
    host: &dyn Host,
    verb: services::Verb,
    args: &services::UnitsArgs,
    out: &mut dyn Write,
) -> Outcome<()> {
    services::run(host, verb, args, &mut Output::new(args.output, out))
}

fn enable(
    host: &dyn Host,
    verb: services::Verb,
    args: &services::EnableArgs,
    out: &mut dyn Write,
) -> Outcome<()> {
    services::run_enable(host, verb, args, &mut Output::new(args.which.output, out))
}

fn help(topic: Option<&str>, of: Option<&str>, out: &mut dyn Write) -> Outcome<()> {
    let mut command = Cli::command();
    let text = match topic {
        Some("json-schema") => schema::text(of)?,
        None => command.render_long_help().to_string(),
        Some("exit-codes") => failure::exit_codes_text(),
        Some(name) => match command.find_subcommand_mut(name) {
            Some(subcommand) => subcommand.render_long_help().to_string(),
            None => {
                return Err(Failure::arguments(format!("there is no help about {name:?}"))
                    .hint("topics are the commands (flmadm help lists them), exit-codes and json-schema"));
            }
        },
    };
    print(out, text.as_bytes())
}

fn print(out: &mut dyn Write, text: &[u8]) -> Outcome<()> {
    match out.write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::arguments("cannot write to the standard output").because(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod said_tests;
#[cfg(test)]
mod tests;
