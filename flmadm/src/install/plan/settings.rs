//! What of a plan configures the installation.

use super::{Planner, Request};
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
        for (part, owner) in [("conf", None), ("data", owner)] {
            let source = from.join(part);
            if !source.is_dir() {
                continue;
            }
            self.steps.push(Step::Restore {
                from: source,
                to: self.prefix.join(part),
                owner: owner.map(str::to_owned),
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
