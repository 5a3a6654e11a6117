//! What systemd tells about units as it happens: one subscription for all units, no polling.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use futures::StreamExt;
use futures::stream::{Select, select};
use zbus::message::Type;
use zbus::{MatchRule, Message, MessageStream, OwnedObjectPath, Variant};

use super::{JobResult, Systemd, SystemdError, hex};

/// Object path below which all units are.
const UNITS: &str = "/org/freedesktop/systemd1/unit/";
/// Object path below which systemd has everything.
const ROOT: &str = "/org/freedesktop/systemd1";
/// Name of systemd on the bus.
const NAME: &str = "org.freedesktop.systemd1";
/// Name of the bus itself.
const BUS: &str = "org.freedesktop.DBus";
/// Its signal that a name is somebody else's now.
const OWNER_CHANGED: &str = "NameOwnerChanged";
/// Signals in advance of their reader: the changes of some hundred units that start at once.
const QUEUE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// A job of the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobId(String);

impl JobId {
    /// The job with this object path.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self(path.to_owned())
    }
}

/// What has changed about a unit; `None`: this signal does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitChange {
    /// `active`, `inactive`, `failed`, ...; comes after everything else about the same moment.
    pub active_state: Option<String>,
    /// Id of the current run, as the journal has it.
    pub invocation_id: Option<String>,
    /// How the run ended: `success`, `exit-code`, `signal`, `oom-kill`, ...
    pub result: Option<String>,
    /// Process id of the main process, 0 if there is none.
    pub main_pid: Option<u32>,
    /// How the main process ended: one of the `CLD_` numbers of waitid(2), 0 if it runs.
    pub exit_code: Option<i32>,
    /// With which status or signal.
    pub exit_status: Option<i32>,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitSignal {
    /// To a unit.
    Changed {
        /// The unit.
        unit: String,
        /// What is new.
        change: UnitChange,
    },
    /// A job is over; changes of its unit that it made were told before.
    JobRemoved {
        /// The unit.
        unit: String,
        /// The job.
        job: JobId,
        /// How it ended.
        result: JobResult,
    },
    /// The service manager was away from the bus and is back: what happened meanwhile was not told.
    Returned,
}

/// Signals about the units whose names begin with a prefix.
#[derive(Debug)]
pub struct UnitSignals {
    stream: Select<MessageStream, MessageStream>,
    prefix: String,
}

impl Systemd {
    /// Signals about all units whose names begin with `prefix`, from now on.
    ///
    /// # Errors
    /// [`SystemdError::Call`].
    pub async fn unit_signals(&self, prefix: &str) -> Result<UnitSignals, SystemdError> {
        self.subscribe().await?;
        let watch = |source| SystemdError::from_call("watch", "the service manager", None, source);
        let streams = async {
            let units = MatchRule::builder()
                .msg_type(Type::Signal)
                .sender(NAME)
                .path_namespace(ROOT)
                .build()?;
            let owners = MatchRule::builder()
                .msg_type(Type::Signal)
                .sender(BUS)
                .member(OWNER_CHANGED)
                .arg(0, NAME)
                .build()?;
            let owners = MessageStream::for_match_rule(owners, &self.connection, None).await?;
            let units = MessageStream::for_match_rule(units, &self.connection, Some(QUEUE)).await?;
            zbus::Result::Ok((units, owners))
        };
        let (units, owners) = streams.await.map_err(watch)?;
        Ok(UnitSignals {
            stream: select(units, owners),
            prefix: prefix.to_owned(),
        })
    }
}

impl UnitSignals {
    /// The next one; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<UnitSignal> {
        loop {
            match self.stream.next().await? {
                Ok(message) => {
                    if let Some(signal) = self.read(&message) {
                        return Some(signal);
                    }
                }
                Err(error) => tracing::debug!(%error, "a message of D-Bus cannot be read"),
            }
        }
    }

    fn read(&self, message: &Message) -> Option<UnitSignal> {
        let header = message.header();
        match header.member()?.as_str() {
            "PropertiesChanged" => {
                let unit = unit_of(header.path()?.as_str())?;
                if !unit.starts_with(&self.prefix) {
                    return None;
                }
                let body = message.body();
                let (_, changed, _): (&str, HashMap<&str, Variant<'_>>, Vec<&str>) =
                    body.deserialize().ok()?;
                Some(UnitSignal::Changed {
                    unit,
                    change: UnitChange::of(&changed),
                })
            }
            "JobRemoved" => {
                let body = message.body();
                let (_, job, unit, result): (u32, OwnedObjectPath, &str, &str) = body.deserialize().ok()?;
                unit.starts_with(&self.prefix).then(|| UnitSignal::JobRemoved {
                    unit: unit.to_owned(),
                    job: JobId::new(job.as_str()),
                    result: JobResult::from_name(result),
                })
            }
            OWNER_CHANGED => {
                let body = message.body();
                let (_, _, new): (&str, &str, &str) = body.deserialize().ok()?;
                (!new.is_empty()).then_some(UnitSignal::Returned)
            }
            _ => None,
        }
    }
}

impl UnitChange {
    fn of(changed: &HashMap<&str, Variant<'_>>) -> Self {
        let text = |name: &str| {
            let value: Option<&str> = changed.get(name)?.try_into().ok();
            value.map(str::to_owned)
        };
        let number = |name: &str| -> Option<i32> { changed.get(name)?.try_into().ok() };
        Self {
            active_state: text("ActiveState"),
            invocation_id: changed.get("InvocationID").and_then(|value| {
                let bytes: Vec<u8> = value.try_clone().ok()?.try_into().ok()?;
                hex(&bytes)
            }),
            result: text("Result"),
            main_pid: changed.get("MainPID").and_then(|value| value.try_into().ok()),
            exit_code: number("ExecMainCode"),
            exit_status: number("ExecMainStatus"),
        }
    }
}

/// Name of the unit that has this object path: `_xx` stands for the byte with that hexadecimal number.
fn unit_of(path: &str) -> Option<String> {
    let mut rest = path.strip_prefix(UNITS)?;
    let mut name = Vec::with_capacity(rest.len());
    while let Some((before, after)) = rest.split_once('_') {
        name.extend_from_slice(before.as_bytes());
        name.push(u8::from_str_radix(after.get(..2)?, 16).ok()?);
        rest = after.get(2..)?;
    }
    name.extend_from_slice(rest.as_bytes());
    String::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_name_of_a_unit() {
        for (path, unit) in [
            (
                "/org/freedesktop/systemd1/unit/flame_2dexecutor_400_2eservice",
                Some("flame-executor@0.service"),
            ),
            ("/org/freedesktop/systemd1/unit/_61_5fb", Some("a_b")),
            ("/org/freedesktop/systemd1/unit/x_2", None),
            ("/org/freedesktop/systemd1/unit/x_zz", None),
            ("/org/freedesktop/systemd1/unit/x_ff", None),
            ("/org/freedesktop/systemd1/job/7", None),
        ] {
            assert_eq!(unit_of(path).as_deref(), unit, "{path}");
        }
    }

    #[test]
    fn a_change_is_what_the_signal_says_and_no_more() {
        let changed = HashMap::from([
            ("ActiveState", Variant::from("failed")),
            ("InvocationID", Variant::from(vec![0xab_u8, 1])),
            ("ExecMainCode", Variant::from(1_i32)),
            ("ExecMainStatus", Variant::from(3_i32)),
            ("MainPID", Variant::from(0_u32)),
            ("Result", Variant::from(7_u32)),
        ]);
        assert_eq!(
            UnitChange::of(&changed),
            UnitChange {
                active_state: Some("failed".to_owned()),
                invocation_id: Some("ab01".to_owned()),
                result: None,
                main_pid: Some(0),
                exit_code: Some(1),
                exit_status: Some(3),
            }
        );
        assert_eq!(UnitChange::of(&HashMap::new()), UnitChange::default());
    }
}
