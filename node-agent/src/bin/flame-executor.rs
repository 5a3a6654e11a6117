//! The launcher of executors: reads its spec and becomes the application's service process.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::Path;
use std::process::{Command, ExitCode};

use flame_node_agent::runtime::systemd::inside::{self, NOTICE_LIMIT, Prepared, stream};
use flame_node_agent::spec::Spec;
use rustix::fs::Mode;
use rustix::process::{Signal, set_parent_process_death_signal, umask};

/// The spec is unusable, or the agent is gone: nothing was started.
const NOT_TRIED: u8 = 125;
/// The application's process cannot be started, as shells say it.
const NOT_STARTED: u8 = 127;
/// Sockets and files of a service are for its user only: that of the agent.
const CHILD_UMASK: Mode = Mode::RWXG.union(Mode::RWXO);
/// In a unit the user and its group are the executor's alone. The group's bits of a socket limit
/// what its access control list gives to the agent.
const UNIT_UMASK: Mode = Mode::RWXO;

const USAGE: &str = "usage: flame-executor [SPEC]\n\
    Becomes the process that the JSON file SPEC describes, and removes SPEC. Without SPEC, it runs in\n\
    a unit of systemd, and its credential \"spec\" says what to do. The node agent calls it; people\n\
    need not.";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(flag), None) if flag == "--version" => {
            println!("flame-executor {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        (Some(flag), None) if flag == "--help" => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        (Some(path), None) => child_of_the_agent(&path),
        (None, None) => main_process_of_a_unit(),
        _ => fail(NOT_TRIED, USAGE),
    }
}

fn child_of_the_agent(path: &OsString) -> ExitCode {
    let path = Path::new(path);
    let spec = match Spec::read(path) {
        Ok(spec) => spec,
        Err(error) => return fail(NOT_TRIED, &error.to_string()),
    };
    // It carries the application's secrets; nobody needs it on disk any longer.
    if let Err(error) = std::fs::remove_file(path) {
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
    umask(CHILD_UMASK);
    run(&spec, &mut command(&spec))
}

fn main_process_of_a_unit() -> ExitCode {
    let Prepared { process, output } = match inside::prepare() {
        Ok(prepared) => prepared,
        Err(error) => return fail(NOT_TRIED, &error.to_string()),
    };
    umask(UNIT_UMASK);
    let mut command = command(&process);
    if let Some(output) = output {
        command.stdout(output.into_stdio());
    }
    run(&process, &mut command)
}

fn command(spec: &Spec) -> Command {
    let mut command = Command::new(&spec.command);
    command
        .args(&spec.arguments)
        .env_clear()
        .envs(&spec.environment)
        .current_dir(&spec.working_directory);
    command
}

/// Becomes the process; returns only if that fails.
fn run(spec: &Spec, command: &mut Command) -> ExitCode {
    let error = command.exec();
    let directory = spec.working_directory.display();
    fail(
        NOT_STARTED,
        &format!("cannot start {} in {directory}: {error}", spec.command),
    )
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("flame-executor: {message}");
    stream::await_read(std::io::stderr(), NOTICE_LIMIT);
    ExitCode::from(code)
}
