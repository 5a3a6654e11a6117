//! Manual pages and completion scripts of other programs, which know them themselves: `PROGRAM man --dir DIR` and
//! `PROGRAM completion SHELL`.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Placed, SHELLS, script_place};

/// The pages and scripts of `program`. Of one that cannot be run here, or does not know any, there are none: it can be
/// installed nevertheless.
pub(crate) fn documents_of(program: &Path) -> Vec<Placed> {
    let Some(name) = program.file_name().and_then(OsStr::to_str) else {
        return Vec::new();
    };
    let mut all = pages_of(program).unwrap_or_default();
    for shell in SHELLS {
        if let Some(script) = said(program, &["completion".as_ref(), shell.to_string().as_ref()]) {
            all.push((script_place(shell, name), script));
        }
    }
    all
}

fn pages_of(program: &Path) -> Option<Vec<Placed>> {
    let directory = tempfile::tempdir().ok()?;
    said(
        program,
        &["man".as_ref(), "--dir".as_ref(), directory.path().as_os_str()],
    )?;
    let mut pages = Vec::new();
    for entry in directory.path().read_dir().ok()?.flatten() {
        let path = entry.path();
        let (Some(name), Some(section)) = (path.file_name(), path.extension().and_then(OsStr::to_str)) else {
            continue;
        };
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        pages.push((
            Path::new("share/man").join(format!("man{section}")).join(name),
            text,
        ));
    }
    pages.sort();
    Some(pages)
}

/// What it prints, if it does what it is asked for.
fn said(program: &Path, arguments: &[&OsStr]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn program(script: &str) -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().expect("temporary directory");
        let path = home.path().join("flmctl");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
        (home, path)
    }

    #[test]
    fn a_program_is_asked_for_its_pages_and_scripts() {
        let (_home, path) = program(
            "case $1 in man) echo page > \"$3/flmctl.1\"; echo below > \"$3/flmctl-get.1\";;\n\
             completion) echo \"script for $2\";; esac",
        );
        let documents = documents_of(&path);
        let expected = [
            ("share/man/man1/flmctl-get.1", "below\n"),
            ("share/man/man1/flmctl.1", "page\n"),
            ("share/bash-completion/completions/flmctl", "script for bash\n"),
            ("share/zsh/site-functions/_flmctl", "script for zsh\n"),
            ("share/fish/vendor_completions.d/flmctl.fish", "script for fish\n"),
        ];
        assert_eq!(
            documents,
            expected.map(|(place, text)| (PathBuf::from(place), text.to_owned()))
        );
    }

    #[test]
    fn what_cannot_be_asked_has_none() {
        let (_home, path) = program("exit 1");
        assert_eq!(documents_of(&path), []);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("set");
        assert_eq!(documents_of(&path), []);
        assert_eq!(documents_of(Path::new("/nonexistent/flmctl")), []);
    }
}
