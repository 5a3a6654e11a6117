//! What of a plan services need of the machine: accounts, units, and rights.

use std::path::{Path, PathBuf};

use flame_core::HostNames;

use super::Planner;
use crate::accounts;
use crate::failure::{Failure, Outcome};
use crate::host::{Account, Host, is_system};
use crate::manifest::{DirectoryRecord, FileKind, Manifest, UserRecord};
use crate::step::Step;
use crate::unit_files::{self, UnitFile};
use crate::unit_removal;
use crate::work_directories::{self, DROP_IN};

/// Where copies of the account tools' files lie; only root may look.
pub(crate) const ACCOUNTS: &str = ".accounts";

/// All accounts: the user of the services, that of applications without a sandbox, and the group of all executors.
pub(crate) fn all_accounts(names: &HostNames) -> [Account; 3] {
    [
        Account::User(names.stem()),
        Account::User(names.own("flame-exec")),
        Account::Group(names.own(work_directories::GROUP)),
    ]
}

/// The drop-ins that let executors write to work directories.
pub(crate) fn drop_ins(host: &dyn Host, names: &HostNames) -> [PathBuf; 2] {
    work_directories::TEMPLATES.map(|unit| {
        let directory = host.unit_directory().join(format!("{}.d", names.own(unit)));
        directory.join(DROP_IN)
    })
}

impl Planner<'_> {
    pub(super) fn accounts(&mut self, host: &dyn Host, force: bool) -> Outcome<()> {
        let mut missing = Vec::new();
        let all = all_accounts(&self.names);
        let count = all.len();
        for account in all {
            match account.look_up(host)? {
                Some(number) if !is_system(number) && !force => {
                    return Err(Failure::installation(format!(
                        "the {account} is there already, and with the number {number} it is a person's account"
                    ))
                    .hint("rename that account, or use --force to let the services have it"));
                }
                Some(_) => {}
                None => missing.push(account),
            }
        }
        let known = self.manifest.user.take();
        // What the account files were like is known only before the first of them was made.
        let first = missing.len() == count;
        let record = match first {
            true => Some(accounts::look(host.account_directory())?),
            false => None,
        };
        self.manifest.user = match (known, &record) {
            (Some(known), None) => Some(known),
            (_, record) => Some(UserRecord {
                name: self.names.stem(),
                created: record.clone(),
            }),
        };
        if missing.is_empty() {
            return Ok(());
        }
        let store = self.prefix.join(ACCOUNTS);
        if !self.manifest.made(&store) {
            self.manifest.directories.push(DirectoryRecord {
                path: store.clone(),
                contents: true,
            });
        }
        self.steps.push(Step::Accounts {
            accounts: missing,
            sysusers: unit_files::sysusers(self.prefix, &self.names),
            record: record.unwrap_or_default(),
            store,
        });
        Ok(())
    }

    /// Units that this version does not have any more.
    pub(super) fn gone_units(&mut self, host: &dyn Host, old: Option<&Manifest>) -> Outcome<()> {
        if let Some(old) = old {
            let gone = unit_removal::gone(host, old, &self.manifest.units)?;
            self.steps.extend(gone);
        }
        Ok(())
    }

    pub(super) fn units(&mut self, host: &dyn Host, units: &[UnitFile]) {
        // A user may have none yet.
        if !units.is_empty() {
            self.missing_directories(host.unit_directory());
        }
        for unit in units {
            let path = host.unit_directory().join(&unit.name);
            self.text(path, FileKind::Unit, unit.text.clone());
        }
    }

    /// What lets the agent start executors.
    pub(super) fn rule(&mut self, host: &dyn Host) {
        let rules = host.rules_directory();
        self.missing_directories(rules);
        let path = rules.join(unit_files::rule_name(&self.names));
        let text = unit_files::rule(self.prefix, &self.names);
        self.text(path, FileKind::Rule, text);
    }

    /// Lets executors write to `directories`, and no longer to those that an earlier installation had.
    pub(super) fn drop_ins(&mut self, host: &dyn Host, directories: &[PathBuf]) -> Outcome<()> {
        let text = work_directories::drop_in(self.prefix, directories);
        for path in drop_ins(host, &self.names) {
            let Some(directory) = path.parent().map(Path::to_path_buf) else {
                continue;
            };
            if !directories.is_empty() {
                self.missing_directories(&directory);
                self.text(path, FileKind::DropIn, text.clone());
            } else if unit_files::is_of(&path, self.prefix.path())? {
                self.steps.push(Step::Remove {
                    path,
                    directory: Some(directory),
                });
            }
        }
        Ok(())
    }
}
