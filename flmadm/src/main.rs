//! `flmadm`, the administrator's command line: installs, removes and watches Flame on one machine.

mod accounts;
mod cli;
mod cluster_config;
mod compile;
mod failure;
#[cfg(test)]
mod golden;
mod host;
mod install;
mod interrupts;
mod manifest;
mod node_config;
mod output;
mod prefix;
mod processes;
mod profile;
mod schema;
mod status;
mod uninstall;
mod unit_files;
mod work_directories;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};
use failure::{Failure, Kind, Outcome};
use host::{Host, RealHost};
use output::Output;

fn main() -> ExitCode {
    ExitCode::from(run(
        &RealHost::new(),
        std::env::args_os(),
        &mut std::io::stdout(),
        &mut std::io::stderr(),
    ))
}

/// Runs a command line and gives the exit code.
fn run(
    host: &dyn Host,
    words: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version are no errors; clap's own code for the others would be 2.
            let wrong = error.use_stderr();
            // Printed by clap for the colours that the terminal can show.
            let _ = error.print();
            return if wrong { Kind::Arguments as u8 } else { 0 };
        }
    };
    match execute(host, cli.command, out) {
        Ok(()) => 0,
        Err(failure) => {
            let _ = writeln!(err, "{}", failure.report());
            failure.kind as u8
        }
    }
}

fn execute(host: &dyn Host, command: Command, out: &mut dyn Write) -> Outcome<()> {
    match command {
        Command::Install(args) => install::run(host, &args, &mut Output::new(args.output, out)),
        Command::Uninstall(args) => uninstall::run(host, &args, &mut Output::new(args.output, out)),
        Command::Status(args) => status::run(host, &args, &mut Output::new(args.output, out)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "flmadm", &mut script);
            print(out, &script)
        }
        Command::Man => manual(out),
        Command::Help { topic, of } => help(topic.as_deref(), of.as_deref(), out),
    }
}

fn manual(out: &mut dyn Write) -> Outcome<()> {
    let mut page = Vec::new();
    let failed = |error| Failure::arguments("cannot write the manual page").because(error);
    let command = Cli::command();
    clap_mangen::Man::new(command.clone())
        .section("8")
        .render(&mut page)
        .map_err(failed)?;
    for subcommand in command.get_subcommands() {
        let named = subcommand
            .clone()
            .name(format!("flmadm-{}", subcommand.get_name()));
        let manual = clap_mangen::Man::new(named).section("8");
        manual.render_name_section(&mut page).map_err(failed)?;
        manual.render_options_section(&mut page).map_err(failed)?;
    }
    print(out, &page)
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
mod tests;
