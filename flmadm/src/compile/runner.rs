//! Runs a program, hands out its lines as they come, and ends it with everything that it started.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::failure::{Failure, Kind, Outcome};

/// How soon a wish to end is noticed.
const LOOK: Duration = Duration::from_millis(50);
/// How long the program may take to end in order: cargo waits for nobody.
const GRACE: Duration = Duration::from_secs(5);
/// How long a pipe is read on when the program has ended: something in the background may hold it for ever.
const DRAIN: Duration = Duration::from_millis(300);

/// A line that the program printed.
#[derive(Debug)]
pub(super) enum Line {
    Out(String),
    Err(String),
}

/// How it ended.
#[derive(Debug)]
pub(super) enum End {
    Exited(ExitStatus),
    Interrupted,
}

/// Runs `command` until it ends or `interrupted` says that it must, and calls `each` with its lines.
///
/// # Errors
/// It cannot be started, or `each` fails; it is ended then.
pub(super) fn run(
    command: &mut Command,
    interrupted: &dyn Fn() -> bool,
    each: &mut dyn FnMut(Line) -> Outcome<()>,
) -> Outcome<End> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        // Its own group, so that one signal reaches all compilers that it started.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::new(Kind::Build, format!("cannot run {name}")).because(error))?;
    let (sender, lines) = channel();
    if let Some(pipe) = child.stdout.take() {
        read(pipe, sender.clone(), Line::Out);
    }
    if let Some(pipe) = child.stderr.take() {
        read(pipe, sender, Line::Err);
    }
    let mut group = Group(child);
    if follow(&mut group, &lines, interrupted, each)? {
        return Ok(End::Interrupted);
    }
    group
        .0
        .wait()
        .map(End::Exited)
        .map_err(|error| Failure::new(Kind::Build, format!("cannot wait for {name}")).because(error))
}

/// Hands out lines until there are no more; whether that was interrupted.
fn follow(
    group: &mut Group,
    lines: &Receiver<Line>,
    interrupted: &dyn Fn() -> bool,
    each: &mut dyn FnMut(Line) -> Outcome<()>,
) -> Outcome<bool> {
    let mut ended: Option<Instant> = None;
    loop {
        if interrupted() {
            group.end();
            return Ok(true);
        }
        match lines.recv_timeout(LOOK) {
            Ok(line) => each(line)?,
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
            Err(RecvTimeoutError::Timeout) => match ended {
                None if group.has_ended() => ended = Some(Instant::now()),
                Some(when) if when.elapsed() > DRAIN => return Ok(false),
                _ => {}
            },
        }
    }
}

/// Reads `pipe` on a thread of its own, so that none of the two pipes can fill up.
fn read(pipe: impl Read + Send + 'static, sender: Sender<Line>, wrap: fn(String) -> Line) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(wrap(text)).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// The program and everything that it started; they end with this.
struct Group(Child);

impl Group {
    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// As Ctrl-C would, and by force if that does not help.
    fn end(&mut self) {
        // Ours until it has been waited for, so the number cannot be another's.
        if self.has_ended() {
            return;
        }
        let id = Pid::from_child(&self.0);
        let _ = kill_process_group(id, Signal::INT);
        let since = Instant::now();
        while since.elapsed() < GRACE {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(LOOK);
        }
        let _ = kill_process_group(id, Signal::KILL);
        let _ = self.0.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_of_both_pipes_come_and_the_status() {
        let mut lines = Vec::new();
        let end = run(
            &mut shell("echo one; echo two >&2; printf three; exit 3"),
            &|| false,
            &mut |line| {
                lines.push(format!("{line:?}"));
                Ok(())
            },
        )
        .expect("run");
        assert!(matches!(end, End::Exited(status) if status.code() == Some(3)));
        lines.sort();
        assert_eq!(lines, ["Err(\"two\")", "Out(\"one\")", "Out(\"three\")"]);
    }

    #[test]
    fn what_it_left_in_the_background_is_not_waited_for() {
        let since = Instant::now();
        let mut pid = String::new();
        run(&mut shell("sleep 60 & echo $!"), &|| false, &mut |line| {
            if let Line::Out(text) = line {
                pid = text;
            }
            Ok(())
        })
        .expect("run");
        assert!(since.elapsed() < Duration::from_secs(30));
        let pid = pid.parse().ok().and_then(Pid::from_raw).expect("a number");
        rustix::process::kill_process(pid, Signal::KILL).expect("still there");
    }

    #[test]
    fn an_interruption_ends_all_that_it_started() {
        let seen = std::cell::Cell::new(false);
        let mut pid = String::new();
        let end = run(
            // A shell that waits for its child, as cargo for rustc.
            &mut shell("sh -c 'echo $$; exec sleep 60'; true"),
            &|| seen.get(),
            &mut |line| {
                if let Line::Out(text) = line {
                    pid = text;
                    seen.set(true);
                }
                Ok(())
            },
        )
        .expect("run");
        assert!(matches!(end, End::Interrupted));
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }

    #[test]
    fn a_failure_of_the_listener_ends_it() {
        let since = Instant::now();
        let failure = run(&mut shell("echo one; exec sleep 60"), &|| false, &mut |_| {
            Err(Failure::new(Kind::Build, "disk full"))
        })
        .expect_err("failed");
        assert!(failure.report().contains("disk full"));
        assert!(since.elapsed() < Duration::from_secs(30));
    }
}
