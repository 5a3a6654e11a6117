//! Command line of `flmexec`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use flame_core::duration;
use flame_rs::cli::ClusterArgs;
use flmexec::Language;

const EXAMPLES: &str = "\
Examples:
  flmexec -c 'echo hi; uname -n'         a line of shell
  flmexec -l python -c 'print(6 * 7)'    a line of Python
  flmexec train.py -i data.csv           a file, with standard input
  sort words | flmexec -c 'uniq -c' -i - in a pipeline

Exit status: 0 the script succeeded, 1 it failed or another error, 2 wrong arguments,
130 interrupted. The script's standard output comes as it is; its standard error only if it fails.
The session manager is the one of --endpoint, FLAME_ENDPOINT, ~/.flame/flame.yaml, or else
http://127.0.0.1:8080.";

/// Runs a script on a node of the Flame cluster.
#[derive(Debug, Parser)]
#[command(name = "flmexec", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The script's file; "-" reads it from the standard input.
    #[arg(
        value_name = "FILE",
        required_unless_present = "code",
        conflicts_with = "code"
    )]
    pub(crate) file: Option<PathBuf>,
    /// The script itself.
    #[arg(short, long, value_name = "CODE")]
    pub(crate) code: Option<String>,
    /// Language; without it python for *.py or a first line that names python, else shell.
    #[arg(short, long, value_name = "LANGUAGE")]
    pub(crate) language: Option<LanguageArg>,
    /// Interpreter on the node, e.g. bash, or 3.12 for python3.12.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) runtime: Option<String>,
    /// What the script reads as its standard input; "-" hands ours on.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// End the script, and give up, after that many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = duration::parse_seconds)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Application to use: one whose service is flmexec-service.
    #[arg(short, long, value_name = "NAME", default_value = "flmexec")]
    pub(crate) application: String,
    /// Id of the session to create, instead of a random one.
    #[arg(short, long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// How the result is printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
}

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// The script's standard output as it is.
    #[value(alias = "table")]
    Text,
    /// An object with session, task, succeeded, stdout and error.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LanguageArg {
    Shell,
    Python,
}

impl From<LanguageArg> for Language {
    fn from(language: LanguageArg) -> Self {
        match language {
            LanguageArg::Shell => Self::Shell,
            LanguageArg::Python => Self::Python,
        }
    }
}

impl Args {
    /// The script's language: as the user says, or as its file looks.
    pub(crate) fn language(&self, code: &str) -> Language {
        if let Some(language) = self.language {
            return language.into();
        }
        let named = self
            .file
            .as_ref()
            .is_some_and(|file| file.extension().is_some_and(|it| it == "py"));
        let first = code.lines().next().unwrap_or_default();
        if named || (first.starts_with("#!") && first.contains("python")) {
            Language::Python
        } else {
            Language::Shell
        }
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

    #[test]
    fn a_script_comes_from_one_place() {
        assert!(Args::try_parse_from(["flmexec"]).is_err());
        assert!(Args::try_parse_from(["flmexec", "a.py", "-c", "x"]).is_err());
    }

    #[test]
    fn the_language_is_seen_from_the_file() {
        for (args, code, language) in [
            (vec!["flmexec", "a.py"], "", Language::Python),
            (vec!["flmexec", "a.sh"], "", Language::Shell),
            (vec!["flmexec", "a"], "#!/usr/bin/env python3\n", Language::Python),
            (vec!["flmexec", "-c", "x"], "x", Language::Shell),
            (vec!["flmexec", "a.py", "-l", "shell"], "", Language::Shell),
        ] {
            let parsed = Args::try_parse_from(&args).expect("valid");
            assert_eq!(parsed.language(code), language, "{args:?}");
        }
    }
}
