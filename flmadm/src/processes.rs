//! Processes that run programs of an installation, found in /proc.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

/// A running program of an installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Process {
    /// Process id.
    pub(crate) pid: u32,
    /// Name of the program.
    pub(crate) program: String,
}

/// The kernel's mark on a program whose file was replaced or removed.
const DELETED: &str = " (deleted)";

/// Processes whose program is somewhere in `directory`, as far as we may look at them; without ourselves.
pub(crate) fn running_from(directory: &Path) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let directory = directory
        .canonicalize()
        .unwrap_or_else(|_| directory.to_path_buf());
    let mut found: Vec<Process> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let program = program(&std::fs::read_link(entry.path().join("exe")).ok()?, &directory)?;
            (pid != std::process::id()).then_some(Process { pid, program })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

fn program(executable: &Path, directory: &Path) -> Option<String> {
    let path = PathBuf::from(executable.to_str()?.trim_end_matches(DELETED));
    path.starts_with(directory)
        .then(|| path.file_name()?.to_str().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_program_is_found() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let program = directory.path().join("sleeper");
        std::fs::copy("/bin/sleep", &program).expect("copied");
        let mut child = std::process::Command::new(&program)
            .arg("60")
            .spawn()
            .expect("started");
        std::fs::remove_file(&program).expect("removed");
        let found = running_from(directory.path());
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert_eq!(
            found,
            [Process {
                pid: child.id(),
                program: "sleeper".to_owned()
            }]
        );
        assert_eq!(running_from(directory.path()), []);
    }
}
