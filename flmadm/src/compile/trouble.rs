//! Known reasons for which cargo fails, found in what it prints.

/// What cargo prints, in small letters, and what the user can do. The first that is found counts.
const KNOWN: [(&str, &str); 20] = [
    (
        "no space left on device",
        "the disk is full: make room, or build in another place with CARGO_TARGET_DIR=DIR",
    ),
    (
        "disk quota exceeded",
        "your disk quota is used up: make room, or build in another place with CARGO_TARGET_DIR=DIR",
    ),
    (
        "read-only file system",
        "the sources are on a read-only disk: name another place with CARGO_TARGET_DIR=DIR",
    ),
    ("linker `cc` not found", NO_COMPILER),
    ("failed to find tool \"cc\"", NO_COMPILER),
    ("is `cc` not installed", NO_COMPILER),
    ("failed to find tool \"gcc\"", NO_COMPILER),
    ("cannot find crti.o", NO_COMPILER),
    ("cannot find scrt1.o", NO_COMPILER),
    ("could not resolve host", NO_NETWORK),
    ("failed to connect to", NO_NETWORK),
    ("couldn't connect to server", NO_NETWORK),
    ("spurious network error", NO_NETWORK),
    ("you're using offline mode", NO_NETWORK),
    ("--locked was passed", OLD_LOCK),
    ("without --locked", OLD_LOCK),
    ("requires rustc", OLD_COMPILER),
    ("is not supported by the following package", OLD_COMPILER),
    (
        "rustup could not choose a version",
        "rustup has no compiler yet: rustup default stable",
    ),
    (
        "signal: 9, sigkill",
        "the compiler was killed, most likely because memory ran out: build with fewer jobs (CARGO_BUILD_JOBS=1)",
    ),
];

const NO_COMPILER: &str = "a C compiler is missing: install gcc and the headers of libc (Debian, Ubuntu: \
                           build-essential; Fedora: gcc; Arch: base-devel)";
const NO_NETWORK: &str = "the sources of dependencies could not be downloaded: check network and proxy (HTTPS_PROXY), \
                          or build where there is a network and install with --bin-dir";
const OLD_LOCK: &str = "Cargo.lock does not fit the sources: take a clean checkout of one version";
const OLD_COMPILER: &str = "the Rust compiler is too old: rustup update";

/// What can be done about the failure that `line` tells of, if it is a known one.
pub(super) fn remedy(line: &str) -> Option<&'static str> {
    let line = line.to_lowercase();
    let found = KNOWN.iter().find(|(words, _)| line.contains(words));
    found.map(|(_, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_failures_have_a_remedy() {
        for (line, part) in [
            ("error: linker `cc` not found", "build-essential"),
            (
                "  error occurred in cc-rs: failed to find tool \"cc\": No such file or directory (os error 2)",
                "gcc",
            ),
            (
                "  [6] Could not resolve hostname (Could not resolve host: index.example.com)",
                "HTTPS_PROXY",
            ),
            (
                "error: failed to write /x/y: No space left on device (os error 28)",
                "disk is full",
            ),
            (
                "error: the lock file /x/Cargo.lock needs to be updated but --locked was passed to prevent this",
                "Cargo.lock",
            ),
            (
                "error: rustc 1.80.0 is not supported by the following packages:",
                "rustup update",
            ),
            (
                "  process didn't exit successfully: `rustc --crate-name x` (signal: 9, SIGKILL: kill)",
                "memory",
            ),
        ] {
            assert!(remedy(line).is_some_and(|text| text.contains(part)), "{line}");
        }
        for line in [
            "   Compiling cc v1.2.0",
            "warning: unused variable: `space`",
            "error[E0308]: mismatched types",
        ] {
            assert_eq!(remedy(line), None, "{line}");
        }
    }

    #[test]
    fn words_to_look_for_are_small() {
        for (words, _) in KNOWN {
            assert_eq!(words, words.to_lowercase());
        }
    }
}
