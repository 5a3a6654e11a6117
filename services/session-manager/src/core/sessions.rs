//! Sessions: created, opened, read. Their end is in `close.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flame_core::lifecycle::LifecycleEvent;
use flame_core::state::SessionState;
use flame_core::{ApplicationName, Resources, SessionId};
use flame_rpc::v1;

use super::model::MAX_EVENTS;
use super::{Core, CoreError, Effects, Now, Session, SessionEvent, SessionKey, SessionRow};
use crate::store::Record;

/// See [`Core::session_progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionProgress {
    /// Its number.
    pub key: SessionKey,
    /// Tasks that have ended; the last one has this sequence number.
    pub ended: u64,
    /// Whether it takes tasks.
    pub open: bool,
}

/// A session as its client wants it.
#[derive(Debug, Clone, Default)]
struct Wanted {
    common_data: Option<Bytes>,
    min_instances: u32,
    max_instances: Option<u32>,
    priority: u32,
    resources: Resources,
    node_labels: Arc<[String]>,
    task_timeout: Option<Duration>,
}

/// A selector as labels, in order.
pub(crate) fn node_labels(selector: HashMap<String, String>) -> Result<Arc<[String]>, CoreError> {
    let mut labels = Vec::with_capacity(selector.len());
    for (key, value) in selector {
        let label = format!("{key}={value}");
        flame_core::label::validate(&label)
            .map_err(|error| CoreError::Invalid(format!("node_selector: {error}")))?;
        labels.push(label);
    }
    labels.sort_unstable();
    Ok(labels.into())
}

impl Core {
    /// Makes a session.
    ///
    /// # Errors
    /// The id is taken, the application is unknown, or the numbers contradict each other.
    pub fn create_session(
        &mut self,
        id: &SessionId,
        spec: v1::SessionSpec,
        now: Now,
        fx: &mut Effects,
    ) -> Result<v1::Session, CoreError> {
        if self.session_keys.contains_key(id.as_str()) {
            return Err(CoreError::AlreadyExists(format!("session {id} already exists")));
        }
        let (application, wanted) = self.wanted(spec)?;
        self.application(&application)?;
        self.last_session += 1;
        let row = SessionRow {
            key: self.last_session,
            id: id.clone(),
            application,
            common_data: wanted.common_data,
            min_instances: wanted.min_instances,
            max_instances: wanted.max_instances,
            priority: wanted.priority,
            resources: wanted.resources,
            node_labels: wanted.node_labels,
            task_timeout: wanted.task_timeout,
            state: SessionState::Open,
            created: now.wall,
            completed: None,
        };
        fx.records.push(Record::SessionCreated(row.clone()));
        let session = Session::new(row);
        let view = session.view();
        let text = format!("session {id} of application {} was made", session.row.application);
        fx.event(LifecycleEvent::SessionCreated, text).session = Some(id.clone());
        self.counters.sessions_created += 1;
        self.session_keys.insert(id.clone(), session.row.key);
        self.open.insert(session.row.key);
        self.sessions.insert(session.row.key, session);
        self.dirty = true;
        Ok(view)
    }

    /// The open session `id`; made from `spec` if it does not exist.
    ///
    /// # Errors
    /// It is closed, differs from `spec`, or does not exist and there is no `spec`.
    pub fn open_session(
        &mut self,
        id: &SessionId,
        spec: Option<v1::SessionSpec>,
        now: Now,
        fx: &mut Effects,
    ) -> Result<v1::Session, CoreError> {
        match (self.session(id.as_str()), spec) {
            (Err(_), Some(spec)) => self.create_session(id, spec, now, fx),
            (Err(error), None) => Err(error),
            (Ok(session), _) if !session.is_open() => {
                Err(CoreError::Invalid(format!("session {id} is not open")))
            }
            (Ok(session), None) => Ok(session.view()),
            (Ok(session), Some(spec)) => {
                let view = session.view();
                let row = session.row.clone();
                self.refuse_difference(&row, spec)?;
                Ok(view)
            }
        }
    }

    fn refuse_difference(&self, row: &SessionRow, spec: v1::SessionSpec) -> Result<(), CoreError> {
        let (application, wanted) = self.wanted(spec)?;
        let shown =
            |value: Option<u32>| value.map_or_else(|| "unlimited".to_owned(), |value| value.to_string());
        let shown_time = |value: Option<Duration>| {
            value.map_or_else(|| "unlimited".to_owned(), |value| format!("{value:?}"))
        };
        let fields = [
            (
                "application",
                row.application.to_string(),
                application.to_string(),
            ),
            ("resreq", row.resources.to_string(), wanted.resources.to_string()),
            (
                "min_instances",
                row.min_instances.to_string(),
                wanted.min_instances.to_string(),
            ),
            (
                "max_instances",
                shown(row.max_instances),
                shown(wanted.max_instances),
            ),
            ("priority", row.priority.to_string(), wanted.priority.to_string()),
            (
                "node_selector",
                row.node_labels.join(","),
                wanted.node_labels.join(","),
            ),
            (
                "task_timeout",
                shown_time(row.task_timeout),
                shown_time(wanted.task_timeout),
            ),
        ];
        match fields.into_iter().find(|(_, is, want)| is != want) {
            None => Ok(()),
            Some((field, is, want)) => Err(CoreError::Invalid(format!(
                "session {} spec mismatch: {field} differs: the session has {is}, the request {want}",
                row.id
            ))),
        }
    }

    fn wanted(&self, spec: v1::SessionSpec) -> Result<(ApplicationName, Wanted), CoreError> {
        let application =
            ApplicationName::new(&spec.application).map_err(|error| CoreError::Invalid(error.to_string()))?;
        if let Some(max) = spec.max_instances.filter(|max| *max < spec.min_instances.max(1)) {
            let min = spec.min_instances.max(1);
            let text = format!("max_instances is {max}, but must be at least {min} (min_instances, or 1)");
            return Err(CoreError::Invalid(text));
        }
        if spec.task_timeout_ms == Some(0) {
            return Err(CoreError::Invalid("task_timeout must be more than 0".to_owned()));
        }
        let wanted = Wanted {
            common_data: spec.common_data,
            min_instances: spec.min_instances,
            max_instances: spec.max_instances,
            priority: spec.priority,
            resources: spec
                .resreq
                .as_ref()
                .map_or(self.config.default_resources, Resources::from),
            node_labels: node_labels(spec.node_selector)?,
            task_timeout: spec.task_timeout_ms.map(Duration::from_millis),
        };
        Ok((application, wanted))
    }

    /// How far a session is: its number, how many of its tasks have ended, and whether more will.
    ///
    /// # Errors
    /// It does not exist.
    pub fn session_progress(&self, id: &str) -> Result<SessionProgress, CoreError> {
        let session = self.session(id)?;
        Ok(SessionProgress {
            key: session.row.key,
            ended: session.ended(),
            open: session.is_open(),
        })
    }

    /// One session.
    ///
    /// # Errors
    /// It does not exist.
    pub fn get_session(&self, id: &str) -> Result<v1::Session, CoreError> {
        self.session(id).map(Session::view)
    }

    /// All sessions, in the order of their creation. Large common data of closed sessions is not
    /// shown: the answer would not fit anywhere.
    #[must_use]
    pub fn list_sessions(&self) -> v1::SessionList {
        v1::SessionList {
            sessions: self.sessions.values().map(Session::view).collect(),
        }
    }

    pub(super) fn session_event(
        &mut self,
        key: SessionKey,
        code: i32,
        message: String,
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let event = SessionEvent {
            code,
            message,
            time: now.wall,
        };
        fx.records.push(Record::SessionEvent(key, event.clone()));
        session.events.push_back(event);
        if session.events.len() > MAX_EVENTS {
            session.events.pop_front();
        }
    }
}
