//! The log of a build: everything in a file, and in memory what a failure needs.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::fchown;
use std::path::{Path, PathBuf};

use super::trouble;
use crate::failure::{Failure, Kind, Outcome};
use crate::host::Ids;

/// Lines that a failure repeats.
const LAST_LINES: usize = 20;

/// An open log.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    last: VecDeque<String>,
    remedy: Option<&'static str>,
}

impl Log {
    /// A new log at `path`, in place of an older one; `owner` gets it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn create(path: PathBuf, owner: Option<Ids>) -> Outcome<Self> {
        let failed =
            |error| Failure::new(Kind::Build, format!("cannot write {}", path.display())).because(error);
        // Not through a link that is there, and not in a file that another build still writes.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed)?;
        if let Some(ids) = owner {
            fchown(&file, Some(ids.uid), Some(ids.gid)).map_err(failed)?;
        }
        Ok(Self {
            path,
            file,
            last: VecDeque::with_capacity(LAST_LINES),
            remedy: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps a line.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn line(&mut self, line: &str) -> Outcome<()> {
        writeln!(self.file, "{line}").map_err(|error| {
            let remedy = trouble::remedy(&error.to_string());
            let failure =
                Failure::new(Kind::Build, format!("cannot write {}", self.path.display())).because(error);
            match remedy {
                Some(remedy) => failure.hint(remedy),
                None => failure,
            }
        })?;
        self.remedy = self.remedy.or_else(|| trouble::remedy(line));
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
        Ok(())
    }

    /// The failure of the build, with its last lines and what can be done.
    pub(super) fn failure(&self, what: &str) -> Failure {
        let lines: Vec<&str> = self.last.iter().map(String::as_str).collect();
        let whole = format!("the whole log is {}", self.path.display());
        let hint = match self.remedy {
            Some(remedy) => format!("{remedy}\n      {whole}"),
            None => whole,
        };
        Failure::new(Kind::Build, format!("{what}:\n{}", lines.join("\n"))).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_last_lines_and_the_first_known_reason() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("log");
        let mut log = Log::create(path.clone(), None).expect("created");
        log.line("error: linker `cc` not found").expect("written");
        for number in 0..30 {
            log.line(&format!("line {number}")).expect("written");
        }
        let report = log.failure("the build failed").report();
        assert!(
            !report.contains("line 9\n") && report.contains("line 10\n"),
            "{report}"
        );
        assert!(
            report.contains("C compiler") && report.contains("the whole log is"),
            "{report}"
        );
        let text = std::fs::read_to_string(&path).expect("a log");
        assert_eq!(text.lines().count(), 31);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (path, other) = (directory.path().join("log"), directory.path().join("other"));
        std::fs::write(&other, "precious").expect("written");
        std::os::unix::fs::symlink(&other, &path).expect("linked");
        Log::create(path, None)
            .expect("created")
            .line("x")
            .expect("written");
        assert_eq!(std::fs::read_to_string(&other).expect("read"), "precious");
    }
}
