//! What systemd says about one unit, at one moment.

use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::Serialize;

/// State of a unit. What a unit of its kind does not have, or does not have now, is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct UnitStatus {
    /// Full name, as `flame.target`.
    pub name: String,
    /// `loaded`, `not-found`, `bad-setting`, ...
    pub load_state: String,
    /// `active`, `inactive`, `failed`, `activating`, ...
    pub active_state: String,
    /// The finer state, as `running`.
    pub sub_state: String,
    /// `enabled`, `disabled`, ...; empty without a file.
    pub unit_file_state: String,
    /// Path of the unit file.
    pub fragment_path: Option<String>,
    /// Files that change the unit file's settings, in the order in which they are read.
    pub drop_ins: Vec<String>,
    /// Whether the files have changed since systemd read them.
    pub needs_reload: bool,
    /// Id of the current run, as `journalctl _SYSTEMD_INVOCATION_ID=` takes it.
    pub invocation_id: Option<String>,
    /// When it became active, in microseconds since 1970.
    pub active_since_us: Option<u64>,
    /// How the last run of a service ended.
    pub result: Option<String>,
    /// Exit status or signal of the last main process.
    pub exit_status: Option<i32>,
    /// Process id of a service.
    pub main_pid: Option<u32>,
    /// When the main process was started, in microseconds since 1970.
    pub main_since_us: Option<u64>,
    /// Automatic restarts of a service.
    pub restarts: Option<u32>,
    /// What a service says about itself.
    pub status_text: Option<String>,
    /// Bytes of memory in use.
    pub memory_bytes: Option<u64>,
}

impl UnitStatus {
    /// A unit that systemd knows nothing of.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            load_state: "not-found".to_owned(),
            active_state: "inactive".to_owned(),
            sub_state: "dead".to_owned(),
            unit_file_state: String::new(),
            fragment_path: None,
            drop_ins: Vec::new(),
            needs_reload: false,
            invocation_id: None,
            active_since_us: None,
            result: None,
            exit_status: None,
            main_pid: None,
            main_since_us: None,
            restarts: None,
            status_text: None,
            memory_bytes: None,
        }
    }

    /// Whether systemd has a file for it.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.load_state != "not-found"
    }

    /// Whether it is active.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active_state == "active"
    }

    /// How long it has been active at `now`.
    #[must_use]
    pub fn active_for(&self, now: SystemTime) -> Option<Duration> {
        let since = self.active_since_us.filter(|_| self.is_active())?;
        now.duration_since(SystemTime::UNIX_EPOCH)
            .ok()?
            .checked_sub(Duration::from_micros(since))
    }
}
