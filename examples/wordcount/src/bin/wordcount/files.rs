//! The files below a directory, and their content in pieces that fit into a task.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;
use wordcount::{ends_in_word, is_space};

/// Largest piece, in bytes: Python services take messages of up to 4 MiB.
pub(crate) const PIECE: usize = 1 << 20;

/// A file that could not be read, and why.
pub(crate) type Unreadable = (PathBuf, io::Error);

/// All files below `directory`, sorted. Links to files are files; links to directories, devices,
/// sockets and pipes are left out.
pub(crate) fn below(directory: &Path) -> (Vec<PathBuf>, Vec<Unreadable>) {
    let (mut files, mut unreadable) = (Vec::new(), Vec::new());
    for entry in WalkDir::new(directory).sort_by_file_name() {
        match entry {
            Ok(entry) => match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_file() => files.push(entry.into_path()),
                Ok(_) => {}
                Err(error) => unreadable.push((entry.into_path(), error)),
            },
            Err(error) => {
                let path = error.path().unwrap_or(directory).to_owned();
                let cause = error.into_io_error();
                unreadable.push((path, cause.unwrap_or_else(|| io::Error::other("a loop of links"))));
            }
        }
    }
    (files, unreadable)
}

/// A part of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) content: Vec<u8>,
    /// The piece goes on with a word that the piece before has counted.
    pub(crate) in_word: bool,
}

/// Cuts what it reads at the ends of lines; where a line is too long, between words; where a word is
/// too long, within it.
pub(crate) struct Pieces<R> {
    reader: R,
    limit: usize,
    rest: Vec<u8>,
    in_word: bool,
    first: bool,
}

impl<R: Read> Pieces<R> {
    pub(crate) fn new(reader: R, limit: usize) -> Self {
        Self {
            reader,
            limit,
            rest: Vec::new(),
            in_word: false,
            first: true,
        }
    }

    /// The next piece; an empty file has one, which is empty.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece>> {
        let wanted = (self.limit - self.rest.len()) as u64;
        self.reader.by_ref().take(wanted).read_to_end(&mut self.rest)?;
        if self.rest.is_empty() && !self.first {
            return Ok(None);
        }
        let after = if self.rest.len() < self.limit {
            Vec::new()
        } else {
            self.rest.split_off(cut(&self.rest))
        };
        let content = std::mem::replace(&mut self.rest, after);
        let in_word = self.in_word;
        self.in_word = ends_in_word(&content, in_word);
        self.first = false;
        Ok(Some(Piece { content, in_word }))
    }
}

/// Where to cut a full buffer: never at 0.
fn cut(content: &[u8]) -> usize {
    let line = content.iter().rposition(|byte| *byte == b'\n');
    let space = || content.iter().rposition(|byte| is_space(*byte));
    line.or_else(space).map_or(content.len(), |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wordcount::{Counts, count};

    fn pieces(content: &[u8], limit: usize) -> Vec<Piece> {
        let mut pieces = Pieces::new(content, limit);
        std::iter::from_fn(|| pieces.next().expect("memory does not fail")).collect()
    }

    #[test]
    fn pieces_end_at_lines_then_at_words_then_anywhere() {
        let cut = |content: &str| -> Vec<String> {
            let pieces = pieces(content.as_bytes(), 8);
            let text = |piece: Piece| String::from_utf8(piece.content).expect("text");
            pieces.into_iter().map(text).collect()
        };
        assert_eq!(cut("one\ntwo three\n"), ["one\n", "two ", "three\n"]);
        assert_eq!(cut("abcdefghijk"), ["abcdefgh", "ijk"]);
        assert_eq!(cut("1234567\n"), ["1234567\n"]);
        assert_eq!(cut(""), [""]);
    }

    #[test]
    fn files_links_and_errors_are_told_apart() {
        let directory = tempfile::tempdir().expect("directory");
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("sub")).expect("directory");
        fs::create_dir(path("empty")).expect("directory");
        fs::write(path("sub/b"), "b").expect("written");
        fs::write(path("a"), "a").expect("written");
        std::os::unix::fs::symlink("a", path("link")).expect("link");
        std::os::unix::fs::symlink("sub", path("linked-directory")).expect("link");
        std::os::unix::fs::symlink(".", path("sub/loop")).expect("link");
        std::os::unix::fs::symlink("gone", path("broken")).expect("link");
        let (files, unreadable) = below(directory.path());
        assert_eq!(files, [path("a"), path("link"), path("sub/b")]);
        assert_eq!(unreadable.len(), 1);
        assert_eq!(unreadable[0].0, path("broken"));
        let (files, unreadable) = below(&path("nowhere"));
        assert!(files.is_empty() && unreadable.len() == 1);
    }

    proptest! {
        /// However a file is cut, its parts add up to the whole.
        #[test]
        fn pieces_add_up(content in "[a é\n\x01]{0,80}", limit in 1usize..20) {
            let content = content.as_bytes();
            let mut total = Counts::default();
            for piece in pieces(content, limit) {
                prop_assert!(piece.content.len() <= limit);
                total += count(&piece.content, piece.in_word);
            }
            prop_assert_eq!(total, count(content, false));
        }
    }
}
