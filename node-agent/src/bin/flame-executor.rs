//! The launcher of executors: reads its spec and becomes the application's service process.

use std::os::unix::process::{CommandExt, parent_id};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use flame_node_agent::spec::Spec;
use rustix::fs::Mode;
use rustix::process::{Signal, set_parent_process_death_signal, umask};

/// The spec is unusable, or the agent is gone: nothing was started.
const NOT_TRIED: u8 = 125;
/// The application's process cannot be started, as shells say it.
const NOT_STARTED: u8 = 127;
/// Sockets and files of a service are for the agent's user only.
const UMASK: Mode = Mode::RWXG.union(Mode::RWXO);

const USAGE: &str = "usage: flame-executor SPEC\n\
    Becomes the process that the JSON file SPEC describes, and removes SPEC. Without SPEC, the\n\
    credential \"spec\" in $CREDENTIALS_DIRECTORY is read. The node agent calls it; people need not.";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (path, handed_over) = match (arguments.next(), arguments.next()) {
        (Some(flag), None) if flag == "--version" => {
            println!("flame-executor {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        (Some(flag), None) if flag == "--help" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        (Some(path), None) => (PathBuf::from(path), true),
        (None, None) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
            Some(directory) => (PathBuf::from(directory).join("spec"), false),
            None => return fail(NOT_TRIED, USAGE),
        },
        _ => return fail(NOT_TRIED, USAGE),
    };
    let spec = match Spec::read(&path) {
        Ok(spec) => spec,
        Err(error) => return fail(NOT_TRIED, &error.to_string()),
    };
    // It carries the application's secrets; nobody needs it on disk any longer.
    if handed_over && let Err(error) = std::fs::remove_file(&path) {
        return fail(NOT_TRIED, &format!("cannot remove {}: {error}", path.display()));
    }
    if let Some(parent) = spec.parent {
        if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
            return fail(NOT_TRIED, &format!("cannot follow the agent's end: {error}"));
        }
        // It may have died before the line above took effect; then no signal will come.
        if parent_id() != parent {
            return fail(NOT_TRIED, "the node agent is gone");
        }
    }
    umask(UMASK);
    let error = Command::new(&spec.command)
        .args(&spec.arguments)
        .env_clear()
        .envs(&spec.environment)
        .current_dir(&spec.working_directory)
        .exec();
    fail(
        NOT_STARTED,
        &format!(
            "cannot start {} in {}: {error}",
            spec.command,
            spec.working_directory.display()
        ),
    )
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("flame-executor: {message}");
    ExitCode::from(code)
}
