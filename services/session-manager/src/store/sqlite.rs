//! The embedded default: one SQLite file in WAL mode. Each batch of records is one transaction,
//! so that a single sync makes many replies durable.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flame_core::config::cluster::StorageSync;
use flame_core::state::{SessionState, TaskState};
use flame_core::{ApplicationName, NodeName, Resources, SessionId, TaskId};
use flame_rpc::v1;
use prost::Message;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, params};

use super::backup;
use super::upkeep::{self, SqliteUpkeep};
use super::{Record, Snapshot, Store, StoreError, StoredSession, TaskReader, Upkeep};
use crate::core::{
    Application, CLOSED_EVENTS, Cordon, MAX_EVENTS, MAX_TASKS, NodeIdentity, RanOn, RequestRow, SessionEvent,
    SessionKey, SessionRow, TaskRow, is_small, node_labels,
};

/// Formats of the file, each with the statements that lead to it from the one before.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO meta VALUES ('generation', 0);
    CREATE TABLE applications (
        name TEXT PRIMARY KEY, spec BLOB NOT NULL, created INTEGER NOT NULL, version INTEGER NOT NULL,
        builtin INTEGER NOT NULL
    );
    CREATE TABLE sessions (
        key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, spec BLOB NOT NULL, state INTEGER NOT NULL,
        created INTEGER NOT NULL, completed INTEGER
    );
    CREATE TABLE session_events (
        session INTEGER NOT NULL, code INTEGER NOT NULL, message TEXT NOT NULL, time INTEGER NOT NULL
    );
    CREATE INDEX session_events_session ON session_events (session);
    CREATE TABLE tasks (
        session INTEGER NOT NULL, id INTEGER NOT NULL, state INTEGER NOT NULL, created INTEGER NOT NULL,
        started INTEGER, finished INTEGER, input BLOB, output BLOB, message TEXT,
        PRIMARY KEY (session, id)
    ) WITHOUT ROWID;
",
    "
    ALTER TABLE tasks ADD COLUMN sequence INTEGER;
    UPDATE tasks SET sequence = numbered.number FROM (
        SELECT session, id, row_number() OVER (PARTITION BY session ORDER BY finished, id) AS number
        FROM tasks WHERE state >= 2
    ) AS numbered WHERE tasks.session = numbered.session AND tasks.id = numbered.id;
    CREATE UNIQUE INDEX tasks_sequence ON tasks (session, sequence) WHERE sequence IS NOT NULL;
",
    "
    CREATE TABLE requests (
        session INTEGER NOT NULL, id BLOB NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (session, id)
    ) WITHOUT ROWID;
",
    "
    CREATE TABLE removed_sessions (session INTEGER PRIMARY KEY);
    INSERT INTO meta SELECT 'last_session', coalesce(max(key), 0) FROM sessions;
    INSERT INTO meta VALUES ('restored_generation', 0);
    ALTER TABLE sessions ADD COLUMN last_task INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE sessions ADD COLUMN succeeded INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE sessions ADD COLUMN failed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE sessions ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0;
    UPDATE sessions SET (last_task, succeeded, failed, cancelled) = (
        SELECT coalesce(max(id), 0), coalesce(sum(tasks.state = 2), 0), coalesce(sum(tasks.state = 3), 0),
            coalesce(sum(tasks.state = 4), 0)
        FROM tasks WHERE session = sessions.key
    ) WHERE state = 1;
",
    // A row's place is one number (see `place`), which SQLite finds without looking into rows, and
    // large payloads are beside the rows, so that neither a search nor the end of a task touches them.
    "
    CREATE TABLE rows (
        key INTEGER PRIMARY KEY, state INTEGER NOT NULL, created INTEGER NOT NULL, started INTEGER,
        finished INTEGER, end INTEGER, message TEXT, input BLOB, output BLOB
    );
    CREATE TABLE large_inputs (key INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE large_outputs (key INTEGER PRIMARY KEY, data BLOB NOT NULL);
    INSERT INTO rows SELECT session << 32 | id, state, created, started, finished, session << 32 | sequence,
        message, iif(length(input) > 1024, NULL, input), iif(length(output) > 1024, NULL, output) FROM tasks;
    INSERT INTO large_inputs SELECT session << 32 | id, input FROM tasks WHERE length(input) > 1024;
    INSERT INTO large_outputs SELECT session << 32 | id, output FROM tasks WHERE length(output) > 1024;
    DROP TABLE tasks;
    ALTER TABLE rows RENAME TO tasks;
    CREATE UNIQUE INDEX tasks_end ON tasks (end) WHERE end IS NOT NULL;
",
    "
    CREATE TABLE cordons (
        node TEXT PRIMARY KEY, drain INTEGER NOT NULL, reason TEXT, since INTEGER NOT NULL
    ) WITHOUT ROWID;
",
    "
    CREATE TABLE identities (
        node TEXT PRIMARY KEY, id TEXT NOT NULL, hostname TEXT NOT NULL
    ) WITHOUT ROWID;
",
    // Of the sessions that are there already nobody knows.
    "
    CREATE TABLE session_nodes (
        session INTEGER NOT NULL, node TEXT NOT NULL, PRIMARY KEY (session, node)
    ) WITHOUT ROWID;
    ALTER TABLE sessions ADD COLUMN all_nodes_known INTEGER NOT NULL DEFAULT 0;
",
];

/// Payloads above that many bytes are beside the rows. Part of the file's format.
const LARGE: usize = 1024;

/// Bits of a place that number the tasks of a session.
const TASK_BITS: u32 = TaskId::BITS - MAX_TASKS.leading_zeros();

/// Where a task, or the `number`th end of a session's tasks, is: one number for both.
pub(super) fn place(session: SessionKey, number: u64) -> u64 {
    session << TASK_BITS | number
}

/// The places of a session after `number`: more than the first and less than the second.
pub(super) fn places_after(session: SessionKey, number: u64) -> (u64, u64) {
    (place(session, number.min(MAX_TASKS)), place(session + 1, 0))
}

/// The number within the session, of a place.
fn number_at(place: u64) -> u64 {
    place & MAX_TASKS
}

/// How long a reader waits for a lock. Writers never wait: there is only one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What the writer asks of SQLite: 8 MiB of the file in memory (the default's 2 MiB hold less than
/// what is written between two checkpoints), checkpoints after 16 MiB instead of 4 (each costs two
/// syncs), and a log that does not keep the size it had in the worst moment.
const PRAGMAS: [(&str, i64); 3] = [
    ("cache_size", -8192),
    ("wal_autocheckpoint", 4096),
    ("journal_size_limit", 32 << 20),
];

/// Prepared statements that are kept: all that there are.
const STATEMENTS: usize = 64;

/// See the module's text.
#[derive(Debug)]
pub(super) struct SqliteStore {
    path: PathBuf,
    connection: Connection,
    /// Held for as long as the store is open.
    _lock: File,
}

#[derive(Debug)]
struct SqliteReader {
    connection: Mutex<Connection>,
}

pub(super) fn io(action: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Io { action, source }
}

impl SqliteStore {
    /// Opens the file at `path`, makes it if it does not exist, and brings it to the newest format.
    pub(super) fn open(path: &Path, sync: StorageSync) -> Result<Self, StoreError> {
        let named = || path.display().to_string();
        let failed = |source| StoreError::Open {
            path: named(),
            source,
        };
        let lock = lock(path)?;
        let connection = Connection::open(path).map_err(failed)?;
        // Only before anything is written does this have an effect: the file can be made smaller.
        connection
            .pragma_update(None, "auto_vacuum", "INCREMENTAL")
            .map_err(failed)?;
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(failed)?;
        let level = match sync {
            StorageSync::Full => "FULL",
            StorageSync::Normal => "NORMAL",
        };
        connection
            .pragma_update(None, "synchronous", level)
            .map_err(failed)?;
        for (name, value) in PRAGMAS {
            connection.pragma_update(None, name, value).map_err(failed)?;
        }
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        backup::remove_leftover(path);
        let mut store = Self {
            path: path.to_path_buf(),
            connection,
            _lock: lock,
        };
        migrate(&mut store.connection, path)?;
        Ok(store)
    }
}

/// Brings the file behind `connection`, which is at `path`, to this version's format.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = io("bring the state file to this version's format");
    let transaction = connection.transaction().map_err(&failed)?;
    let found: i64 = transaction
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(&failed)?;
    let known = MIGRATIONS.len() as i64;
    if found > known || found < 0 {
        return Err(StoreError::TooNew {
            path: path.display().to_string(),
            found,
            known,
        });
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or_default()) {
        transaction.execute_batch(migration).map_err(&failed)?;
    }
    transaction
        .pragma_update(None, "user_version", known)
        .map_err(&failed)?;
    transaction.commit().map_err(&failed)
}

/// The file whose name is that of `path` with `suffix`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Two session managers on one file would overwrite each other's view of it. The lock is on a file
/// of its own, because closing a second handle of the database would end SQLite's own locks.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let name = beside(path, ".lock");
    let named = || path.display().to_string();
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name);
    let file = file.map_err(|source| StoreError::Lock {
        path: named(),
        source,
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: named() }),
        Err(TryLockError::Error(source)) => Err(StoreError::Lock {
            path: named(),
            source,
        }),
    }
}

impl Store for SqliteStore {
    fn load(&mut self) -> Result<Snapshot, StoreError> {
        let failed = io("load the state");
        let transaction = self.connection.transaction().map_err(&failed)?;
        let generation: u32 = transaction
            .query_row(
                "UPDATE meta SET value = value + 1 WHERE name = 'generation' RETURNING value",
                [],
                |row| row.get(0),
            )
            .map_err(&failed)?;
        let restored_generation = meta(&transaction, "restored_generation").map_err(&failed)?;
        let last_session = meta(&transaction, "last_session").map_err(&failed)?;
        let applications = load_applications(&transaction)?;
        let sessions = load_sessions(&transaction)?;
        let cordons = load_cordons(&transaction)?;
        let identities = load_identities(&transaction)?;
        transaction.commit().map_err(&failed)?;
        Ok(Snapshot {
            generation,
            restored_generation,
            last_session,
            applications,
            sessions,
            cordons,
            identities,
        })
    }

    fn commit(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let failed = io("store the state");
        let transaction = self.connection.transaction().map_err(&failed)?;
        for record in records {
            write(&transaction, record).map_err(&failed)?;
        }
        transaction.commit().map_err(&failed)
    }

    fn reader(&self) -> Result<Arc<dyn TaskReader>, StoreError> {
        Ok(Arc::new(SqliteReader {
            connection: Mutex::new(open_to_read(&self.path)?),
        }))
    }

    fn upkeep(&self) -> Result<Arc<dyn Upkeep>, StoreError> {
        Ok(Arc::new(SqliteUpkeep::open(&self.path)?))
    }
}

/// A further connection to the file at `path`, which exists.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::Open {
        path: path.display().to_string(),
        source,
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    Ok(connection)
}

/// A number of the table `meta`.
pub(super) fn meta<T: rusqlite::types::FromSql>(connection: &Connection, name: &str) -> rusqlite::Result<T> {
    connection.query_row("SELECT value FROM meta WHERE name = ?", [name], |row| row.get(0))
}

/// A payload that goes into the row, or one that goes beside it.
fn by_size(payload: Option<&[u8]>) -> (Option<&[u8]>, Option<&[u8]>) {
    match payload {
        Some(data) if data.len() > LARGE => (None, Some(data)),
        other => (other, None),
    }
}

fn write(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<()> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        transaction.prepare_cached(sql)?.execute(values).map(|_| ())
    };
    match record {
        Record::ApplicationPut(app) => run(
            "INSERT OR REPLACE INTO applications VALUES (?, ?, ?, ?, ?)",
            params![
                app.name.as_str(),
                app.spec.encode_to_vec(),
                app.created,
                app.version,
                app.builtin
            ],
        ),
        Record::ApplicationRemoved(name) => {
            run("DELETE FROM applications WHERE name = ?", params![name.as_str()])
        }
        Record::SessionCreated(row) => run(
            "INSERT INTO sessions (key, id, spec, state, created, all_nodes_known) VALUES (?, ?, ?, 0, ?, 1)",
            params![row.key, row.id.as_str(), row.spec().encode_to_vec(), row.created],
        ),
        Record::SessionClosed {
            session,
            time,
            last_task,
            succeeded,
            failed,
            cancelled,
        } => {
            run("DELETE FROM requests WHERE session = ?", params![session])?;
            run(
                "UPDATE sessions SET state = 1, completed = ?, last_task = ?, succeeded = ?, failed = ?, \
                 cancelled = ? WHERE key = ?",
                params![time, last_task, succeeded, failed, cancelled, session],
            )
        }
        Record::SessionRemoved(key) => {
            run("DELETE FROM sessions WHERE key = ?", params![key])?;
            run("INSERT INTO removed_sessions VALUES (?)", params![key])?;
            run(
                "UPDATE meta SET value = max(value, ?) WHERE name = 'last_session'",
                params![key],
            )
        }
        Record::Tidied => upkeep::tidy(transaction),
        Record::SessionEvent(key, event) => run(
            "INSERT INTO session_events VALUES (?, ?, ?, ?)",
            params![key, event.code, event.message, event.time],
        ),
        Record::SessionRanOn {
            session,
            node: Some(node),
        } => run(
            "INSERT OR IGNORE INTO session_nodes VALUES (?, ?)",
            params![session, node.as_str()],
        ),
        Record::SessionRanOn { session, node: None } => run(
            "UPDATE sessions SET all_nodes_known = 0 WHERE key = ?",
            params![session],
        ),
        Record::TaskCreated(row) => {
            let key = place(row.session, row.id);
            let (small, large) = by_size(row.input.as_deref());
            if let Some(data) = large {
                run("INSERT INTO large_inputs VALUES (?, ?)", params![key, data])?;
            }
            run(
                "INSERT INTO tasks (key, state, created, input) VALUES (?, 0, ?, ?)",
                params![key, row.created, small],
            )
        }
        Record::TaskFinished(row) => {
            let key = place(row.session, row.id);
            let (small, large) = by_size(row.output.as_deref());
            if let Some(data) = large {
                run("INSERT INTO large_outputs VALUES (?, ?)", params![key, data])?;
            }
            run(
                "UPDATE tasks SET state = ?, started = ?, finished = ?, end = ?, message = ?, output = ? \
                 WHERE key = ?",
                params![
                    row.state.code(),
                    row.started,
                    row.finished,
                    row.sequence.map(|number| place(row.session, number)),
                    row.message,
                    small,
                    key
                ],
            )
        }
        Record::NodeCordoned(cordon) => run(
            "INSERT OR REPLACE INTO cordons VALUES (?, ?, ?, ?)",
            params![cordon.node.as_str(), cordon.drain, cordon.reason, cordon.since],
        ),
        Record::NodeUncordoned(node) => run("DELETE FROM cordons WHERE node = ?", params![node.as_str()]),
        Record::NodeIdentified(identity) => run(
            "INSERT OR REPLACE INTO identities VALUES (?, ?, ?)",
            params![identity.node.as_str(), identity.id, identity.hostname],
        ),
        Record::NodeForgotten(node) => run("DELETE FROM identities WHERE node = ?", params![node.as_str()]),
        Record::RequestAnswered { row, forgotten } => {
            if let Some(id) = forgotten {
                run(
                    "DELETE FROM requests WHERE session = ? AND id = ?",
                    params![row.session, &id[..]],
                )?;
            }
            run(
                "INSERT INTO requests VALUES (?, ?, ?, ?)",
                params![row.session, &row.id[..], row.first, row.count],
            )
        }
    }
}

fn damaged(what: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!("{what}: {error}"))
}

fn load_applications(transaction: &Transaction<'_>) -> Result<Vec<Application>, StoreError> {
    let failed = io("load the applications");
    let mut statement = transaction
        .prepare("SELECT name, spec, created, version, builtin FROM applications ORDER BY name")
        .map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let mut applications = Vec::new();
    while let Some(row) = rows.next().map_err(&failed)? {
        let name: String = row.get(0).map_err(&failed)?;
        let spec: Vec<u8> = row.get(1).map_err(&failed)?;
        applications.push(Application {
            spec: v1::ApplicationSpec::decode(spec.as_slice()).map_err(|error| damaged(&name, error))?,
            name: ApplicationName::new(&name).map_err(|error| damaged("applications", error))?,
            created: row.get(2).map_err(&failed)?,
            version: row.get(3).map_err(&failed)?,
            builtin: row.get(4).map_err(&failed)?,
        });
    }
    Ok(applications)
}

fn load_cordons(transaction: &Transaction<'_>) -> Result<Vec<Cordon>, StoreError> {
    let failed = io("load the cordons of nodes");
    let mut statement = transaction
        .prepare("SELECT node, drain, reason, since FROM cordons ORDER BY node")
        .map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let mut cordons = Vec::new();
    while let Some(row) = rows.next().map_err(&failed)? {
        let node: String = row.get(0).map_err(&failed)?;
        cordons.push(Cordon {
            node: NodeName::new(&node).map_err(|error| damaged("cordons", error))?,
            drain: row.get(1).map_err(&failed)?,
            reason: row.get(2).map_err(&failed)?,
            since: row.get(3).map_err(&failed)?,
        });
    }
    Ok(cordons)
}

fn load_identities(transaction: &Transaction<'_>) -> Result<Vec<NodeIdentity>, StoreError> {
    let failed = io("load the identities of nodes");
    let mut statement = transaction
        .prepare("SELECT node, id, hostname FROM identities ORDER BY node")
        .map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let mut identities = Vec::new();
    while let Some(row) = rows.next().map_err(&failed)? {
        let node: String = row.get(0).map_err(&failed)?;
        identities.push(NodeIdentity {
            node: NodeName::new(&node).map_err(|error| damaged("identities", error))?,
            id: row.get(1).map_err(&failed)?,
            hostname: row.get(2).map_err(&failed)?,
        });
    }
    Ok(identities)
}

fn load_sessions(transaction: &Transaction<'_>) -> Result<Vec<StoredSession>, StoreError> {
    let failed = io("load the sessions");
    let mut statement = transaction
        .prepare(
            "SELECT key, id, spec, state, created, completed, last_task, succeeded, failed, cancelled, \
             all_nodes_known FROM sessions ORDER BY key",
        )
        .map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let mut sessions = Vec::new();
    let mut nodes = load_session_nodes(transaction)?;
    while let Some(row) = rows.next().map_err(&failed)? {
        let key: SessionKey = row.get(0).map_err(&failed)?;
        let mut stored = StoredSession {
            last_task: row.get(6).map_err(&failed)?,
            succeeded: row.get(7).map_err(&failed)?,
            failed: row.get(8).map_err(&failed)?,
            cancelled: row.get(9).map_err(&failed)?,
            row: session_row(row)?,
            common_data_in_store: false,
            events: Vec::new(),
            open: Vec::new(),
            requests: Vec::new(),
            ran_on: RanOn {
                nodes: nodes.remove(&key).unwrap_or_default(),
                complete: row.get(10).map_err(&failed)?,
            },
        };
        if stored.row.state == SessionState::Open {
            stored.events = load_events(transaction, stored.row.key, MAX_EVENTS).map_err(&failed)?;
            load_tasks(transaction, &mut stored).map_err(&failed)?;
        } else {
            stored.events = load_events(transaction, stored.row.key, CLOSED_EVENTS).map_err(&failed)?;
            let large = stored.row.common_data.take_if(|data| !is_small(data));
            stored.common_data_in_store = large.is_some();
        }
        sessions.push(stored);
    }
    Ok(sessions)
}

/// The nodes on which sessions ran, as far as they are remembered.
fn load_session_nodes(
    transaction: &Transaction<'_>,
) -> Result<HashMap<SessionKey, Vec<NodeName>>, StoreError> {
    let failed = io("load the nodes of sessions");
    let mut statement = transaction
        .prepare("SELECT session, node FROM session_nodes ORDER BY session, node")
        .map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let mut nodes: HashMap<SessionKey, Vec<NodeName>> = HashMap::new();
    while let Some(row) = rows.next().map_err(&failed)? {
        let (session, node): (SessionKey, String) =
            (row.get(0).map_err(&failed)?, row.get(1).map_err(&failed)?);
        let node = NodeName::new(&node).map_err(|error| damaged("session_nodes", error))?;
        nodes.entry(session).or_default().push(node);
    }
    Ok(nodes)
}

fn session_row(row: &Row<'_>) -> Result<SessionRow, StoreError> {
    let failed = io("load a session");
    let id: String = row.get(1).map_err(&failed)?;
    let spec: Vec<u8> = row.get(2).map_err(&failed)?;
    let spec = v1::SessionSpec::decode(spec.as_slice()).map_err(|error| damaged(&id, error))?;
    let state: i64 = row.get(3).map_err(&failed)?;
    Ok(SessionRow {
        key: row.get(0).map_err(&failed)?,
        application: ApplicationName::new(&spec.application).map_err(|error| damaged(&id, error))?,
        id: SessionId::new(&id).map_err(|error| damaged("sessions", error))?,
        common_data: spec.common_data,
        min_instances: spec.min_instances,
        max_instances: spec.max_instances,
        priority: spec.priority,
        resources: spec.resreq.as_ref().map(Resources::from).unwrap_or_default(),
        node_labels: node_labels(spec.node_selector).map_err(|error| damaged(&id, error))?,
        task_timeout: spec.task_timeout_ms.map(Duration::from_millis),
        state: if state == 0 {
            SessionState::Open
        } else {
            SessionState::Closed
        },
        created: row.get(4).map_err(&failed)?,
        completed: row.get(5).map_err(&failed)?,
    })
}

/// What only an open session needs: its open tasks, its requests, and the numbers that are stored
/// when it is closed.
fn load_tasks(transaction: &Transaction<'_>, stored: &mut StoredSession) -> rusqlite::Result<()> {
    let mut counts = transaction.prepare_cached(
        "SELECT state, count(*), max(key) FROM tasks WHERE key > ? AND key < ? GROUP BY state",
    )?;
    stored.requests = load_requests(transaction, stored.row.key)?;
    let all = places_after(stored.row.key, 0);
    let mut rows = counts.query(all)?;
    while let Some(row) = rows.next()? {
        let (state, count): (i32, u64) = (row.get(0)?, row.get(1)?);
        stored.last_task = stored.last_task.max(number_at(row.get(2)?));
        match TaskState::from_code(state) {
            Some(TaskState::Succeed) => stored.succeeded = count,
            Some(TaskState::Failed) => stored.failed = count,
            Some(TaskState::Cancelled) => stored.cancelled = count,
            _ => {}
        }
    }
    let sql = format!(
        "SELECT key, created, {INPUT} FROM tasks WHERE key > ? AND key < ? AND state = 0 ORDER BY key"
    );
    let mut open = transaction.prepare_cached(&sql)?;
    let mut rows = open.query(all)?;
    while let Some(row) = rows.next()? {
        stored.open.push(TaskRow {
            session: stored.row.key,
            id: number_at(row.get(0)?),
            state: TaskState::Pending,
            created: row.get(1)?,
            started: None,
            finished: None,
            sequence: None,
            input: bytes(row, 2)?,
            output: None,
            message: None,
        });
    }
    Ok(())
}

/// The latest `count` events of a session, oldest first.
fn load_events(
    transaction: &Transaction<'_>,
    key: SessionKey,
    count: usize,
) -> rusqlite::Result<Vec<SessionEvent>> {
    let mut statement = transaction.prepare_cached(
        "SELECT code, message, time FROM session_events WHERE session = ? ORDER BY rowid DESC LIMIT ?",
    )?;
    let event = |row: &Row<'_>| {
        Ok(SessionEvent {
            code: row.get(0)?,
            message: row.get(1)?,
            time: row.get(2)?,
        })
    };
    let events: rusqlite::Result<Vec<_>> = statement.query_map(params![key, count], event)?.collect();
    events.map(|mut events| {
        events.reverse();
        events
    })
}

/// In the order in which they came, which is that of the tasks that they made.
fn load_requests(transaction: &Transaction<'_>, key: SessionKey) -> rusqlite::Result<Vec<RequestRow>> {
    let mut statement = transaction
        .prepare_cached("SELECT id, first, count FROM requests WHERE session = ? ORDER BY first")?;
    let request = |row: &Row<'_>| {
        Ok(RequestRow {
            session: key,
            id: Arc::from(row.get::<_, Vec<u8>>(0)?),
            first: row.get(1)?,
            count: row.get(2)?,
        })
    };
    statement.query_map([key], request)?.collect()
}

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Bytes>> {
    row.get::<_, Option<Vec<u8>>>(column)
        .map(|bytes| bytes.map(Bytes::from))
}

/// A task's input and output, wherever they are.
const INPUT: &str = "coalesce(input, (SELECT data FROM large_inputs WHERE large_inputs.key = tasks.key))";
const OUTPUT: &str = "coalesce(output, (SELECT data FROM large_outputs WHERE large_outputs.key = tasks.key))";

/// What [`task_row`] reads.
fn task_columns() -> String {
    format!("key, state, created, started, finished, end, message, {INPUT}, {OUTPUT}")
}

fn task_row(row: &Row<'_>) -> rusqlite::Result<TaskRow> {
    let key: u64 = row.get(0)?;
    Ok(TaskRow {
        session: key >> TASK_BITS,
        id: number_at(key),
        state: TaskState::from_code(row.get(1)?).unwrap_or(TaskState::Failed),
        created: row.get(2)?,
        started: row.get(3)?,
        finished: row.get(4)?,
        sequence: row.get::<_, Option<u64>>(5)?.map(number_at),
        message: row.get(6)?,
        input: bytes(row, 7)?,
        output: bytes(row, 8)?,
    })
}

impl TaskReader for SqliteReader {
    fn task(&self, session: SessionKey, id: TaskId) -> Result<Option<TaskRow>, StoreError> {
        let failed = io("read a task");
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if id > MAX_TASKS {
            return Ok(None);
        }
        let sql = format!(
            "SELECT {} FROM tasks WHERE key = ? AND state >= 2",
            task_columns()
        );
        let mut statement = connection.prepare_cached(&sql).map_err(&failed)?;
        statement
            .query_row([place(session, id)], task_row)
            .optional()
            .map_err(&failed)
    }

    fn common_data(&self, session: SessionKey) -> Result<Option<Bytes>, StoreError> {
        let failed = io("read a session");
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection
            .prepare_cached("SELECT spec FROM sessions WHERE key = ?")
            .map_err(&failed)?;
        let spec: Option<Vec<u8>> = statement
            .query_row([session], |row| row.get(0))
            .optional()
            .map_err(&failed)?;
        let Some(spec) = spec else { return Ok(None) };
        // Decoded from `Bytes`, the common data is a part of the row and no copy.
        let spec = v1::SessionSpec::decode(Bytes::from(spec)).map_err(|error| damaged("sessions", error))?;
        Ok(spec.common_data)
    }

    fn ends(&self, session: SessionKey, after: u64, limit: usize) -> Result<Vec<TaskRow>, StoreError> {
        self.page("end", session, after, limit)
    }

    fn tasks(&self, session: SessionKey, after: TaskId, limit: usize) -> Result<Vec<TaskRow>, StoreError> {
        self.page("key", session, after, limit)
    }
}

impl SqliteReader {
    /// Ended tasks in the order of `column`, which is `key` or `end`.
    fn page(
        &self,
        column: &str,
        session: SessionKey,
        after: u64,
        limit: usize,
    ) -> Result<Vec<TaskRow>, StoreError> {
        let failed = io("read tasks");
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let sql = format!(
            "SELECT {} FROM tasks WHERE {column} > ? AND {column} < ? AND state >= 2 ORDER BY {column} LIMIT ?",
            task_columns()
        );
        let (from, to) = places_after(session, after);
        let mut statement = connection.prepare_cached(&sql).map_err(&failed)?;
        let rows = statement
            .query_map(params![from, to, limit], task_row)
            .map_err(&failed)?;
        rows.collect::<rusqlite::Result<Vec<_>>>().map_err(&failed)
    }
}
