//! The counts of all files, and how they are printed.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use wordcount::Counts;

use crate::args::Output;

/// What became of the files.
pub(crate) struct Report {
    application: String,
    session: String,
    files: Vec<Counted>,
    /// What could not even be looked at.
    errors: Vec<(PathBuf, String)>,
}

struct Counted {
    path: PathBuf,
    counts: Counts,
    error: Option<String>,
}

impl Report {
    pub(crate) fn new(application: &str, session: &str, paths: Vec<PathBuf>) -> Self {
        let counted = |path| Counted {
            path,
            counts: Counts::default(),
            error: None,
        };
        Self {
            application: application.to_owned(),
            session: session.to_owned(),
            files: paths.into_iter().map(counted).collect(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn path(&self, number: usize) -> PathBuf {
        self.files[number].path.clone()
    }

    /// Adds a piece's counts to file `number`.
    pub(crate) fn add(&mut self, number: usize, counts: Counts) {
        self.files[number].counts += counts;
    }

    /// File `number` cannot be counted; the first reason stays.
    pub(crate) fn give_up(&mut self, number: usize, reason: String) {
        self.files[number].error.get_or_insert(reason);
    }

    /// Something that is no file cannot be read.
    pub(crate) fn fail(&mut self, path: PathBuf, reason: String) {
        self.errors.push((path, reason));
    }

    fn whole(&self) -> impl Iterator<Item = &Counted> {
        self.files.iter().filter(|file| file.error.is_none())
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for file in self.whole() {
            total += file.counts;
        }
        total
    }

    fn failures(&self) -> impl Iterator<Item = (&PathBuf, &String)> {
        let listed = self.errors.iter().map(|(path, reason)| (path, reason));
        let counted = self
            .files
            .iter()
            .filter_map(|file| Some((&file.path, file.error.as_ref()?)));
        listed.chain(counted)
    }

    /// Prints the counts, and the errors at the end; whether there were none.
    pub(crate) fn print(&self, output: Output) -> bool {
        let text = match output {
            Output::Table => self.table(),
            Output::Json => format!("{}\n", self.json()),
        };
        // A reader that went away (`wordcount | head`) is no failure of the count.
        let _ = std::io::stdout().write_all(text.as_bytes());
        for (path, reason) in self.failures() {
            eprintln!("wordcount: {}: {reason}", path.display());
        }
        self.failures().next().is_none()
    }

    fn table(&self) -> String {
        let line = |lines: &str, words: &str, bytes: &str, name: &str| {
            format!("{lines:>12} {words:>12} {bytes:>15}  {name}\n")
        };
        let row = |counts: Counts, name: &str| {
            let Counts { lines, words, bytes } = counts;
            line(&lines.to_string(), &words.to_string(), &bytes.to_string(), name)
        };
        let mut text = line("LINES", "WORDS", "BYTES", "FILE");
        for file in self.whole() {
            text.push_str(&row(file.counts, &file.path.display().to_string()));
        }
        text.push_str(&row(
            self.total(),
            &format!("total of {} files", self.whole().count()),
        ));
        text
    }

    fn json(&self) -> Value {
        let files: Vec<Value> = self
            .whole()
            .map(|file| {
                let Counts { lines, words, bytes } = file.counts;
                json!({"path": file.path.to_string_lossy(), "lines": lines, "words": words, "bytes": bytes})
            })
            .collect();
        let errors: Vec<Value> = self
            .failures()
            .map(|(path, reason)| json!({"path": path.to_string_lossy(), "error": reason}))
            .collect();
        json!({
            "application": self.application,
            "session": self.session,
            "files": files,
            "total": self.total(),
            "errors": errors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_a_failed_piece_is_an_error_and_not_part_of_the_total() {
        let mut report = Report::new("wordcount", "s", vec!["a".into(), "b".into()]);
        let counts = Counts {
            lines: 1,
            words: 2,
            bytes: 3,
        };
        report.add(0, counts);
        report.add(0, counts);
        report.add(1, counts);
        report.give_up(1, "first".to_owned());
        report.give_up(1, "second".to_owned());
        report.fail("c".into(), "gone".to_owned());
        let json = report.json();
        assert_eq!(json["total"], json!({"lines": 2, "words": 4, "bytes": 6}));
        assert_eq!(json["files"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            json["errors"],
            json!([{"path": "c", "error": "gone"}, {"path": "b", "error": "first"}])
        );
        assert!(
            report.table().ends_with("  total of 1 files\n"),
            "{}",
            report.table()
        );
    }
}
