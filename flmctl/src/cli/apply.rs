//! The command line of `register`, `update` and `unregister`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(subcommand)]
    pub(crate) noun: Option<ApplyNoun>,
    /// YAML file with the application (- is standard input)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApplyNoun {
    /// An application
    #[command(visible_alias = "app")]
    Application(Box<ApplyApplication>),
}

/// The YAML file has `metadata: {name: NAME}` and `spec:` with the names of the flags in snake_case,
/// `arguments` and `labels` as lists, `environments` as a map, `schema: {input, output, common_data}`.
/// It may have several documents.
#[derive(Debug, Default, Args)]
#[command(
    after_help = "The YAML file:\n  metadata:\n    name: NAME\n  spec:\n    shim: Host|Wasm\n    \
    description: TEXT\n    labels: [LABEL, ...]\n    image: NAME\n    command: PATH\n    \
    arguments: [ARG, ...]\n    environments: {KEY: VALUE, ...}\n    working_directory: DIR\n    \
    max_instances: N\n    delay_release: 60s\n    reusable: true|false\n    \
    schema: {input: JSON, output: JSON, common_data: JSON}\n    url: URL\n    installer: NAME"
)]
pub(crate) struct ApplyApplication {
    /// Name of the application, if there is no file
    #[arg(value_name = "NAME", required_unless_present = "file")]
    pub(crate) name: Option<String>,
    /// YAML file with the application (- is standard input)
    #[arg(short, long, value_name = "FILE", conflicts_with = "name")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) spec: SpecFlags,
}

/// An application's specification as flags.
#[derive(Debug, Default, Args)]
#[group(id = "spec", multiple = true, conflicts_with = "file")]
pub(crate) struct SpecFlags {
    /// How it is run [default: host]
    #[arg(long, value_enum)]
    pub(crate) shim: Option<ShimArg>,
    /// One line about it
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Label of the application (repeat for more)
    #[arg(long = "label", value_name = "LABEL")]
    pub(crate) labels: Vec<String>,
    /// Container image
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// Program to start, or the file of a WebAssembly component
    #[arg(long, value_name = "PATH")]
    pub(crate) command: Option<String>,
    /// Argument of the program (repeat for more)
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
    /// Environment variable of the program (repeat for more)
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) environments: Vec<(String, String)>,
    /// Absolute directory that the program starts in
    #[arg(long, value_name = "DIR")]
    pub(crate) working_directory: Option<String>,
    /// Most executors at a time
    #[arg(long, value_name = "N")]
    pub(crate) max_instances: Option<u32>,
    /// How long an executor without work is kept, e.g. 60 (seconds) or 5m
    #[arg(long, value_name = "TIME", value_parser = crate::format::seconds)]
    pub(crate) delay_release: Option<i64>,
    /// Its processes may serve one session after the other [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub(crate) reusable: Option<bool>,
    /// Package to install from
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// How the package is installed, e.g. python
    #[arg(long, value_name = "NAME")]
    pub(crate) installer: Option<String>,
}

/// How an application is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShimArg {
    /// A process on the node
    Host,
    /// A WebAssembly component
    Wasm,
}

#[derive(Debug, Args)]
pub(crate) struct UnregisterArgs {
    #[command(subcommand)]
    pub(crate) noun: Option<UnregisterNoun>,
    /// Name of the application
    #[arg(short, long = "application", value_name = "NAME")]
    pub(crate) applications: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UnregisterNoun {
    /// Applications by name
    #[command(visible_aliases = ["applications", "app"])]
    Application {
        /// Names of the applications
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("want KEY=VALUE".to_owned()),
    }
}
