//! What can be seen of the machine without changing it: processes, ports, nodes, owners, and the journal.

use std::io::{BufRead, BufReader};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use flame_rpc::v1;
use flame_rpc::v1::frontend_client::FrontendClient;
use schemars::JsonSchema;
use serde::Serialize;

use super::Ids;
use crate::failure::{Failure, Kind, Outcome};
use crate::scope::Scope;

/// The program that reads the journal: there is no library for its files that is both maintained and free of
/// systemd's own headers.
const JOURNALCTL: &str = "journalctl";
/// Longest entry of the journal that is read, in bytes: journald cuts lines at 48 KiB.
const ENTRY_BYTES: usize = 256 << 10;

/// What a process runs, compared with what is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Program {
    /// The installed program.
    Current,
    /// A program that was replaced or removed since: a restart starts the installed one.
    Old,
    /// Neither can be told.
    Unknown,
}

/// Where a session manager answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    /// As gRPC takes it.
    pub(crate) url: String,
    /// Certificate to trust.
    pub(crate) ca_file: Option<PathBuf>,
}

/// What is looked for in the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct JournalQuery {
    /// Units, or patterns of their names.
    pub(crate) units: Vec<String>,
    /// The last of them only.
    pub(crate) lines: Option<u32>,
    /// From then on, in microseconds since 1970.
    pub(crate) since_us: Option<i64>,
    /// Errors only.
    pub(crate) errors: bool,
    /// Wait for more.
    pub(crate) follow: bool,
    /// Longest time that it may take.
    pub(crate) limit: Option<Duration>,
}

/// Gets each entry of the journal as journalctl writes it in JSON, and says whether to go on.
pub(crate) type EachEntry<'a> = &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>;

/// What can be seen of a machine.
pub(crate) trait Sight {
    /// Whether process `pid`, which was started `since_us` (microseconds since 1970), runs the program at `path`.
    fn program(&self, pid: u32, path: &Path, since_us: Option<u64>) -> Program;
    /// Which of these addresses (`host:port`) take a connection within `limit`.
    fn answering(&self, addresses: &[String], limit: Duration) -> Vec<bool>;
    /// The nodes that the session manager knows; an error in words.
    fn nodes(&self, manager: &Manager, limit: Duration) -> Result<Vec<v1::Node>, String>;
    /// Name of this machine, as nodes have it by default.
    fn host_name(&self) -> String;
    /// Who a file belongs to.
    fn owner(&self, path: &Path) -> Outcome<Ids>;
    /// Reads the journal, oldest entries first.
    fn journal(&self, query: &JournalQuery, each: EachEntry<'_>) -> Outcome<()>;
}

/// What this machine shows.
pub(crate) struct RealSight(pub(crate) Scope);

impl Sight for RealSight {
    fn program(&self, pid: u32, path: &Path, since_us: Option<u64>) -> Program {
        let Ok(installed) = path.metadata() else {
            return Program::Old;
        };
        // Only root, and who runs it, may look at the program of a process.
        if let Ok(running) = std::fs::metadata(format!("/proc/{pid}/exe")) {
            return match (running.dev(), running.ino()) == (installed.dev(), installed.ino()) {
                true => Program::Current,
                false => Program::Old,
            };
        }
        match since_us {
            Some(since) if changed(path) > since => Program::Old,
            Some(_) => Program::Current,
            None => Program::Unknown,
        }
    }

    fn answering(&self, addresses: &[String], limit: Duration) -> Vec<bool> {
        let until = Instant::now() + limit;
        let answers: Vec<_> = addresses
            .iter()
            .cloned()
            .map(|address| {
                let (send, receive) = mpsc::channel();
                // Not awaited beyond the limit: name resolution has no limit of its own.
                std::thread::spawn(move || send.send(connects(&address, limit)));
                receive
            })
            .collect();
        let rest = || until.saturating_duration_since(Instant::now());
        let answer = |receive: mpsc::Receiver<bool>| receive.recv_timeout(rest()).unwrap_or(false);
        answers.into_iter().map(answer).collect()
    }

    fn nodes(&self, manager: &Manager, limit: Duration) -> Result<Vec<v1::Node>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let ask = async {
            let channel = flame_rpc::channel::connect(&manager.url, manager.ca_file.as_deref())
                .await
                .map_err(|error| error.to_string())?;
            let mut frontend = FrontendClient::new(channel);
            let answer = frontend.list_nodes(v1::ListNodesRequest {}).await;
            answer
                .map(|answer| answer.into_inner().nodes)
                .map_err(|status| status.message().to_owned())
        };
        let asked = runtime.block_on(async { tokio::time::timeout(limit, ask).await });
        asked.unwrap_or_else(|_| Err(format!("it did not answer within {} ms", limit.as_millis())))
    }

    fn host_name(&self) -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    fn owner(&self, path: &Path) -> Outcome<Ids> {
        let metadata = path
            .symlink_metadata()
            .map_err(|error| Failure::path("look at", path, error))?;
        Ok(Ids {
            uid: metadata.uid(),
            gid: metadata.gid(),
        })
    }

    fn journal(&self, query: &JournalQuery, each: EachEntry<'_>) -> Outcome<()> {
        read(JOURNALCTL, &arguments(query, self.0), query.limit, each)
    }
}

/// When what is at `path` last became another file, in microseconds since 1970: by itself, or by a link that leads to it.
fn changed(path: &Path) -> u64 {
    let micros = |metadata: std::fs::Metadata| {
        let seconds = u64::try_from(metadata.ctime()).unwrap_or_default();
        seconds * 1_000_000 + u64::try_from(metadata.ctime_nsec()).unwrap_or_default() / 1_000
    };
    let file = path.metadata().into_iter();
    // A directory changes with each file in it, a link only when it leads elsewhere.
    let links = path
        .ancestors()
        .filter_map(|part| part.symlink_metadata().ok())
        .filter(std::fs::Metadata::is_symlink);
    file.chain(links).map(micros).max().unwrap_or_default()
}

fn connects(address: &str, limit: Duration) -> bool {
    let Ok(resolved) = address.to_socket_addrs() else {
        return false;
    };
    resolved
        .into_iter()
        .any(|address| TcpStream::connect_timeout(&address, limit).is_ok())
}

/// What journalctl is told.
fn arguments(query: &JournalQuery, scope: Scope) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--quiet",
        "--no-pager",
        // Else long fields are left out.
        "--all",
        "--output=json",
        "--output-fields=MESSAGE,PRIORITY,_PID,_SYSTEMD_UNIT,UNIT",
    ]
    .map(str::to_owned)
    .to_vec();
    if query.follow {
        // Without --merge it follows only the boot that /proc names, which in a container is not the one that
        // journald writes down.
        arguments.extend(["--follow", "--merge"].map(str::to_owned));
    }
    match query.lines {
        Some(lines) => arguments.push(format!("--lines={lines}")),
        None if query.follow => arguments.push("--no-tail".to_owned()),
        None => {}
    }
    if let Some(since) = query.since_us {
        let (seconds, rest) = (since.div_euclid(1_000_000), since.rem_euclid(1_000_000));
        arguments.push(format!("--since=@{seconds}.{rest:06}"));
    }
    if query.errors {
        arguments.push("--priority=err".to_owned());
    }
    let option = match scope {
        Scope::System => "--unit",
        Scope::User => "--user-unit",
    };
    arguments.extend(query.units.iter().map(|unit| format!("{option}={unit}")));
    arguments
}

/// Runs `program` and gives each line that it writes, until its end, the end of `limit`, or `each` has enough.
fn read(program: &str, arguments: &[String], limit: Option<Duration>, each: EachEntry<'_>) -> Outcome<()> {
    let failed =
        |error| Failure::new(Kind::Systemd, format!("cannot read the journal with {program}")).because(error);
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (send, receive) = mpsc::sync_channel(64);
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        for line in output
            .into_iter()
            .flat_map(|output| BufReader::new(output).split(b'\n'))
        {
            if line.is_ok_and(|line| line.len() > ENTRY_BYTES || send.send(line).is_ok()) {
                continue;
            }
            break;
        }
    });
    let until = limit.map(|limit| Instant::now() + limit);
    let ended = loop {
        let received = match until {
            Some(until) => receive.recv_timeout(until.saturating_duration_since(Instant::now())),
            None => receive.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(line) if each(&line).is_continue() => {}
            Ok(_) | Err(mpsc::RecvTimeoutError::Timeout) => break false,
            Err(mpsc::RecvTimeoutError::Disconnected) => break true,
        }
    };
    drop(receive);
    if !ended {
        // It may have ended by itself by now.
        let _ = child.kill();
        child.wait().map_err(failed)?;
        return Ok(());
    }
    let _ = reader.join();
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    let failure = Failure::new(
        Kind::Systemd,
        format!("{program} could not read the journal: {words}"),
    );
    Err(match words.contains("ermission") {
        true => failure.hint("use sudo, or become a member of the group systemd-journal or adm"),
        false => failure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journalctl_is_told_what_is_looked_for() {
        let query = JournalQuery {
            units: vec!["a.service".to_owned(), "b@*.service".to_owned()],
            lines: Some(5),
            since_us: Some(1_000_001),
            ..JournalQuery::default()
        };
        let all = arguments(&query, Scope::System).join(" ");
        assert!(
            all.ends_with("--lines=5 --since=@1.000001 --unit=a.service --unit=b@*.service"),
            "{all}"
        );
        let query = JournalQuery {
            units: vec!["a.service".to_owned()],
            follow: true,
            errors: true,
            ..JournalQuery::default()
        };
        let all = arguments(&query, Scope::User);
        let end = [
            "--follow",
            "--merge",
            "--no-tail",
            "--priority=err",
            "--user-unit=a.service",
        ];
        assert!(all.ends_with(&end.map(str::to_owned)), "{all:?}");
    }

    fn run(script: &str, limit: Option<Duration>, enough: usize) -> (Outcome<()>, Vec<String>) {
        let mut lines = Vec::new();
        let words = ["-c".to_owned(), script.to_owned()];
        let outcome = read("sh", &words, limit, &mut |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            match lines.len() < enough {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        (outcome, lines)
    }

    #[test]
    fn lines_are_read_until_the_end_the_limit_or_enough() {
        let (outcome, lines) = run("echo a; echo b", None, 9);
        outcome.expect("read");
        assert_eq!(lines, ["a", "b"]);
        let (outcome, lines) = run("echo a; exec sleep 60", Some(Duration::from_millis(300)), 9);
        outcome.expect("in time");
        assert_eq!(lines, ["a"]);
        let (outcome, lines) = run("while :; do echo a; done", None, 3);
        outcome.expect("enough");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_reader_that_may_not_read_says_who_may() {
        let (outcome, _) = run("echo 'no files, insufficient permissions' >&2; exit 1", None, 9);
        let report = outcome.expect_err("refused").report();
        assert!(
            report.contains("insufficient permissions") && report.contains("systemd-journal"),
            "{report}"
        );
        let missing = read("/nonexistent/journalctl", &[], None, &mut |_| {
            ControlFlow::Continue(())
        });
        assert!(
            missing
                .expect_err("missing")
                .report()
                .contains("/nonexistent/journalctl")
        );
    }

    #[test]
    fn ports_that_are_listened_on_answer() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let open = listener.local_addr().expect("an address").to_string();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let shut = closed.local_addr().expect("an address").to_string();
        drop(closed);
        let answers = RealSight(Scope::System).answering(&[open, shut], Duration::from_secs(5));
        assert_eq!(answers, [true, false]);
    }

    #[test]
    fn a_process_runs_the_installed_program_or_an_old_one() {
        let own = std::env::current_exe().expect("our program");
        let pid = std::process::id();
        assert_eq!(
            RealSight(Scope::System).program(pid, &own, None),
            Program::Current
        );
        assert_eq!(
            RealSight(Scope::System).program(pid, Path::new("/bin/sh"), None),
            Program::Old
        );
        assert_eq!(
            RealSight(Scope::System).program(pid, Path::new("/nonexistent"), None),
            Program::Old
        );
        // No process has this number, so only the times are left to compare.
        assert_eq!(
            RealSight(Scope::System).program(u32::MAX, &own, Some(0)),
            Program::Old
        );
        assert_eq!(
            RealSight(Scope::System).program(u32::MAX, &own, Some(u64::MAX)),
            Program::Current
        );
        assert_eq!(
            RealSight(Scope::System).program(u32::MAX, &own, None),
            Program::Unknown
        );
    }

    #[test]
    fn a_link_that_leads_elsewhere_makes_a_program_old() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let place = |below: &str| directory.path().join(below);
        std::fs::create_dir(place("old")).expect("made");
        std::fs::write(place("old/x"), "x").expect("written");
        let before = changed(&place("old/x"));
        let link = || std::os::unix::fs::symlink(place("old"), place("bin")).expect("linked");
        link();
        // The clock of the file system goes in steps.
        while changed(&place("bin/x")) <= before {
            std::fs::remove_file(place("bin")).expect("removed");
            link();
        }
        assert_eq!(changed(&place("old/x")), before);
    }
}
