//! Builds programs from their sources with cargo.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::count::Count;
use super::display::Display;
use super::log::Log;
use super::runner::{self, End, Line};
use super::tools::{Caller, Surroundings, Tools};
use crate::failure::{Failure, Kind, Outcome};

/// Name of the log in the target directory.
pub(super) const LOG: &str = "flmadm-build.log";

/// What is built, and where.
pub(super) struct Task<'a> {
    /// Flame's sources.
    pub(super) source: &'a Path,
    /// cargo's target directory.
    pub(super) target: &'a Path,
    /// Names of the programs.
    pub(super) programs: &'a [&'a str],
}

impl Task<'_> {
    /// Builds, until it is done or `interrupted`.
    ///
    /// # Errors
    /// Tools are missing or too old, or cargo fails: with the end of its output and, if it is known, the remedy.
    pub(super) fn run(
        &self,
        around: &Surroundings,
        display: &mut Display<'_>,
        interrupted: &dyn Fn() -> bool,
    ) -> Outcome<()> {
        if !self.source.join("Cargo.toml").is_file() || !self.source.join("flmadm").is_dir() {
            return Err(Failure::new(
                Kind::Build,
                format!("{} does not hold Flame's sources", self.source.display()),
            )
            .hint("name them with --src-dir, or use --skip-build with --bin-dir"));
        }
        let tools = Tools::find(around, self.source, self.target)?;
        let compiler = tools.compiler(self.source)?;
        self.make_target(tools.acting())?;
        let mut log = Log::create(self.target.join(LOG), tools.acting().map(|caller| caller.ids))?;
        display.say(&format!(
            "Building {} programs with Rust {}{}; the log is {}",
            self.programs.len(),
            compiler.version,
            tools
                .acting()
                .map(|caller| format!(" as the user {}", caller.name))
                .unwrap_or_default(),
            log.path().display()
        ));
        let since = Instant::now();
        let built = self.metadata(&tools, &compiler.platform, &mut log, display, interrupted);
        let built = built.and_then(|metadata| {
            let mut count = Count::of(&metadata, self.programs);
            self.compile(&tools, &mut count, &mut log, display, interrupted)
                .map(|()| count)
        });
        display.finish();
        let count = built?;
        display.say(&format!(
            "Built {} packages in {} s; {} had been built before",
            count.done() - count.fresh(),
            since.elapsed().as_secs(),
            count.fresh()
        ));
        Ok(())
    }

    /// Makes the target directory with its missing parents, for whom builds in it.
    fn make_target(&self, acting: Option<&Caller>) -> Outcome<()> {
        let missing: Vec<&Path> = self
            .target
            .ancestors()
            .take_while(|path| !path.exists())
            .collect();
        for path in missing
            .into_iter()
            .rev()
            .filter(|path| !path.as_os_str().is_empty())
        {
            let made = std::fs::create_dir(path).and_then(|()| match acting {
                Some(Caller { ids, .. }) => std::os::unix::fs::chown(path, Some(ids.uid), Some(ids.gid)),
                None => Ok(()),
            });
            made.map_err(|error| {
                Failure::new(Kind::Build, format!("cannot make {}", path.display())).because(error)
            })?;
        }
        Ok(())
    }

    /// The graph of packages, which takes their sources from the network first if they are not there yet.
    fn metadata(
        &self,
        tools: &Tools,
        platform: &str,
        log: &mut Log,
        display: &mut Display<'_>,
        interrupted: &dyn Fn() -> bool,
    ) -> Outcome<String> {
        let mut command = tools.cargo(self.source);
        command.args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            platform,
        ]);
        let mut text = String::new();
        watched(&mut command, log, display, interrupted, &mut |line, _| {
            text.push_str(line);
            text.push('\n');
        })?;
        Ok(text)
    }

    fn compile(
        &self,
        tools: &Tools,
        count: &mut Count,
        log: &mut Log,
        display: &mut Display<'_>,
        interrupted: &dyn Fn() -> bool,
    ) -> Outcome<()> {
        let mut command = tools.cargo(self.source);
        command
            .args([
                "build",
                "--release",
                "--locked",
                "--message-format=json-render-diagnostics",
            ])
            .env("CARGO_TARGET_DIR", absolute(self.target));
        for program in self.programs {
            command.args(["--bin", program]);
        }
        watched(&mut command, log, display, interrupted, &mut |line, display| {
            if let Some(name) = count.message(line) {
                display.package(count, &name);
            }
        })
    }
}

/// Runs cargo with everything that it says for people logged and shown; `out` gets its messages for programs.
fn watched(
    command: &mut Command,
    log: &mut Log,
    display: &mut Display<'_>,
    interrupted: &dyn Fn() -> bool,
    out: &mut dyn FnMut(&str, &mut Display<'_>),
) -> Outcome<()> {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    log.line(&format!("$ cargo {}", words.join(" ")))?;
    let end = runner::run(command, interrupted, &mut |line| {
        match line {
            Line::Out(line) => out(&line, display),
            Line::Err(line) => {
                display.line(&line);
                log.line(&line)?;
            }
        }
        Ok(())
    })?;
    match end {
        End::Exited(status) if status.success() => Ok(()),
        End::Exited(status) => Err(log.failure(&format!("the build failed ({status})"))),
        End::Interrupted => Err(Failure::new(
            Kind::Build,
            "the build was interrupted; what is built so far is kept, and nothing else was changed",
        )),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

#[cfg(test)]
mod tests;
