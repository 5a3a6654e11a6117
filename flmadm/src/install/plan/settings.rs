//! What of a plan configures the installation.

use super::{Planner, Request};
use crate::backup::{CONF, DATA};
use crate::cluster_config::Decision;
use crate::failure::Outcome;
use crate::manifest::{FileKind, sha256_of};
use crate::node_config;
use crate::step::{BACKUP, Step, with_ending};

impl Planner<'_> {
    /// Takes configuration and data from a backup.
    pub(super) fn restore(&mut self, request: &Request<'_>, owner: Option<&str>) -> Outcome<()> {
        let Some(from) = request.restore else {
            return Ok(());
        };
        let of_services = DATA.map(|part| (part, owner.map(str::to_owned)));
        for (part, owner) in [(CONF, None)].into_iter().chain(of_services) {
            let (source, to) = (from.join(part.name), self.prefix.join(part.place));
            if !source.is_dir() {
                continue;
            }
            // That of nodes is made by their agents else; the others are there by now.
            if !to.is_dir() && !self.manifest.made(&to) {
                self.steps.push(Step::Directory {
                    path: to.clone(),
                    mode: 0o700,
                    owner: owner.clone(),
                    contents: true,
                });
            }
            self.steps.push(Step::Restore {
                from: source,
                to,
                owner,
            });
        }
        Ok(())
    }

    pub(super) fn config(&mut self, decision: Decision) {
        let path = self.prefix.config();
        let text = match decision {
            Decision::Keep => return,
            Decision::Create(text) => text,
            Decision::Replace(text) => {
                let backup = with_ending(&path, BACKUP);
                let hash = sha256_of(&path).ok().flatten().unwrap_or_default();
                self.record(&backup, FileKind::Config, hash);
                self.steps.push(Step::Backup { path: path.clone() });
                text
            }
        };
        self.text(path, FileKind::Config, text);
    }

    /// A file of settings for the agent, in which none is set, unless there is one.
    pub(super) fn node_config(&mut self) {
        let path = self.prefix.join("conf").join(node_config::FILE);
        if path.symlink_metadata().is_err() {
            let text = node_config::new_text(&self.names);
            self.text(path, FileKind::Config, text);
        }
    }
}
