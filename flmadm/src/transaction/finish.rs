//! What is done after the point of no return. Each of these can be done again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::undo::Traces;
use crate::accounts;
use crate::failure::Outcome;
use crate::files;
use crate::host::{Account, Host};
use crate::manifest::AccountRecord;

/// Something that is removed at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "finish", rename_all = "kebab-case")]
pub(crate) enum Finish {
    /// Removes a directory with all that is in it.
    Tree { path: PathBuf },
    /// Removes files and links.
    Files { paths: Vec<PathBuf> },
    /// Removes directories, in this order, in which nothing is left.
    Empty { paths: Vec<PathBuf> },
    /// Removes accounts, and puts the account tools' own files back to what `record` says.
    Accounts {
        accounts: Vec<Account>,
        record: Option<AccountRecord>,
        store: PathBuf,
    },
    /// Removes what executors have left outside of the prefix.
    Traces { traces: Traces },
}

impl Finish {
    /// Does it. Gives paths that stay because there is something in them, and lines for people.
    ///
    /// # Errors
    /// It is not done; it can be tried again.
    pub(crate) fn run(&self, host: &dyn Host, left: &mut Left) -> Outcome<()> {
        match self {
            Self::Tree { path } => files::remove_tree(path),
            Self::Files { paths } => paths.iter().try_for_each(|path| files::remove(path)),
            Self::Empty { paths } => {
                for path in paths {
                    if !files::remove_empty(path)? {
                        left.kept.push(path.clone());
                    }
                }
                Ok(())
            }
            Self::Accounts {
                accounts,
                record,
                store,
            } => {
                for account in accounts {
                    if account.look_up(host)?.is_some() {
                        host.remove_account(account)?;
                    }
                }
                if let Some(record) = record
                    && store.exists()
                {
                    let note = accounts::restore(host.account_directory(), store, record)?;
                    left.notes.extend(note);
                }
                files::remove_tree(store)
            }
            Self::Traces { traces } => traces.remove(host),
        }
    }
}

/// What a transaction left on purpose.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    /// Directories in which there is something of somebody else's.
    pub(crate) kept: Vec<PathBuf>,
    /// Lines for people.
    pub(crate) notes: Vec<String>,
}
