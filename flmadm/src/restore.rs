//! What a backup must be like that an installation takes up: looked at before anything is changed.

use std::path::{Path, PathBuf};

use flame_core::config::ClusterConfig;
use flame_core::config::cluster::Storage;

use crate::backup::{self, CONF, DATA, Part};
use crate::failure::{Failure, Outcome};
use crate::manifest::Manifest;
use crate::node_config;
use crate::prefix::Prefix;
use crate::sums;
use crate::transaction::Place;

/// The configuration in the backup `from`, if it has one.
pub(crate) fn config(from: &Path) -> Option<PathBuf> {
    Some(from.join("conf/flame-cluster.yaml")).filter(|path| path.symlink_metadata().is_ok())
}

/// Whether an installation in `prefix`, with `endpoint` if one is asked for, can take the backup `from` up.
///
/// # Errors
/// The backup is none, is damaged, or does not fit.
pub(crate) fn check(from: &Path, prefix: &Prefix, endpoint: Option<&str>) -> Outcome<()> {
    let parts: Vec<Part> = [CONF].into_iter().chain(DATA).collect();
    if !parts.iter().any(|part| from.join(part.name).is_dir()) {
        return Err(Failure::installation(format!(
            "{} is no backup: it has neither conf nor data",
            from.display()
        ))
        .hint("name the directory that an uninstall has left"));
    }
    // What an interrupted change has left there goes first.
    if Place::left(prefix).is_none() {
        for part in &parts {
            let (source, to) = (from.join(part.name), prefix.join(part.place));
            if source.is_dir() && to.is_dir() {
                backup::restored(&source, &to)?;
            }
        }
    }
    let made_by = Manifest::of_backup(from)?;
    if let Some(path) = config(from) {
        let config = ClusterConfig::load(&path).map_err(|error| {
            Failure::installation("the configuration in the backup is broken")
                .because(error)
                .hint("mend it there")
        })?;
        if let Some(asked) = endpoint.filter(|asked| asked.parse().ok().as_ref() != Some(&config.endpoint)) {
            return Err(Failure::arguments(format!(
                "--endpoint is {asked}, but {} in the backup says {}",
                path.display(),
                config.endpoint
            ))
            .hint("leave --endpoint out, or change it there"));
        }
        if let (Some(made_by), Storage::Sqlite(state)) = (&made_by, &config.storage) {
            fits(&made_by.prefix, prefix, state, &path)?;
        }
    }
    node_config::read_in(&from.join("conf"))?;
    let mut damage = Vec::new();
    for part in DATA {
        damage.extend(sums::differences(from, part.name)?);
    }
    if damage.is_empty() {
        return Ok(());
    }
    Err(Failure::installation(format!(
        "the backup {} is damaged:\n  {}",
        from.display(),
        damage.join("\n  ")
    ))
    .hint(format!(
        "take another one, or remove {} from it to take it as it is",
        sums::FILE
    )))
}

/// Whether the state, which the backup's configuration says is in `state`, will be where the services look for it.
fn fits(old: &Path, prefix: &Prefix, state: &Path, config: &Path) -> Outcome<()> {
    if old == prefix.path() || !state.starts_with(old) || state.starts_with(prefix.path()) {
        return Ok(());
    }
    Err(Failure::installation(format!(
        "the backup is of an installation in {}, and its configuration has the state in {}",
        old.display(),
        state.display()
    ))
    .hint(format!(
        "use --prefix {}, or change cluster.storage in {} to sqlite://{}",
        old.display(),
        config.display(),
        prefix.join("data/flame.db").display()
    )))
}

#[cfg(test)]
mod tests;
