//! Our counts, those of the Python service and those of the system's `wc` are the same.
#![allow(clippy::expect_used, clippy::panic)] // tests may, their helpers too

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use proptest::prelude::*;
use wordcount::{Counts, count, ends_in_word};

/// What `program` prints for `input`.
fn piped(program: &mut Command, input: &[u8]) -> String {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(input)
        .expect("written");
    let output = child.wait_with_output().expect("ended");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}

fn wc(input: &[u8]) -> Counts {
    let printed = piped(
        Command::new("wc").args(["-l", "-w", "-c"]).env("LC_ALL", "C"),
        input,
    );
    let numbers: Vec<u64> = printed
        .split_whitespace()
        .map(|number| number.parse().expect("number"))
        .collect();
    Counts {
        lines: numbers[0],
        words: numbers[1],
        bytes: numbers[2],
    }
}

/// From version 9.5 on GNU wc counts a byte that is not printable as a word; ours does not.
fn wc_counts_unprintable_words() -> bool {
    static NEWER: OnceLock<bool> = OnceLock::new();
    *NEWER.get_or_init(|| wc(b"\x01").words == 1)
}

/// Bytes on which all versions of wc agree.
fn undisputed(content: &[u8]) -> Vec<u8> {
    content
        .iter()
        .copied()
        .filter(|byte| {
            !wc_counts_unprintable_words() || byte.is_ascii_graphic() || wordcount::is_space(*byte)
        })
        .collect()
}

/// Few different bytes, so that their order matters often.
fn texts() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        Just(b' '),
        Just(b'\n'),
        Just(b'\t'),
        Just(b'\r'),
        Just(0x0b),
        Just(0x0c),
        Just(0),
        Just(0x7f),
        Just(b'a'),
        Just(b'~'),
        Just(0x80),
        Just(0xa0),
        Just(0xc3),
        Just(0xa9),
        any::<u8>(),
    ];
    prop::collection::vec(byte, 0..200)
}

/// The Python service's counts of many pieces, with its SDK replaced by nothing.
fn python(pieces: &[(Vec<u8>, bool)]) -> Vec<Counts> {
    let code = r"
import json, sys, types
for name in ('flamepy', 'flamepy.core', 'flamepy.core.service'):
    sys.modules[name] = types.ModuleType(name)
for name in ('FlameService', 'SessionContext', 'TaskContext', 'run'):
    setattr(sys.modules['flamepy.core.service'], name, object)
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import wordcount_service
pieces = json.load(sys.stdin)
print(json.dumps([wordcount_service.count(bytes(content), flag) for content, flag in pieces]))
";
    let mut command = Command::new("python3");
    command.args(["-c", code, env!("CARGO_MANIFEST_DIR")]);
    let input = serde_json::to_vec(pieces).expect("json");
    serde_json::from_str(&piped(&mut command, &input)).expect("counts")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn our_counts_are_those_of_wc(content in texts()) {
        let content = undisputed(&content);
        prop_assert_eq!(count(&content, false), wc(&content));
    }

    #[test]
    fn two_pieces_add_up_to_the_whole(content in texts(), at in 0usize..200) {
        let (left, right) = content.split_at(at.min(content.len()));
        let mut sum = count(left, false);
        sum += count(right, ends_in_word(left, false));
        prop_assert_eq!(sum, count(&content, false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    #[test]
    fn the_python_service_counts_alike(pieces in prop::collection::vec((texts(), any::<bool>()), 500)) {
        let ours: Vec<Counts> = pieces.iter().map(|(content, flag)| count(content, *flag)).collect();
        prop_assert_eq!(python(&pieces), ours);
    }
}
