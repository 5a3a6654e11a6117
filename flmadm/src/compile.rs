//! The programs to install: found where they were built, or built first.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli::InstallArgs;
use crate::failure::{Failure, Kind, Outcome};

/// Lines of cargo's output that a failure repeats.
const LAST_LINES: usize = 20;
/// Name of the log in the target directory.
const LOG: &str = "flmadm-build.log";

/// The directory that holds `programs`; builds them first unless told not to, or if `dry_run`.
///
/// # Errors
/// The build fails, or a program is missing.
pub(crate) fn directory(args: &InstallArgs, programs: &[&str]) -> Outcome<PathBuf> {
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
    if !args.skip_build && !args.dry_run {
        build(&args.src_dir, &target, programs)?;
    } else if args.skip_build && !release.is_dir() {
        // The programs of an unpacked archive lie beside this one.
        if let Some(beside) = std::env::current_exe().ok().as_deref().and_then(Path::parent)
            && missing(beside, programs).is_empty()
        {
            return Ok(beside.to_path_buf());
        }
    }
    if args.dry_run && !args.skip_build {
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

fn build(source: &Path, target: &Path, programs: &[&str]) -> Outcome<()> {
    if !source.join("Cargo.toml").is_file() || !source.join("flmadm").is_dir() {
        return Err(Failure::new(
            Kind::Build,
            format!("{} does not hold Flame's sources", source.display()),
        )
        .hint("name them with --src-dir, or use --skip-build with --bin-dir"));
    }
    let failed = |what: String, error: std::io::Error| Failure::new(Kind::Build, what).because(error);
    std::fs::create_dir_all(target)
        .map_err(|error| failed(format!("cannot make {}", target.display()), error))?;
    let log_path = target.join(LOG);
    let mut log = std::fs::File::create(&log_path)
        .map_err(|error| failed(format!("cannot write {}", log_path.display()), error))?;
    let mut command = Command::new("cargo");
    command
        .args(["build", "--release", "--locked"])
        .current_dir(source)
        .env("CARGO_TARGET_DIR", absolute(target));
    for program in programs {
        command.args(["--bin", program]);
    }
    eprintln!(
        "Building {} programs; the log is {}",
        programs.len(),
        log_path.display()
    );
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            failed("cannot run cargo".to_owned(), error)
                .hint("with sudo it may not be in the PATH: build as yourself first, then use --skip-build")
        })?;
    let mut last = VecDeque::with_capacity(LAST_LINES);
    if let Some(output) = child.stderr.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            eprintln!("{line}");
            writeln!(log, "{line}")
                .map_err(|error| failed(format!("cannot write {}", log_path.display()), error))?;
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line);
        }
    }
    let status = child
        .wait()
        .map_err(|error| failed("cannot wait for cargo".to_owned(), error))?;
    if status.success() {
        return Ok(());
    }
    let lines: Vec<String> = last.into_iter().collect();
    Err(Failure::new(
        Kind::Build,
        format!("the build failed ({status}):\n{}", lines.join("\n")),
    )
    .hint(format!("the whole log is {}", log_path.display())))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_install;

    #[test]
    fn a_missing_program_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(directory.path().join("flmctl"), "").expect("written");
        let args =
            parse_install(&format!("--client --bin-dir {}", directory.path().display())).expect("parsed");
        assert_eq!(
            self::directory(&args, &["flmctl"]).expect("complete"),
            directory.path()
        );
        let failure = self::directory(&args, &["flmctl", "flmping", "flmexec"]).expect_err("incomplete");
        assert_eq!(failure.kind, Kind::Build);
        assert!(
            failure.report().contains("has no flmping, flmexec"),
            "{}",
            failure.report()
        );
    }

    #[test]
    fn only_sources_are_built() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let args =
            parse_install(&format!("--client --src-dir {}", directory.path().display())).expect("parsed");
        let failure = self::directory(&args, &["flmctl"]).expect_err("no sources");
        assert_eq!(failure.kind, Kind::Build);
    }

    #[test]
    fn a_failed_build_shows_the_end_of_its_log() {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(directory.path().join("flmadm")).expect("made");
        std::fs::write(directory.path().join("Cargo.toml"), "[package]\nname = 3\n").expect("written");
        let target = directory.path().join("target");
        let failure = build(directory.path(), &target, &["flmctl"]).expect_err("broken");
        assert_eq!(failure.kind, Kind::Build);
        assert!(failure.report().contains("Cargo.toml"), "{}", failure.report());
        assert!(
            std::fs::read_to_string(target.join(LOG))
                .expect("a log")
                .contains("Cargo.toml")
        );
    }
}
