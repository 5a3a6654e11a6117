//! What of a plan makes a release, and makes it the current one.

use std::path::{Path, PathBuf};

use flame_core::HostNames;

use super::{Planner, Request, programs};
use crate::failure::{Failure, Outcome};
use crate::install::extras;
use crate::manifest::{DirectoryRecord, FileKind, Manifest};
use crate::parallel;
use crate::prefix::Prefix;
use crate::profile::{FLMADM, Profile};
use crate::programs;
use crate::release::{self, PROGRAM, Release, ReleaseFile};
use crate::scope::Scope;
use crate::step::Step;
use crate::transaction::Finish;
use crate::unit_files::{self, UnitFile};

/// Where a release has its unit files, as they are installed.
pub(crate) const UNITS: &str = "units";

impl Planner<'_> {
    /// The directory of the release, unless it is there; a file of it that is not what it was is replaced.
    pub(super) fn release(
        &mut self,
        request: &Request<'_>,
        scope: Scope,
        units: &[UnitFile],
    ) -> Outcome<Release> {
        let release = contents(request, &self.names, scope, units)?;
        let directory = self.prefix.release(&release.id);
        let is_there =
            release::Record::load(&directory)?.is_some_and(|found| found.content == release.record.content);
        if is_there {
            let are_there = parallel::map(&release.files, |file| file.is_at(&directory.join(&file.path)))?;
            for (file, is_there) in release.files.iter().zip(are_there) {
                if !is_there {
                    self.steps.push(mended(file, directory.join(&file.path)));
                }
            }
        } else {
            self.steps.push(Step::Release {
                release: Box::new(release.clone()),
                path: directory.clone(),
            });
        }
        for below in release.directories() {
            let path = match below.as_os_str().is_empty() {
                true => directory.clone(),
                false => directory.join(below),
            };
            if !self.manifest.made(&path) {
                self.manifest.directories.push(DirectoryRecord {
                    path,
                    contents: false,
                });
            }
        }
        for file in &release.files {
            let kind = match &file.source {
                release::Source::Link(_) => FileKind::Link,
                _ if file.mode == PROGRAM => FileKind::Program,
                _ => FileKind::Release,
            };
            self.record(&directory.join(&file.path), kind, file.sha256.clone());
        }
        self.manifest.release.clone_from(&release.id);
        self.manifest.releases.retain(|id| *id != release.id);
        self.manifest.releases.push(release.id.clone());
        Ok(release)
    }

    /// Links through which the release is found: one that is swapped, and others that stay.
    pub(super) fn switch(&mut self, release: &Release) -> Outcome<()> {
        let current = self.prefix.current();
        let target = PathBuf::from("releases").join(&release.id);
        self.record(&current, FileKind::Link, target.display().to_string());
        self.steps.push(Step::Link {
            path: current,
            target,
        });
        let mut tops: Vec<&str> = release
            .files
            .iter()
            .filter_map(|file| file.path.split_once('/'))
            .map(|(top, _)| top)
            .filter(|top| *top != UNITS)
            .collect();
        tops.dedup();
        for top in tops {
            let path = self.prefix.join(top);
            if path.symlink_metadata().is_ok_and(|found| !found.is_symlink()) {
                return Err(Failure::installation(format!(
                    "{} is in the way: it is no link",
                    path.display()
                ))
                .hint("move it away: it becomes a link into the current release"));
            }
            let target = Path::new("current").join(top);
            self.record(&path, FileKind::Link, target.display().to_string());
            self.steps.push(Step::Link { path, target });
        }
        Ok(())
    }

    /// Environments of Python, each whole in a directory of its own.
    pub(super) fn python(&mut self, request: &Request<'_>, release: &Release) -> Outcome<()> {
        for environment in request.extras.environments(self.prefix, release) {
            let path = environment.directory.clone();
            let ours = self.manifest.made(&path);
            if let Some(above) = path.parent() {
                self.directory(above.to_path_buf(), 0o755, None, false);
            }
            let (steps, finish) = extras::make(environment, self.prefix, ours)?;
            if !ours {
                self.manifest
                    .directories
                    .push(DirectoryRecord { path, contents: true });
            }
            self.steps.extend(steps);
            self.finish.extend(finish);
        }
        Ok(())
    }
}

/// Takes a release out of `manifest`. Gives what removes it from the disk.
pub(crate) fn forget_release(prefix: &Prefix, manifest: &mut Manifest, id: &str) -> [Finish; 2] {
    let directory = prefix.release(id);
    let is_in = |path: &Path| path.starts_with(&directory);
    let files = manifest.files.extract_if(.., |file| is_in(&file.path));
    let paths = files.map(|file| file.path).collect();
    let directories = manifest.directories.extract_if(.., |record| is_in(&record.path));
    let mut empty: Vec<PathBuf> = directories.map(|record| record.path).collect();
    empty.sort();
    empty.reverse();
    [Finish::Files { paths }, Finish::Empty { paths: empty }]
}

/// What a release of these programs and units consists of.
fn contents(request: &Request<'_>, names: &HostNames, scope: Scope, units: &[UnitFile]) -> Outcome<Release> {
    let mut files = Vec::new();
    files.extend(parallel::map(&programs(&request.profiles), |program| {
        let from = request.programs.path(program);
        ReleaseFile::copy(programs::place(program), from, PROGRAM)
    })?);
    files.push(ReleaseFile::link(format!("bin/{FLMADM}"), "../sbin/flmadm"));
    for unit in units {
        files.push(ReleaseFile::text(
            format!("{UNITS}/{}", unit.name),
            unit.text.clone(),
        ));
    }
    if request.profiles.contains(&Profile::Worker) && !units.is_empty() && scope.is_system() {
        files.push(ReleaseFile::text(
            format!("{UNITS}/{}", unit_files::rule_name(names)),
            unit_files::rule(request.prefix, names),
        ));
        files.push(ReleaseFile::text(
            format!("share/{}", unit_files::PROCESS_RUNTIME),
            unit_files::process_runtime(request.prefix, names),
        ));
    }
    let has_client = request.profiles.contains(&Profile::Client);
    files.extend(
        request
            .extras
            .files(request.prefix, request.programs, has_client)?,
    );
    files.extend(request.programs.wheels()?);
    let units = units.iter().map(|unit| unit.name.clone()).collect();
    Release::new(
        request.prefix,
        &request.programs.version(),
        &request.profiles,
        units,
        files,
    )
}

/// Replaces a file of a release by what it was.
fn mended(file: &ReleaseFile, path: PathBuf) -> Step {
    match &file.source {
        release::Source::File(from) => Step::Copy {
            from: from.clone(),
            path,
            mode: file.mode,
            sha256: file.sha256.clone(),
        },
        release::Source::Text(text) => Step::Text {
            path,
            text: text.clone(),
            mode: file.mode,
        },
        release::Source::Link(target) => Step::Link {
            path,
            target: PathBuf::from(target),
        },
    }
}
