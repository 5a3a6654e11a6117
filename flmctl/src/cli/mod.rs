//! The command line: every flag is defined here once; help, completions and man pages come from it.

mod apply;
mod control;
mod logs;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use flame_core::Resources;
use flame_core::config::Endpoint;

pub(crate) use apply::{
    ApplyApplication, ApplyArgs, ApplyNoun, ShimArg, SpecFlags, UnregisterArgs, UnregisterNoun,
};
pub(crate) use control::{CancelArgs, ExplainArgs, NodeCommand, NodeOut};
pub(crate) use logs::LogsArgs;

/// User command line of Flame: applications, sessions, tasks, nodes and executors.
#[derive(Debug, Parser)]
#[command(
    name = "flmctl",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
#[command(
    after_help = "Exit status: 0 done, 1 the request or the task failed, 2 wrong usage, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Session manager [default: FLAME_ENDPOINT, else flame.yaml, else http://127.0.0.1:8080]
    #[arg(short, long, global = true, value_name = "URL")]
    pub(crate) endpoint: Option<Endpoint>,
    /// Client configuration [default: ~/.flame/flame.yaml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How to print
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub(crate) output: Format,
    /// Print without colours (also if NO_COLOR is set or the output is no terminal)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For people, with more columns
    Wide,
    /// For programs; field names are stable
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List applications, sessions, tasks, nodes or executors
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show everything about one thing
    #[command(visible_alias = "get")]
    View(ViewArgs),
    /// Create a session or a task
    #[command(subcommand)]
    Create(Create),
    /// Close sessions: they take no more tasks, pending tasks are cancelled
    Close(CloseArgs),
    /// Cancel a task, or all tasks of a session that have not ended
    Cancel(CancelArgs),
    /// Say why a session does not run, or not faster
    Explain(ExplainArgs),
    /// Show what a session's processes have written, from all nodes, or the log of a node's agent
    Logs(LogsArgs),
    #[command(flatten)]
    Node(NodeCommand),
    /// Delete closed sessions with their tasks
    Delete(EndArgs),
    /// Register an application, from a file or from flags
    Register(ApplyArgs),
    /// Change an application: a file replaces it, flags change what they name
    Update(ApplyArgs),
    /// Unregister applications
    Unregister(UnregisterArgs),
    /// Follow a task until it ends
    #[command(subcommand)]
    Watch(Watch),
    /// Copy the state of the session manager to a file while it goes on working
    Backup(BackupArgs),
    /// Print the version of flmctl
    Version,
    /// Print the completion script of a shell
    Completion {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one page per command
    Man {
        /// Directory to write the pages to
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// The kinds of things there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Programs that run tasks
    #[value(name = "applications", aliases = ["application", "apps", "app"])]
    Applications,
    /// Sessions of applications
    #[value(name = "sessions", aliases = ["session", "ssns", "ssn"])]
    Sessions,
    /// Tasks of one session
    #[value(name = "tasks", aliases = ["task"])]
    Tasks,
    /// Machines
    #[value(name = "nodes", aliases = ["node", "no"])]
    Nodes,
    /// Processes that run an application on a node
    #[value(name = "executors", aliases = ["executor", "execs", "exec"])]
    Executors,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// What to list (also in the singular, or short: app, ssn, exec)
    #[arg(value_enum, value_name = "KIND")]
    pub(crate) kind: Option<Kind>,
    /// List applications; with NAME and sessions: only those of this application
    #[arg(short, long, value_name = "NAME", num_args = 0..=1)]
    pub(crate) application: Option<Option<String>>,
    /// List sessions; with ID and tasks: the tasks of this session
    #[arg(short, long, value_name = "ID", num_args = 0..=1)]
    pub(crate) session: Option<Option<String>>,
    /// List tasks (needs --session ID)
    #[arg(short, long)]
    pub(crate) task: bool,
    /// List nodes
    #[arg(short, long)]
    pub(crate) node: bool,
    /// List executors
    #[arg(short = 'x', long)]
    pub(crate) executor: bool,
    /// Only those in one of these states, e.g. open or pending,running
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    pub(crate) state: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ViewArgs {
    /// What to view (also in the singular, or short: app, ssn, exec)
    #[arg(value_enum, value_name = "KIND", requires = "id")]
    pub(crate) kind: Option<Kind>,
    /// Its name or id
    #[arg(value_name = "NAME|ID")]
    pub(crate) id: Option<String>,
    /// View this application
    #[arg(short, long, value_name = "NAME")]
    pub(crate) application: Option<String>,
    /// View this session; with a task: the session of the task
    #[arg(short, long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// View this task (needs --session ID)
    #[arg(short, long, value_name = "ID")]
    pub(crate) task: Option<String>,
    /// View this node
    #[arg(short, long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// View this executor
    #[arg(short = 'x', long, value_name = "ID")]
    pub(crate) executor: Option<String>,
    /// Print nothing but the bytes of the task's output
    #[arg(long, conflicts_with = "output_file")]
    pub(crate) raw: bool,
    /// Write the bytes of the task's output to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) output_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Create {
    /// Create a session and print its id
    #[command(visible_alias = "ssn")]
    Session(CreateSession),
    /// Create a task and print its id
    Task(CreateTask),
}

fn label(text: &str) -> Result<(String, String), String> {
    flame_core::label::validate(text).map_err(|error| error.to_string())?;
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    Ok((key.to_owned(), value.to_owned()))
}

#[derive(Debug, Args)]
pub(crate) struct CreateSession {
    /// Application that runs the tasks
    #[arg(short, long, value_name = "NAME")]
    pub(crate) application: String,
    /// Id of the session [default: the application's name and six random characters]
    #[arg(short, long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// A session with a higher number is served first
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) priority: u32,
    /// Executors to keep even without work
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) min_instances: u32,
    /// Most executors at a time [default: as many as the application may have]
    #[arg(long, value_name = "N")]
    pub(crate) max_instances: Option<u32>,
    /// What one executor needs, e.g. cpu=1,mem=1g,gpu=0 [default: that of the cluster]
    #[arg(long, value_name = "LIST")]
    pub(crate) resreq: Option<Resources>,
    /// Label that a node has to have to run the session; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) node_selector: Vec<(String, String)>,
    /// A task that runs longer than this fails, e.g. 30, 0.5 or 5m [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = crate::format::time_limit)]
    pub(crate) task_timeout: Option<std::time::Duration>,
    /// File with the data that all tasks of the session share (- is standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) common_data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateTask {
    /// Session that the task belongs to
    #[arg(short, long, value_name = "ID")]
    pub(crate) session: String,
    /// File with the input of the task (- is standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub(crate) input: Option<PathBuf>,
    /// The input of the task as text
    #[arg(long, value_name = "TEXT")]
    pub(crate) text: Option<String>,
    /// Wait until the task ends and print its output; exit status 1 if it failed
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EndArgs {
    #[command(subcommand)]
    pub(crate) noun: Option<EndNoun>,
    /// Id of the session
    #[arg(short, long = "session", value_name = "ID")]
    pub(crate) sessions: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CloseArgs {
    #[command(flatten)]
    pub(crate) which: EndArgs,
    /// Cancel tasks that run; without this a session with running tasks is not closed
    #[arg(long, global = true)]
    pub(crate) cancel_running: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EndNoun {
    /// Sessions by id
    #[command(visible_aliases = ["sessions", "ssn"])]
    Session {
        /// Ids of the sessions
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Watch {
    /// Print the state changes of a task; exit status 1 if it failed
    Task {
        /// Id of the task
        id: String,
        /// Session that the task belongs to
        #[arg(short, long, value_name = "ID")]
        session: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Restore it with: flame-session-manager --restore FILE")]
pub(crate) struct BackupArgs {
    /// File to write
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_has_no_clashes() {
        Cli::command().debug_assert();
    }

    #[test]
    fn kinds_have_the_short_names_that_people_type() {
        for (text, kind) in [
            ("app", Kind::Applications),
            ("apps", Kind::Applications),
            ("ssn", Kind::Sessions),
            ("task", Kind::Tasks),
            ("node", Kind::Nodes),
            ("exec", Kind::Executors),
        ] {
            assert_eq!(Kind::from_str(text, false), Ok(kind), "{text}");
        }
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in [
            "flmctl",
            "flmctl list pods",
            "flmctl view app",
            "flmctl create session",
            "flmctl create task --text x",
            "flmctl create task -s a --text x --input f",
            "flmctl create session -a x --resreq cpus=1",
            "flmctl register application",
            "flmctl register application x -f file",
            "flmctl register application -f file --command x",
            "flmctl register application x --env novalue",
            "flmctl close session",
            "flmctl list apps -e localhost",
            "flmctl watch task 1",
            "flmctl backup",
            "flmctl cancel",
            "flmctl cancel -t 1",
            "flmctl explain",
            "flmctl logs",
            "flmctl logs -t 1",
            "flmctl logs --node n -t 1",
            "flmctl logs -s a -n -1",
            "flmctl cordon",
            "flmctl forget",
            "flmctl create session -a x --task-timeout 0",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
