//! Hashes of the files of a backup, in a file that `sha256sum --check` reads, too: a damaged backup is told before it
//! is used.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::failure::{Failure, Outcome};
use crate::files::{self, Attributes};
use crate::manifest::sha256_of;

/// Name of the file with the hashes.
pub(crate) const FILE: &str = "SHA256SUMS";
/// What `sha256sum` begins a line with in which a character of the name is written as two.
const ESCAPED: u8 = b'\\';

/// Hashes by name, which is relative and escaped as `sha256sum` does it.
type Sums = BTreeMap<Vec<u8>, String>;

/// Writes down the hashes of all files below `top`.
///
/// # Errors
/// One of them cannot be read, or the file not be written.
pub(crate) fn write(top: &Path) -> Outcome<()> {
    let sums = look(top, top)?;
    let mut text = Vec::new();
    for (name, hash) in sums {
        if name.contains(&ESCAPED) {
            text.push(ESCAPED);
        }
        text.extend([hash.as_bytes(), b"  ", &name, b"\n"].concat());
    }
    files::write(&top.join(FILE), Attributes::mode(0o600), |file| {
        std::io::Write::write_all(file, &text)
    })
}

/// What differs below `part` of `top` from what was written down; nothing if nothing was.
///
/// # Errors
/// A file cannot be read, or what was written down not be understood.
pub(crate) fn differences(top: &Path, part: &str) -> Outcome<Vec<String>> {
    let path = top.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::path("read", &path, error)),
    };
    let mut wanted = parse(&text)
        .ok_or_else(|| Failure::installation(format!("{} has a line that is no hash", path.display())))?;
    let directory = [part.as_bytes(), b"/"].concat();
    wanted.retain(|name, _| name.starts_with(&directory));
    let found = look(top, &top.join(part))?;
    let mut lines = Vec::new();
    for (name, hash) in &wanted {
        let shown = String::from_utf8_lossy(name);
        match found.get(name) {
            Some(now) if now == hash => {}
            Some(_) => lines.push(format!("{shown} was changed")),
            None => lines.push(format!("{shown} is missing")),
        }
    }
    let more = found.keys().filter(|name| !wanted.contains_key(*name));
    lines.extend(more.map(|name| format!("{} was not in it", String::from_utf8_lossy(name))));
    Ok(lines)
}

/// The hashes of all files below `directory`, with names relative to `top`.
fn look(top: &Path, directory: &Path) -> Outcome<Sums> {
    let mut sums = Sums::new();
    if !directory.exists() {
        return Ok(sums);
    }
    for entry in walkdir::WalkDir::new(directory) {
        let entry = entry.map_err(|error| {
            Failure::installation(format!("cannot look at what is in {}", directory.display())).because(error)
        })?;
        let name = entry.path().strip_prefix(top).unwrap_or(entry.path());
        if entry.file_type().is_file()
            && let Some(hash) = sha256_of(entry.path())?
        {
            sums.insert(escaped(name.as_os_str().as_bytes()), hash);
        }
    }
    Ok(sums)
}

fn escaped(name: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in name {
        match byte {
            b'\\' => text.extend(b"\\\\"),
            b'\n' => text.extend(b"\\n"),
            b'\r' => text.extend(b"\\r"),
            other => text.push(*other),
        }
    }
    text
}

fn parse(text: &[u8]) -> Option<Sums> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let one = |line: &[u8]| {
        let line = line.strip_prefix(&[ESCAPED]).unwrap_or(line);
        let (hash, name) = line.split_at_checked(64)?;
        let name = name.strip_prefix(b"  ").or_else(|| name.strip_prefix(b" *"))?;
        let hash = std::str::from_utf8(hash).ok()?;
        hash.bytes()
            .all(|digit| digit.is_ascii_hexdigit())
            .then(|| (name.to_vec(), hash.to_ascii_lowercase()))
    };
    lines.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let top = tempfile::tempdir().expect("temporary directory");
        for below in ["data/deep", "conf"] {
            std::fs::create_dir_all(top.path().join(below)).expect("made");
        }
        for (name, text) in [
            ("data/a b", "one"),
            ("data/deep/new\nline\\", "two"),
            ("conf/x", "x"),
        ] {
            std::fs::write(top.path().join(name), text).expect("written");
        }
        write(top.path()).expect("written down");
        top
    }

    #[test]
    fn each_kind_of_difference_is_told() {
        let top = tree();
        assert_eq!(differences(top.path(), "data").expect("read"), [""; 0]);
        std::fs::write(top.path().join("data/a b"), "ONE").expect("written");
        std::fs::remove_file(top.path().join("data/deep/new\nline\\")).expect("removed");
        std::fs::write(top.path().join("data/more"), "").expect("written");
        // The other part has its own rules.
        std::fs::write(top.path().join("conf/x"), "y").expect("written");
        assert_eq!(
            differences(top.path(), "data").expect("read"),
            [
                "data/a b was changed",
                "data/deep/new\\nline\\\\ is missing",
                "data/more was not in it"
            ]
        );
    }

    #[test]
    fn without_hashes_nothing_is_known_and_rubbish_is_an_error() {
        let top = tree();
        std::fs::write(top.path().join(FILE), "0123  data/a b\n").expect("written");
        differences(top.path(), "data").expect_err("no hash");
        std::fs::remove_file(top.path().join(FILE)).expect("removed");
        assert_eq!(differences(top.path(), "data").expect("nothing"), [""; 0]);
    }
}
