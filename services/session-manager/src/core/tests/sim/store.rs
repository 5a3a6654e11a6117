//! The durable state: what is left when the session manager is killed. Checks on the way in what
//! has to be true of the records, whatever the core believes.

use std::collections::BTreeMap;
use std::sync::Arc;

use flame_core::state::{SessionState, TaskState};
use flame_core::{ApplicationName, NodeName, TaskId};

use crate::core::{
    Application, Cordon, NodeIdentity, RanOn, RequestRow, SessionEvent, SessionKey, SessionRow, TaskRow,
};
use crate::store::{Record, Snapshot, StoredSession};

/// One session on disk.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) row: SessionRow,
    events: Vec<SessionEvent>,
    last_task: TaskId,
    open: BTreeMap<TaskId, TaskRow>,
    /// By sequence number.
    ended: BTreeMap<u64, Arc<TaskRow>>,
    /// Sequence numbers by task.
    ends: BTreeMap<TaskId, u64>,
    requests: Vec<RequestRow>,
    ran_on: RanOn,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Disk {
    generation: u32,
    last_session: SessionKey,
    applications: BTreeMap<ApplicationName, Application>,
    cordons: BTreeMap<NodeName, Cordon>,
    identities: BTreeMap<NodeName, NodeIdentity>,
    pub(super) sessions: BTreeMap<SessionKey, Stored>,
}

impl Stored {
    /// The task on disk, open or ended.
    pub(super) fn task(&self, id: TaskId) -> Option<&TaskRow> {
        let ended = self.ends.get(&id).and_then(|sequence| self.ended.get(sequence));
        ended.map(Arc::as_ref).or_else(|| self.open.get(&id))
    }

    pub(super) fn is_open(&self) -> bool {
        self.row.state == SessionState::Open
    }

    pub(super) fn open_tasks(&self) -> usize {
        self.open.len()
    }

    /// Ended tasks after sequence number `after`, in order.
    pub(super) fn ends_after(&self, after: u64) -> impl Iterator<Item = &Arc<TaskRow>> {
        self.ended.range(after + 1..).map(|(_, row)| row)
    }

    fn count(&self, state: TaskState) -> u64 {
        self.ended.values().filter(|row| row.state == state).count() as u64
    }

    fn created(&mut self, row: &TaskRow) -> Result<(), String> {
        if !self.is_open() {
            return Err(format!("task {} was created in a closed session", row.id));
        }
        if row.id != self.last_task + 1 {
            return Err(format!("task {} was created after {}", row.id, self.last_task));
        }
        self.last_task = row.id;
        self.open.insert(row.id, row.clone());
        Ok(())
    }

    fn finished(&mut self, row: &Arc<TaskRow>) -> Result<(), String> {
        let Some(open) = self.open.remove(&row.id) else {
            let before = self.ends.get(&row.id);
            return Err(format!(
                "task {} ended although it was not open (end {before:?} before)",
                row.id
            ));
        };
        if open.input != row.input {
            return Err(format!(
                "task {} ended with another input than it was created with",
                row.id
            ));
        }
        let sequence = self.ended.len() as u64 + 1;
        if row.sequence != Some(sequence) {
            return Err(format!(
                "end {:?} of task {} is number {sequence}",
                row.sequence, row.id
            ));
        }
        self.ended.insert(sequence, Arc::clone(row));
        self.ends.insert(row.id, sequence);
        Ok(())
    }

    fn snapshot(&self) -> StoredSession {
        StoredSession {
            row: self.row.clone(),
            common_data_in_store: false,
            events: self.events.clone(),
            last_task: self.last_task,
            open: self.open.values().cloned().collect(),
            succeeded: self.count(TaskState::Succeed),
            failed: self.count(TaskState::Failed),
            cancelled: self.count(TaskState::Cancelled),
            requests: self.requests.clone(),
            ran_on: self.ran_on.clone(),
        }
    }
}

impl Disk {
    /// One commit.
    pub(super) fn commit(&mut self, records: &[Record]) -> Result<(), String> {
        records.iter().try_for_each(|record| self.apply(record))
    }

    fn session(&mut self, key: SessionKey) -> Result<&mut Stored, String> {
        let found = self.sessions.get_mut(&key);
        found.ok_or_else(|| format!("a record is about session {key}, which is not stored"))
    }

    fn apply(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::ApplicationPut(application) => {
                self.applications
                    .insert(application.name.clone(), application.clone());
            }
            Record::ApplicationRemoved(name) => {
                self.applications.remove(name.as_str());
            }
            Record::SessionCreated(row) => self.create(row)?,
            Record::SessionClosed { session, time, .. } => {
                let found = self.session(*session)?;
                if !found.open.is_empty() {
                    return Err(format!("{} was closed with open tasks", found.row.id));
                }
                found.row.state = SessionState::Closed;
                found.row.completed = Some(*time);
                found.requests.clear();
            }
            Record::SessionRemoved(key) => {
                self.session(*key)?;
                self.sessions.remove(key);
            }
            Record::SessionEvent(key, event) => self.session(*key)?.events.push(event.clone()),
            Record::SessionRanOn { session, node } => {
                let ran_on = &mut self.session(*session)?.ran_on;
                match node {
                    Some(node) if ran_on.nodes.contains(node) => {
                        return Err(format!(
                            "session {session} is said once more to have run on {node}"
                        ));
                    }
                    Some(node) => ran_on.nodes.push(node.clone()),
                    None => ran_on.complete = false,
                }
            }
            Record::TaskCreated(row) => self.session(row.session)?.created(row)?,
            Record::TaskFinished(row) => self.session(row.session)?.finished(row)?,
            Record::RequestAnswered { row, forgotten } => {
                let requests = &mut self.session(row.session)?.requests;
                requests.retain(|known| Some(&known.id) != forgotten.as_ref());
                requests.push(row.clone());
            }
            Record::NodeCordoned(cordon) => drop(self.cordons.insert(cordon.node.clone(), cordon.clone())),
            Record::NodeIdentified(identity) => {
                self.identities.insert(identity.node.clone(), identity.clone());
            }
            Record::NodeForgotten(node) => {
                if self.identities.remove(node).is_none() {
                    return Err(format!("node {node} is forgotten, but was not known"));
                }
            }
            Record::NodeUncordoned(node) => {
                if self.cordons.remove(node).is_none() {
                    return Err(format!("node {node} is uncordoned, but was in service"));
                }
            }
            // Rows of removed sessions are gone at once here.
            Record::Tidied => {}
        }
        Ok(())
    }

    fn create(&mut self, row: &SessionRow) -> Result<(), String> {
        if self.sessions.values().any(|known| known.row.id == row.id) {
            return Err(format!("session {} is stored twice", row.id));
        }
        self.last_session = self.last_session.max(row.key);
        let stored = Stored {
            row: row.clone(),
            events: Vec::new(),
            last_task: 0,
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            ends: BTreeMap::new(),
            requests: Vec::new(),
            ran_on: RanOn {
                nodes: Vec::new(),
                complete: true,
            },
        };
        self.sessions.insert(row.key, stored);
        Ok(())
    }

    /// The application on disk.
    pub(super) fn application(&self, name: &str) -> Option<&Application> {
        self.applications.get(name)
    }

    /// Whether a node is out of service, and what runs there ends.
    pub(super) fn cordon(&self, node: &str) -> Option<bool> {
        self.cordons.get(node).map(|cordon| cordon.drain)
    }

    /// The task on disk, open or ended.
    pub(super) fn task(&self, session: SessionKey, id: TaskId) -> Option<&TaskRow> {
        self.sessions.get(&session)?.task(id)
    }

    /// What a session manager that starts finds.
    pub(super) fn load(&mut self) -> Snapshot {
        self.generation += 1;
        Snapshot {
            generation: self.generation,
            last_session: self.last_session,
            applications: self.applications.values().cloned().collect(),
            sessions: self.sessions.values().map(Stored::snapshot).collect(),
            cordons: self.cordons.values().cloned().collect(),
            identities: self.identities.values().cloned().collect(),
            ..Snapshot::default()
        }
    }
}
