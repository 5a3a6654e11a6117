//! Settings as they are in effect, in the words of the file.

use std::time::Duration;

use toml::Value;

use super::said::OFF;
use super::{Key, NodeConfig};

impl NodeConfig {
    /// The value in effect of `key`; `None` if it is found out on the node, or if there is no bound.
    #[must_use]
    pub fn value(&self, key: Key) -> Option<Value> {
        let text = |text: &str| Some(Value::String(text.to_owned()));
        let number = |number: u64| i64::try_from(number).ok().map(Value::Integer);
        let texts = |texts: &[String]| Some(Value::Array(texts.iter().cloned().map(Value::String).collect()));
        match key {
            Key::Name => self.name.as_ref().and_then(|name| text(name.as_str())),
            Key::Labels => texts(&self.labels),
            Key::Addresses => Some(self.addresses.as_slice())
                .filter(|addresses| !addresses.is_empty())
                .and_then(texts),
            Key::Cpu => self.cpu.and_then(number),
            Key::Memory => self.memory.and_then(number),
            Key::Gpu => self.gpu.map(|count| Value::Integer(count.into())),
            Key::ReservedCpu => number(self.reserved.cpu),
            Key::ReservedMemory => number(self.reserved.memory),
            Key::Slots => self.slots.map(|count| Value::Integer(count.into())),
            Key::Runtime => text(self.runtime.as_str()),
            Key::Sandbox => text(self.sandbox.as_str()),
            Key::WorkDirectories => {
                let paths = self.work_directories.iter();
                Some(Value::Array(
                    paths
                        .map(|path| Value::String(path.display().to_string()))
                        .collect(),
                ))
            }
            Key::Standby => Some(Value::Integer(self.standby.into())),
            Key::StartTimeout => span(Some(self.patience.start)),
            Key::EnterTimeout => span(self.patience.enter),
            Key::DrainTimeout => span(Some(self.life.drain_timeout)),
            Key::IdleTimeout => span(self.life.idle_timeout),
            Key::MaxLifetime => span(self.life.max_lifetime),
            Key::Ephemeral => Some(Value::Boolean(self.life.ephemeral)),
        }
    }

    /// Whether `key` is found out on the node if nothing is said.
    #[must_use]
    pub fn is_detected(key: Key) -> bool {
        matches!(
            key,
            Key::Name | Key::Addresses | Key::Cpu | Key::Memory | Key::Gpu
        )
    }
}

fn span(time: Option<Duration>) -> Option<Value> {
    let text = match time {
        Some(time) => format!("{}s", time.as_secs()),
        None => OFF.to_owned(),
    };
    Some(Value::String(text))
}
