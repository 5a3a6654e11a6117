//! Counting lines, words and bytes as `LC_ALL=C wc` does, and what client and service say to each
//! other.
//!
//! A task's input is one byte, `+` or `-`, and then a piece of a file; `+` says that the piece goes on
//! with a word that was counted already. Its output is [`Counts`] as JSON.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// First byte of the input for a piece that goes on with a counted word.
const CONTINUES: u8 = b'+';

/// First byte of the input for any other piece.
const STARTS: u8 = b'-';

/// What `wc` prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Newlines.
    pub lines: u64,
    /// Words, see [`count`].
    pub words: u64,
    /// Bytes.
    pub bytes: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.words += other.words;
        self.bytes += other.bytes;
    }
}

/// The bytes that `isspace` knows in the C locale.
#[must_use]
pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Counts `content`.
///
/// A word is what GNU `wc` up to version 9.4 counts in the C locale: bytes without white space
/// among them, at least one of which is printable ASCII. (So a lone `é` in UTF-8 is no word there.)
/// With `in_word` the content goes on with a word that was counted before.
#[must_use]
pub fn count(content: &[u8], mut in_word: bool) -> Counts {
    let mut counts = Counts {
        bytes: content.len() as u64,
        ..Counts::default()
    };
    for byte in content {
        if is_space(*byte) {
            counts.lines += u64::from(*byte == b'\n');
            in_word = false;
        } else if byte.is_ascii_graphic() && !in_word {
            counts.words += 1;
            in_word = true;
        }
    }
    counts
}

/// Whether a piece that follows `content` goes on with a word that was counted in it (or, with
/// `in_word`, before it).
#[must_use]
pub fn ends_in_word(content: &[u8], in_word: bool) -> bool {
    match content.iter().rposition(|byte| is_space(*byte)) {
        Some(space) => content[space..].iter().any(u8::is_ascii_graphic),
        None => in_word || content.iter().any(u8::is_ascii_graphic),
    }
}

/// The input of a task.
#[must_use]
pub fn to_input(content: &[u8], in_word: bool) -> Vec<u8> {
    let mut input = Vec::with_capacity(content.len() + 1);
    input.push(if in_word { CONTINUES } else { STARTS });
    input.extend_from_slice(content);
    input
}

/// Counts what a task got as its input.
///
/// # Errors
/// In words for the client, if the input is not what [`to_input`] makes.
pub fn count_input(input: Option<&[u8]>) -> Result<Counts, String> {
    match input.and_then(<[u8]>::split_first) {
        Some((&CONTINUES, content)) => Ok(count(content, true)),
        Some((&STARTS, content)) => Ok(count(content, false)),
        _ => Err("the input of wordcount is '+' or '-' and then the text".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_c_locale() {
        for (content, words) in [
            ("", 0),
            (" \n\t\x0b\x0c\r", 0),
            ("one", 1),
            ("one two\nthree\n", 3),
            ("café é \x01 a\x01b", 2),
        ] {
            assert_eq!(count(content.as_bytes(), false).words, words, "{content:?}");
        }
        assert_eq!(
            count(b"a\n\nb", false),
            Counts {
                lines: 2,
                words: 2,
                bytes: 4
            }
        );
        assert_eq!(count(b"rest new", true).words, 1);
        assert_eq!(count(b" new", true).words, 1);
    }

    #[test]
    fn an_input_is_a_flag_and_a_piece() {
        assert_eq!(
            count_input(Some(&to_input(b"x y", true))).map(|counts| counts.words),
            Ok(1)
        );
        assert_eq!(count_input(Some(&to_input(b"", false))), Ok(Counts::default()));
        for wrong in [None, Some(b"".as_slice()), Some(b"xyz".as_slice())] {
            assert!(count_input(wrong).is_err(), "{wrong:?}");
        }
    }
}
