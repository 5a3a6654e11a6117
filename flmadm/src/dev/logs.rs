//! `flmadm dev logs`: the ends of the daemons' logs, and what is added to them.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::DevPrefix;
use super::cluster::Cluster;
use super::log_file::{Follower, tail};
use crate::cli::{Format, OutputArg};
use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// How often logs that are followed are looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    at: DevPrefix,
    /// Only this daemon, e.g. flame-node-agent, or the supervisor [default: all]
    #[arg(value_name = "DAEMON")]
    daemon: Option<String>,
    /// Lines from the end of each log
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    lines: usize,
    /// Go on showing what is added, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    pub(super) output: OutputArg,
}

/// The ends of logs.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Directory of the cluster.
    prefix: PathBuf,
    /// One for each daemon that has logged something.
    logs: Vec<Log>,
}

/// The end of a log.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Log {
    /// The daemon, or supervisor.
    daemon: String,
    /// Its log.
    path: PathBuf,
    /// The last lines of it.
    lines: Vec<String>,
}

/// Shows logs.
///
/// # Errors
/// There is no such daemon, or a log cannot be read.
pub(super) fn run(args: &LogsArgs, out: &mut dyn Write) -> Outcome<()> {
    let cluster = args.at.cluster()?;
    if args.follow && args.output.format == Format::Json {
        return Err(
            Failure::arguments("logs that are followed cannot be one JSON document")
                .hint("leave --follow or --output json out"),
        );
    }
    let names = wanted(&cluster, args.daemon.as_deref())?;
    let mut followers: Vec<Follower> = names
        .iter()
        .map(|name| Follower::from_end(cluster.log(name)))
        .collect();
    let report = Report {
        prefix: cluster.path().to_path_buf(),
        logs: ends(&cluster, &names, args.lines)?,
    };
    let mut output = Output::new(args.output, out);
    output.json(&report);
    let mut shown = None;
    if report.logs.is_empty() {
        output.line(&format!(
            "No logs in {} yet.",
            cluster.prefix.join("logs").display()
        ));
    }
    for (number, log) in report.logs.iter().enumerate() {
        output.line(&text(log, number == 0));
        shown = names.iter().position(|name| *name == log.daemon);
    }
    if !args.follow {
        return Ok(());
    }
    drop(output);
    loop {
        for (index, follower) in followers.iter_mut().enumerate() {
            let path = cluster.log(&names[index]);
            let lines = follower
                .new_lines()
                .map_err(|error| Failure::path("read", &path, error))?;
            let headline = (shown != Some(index)).then(|| format!("\n==> {} <==", path.display()));
            if lines.is_empty() {
                continue;
            }
            shown = Some(index);
            for line in headline.into_iter().chain(lines) {
                // The reader went away.
                if writeln!(out, "{line}").is_err() {
                    return Ok(());
                }
            }
        }
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

/// Names of the logs to show.
fn wanted(cluster: &Cluster, one: Option<&str>) -> Outcome<Vec<String>> {
    let shape = cluster.shape().unwrap_or_default();
    let mut names: Vec<String> = shape.daemons().into_iter().map(|daemon| daemon.name).collect();
    names.push("supervisor".to_owned());
    let Some(one) = one else {
        return Ok(names);
    };
    if !names.iter().any(|name| name == one) {
        return Err(Failure::arguments(format!("there is no daemon {one:?}"))
            .hint(format!("there are {}", names.join(", "))));
    }
    Ok(vec![one.to_owned()])
}

fn ends(cluster: &Cluster, names: &[String], count: usize) -> Outcome<Vec<Log>> {
    let mut logs = Vec::new();
    for name in names {
        let path = cluster.log(name);
        let lines = tail(&path, count).map_err(|error| Failure::path("read", &path, error))?;
        if !lines.is_empty() {
            logs.push(Log {
                daemon: name.clone(),
                path,
                lines,
            });
        }
    }
    Ok(logs)
}

/// As tail(1) shows several files.
fn text(log: &Log, first: bool) -> String {
    let gap = if first { "" } else { "\n" };
    format!("{gap}==> {} <==\n{}", log.path.display(), log.lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use crate::dev::cluster::Shape;

    #[test]
    fn only_what_was_logged_is_shown() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let cluster = Cluster::new(&directory.path().join("flame")).expect("a cluster");
        let _lock = cluster.lock().expect("locked");
        let shape = Shape {
            nodes: 2,
            ..Shape::default()
        };
        cluster.remember(&shape).expect("written");
        std::fs::create_dir_all(cluster.prefix.join("logs")).expect("made");
        std::fs::write(cluster.log("flame-node-agent@n2"), "one\ntwo\n").expect("written");
        let all = wanted(&cluster, None).expect("all");
        assert_eq!(all.len(), 4);
        let logs = ends(&cluster, &all, 1).expect("read");
        assert_eq!(
            (logs.len(), logs[0].lines.as_slice()),
            (1, ["two".to_owned()].as_slice())
        );
        assert_eq!(
            wanted(&cluster, Some("flame-node-agent@n1")).expect("one").len(),
            1
        );
        let report = wanted(&cluster, Some("flame-node-agent"))
            .expect_err("several")
            .report();
        assert!(
            report.contains("flame-node-agent@n1, flame-node-agent@n2, supervisor"),
            "{report}"
        );
    }

    #[test]
    fn logs_have_headlines() {
        let log = |name: &str| Log {
            daemon: name.to_owned(),
            path: Path::new("/opt/flame-dev/logs").join(format!("{name}.log")),
            lines: vec!["one".to_owned(), "two".to_owned()],
        };
        let shown = [
            text(&log("flame-session-manager"), true),
            text(&log("flame-node-agent"), false),
        ];
        crate::golden::check("dev-logs.txt", &format!("{}\n", shown.join("\n")));
    }
}
