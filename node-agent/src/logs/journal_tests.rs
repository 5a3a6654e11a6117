//! The journal, played by a script in place of `journalctl`.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use flame_core::NodeName;
use flame_rpc::log_place::ReadPlace;
use flame_rpc::node::StartExecutor;
use tokio::sync::watch;

use super::*;
use crate::logs::line::now;
use crate::logs::runs::Runs;

/// Longer than anything takes on a loaded machine; only a failing test waits for it.
const LIMIT: Duration = Duration::from_secs(30);

struct Bed {
    directory: tempfile::TempDir,
    runs: Arc<Mutex<Runs>>,
    finish: watch::Sender<bool>,
}

impl Bed {
    /// A node on which executor e1 of session s runs as the unit's run `aa`.
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut runs = Runs::load(directory.path(), &NodeName::new("n1").expect("valid"));
        start(&mut runs, "e1", "aa");
        Self {
            directory,
            runs: Arc::new(Mutex::new(runs)),
            finish: watch::Sender::new(false),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The journal that `script` plays, with its arguments in `$*`.
    fn journal(&self, script: &str, follow: bool, lines: Option<usize>) -> Journal {
        self.journal_after(ReadPlace::default(), script, follow, lines)
    }

    /// The same, read on after `place`.
    fn journal_after(&self, place: ReadPlace, script: &str, follow: bool, lines: Option<usize>) -> Journal {
        let program = self.path("journalctl");
        let log = self.path("calls");
        let text = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$*\" >> {}\necho $$ > {}\n{script}\n",
            log.display(),
            self.path("pid").display()
        );
        std::fs::write(&program, text).expect("writable");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("set");
        let wanted = Wanted {
            lines,
            follow,
            after: After::place(place),
            finish: self.finish.subscribe(),
        };
        let subject = Subject {
            runs: self.runs.clone(),
            session: "s".to_owned(),
            number: 4,
            task: 0,
        };
        Journal::new(program.into(), Whose::Session(subject), wanted)
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Writes what the script shows with `cat`.
    fn entries(&self, name: &str, entries: &[String]) -> String {
        std::fs::write(self.path(name), entries.concat()).expect("writable");
        format!("cat {}", self.path(name).display())
    }
}

fn start(runs: &mut Runs, executor: &str, invocation: &str) {
    runs.began(&StartExecutor {
        executor_id: executor.to_owned(),
        session_id: "s".to_owned(),
        session_number: 4,
        ..StartExecutor::default()
    });
    runs.runs_in(executor, invocation.to_owned());
}

fn entry(invocation: &str, priority: &str, message: &serde_json::Value) -> String {
    let time = now();
    let entry = serde_json::json!({
        "__CURSOR": format!("c{time}"), "__REALTIME_TIMESTAMP": time.to_string(), "_BOOT_ID": "x",
        "_SYSTEMD_INVOCATION_ID": invocation, "PRIORITY": priority, "MESSAGE": message,
    });
    format!("{entry}\n")
}

async fn next(journal: &mut Journal) -> Batch {
    timeout(LIMIT, journal.next())
        .await
        .expect("in time")
        .expect("readable")
}

fn texts(batch: &Batch) -> Vec<String> {
    let text = |line: &LogLine| String::from_utf8_lossy(&line.text).into_owned();
    batch.lines.iter().map(text).collect()
}

#[tokio::test]
async fn entries_become_lines_of_their_executor_and_output() {
    let bed = Bed::new();
    let long = "x".repeat(3 * LINE_BYTES + 1);
    let script = bed.entries(
        "entries",
        &[
            entry("aa", "6", &"to stdout".into()),
            entry("aa", "4", &"to stderr".into()),
            entry("bb", "6", &"of somebody else".into()),
            // Bytes that are not UTF-8 come as numbers.
            entry("aa", "6", &serde_json::json!([104, 255, 10, 105])),
            entry("aa", "6", &serde_json::json!(["one", "two"])),
            entry("aa", "6", &serde_json::Value::Null),
            entry("aa", "6", &long.clone().into()),
            "{\"no\": \"entry\"}\n".to_owned(),
            entry("aa", "6", &"y".repeat(ENTRY_BYTES).into()),
            entry("aa", "6", &"last".into()),
        ],
    );
    let mut journal = bed.journal(&script, false, None);
    let mut all = Batch::default();
    loop {
        let batch = next(&mut journal).await;
        all.lines.extend(batch.lines);
        all.notes.extend(batch.notes);
        if batch.over {
            assert!(batch.caught_up);
            assert_eq!(batch.executors, 1);
            break;
        }
    }
    let expected = [
        "to stdout",
        "to stderr",
        "h\u{fffd}",
        "i",
        "one",
        "two",
        "",
        &long[..LINE_BYTES],
        &long[..LINE_BYTES],
        &long[..LINE_BYTES],
        "x",
        "last",
    ];
    assert_eq!(texts(&all), expected);
    assert!(all.lines.iter().all(|line| line.executor == "e1"));
    let errors: Vec<bool> = all
        .lines
        .iter()
        .map(|line| line.output() == LogOutput::Err)
        .collect();
    assert_eq!(errors.iter().filter(|is_error| **is_error).count(), 1);
    assert!(errors[1]);
    let continued: Vec<bool> = all.lines[7..11].iter().map(|line| line.continued).collect();
    assert_eq!(continued, [false, true, true, true]);
    assert_eq!(all.notes.len(), 2, "{:?}", all.notes);
    let calls = bed.calls();
    assert_eq!(calls.len(), 1);
    for word in ["--output=json", "--all", "_SYSTEMD_INVOCATION_ID=aa", "--since=@"] {
        assert!(calls[0].contains(word), "{calls:?}");
    }
}

#[tokio::test]
async fn the_last_lines_are_journalctls_affair() {
    let bed = Bed::new();
    let script = bed.entries("entries", &[entry("aa", "6", &"one".into())]);
    let mut journal = bed.journal(&script, false, Some(7));
    while !next(&mut journal).await.over {}
    let calls = bed.calls();
    assert!(
        calls[0].contains("--lines=7") && !calls[0].contains("--since"),
        "it would show the first ones: {calls:?}"
    );
}

#[tokio::test]
async fn without_last_lines_only_what_comes_is_read() {
    let bed = Bed::new();
    let script = bed.entries("entries", &[entry("aa", "6", &"too early".into())]);
    let begin = now();
    let script = format!("{script}; exec sleep 1000");
    let mut journal = bed.journal(&script, true, Some(0));
    let batch = next(&mut journal).await;
    assert!(batch.caught_up && batch.lines.is_empty() && bed.calls().is_empty());
    assert!(batch.begin.is_some_and(|told| (begin..=now()).contains(&told)));
    // It is written before the first look: the place is that of the answer.
    bed.entries(
        "entries",
        &[entry("aa", "6", &"new".into()), entry("aa", "6", &"newer".into())],
    );
    assert_eq!(texts(&next(&mut journal).await), ["new", "newer"]);
    let since = format!("--since={}", moment(batch.begin.expect("told")));
    assert!(bed.calls()[0].contains(&since), "{:?}", bed.calls());
}

#[tokio::test]
async fn a_journal_is_read_on_after_each_line_that_was_read() {
    let bed = Bed::new();
    let script = bed.entries(
        "entries",
        &[
            entry("aa", "6", &"one\ntwo\nthree".into()),
            entry("aa", "4", &"four".into()),
            entry("aa", "6", &"five".into()),
        ],
    );
    let mut journal = bed.journal(&script, false, None);
    let all = next(&mut journal).await;
    assert_eq!((all.begin, all.lines.len()), (Some(0), 5));
    for had in 0..=all.lines.len() {
        let mut place = ReadPlace::begin(0);
        all.lines[..had].iter().for_each(|line| place.took(line));
        let mut journal = bed.journal_after(place, &script, false, None);
        let mut rest = Vec::new();
        loop {
            let batch = next(&mut journal).await;
            rest.extend(texts(&batch));
            if batch.over {
                break;
            }
        }
        assert_eq!(rest, texts(&all)[had..], "after {had}");
    }
}

#[tokio::test]
async fn a_journal_that_cannot_be_read_is_an_error_in_its_words() {
    let bed = Bed::new();
    let mut journal = bed.journal("echo 'No journal files were opened' >&2; exit 1", false, None);
    let error = timeout(LIMIT, journal.next())
        .await
        .expect("in time")
        .expect_err("no lines");
    assert_eq!(error, "journalctl: No journal files were opened");
    let mut journal = bed.journal("", false, None);
    journal.program = bed.path("missing").into();
    let error = journal.next().await.expect_err("no program");
    assert!(error.contains("cannot run"), "{error}");
}

#[tokio::test]
async fn new_executors_are_followed_until_nothing_more_is_written() {
    let bed = Bed::new();
    let (history, first, second, rest) = (
        bed.entries("1", &[entry("aa", "6", &"history".into())]),
        bed.entries("2", &[entry("aa", "6", &"first".into())]),
        bed.entries("3", &[entry("cc", "6", &"of the second".into())]),
        bed.entries("4", &[entry("cc", "6", &"rest".into())]),
    );
    let script = format!(
        "case \"$*\" in\n*--follow*=cc*) {second}; exec sleep 1000;;\n*--follow*) {first}; exec sleep 1000;;\n\
         *=cc*) {rest};;\n*) {history};;\nesac"
    );
    let mut journal = bed.journal(&script, true, None);
    let batch = next(&mut journal).await;
    assert_eq!(
        (texts(&batch), batch.caught_up, batch.over),
        (vec!["history".to_owned()], true, false)
    );
    assert_eq!(texts(&next(&mut journal).await), ["first"]);
    start(&mut super::super::source::lock(&bed.runs), "e2", "cc");
    // The script's entries are older than the executor; those of a real journal are not.
    bed.entries("3", &[entry("cc", "6", &"of the second".into())]);
    bed.entries("4", &[entry("cc", "6", &"rest".into())]);
    let batch = next(&mut journal).await;
    assert_eq!(
        (texts(&batch), batch.lines[0].executor.as_str()),
        (vec!["of the second".to_owned()], "e2")
    );
    let calls = bed.calls();
    assert!(
        calls.last().expect("called").contains("--after-cursor=c"),
        "{calls:?}"
    );
    bed.finish.send_replace(true);
    let batch = next(&mut journal).await;
    assert_eq!((texts(&batch), batch.over), (vec!["rest".to_owned()], true));
}

#[tokio::test]
async fn a_reader_that_goes_away_leaves_no_journalctl() {
    let bed = Bed::new();
    let mut journal = bed.journal("case \"$*\" in *--follow*) exec sleep 1000;; esac", true, None);
    assert!(next(&mut journal).await.caught_up);
    // Dropped while it waits, as when the log is closed.
    let pid = timeout(LIMIT, async {
        loop {
            let waiting = timeout(Duration::from_millis(50), journal.next()).await;
            assert!(waiting.is_err(), "nothing to tell");
            let text = std::fs::read_to_string(bed.path("pid")).unwrap_or_default();
            if bed.calls().len() == 2
                && let Ok(pid) = text.trim().parse::<i32>()
            {
                return pid;
            }
        }
    });
    let pid = rustix::process::Pid::from_raw(pid.await.expect("started")).expect("a pid");
    assert!(rustix::process::test_kill_process(pid).is_ok(), "it follows");
    drop(journal);
    timeout(LIMIT, async {
        while rustix::process::test_kill_process(pid).is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it is gone, and no zombie");
}

#[test]
fn the_own_unit_is_the_innermost_service() {
    for (cgroups, unit) in [
        (
            "0::/flame.slice/flame-node-agent.service\n",
            Some("flame-node-agent.service"),
        ),
        (
            "0::/system.slice/a.service/flame.slice/b.service/sub\n",
            Some("b.service"),
        ),
        (
            "2:cpu:/x.service\n1:name=systemd:/flame.slice/flame-node-agent@n2.service\n",
            Some("flame-node-agent@n2.service"),
        ),
        (
            "1:name=systemd:/flame.slice/flame-node-agent.service\n0::/\n",
            Some("flame-node-agent.service"),
        ),
        (
            "0::/\n1:name=systemd:/flame.slice/flame-node-agent.service\n",
            Some("flame-node-agent.service"),
        ),
        ("0::/user.slice/session-1.scope\n", None),
        ("", None),
    ] {
        assert_eq!(own_unit(cgroups).as_deref(), unit, "{cgroups}");
    }
}
