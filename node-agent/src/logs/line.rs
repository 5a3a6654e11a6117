//! One line of output in a file: when it was read, whether it goes on with the line before, and what was
//! written. `1763743848123456 text`, or with `+` for the space.

use std::time::{SystemTime, UNIX_EPOCH};

/// Longest piece of a line, in bytes; what is longer goes on in a piece of its own, with its own time.
pub(crate) const LINE_BYTES: usize = 16 << 10;
/// Between the time and the text of a line, or of one that goes on with the line before it.
const BEGINS: u8 = b' ';
const CONTINUES: u8 = b'+';

/// Now, in Unix microseconds.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Puts times before the lines of what a process writes.
#[derive(Debug, Default)]
pub(crate) struct Stamper {
    /// Bytes of the piece that has not ended, and one for its time; 0 if there is none.
    open: usize,
    /// The next piece goes on with the line of the one before it.
    continues: bool,
}

impl Stamper {
    /// Adds `bytes`, which were read at `time`, to `out`.
    pub(crate) fn stamp(&mut self, bytes: &[u8], time: i64, out: &mut Vec<u8>) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (mut text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            loop {
                if self.open > LINE_BYTES && !text.is_empty() {
                    self.cut(out);
                }
                if self.open == 0 {
                    let mark = if self.continues { CONTINUES } else { BEGINS };
                    out.extend_from_slice(time.to_string().as_bytes());
                    out.push(mark);
                    self.open = 1;
                }
                let (now, later) = text.split_at(text.len().min(LINE_BYTES + 1 - self.open));
                out.extend_from_slice(now);
                self.open += now.len();
                text = later;
                if text.is_empty() {
                    break;
                }
            }
            if ends {
                out.push(b'\n');
                (self.open, self.continues) = (0, false);
            }
        }
    }

    /// Ends a piece that is open, so that what comes next can be in another file.
    pub(crate) fn cut(&mut self, out: &mut Vec<u8>) {
        if self.open > 0 {
            out.push(b'\n');
            (self.open, self.continues) = (0, true);
        }
    }
}

/// A line of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamped<'a> {
    /// Unix microseconds.
    pub(crate) time: i64,
    /// It goes on with the line before it.
    pub(crate) continued: bool,
    /// What was written, without the line's end.
    pub(crate) text: &'a [u8],
}

/// Reads a line, without its end; nothing if it is none.
pub(crate) fn parse(line: &[u8]) -> Option<Stamped<'_>> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let time = std::str::from_utf8(line.get(..digits)?).ok()?.parse().ok()?;
    let (mark, text) = line.get(digits..)?.split_first()?;
    let continued = match *mark {
        BEGINS => false,
        CONTINUES => true,
        _ => return None,
    };
    Some(Stamped {
        time,
        continued,
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut stamper, mut out) = (Stamper::default(), Vec::new());
        for (piece, time) in pieces.iter().zip(1..) {
            stamper.stamp(piece, time, &mut out);
        }
        out
    }

    #[test]
    fn a_line_has_the_time_at_which_it_began() {
        for (pieces, file) in [
            (&[b"a\nb\n".as_slice()][..], "1 a\n1 b\n"),
            (&[b"a".as_slice(), b"b\nc"], "1 ab\n2 c"),
            (&[b"\n\n".as_slice(), b"\n"], "1 \n1 \n2 \n"),
            (&[b"a".as_slice(), b"\n", b"b\n"], "1 a\n3 b\n"),
            (&[], ""),
        ] {
            assert_eq!(String::from_utf8_lossy(&stamped(pieces)), file);
        }
    }

    #[test]
    fn a_long_line_is_cut_and_whole_again_when_read() {
        for length in [LINE_BYTES, LINE_BYTES + 1, 3 * LINE_BYTES, 3 * LINE_BYTES + 7] {
            for step in [1000, length] {
                let line = vec![b'x'; length];
                let mut pieces: Vec<&[u8]> = line.chunks(step).collect();
                pieces.push(b"\nnext\n");
                let file = stamped(&pieces);
                let lines: Vec<_> = file
                    .strip_suffix(b"\n")
                    .expect("ends")
                    .split(|byte| *byte == b'\n')
                    .map(|line| parse(line).expect("stamped"))
                    .collect();
                let (next, parts) = lines.split_last().expect("there");
                assert_eq!((next.text, next.continued), (b"next".as_slice(), false));
                assert_eq!(parts.len(), length.div_ceil(LINE_BYTES), "{length}");
                assert!(parts.iter().all(|part| part.text.len() <= LINE_BYTES));
                assert_eq!(parts.iter().map(|part| part.text.len()).sum::<usize>(), length);
                let marks: Vec<_> = parts.iter().map(|part| part.continued).collect();
                assert!(!marks[0] && marks[1..].iter().all(|continued| *continued));
            }
        }
    }

    #[test]
    fn what_nobody_stamped_is_no_line() {
        for text in ["", "text", "17", "17-text", " text", "99999999999999999999 text"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
