//! Durable state: what the core wants kept, and the engines that keep it. Every engine answers
//! the same request alike; what a request means is decided in the core.

mod backup;
mod memory;
pub mod restore;
mod sqlite;
mod upkeep;

use std::path::Path;
use std::sync::Arc;

use flame_core::config::cluster::{Storage, StorageSync};
use flame_core::{ApplicationName, NodeName, TaskId};

use crate::core::{
    Application, Cordon, NodeIdentity, RanOn, RequestRow, SessionEvent, SessionKey, SessionRow, TaskRow,
};

/// A change that has to survive.
#[derive(Debug, Clone)]
pub enum Record {
    /// An application is new or has changed.
    ApplicationPut(Application),
    /// An application is gone.
    ApplicationRemoved(ApplicationName),
    /// A session is new.
    SessionCreated(SessionRow),
    /// A session takes no more tasks; its requests need not be remembered any more.
    SessionClosed {
        /// Which.
        session: SessionKey,
        /// Unix milliseconds.
        time: i64,
        /// Highest task id.
        last_task: TaskId,
        /// Its tasks by how they ended.
        succeeded: u64,
        /// See `succeeded`.
        failed: u64,
        /// See `succeeded`.
        cancelled: u64,
    },
    /// A session is gone. What is left of it is deleted bit by bit, see [`Record::Tidied`].
    SessionRemoved(SessionKey),
    /// It is time to delete a part of what removed sessions left, or to give room back that the
    /// file does not need any more.
    Tidied,
    /// Something happened to a session.
    SessionEvent(SessionKey, SessionEvent),
    /// A session has an executor on a node where it had none before.
    SessionRanOn {
        /// Which.
        session: SessionKey,
        /// None: it ran on more nodes than are remembered.
        node: Option<NodeName>,
    },
    /// A task is new.
    TaskCreated(TaskRow),
    /// A task has ended.
    TaskFinished(Arc<TaskRow>),
    /// A node is out of service, or is so for another reason.
    NodeCordoned(Cordon),
    /// A node is in service again.
    NodeUncordoned(NodeName),
    /// The name of a node belongs to that machine.
    NodeIdentified(NodeIdentity),
    /// The name of a node belongs to nobody.
    NodeForgotten(NodeName),
    /// A call made tasks and may be repeated.
    RequestAnswered {
        /// The call.
        row: RequestRow,
        /// An older one of the session that need not be remembered any more.
        forgotten: Option<Arc<[u8]>>,
    },
}

/// Everything that the core needs to go on.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// How often the store was loaded; part of every attempt number.
    pub generation: u32,
    /// The generation of the latest restored backup: what earlier ones started belongs to a state
    /// that is gone. 0 if there was none.
    pub restored_generation: u32,
    /// The highest session key that ever was.
    pub last_session: SessionKey,
    /// All applications.
    pub applications: Vec<Application>,
    /// All sessions, in the order of their keys.
    pub sessions: Vec<StoredSession>,
    /// Nodes that are out of service.
    pub cordons: Vec<Cordon>,
    /// Which machines have which names.
    pub identities: Vec<NodeIdentity>,
}

/// A session as it was stored.
#[derive(Debug)]
pub struct StoredSession {
    /// Itself.
    pub row: SessionRow,
    /// Its common data was not loaded: a closed session hardly needs it.
    pub common_data_in_store: bool,
    /// The latest events, oldest first.
    pub events: Vec<SessionEvent>,
    /// Highest task id.
    pub last_task: TaskId,
    /// Tasks that have not ended.
    pub open: Vec<TaskRow>,
    /// Ended tasks by how they ended.
    pub succeeded: u64,
    /// See `succeeded`.
    pub failed: u64,
    /// See `succeeded`.
    pub cancelled: u64,
    /// Calls that may be repeated, oldest first.
    pub requests: Vec<RequestRow>,
    /// Where its logs are.
    pub ran_on: RanOn,
}

/// The store cannot do what is asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or made.
    #[error(
        "cannot open the state file {path}: {source}; check the path (cluster.storage) and its permissions"
    )]
    Open {
        /// As configured.
        path: String,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file was written by a later version.
    #[error(
        "the state file {path} has format {found}, but this version knows only formats up to {known}; \
         install the version that wrote it"
    )]
    TooNew {
        /// As configured.
        path: String,
        /// Its format.
        found: i64,
        /// The newest that this program can read.
        known: i64,
    },
    /// The lock beside the file cannot be made.
    #[error(
        "cannot open the state file {path}: {source}; check the path (cluster.storage) and its permissions"
    )]
    Lock {
        /// As configured.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is in use by another session manager.
    #[error("the state file {path} is in use by another process")]
    InUse {
        /// As configured.
        path: String,
    },
    /// The file has something that no version writes.
    #[error("the state file is damaged: {0}")]
    Damaged(String),
    /// There is no file to copy.
    #[error("cannot make a backup: the state is kept in memory only (cluster.storage is none)")]
    NotDurable,
    /// A copy of the file would fill the disk.
    #[error(
        "cannot make a backup: the copy of the state needs {needed} bytes beside {path}, and {free} are free"
    )]
    NoRoom {
        /// As configured.
        path: String,
        /// Bytes that the copy needs, with a reserve for the work that goes on.
        needed: u64,
        /// Bytes that the file system has.
        free: u64,
    },
    /// The copy beside the file cannot be used.
    #[error("cannot make a backup: cannot {action} {path}: {source}")]
    Copy {
        /// What was being done.
        action: &'static str,
        /// The copy.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Reading or writing failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// Why.
        source: rusqlite::Error,
    },
}

/// Writes records; owned by the store thread.
pub trait Store: Send {
    /// Reads everything that is open, and counts this load (see [`Snapshot::generation`]).
    ///
    /// # Errors
    /// The state cannot be read or is damaged.
    fn load(&mut self) -> Result<Snapshot, StoreError>;

    /// Makes `records` durable, all or none.
    ///
    /// # Errors
    /// None of them was stored, and the same call may be repeated.
    fn commit(&mut self, records: &[Record]) -> Result<(), StoreError>;

    /// Whether [`Store::commit`] waits for a disk, so that it needs a thread of its own.
    fn waits(&self) -> bool {
        true
    }

    /// For reading beside the writer.
    ///
    /// # Errors
    /// The state cannot be opened a second time.
    fn reader(&self) -> Result<Arc<dyn TaskReader>, StoreError>;

    /// For looking after the state beside the writer.
    ///
    /// # Errors
    /// The state cannot be opened a second time.
    fn upkeep(&self) -> Result<Arc<dyn Upkeep>, StoreError>;
}

/// Tells how large the state is, and copies it. Calls block.
pub trait Upkeep: Send + Sync {
    /// How large the state is.
    ///
    /// # Errors
    /// The state cannot be read.
    fn size(&self) -> Result<StateSize, StoreError>;

    /// About how many bytes the removal of a session frees.
    ///
    /// # Errors
    /// The state cannot be read.
    fn session_size(&self, session: SessionKey) -> Result<u64, StoreError>;

    /// A copy of the state as it is now, made while it is written to.
    ///
    /// # Errors
    /// There is no file, no room for a copy, or the copy failed.
    fn backup(&self) -> Result<Backup, StoreError>;
}

/// How large the state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateSize {
    /// Bytes that are in use.
    pub used: u64,
    /// There is something to do for [`Record::Tidied`].
    pub untidy: bool,
}

/// A copy of the state file. It has no name any more, so it is gone when it is closed.
#[derive(Debug)]
pub struct Backup {
    /// Readable from its start.
    pub file: std::fs::File,
    /// Its bytes.
    pub size: u64,
    /// The format of the state file.
    pub format: u32,
}

/// Reads tasks that have ended; shared between the servers' threads. Calls block.
pub trait TaskReader: Send + Sync {
    /// Task `id`, if it is there and has ended.
    ///
    /// # Errors
    /// The state cannot be read.
    fn task(&self, session: SessionKey, id: TaskId) -> Result<Option<TaskRow>, StoreError>;

    /// The common data of a session, if it has any.
    ///
    /// # Errors
    /// The state cannot be read.
    fn common_data(&self, session: SessionKey) -> Result<Option<bytes::Bytes>, StoreError>;

    /// Up to `limit` ended tasks with sequence numbers above `after`, in the order of those.
    ///
    /// # Errors
    /// The state cannot be read.
    fn ends(&self, session: SessionKey, after: u64, limit: usize) -> Result<Vec<TaskRow>, StoreError>;

    /// Up to `limit` ended tasks with ids above `after`, in the order of their ids.
    ///
    /// # Errors
    /// The state cannot be read.
    fn tasks(&self, session: SessionKey, after: TaskId, limit: usize) -> Result<Vec<TaskRow>, StoreError>;
}

/// The store that the configuration names.
///
/// # Errors
/// [`StoreError`] if it cannot be used.
pub fn open(storage: &Storage, sync: StorageSync) -> Result<Box<dyn Store>, StoreError> {
    Ok(match storage {
        Storage::None => Box::new(memory::MemoryStore::default()),
        Storage::Sqlite(path) => Box::new(sqlite::SqliteStore::open(Path::new(path), sync)?),
    })
}

#[cfg(test)]
mod tests;
