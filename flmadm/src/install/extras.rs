//! What an installation has besides programs and services: manual pages, the environment of shells, examples, and
//! environments of Python.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::environment;
use crate::examples::{self, Example};
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::manual;
use crate::prefix::Prefix;
use crate::programs::Programs;
use crate::python::{self, Environment, Interpreter, Search, Version, Wheel};
use crate::release::{Release, ReleaseFile, Source};
use crate::step::Step;
use crate::transaction::Finish;

/// Where a release has wheels.
const WHEELS: &str = "sdk/";
/// The program of users that knows its own manual.
const FLMCTL: &str = "flmctl";

/// What is asked for; part of `install`.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct ExtrasArgs {
    /// Make PREFIX/python/X.Y, an environment of that Python for services; can be given several times
    #[arg(long = "python-version", value_name = "X.Y")]
    pub(crate) python_versions: Vec<Version>,
    /// Install the examples, too, in PREFIX/share/examples
    #[arg(long)]
    pub(crate) with_examples: bool,
}

/// What was found for it.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    interpreters: Vec<(Version, Interpreter)>,
    examples: Vec<Example>,
}

impl Extras {
    /// Looks for all that is asked for, and for the examples that an installation has already: they come from
    /// `source` or, if there are none, from its current release.
    ///
    /// # Errors
    /// Something is not there, or cannot be used.
    pub(crate) fn find(
        host: &dyn Host,
        args: &ExtrasArgs,
        prefix: &Prefix,
        source: &Path,
        has_units: bool,
    ) -> Outcome<Self> {
        let share = prefix.join("share");
        let mut examples = Vec::new();
        if args.with_examples || share.join(examples::DIRECTORY).is_dir() {
            examples = examples::find(&[source.to_path_buf(), share])?;
        }
        let mut versions = args.python_versions.clone();
        versions.sort();
        versions.dedup();
        let search = Search::look(host.search_path(), has_units, &versions);
        let mut interpreters = Vec::new();
        for version in versions {
            interpreters.push((version, python::find(&search, version)?));
        }
        Ok(Self {
            interpreters,
            examples,
        })
    }

    /// What of it is part of a release with `programs`.
    ///
    /// # Errors
    /// The manual cannot be made.
    pub(super) fn files(
        &self,
        prefix: &Prefix,
        programs: &Programs,
        has_client: bool,
    ) -> Outcome<Vec<ReleaseFile>> {
        let mut texts = manual::documents()?;
        texts.extend(manual::texts());
        if has_client {
            texts.extend(manual::documents_of(&programs.path(FLMCTL)));
        }
        let sbin = Path::new("sbin");
        texts.push((sbin.join(environment::SHELL), environment::shell(prefix.path())));
        texts.push((sbin.join(environment::FISH), environment::fish(prefix.path())));
        let texts = texts
            .into_iter()
            .map(|(place, text)| ReleaseFile::text(place.display().to_string(), text));
        let examples = self.examples.iter().map(|example| ReleaseFile {
            path: format!("share/{}/{}", examples::DIRECTORY, example.below.display()),
            source: Source::File(example.from.clone()),
            mode: example.mode,
            sha256: example.sha256.clone(),
        });
        Ok(texts.chain(examples).collect())
    }

    /// The environments of Python, with the wheels of `release`.
    pub(super) fn environments(&self, prefix: &Prefix, release: &Release) -> Vec<Environment> {
        let directory = prefix.release(&release.id);
        let files = release.files.iter();
        let wheels: Vec<Wheel> = files
            .filter(|file| file.path.starts_with(WHEELS) && file.path.ends_with(".whl"))
            .map(|file| Wheel {
                path: directory.join(&file.path),
                sha256: file.sha256.clone(),
            })
            .collect();
        self.interpreters
            .iter()
            .map(|(version, interpreter)| Environment {
                directory: Environment::place(prefix.path(), *version),
                interpreter: interpreter.clone(),
                wheels: wheels.clone(),
            })
            .collect()
    }
}

/// The steps that make `environment`, and what is left to do then. One that is there and was made of other things, as
/// an older Python, is replaced if it is `ours`.
///
/// # Errors
/// Something of somebody else's is in the way.
pub(super) fn make(
    environment: Environment,
    prefix: &Prefix,
    ours: bool,
) -> Outcome<(Vec<Step>, Vec<Finish>)> {
    let directory = environment.directory.clone();
    let (mut steps, mut finish) = (Vec::new(), Vec::new());
    if directory.symlink_metadata().is_ok() && !environment.is_current() {
        if !ours {
            return Err(Failure::installation(format!(
                "{} is in the way: it is not of this installation",
                directory.display()
            ))
            .hint("move it away"));
        }
        let into = replaced(prefix);
        steps.push(Step::Trash {
            paths: vec![directory],
            into: into.clone(),
        });
        finish.push(Finish::Tree { path: into });
    }
    steps.push(Step::Python { environment });
    Ok((steps, finish))
}

/// Where environments lie that are replaced, until everything is done.
fn replaced(prefix: &Prefix) -> PathBuf {
    prefix.join("python/.replaced")
}
