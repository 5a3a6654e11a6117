//! Command line of `wordcount`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use flame_rs::cli::ClusterArgs;

const EXAMPLES: &str = "\
Examples:
  wordcount                                   the system's licence texts
  wordcount ~/src -o json                     another directory, for programs
  wordcount --application wordcount-py --register-command /opt/venv/bin/python \\
      --script examples/wordcount/wordcount_service.py
                                              the same with the Python service

Lines, words and bytes are those of `LC_ALL=C wc` (GNU coreutils up to 9.4). Links to files are
counted as the files they name, links to directories are not followed.

Exit status: 0 all files were counted, 1 some were not or another error, 2 wrong arguments,
130 interrupted.";

/// Counts lines, words and bytes of all files below a directory, one task per file.
#[derive(Debug, Parser)]
#[command(name = "wordcount", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Directory (or a single file) to count.
    #[arg(value_name = "DIR", default_value = "/usr/share/common-licenses")]
    pub(crate) directory: PathBuf,
    /// Application to use: wordcount (Rust) or wordcount-py (Python).
    #[arg(short, long, value_name = "NAME", default_value = "wordcount")]
    pub(crate) application: String,
    /// Program to register as the application's command, as an absolute path on the nodes. Without
    /// it an application that is not registered yet gets wordcount-service from beside this program,
    /// or python3.
    #[arg(long, value_name = "PATH")]
    pub(crate) register_command: Option<String>,
    /// For a Python application: wordcount_service.py, as a path on the nodes.
    #[arg(long, value_name = "PATH")]
    pub(crate) script: Option<PathBuf>,
    /// For a Python application: where its packages are, if not with its interpreter.
    #[arg(long, value_name = "PATH", env = "PYTHONPATH")]
    pub(crate) pythonpath: Option<String>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// How the result is printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Output,
}

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people, like `wc`.
    Table,
    /// An object with files, total and errors.
    Json,
}

impl Args {
    /// Whether the application is the Python one.
    pub(crate) fn is_python(&self) -> bool {
        self.script.is_some() || self.application.ends_with("-py")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
