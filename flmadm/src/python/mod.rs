//! Python environments of an installation: `PREFIX/python/X.Y`, each made by that Python's own venv.
//!
//! [`find`] checks an interpreter before anything is changed, [`Environment`] is what a step needs: whether it is
//! there as it should be, and how it is made where nothing is. It is undone by removing its directory.

mod interpreter;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};

pub(crate) use interpreter::{Interpreter, Search, Version, find};

/// Says in an environment of what it was made; written last.
const STAMP: &str = "flame.json";

/// A wheel to install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wheel {
    /// Where it lies when the environment is made.
    pub(crate) path: PathBuf,
    pub(crate) sha256: String,
}

/// An environment as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) directory: PathBuf,
    pub(crate) interpreter: Interpreter,
    pub(crate) wheels: Vec<Wheel>,
}

/// Of what an environment was made. Not the places of wheels: those are of one release.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    interpreter: Interpreter,
    wheels: Vec<String>,
}

impl Environment {
    /// The place of the environment of `version` below `prefix`.
    pub(crate) fn place(prefix: &Path, version: Version) -> PathBuf {
        prefix.join("python").join(version.to_string())
    }

    /// What it is, for people.
    pub(crate) fn describe(&self) -> String {
        let count = self.wheels.len();
        let wheels = match count {
            0 => String::new(),
            1 => ", with 1 wheel".to_owned(),
            _ => format!(", with {count} wheels"),
        };
        format!(
            "Python environment {} ({}, Python {}{wheels})",
            self.directory.display(),
            self.interpreter.path.display(),
            self.interpreter.release
        )
    }

    /// Whether it is there as it should be, as far as we made it: packages that somebody added are his.
    pub(crate) fn is_current(&self) -> bool {
        let stamp = std::fs::read(self.directory.join(STAMP))
            .ok()
            .and_then(|text| serde_json::from_slice::<Stamp>(&text).ok());
        stamp.is_some_and(|stamp| stamp == self.stamp()) && self.directory.join("bin/python").exists()
    }

    fn stamp(&self) -> Stamp {
        let mut wheels: Vec<String> = self.wheels.iter().map(|wheel| wheel.sha256.clone()).collect();
        wheels.sort();
        Stamp {
            interpreter: self.interpreter.clone(),
            wheels,
        }
    }

    /// Makes it; nothing must be there.
    ///
    /// # Errors
    /// Python fails; a part of the directory may be there.
    pub(crate) fn make(&self) -> Outcome<()> {
        if let Some(above) = self.directory.parent() {
            std::fs::create_dir_all(above).map_err(|error| Failure::path("make", above, error))?;
        }
        let mut venv = Command::new(&self.interpreter.path);
        venv.args(["-I", "-m", "venv"]).arg(&self.directory);
        run(
            &mut venv,
            "make a Python environment",
            "FLMADM_PYTHON_X_Y names another interpreter",
        )?;
        if !self.wheels.is_empty() {
            self.install()?;
        }
        for_everybody(&self.directory)?;
        let stamp = serde_json::to_string_pretty(&self.stamp()).map_err(|error| {
            Failure::installation("cannot write down what an environment is").because(error)
        })?;
        let path = self.directory.join(STAMP);
        crate::files::write_text(&path, &(stamp + "\n"), 0o644)?;
        crate::files::sync_tree(&self.directory)
    }

    fn install(&self) -> Outcome<()> {
        let mut pip = Command::new(self.directory.join("bin/python"));
        pip.args([
            "-I",
            "-m",
            "pip",
            "--isolated",
            "--disable-pip-version-check",
            "--no-input",
        ])
        .args(["install", "--no-index", "--no-cache-dir"]);
        // What a wheel needs may be among the others.
        let mut places: Vec<&Path> = self
            .wheels
            .iter()
            .filter_map(|wheel| wheel.path.parent())
            .collect();
        places.dedup();
        for place in places {
            pip.arg("--find-links").arg(place);
        }
        pip.args(self.wheels.iter().map(|wheel| &wheel.path));
        run(
            &mut pip,
            "install wheels without the network",
            "put the wheels of everything that they need into the sdk directory of the release, too",
        )
    }
}

fn run(command: &mut Command, what: &str, hint: &str) -> Outcome<()> {
    let failed = || Failure::installation(format!("cannot {what}")).hint(hint);
    let output = command
        .stdin(Stdio::null())
        .current_dir("/")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .map_err(|error| failed().because(error))?;
    if output.status.success() {
        return Ok(());
    }
    let mut words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if words.is_empty() {
        words = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    }
    Err(failed().because(format!("{}: {words}", output.status)))
}

/// Lets everybody read `top`, whatever the umask of the administrator is: services are other users.
fn for_everybody(top: &Path) -> Outcome<()> {
    for entry in walkdir::WalkDir::new(top) {
        let entry = entry.map_err(|error| {
            Failure::installation(format!("cannot look at what is in {}", top.display())).because(error)
        })?;
        if entry.path_is_symlink() {
            continue;
        }
        let mode = entry
            .metadata()
            .map(|metadata| metadata.permissions().mode() & 0o7777)
            .map_err(|error| Failure::path("look at", entry.path(), error.into()))?;
        let executable = entry.file_type().is_dir() || mode & 0o100 != 0;
        let wanted = mode | if executable { 0o555 } else { 0o444 };
        if wanted != mode {
            std::fs::set_permissions(entry.path(), PermissionsExt::from_mode(wanted))
                .map_err(|error| Failure::path("set the mode of", entry.path(), error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
