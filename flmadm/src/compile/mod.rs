//! The programs to install: found where they were built, or built first.

mod build;
mod count;
mod display;
#[cfg(test)]
mod fixture;
mod log;
mod runner;
mod tools;
mod trouble;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::failure::{Failure, Kind, Outcome};
use crate::interrupts::Watch;
use crate::output::Output;

use build::Task;
use display::Display;
use tools::Surroundings;

/// Where programs come from; part of every command that installs some.
#[derive(Debug, Clone, Args)]
pub(crate) struct BuildArgs {
    /// Do not build: take the programs that are built already
    #[arg(long)]
    pub(crate) skip_build: bool,
    /// Directory of prebuilt programs; nothing is built [default: target/release of --src-dir]
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Directory of Flame's sources
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) src_dir: PathBuf,
    /// Show everything that cargo says while it builds
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// The directory that holds `programs`; builds them first unless told not to, or if `dry_run`.
///
/// # Errors
/// The build fails, or a program is missing.
pub(crate) fn directory(
    args: &BuildArgs,
    programs: &[&str],
    dry_run: bool,
    output: &Output<'_>,
) -> Outcome<PathBuf> {
    if let Some(directory) = &args.bin_dir {
        return complete(
            directory.clone(),
            programs,
            "--bin-dir names the wrong directory, or build them first",
        );
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .filter(|value| !value.is_empty())
        .map_or_else(|| args.src_dir.join("target"), PathBuf::from);
    let release = target.join("release");
    if !args.skip_build && !dry_run {
        let task = Task {
            source: &args.src_dir,
            target: &target,
            programs,
        };
        let watch = Watch::begin()?;
        let mut err = std::io::stderr();
        let mut display = Display::new(&mut err, args.verbose, output.is_for_people());
        task.run(&Surroundings::look(), &mut display, &|| watch.is_interrupted())?;
    } else if args.skip_build && !release.is_dir() {
        // The programs of an unpacked archive lie beside this one.
        if let Some(beside) = std::env::current_exe().ok().as_deref().and_then(Path::parent)
            && missing(beside, programs).is_empty()
        {
            return Ok(beside.to_path_buf());
        }
    }
    if dry_run && !args.skip_build {
        return Ok(release);
    }
    complete(
        release,
        programs,
        "leave --skip-build out to build them, or say with --bin-dir where they are",
    )
}

fn missing<'a>(directory: &Path, programs: &[&'a str]) -> Vec<&'a str> {
    programs
        .iter()
        .copied()
        .filter(|program| !directory.join(program).is_file())
        .collect()
}

fn complete(directory: PathBuf, programs: &[&str], hint: &str) -> Outcome<PathBuf> {
    let missing = missing(&directory, programs);
    if missing.is_empty() {
        return Ok(directory);
    }
    Err(Failure::new(
        Kind::Build,
        format!("{} has no {}", directory.display(), missing.join(", ")),
    )
    .hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Format, OutputArg, parse_install};

    #[test]
    fn a_missing_program_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(directory.path().join("flmctl"), "").expect("written");
        let args =
            parse_install(&format!("--client --bin-dir {}", directory.path().display())).expect("parsed");
        let mut out = Vec::new();
        let output = Output::new(
            OutputArg {
                format: Format::Table,
            },
            &mut out,
        );
        let find = |programs: &[&str]| self::directory(&args.build, programs, false, &output);
        assert_eq!(find(&["flmctl"]).expect("complete"), directory.path());
        let failure = find(&["flmctl", "flmping", "flmexec"]).expect_err("incomplete");
        assert_eq!(failure.kind, Kind::Build);
        assert!(
            failure.report().contains("has no flmping, flmexec"),
            "{}",
            failure.report()
        );
    }
}
