//! What was said about a node, and where: one value per key, the later source above the earlier.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::{DEFAULT_DRAIN_TIMEOUT, DEFAULT_STANDBY, LifeConfig, NodeConfig, Patience, RuntimeKind, Sandbox};
use crate::{NodeName, Resources, duration, label, size};

/// What stands for "no limit" in a time.
pub(super) const OFF: &str = "off";
/// More executors than a kernel has processes for are a typing error.
const MAX_SLOTS: u32 = 100_000;
/// Each takes a megabyte, and more cannot be started at the same time with any gain.
const MAX_STANDBY: u16 = 256;

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident = $key:literal, $variable:literal;)+) => {
        /// A setting of a node.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Key {
            $($(#[$doc])* $name,)+
        }

        impl Key {
            /// Every key.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As it is written in the file, with its table.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $key,)+ }
            }

            /// The variable of the environment that says it.
            #[must_use]
            pub fn variable(self) -> &'static str {
                match self { $(Self::$name => $variable,)+ }
            }
        }
    };
}

keys! {
    /// Name in the cluster.
    Name = "node.name", "FLAME_NODE_NAME";
    /// Labels.
    Labels = "node.labels", "FLAME_NODE_LABELS";
    /// Addresses.
    Addresses = "node.addresses", "FLAME_NODE_ADDRESSES";
    /// CPUs.
    Cpu = "resources.cpu", "FLAME_NODE_CPU";
    /// Memory.
    Memory = "resources.mem", "FLAME_NODE_MEM";
    /// GPUs.
    Gpu = "resources.gpu", "FLAME_NODE_GPU";
    /// CPUs that are not for executors.
    ReservedCpu = "resources.reserved_cpu", "FLAME_NODE_RESERVED_CPU";
    /// Memory that is not for executors.
    ReservedMemory = "resources.reserved_memory", "FLAME_NODE_RESERVED_MEMORY";
    /// Executors at a time.
    Slots = "resources.slots", "FLAME_NODE_SLOTS";
    /// How executors run.
    Runtime = "runtime.kind", "FLAME_NODE_RUNTIME";
    /// Their sandbox.
    Sandbox = "runtime.sandbox", "FLAME_NODE_SANDBOX";
    /// Where applications may have their working directories.
    WorkDirectories = "runtime.work_directories", "FLAME_NODE_WORK_DIRECTORIES";
    /// Units that wait for an executor.
    Standby = "runtime.standby", "FLAME_NODE_STANDBY";
    /// Time for a service to listen.
    StartTimeout = "runtime.start_timeout", "FLAME_NODE_START_TIMEOUT";
    /// Time for OnSessionEnter.
    EnterTimeout = "runtime.enter_timeout", "FLAME_NODE_ENTER_TIMEOUT";
    /// Time for tasks that run at a stop.
    DrainTimeout = "life.drain_timeout", "FLAME_NODE_DRAIN_TIMEOUT";
    /// Time without work until the end.
    IdleTimeout = "life.idle_timeout", "FLAME_NODE_IDLE_TIMEOUT";
    /// Time until the end.
    MaxLifetime = "life.max_lifetime", "FLAME_NODE_MAX_LIFETIME";
    /// One session only.
    Ephemeral = "life.ephemeral", "FLAME_NODE_EPHEMERAL";
}

/// The variable, and the name of the option, that say cpu, mem and gpu in one text.
const RESOURCES: &str = "FLAME_NODE_RESOURCES";

/// Where something was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// On that line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// In that variable of the environment.
    Variable(&'static str),
    /// With that option of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {reason}", place(.origin.as_ref()), .key.name())]
pub struct Problem {
    /// Which.
    pub key: Key,
    /// Where it was said.
    pub origin: Option<Origin>,
    /// What is wrong, and what is wanted.
    pub reason: String,
}

fn place(origin: Option<&Origin>) -> String {
    origin.map(|origin| format!("{origin}: ")).unwrap_or_default()
}

/// All that is wrong, in words: never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Problems(pub Vec<String>);

/// A value and where it is from.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// As it was said.
    pub value: Value,
    /// Where.
    pub origin: Origin,
}

/// What was said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said(BTreeMap<Key, Setting>);

impl Said {
    /// One more thing was said; it is above what was said before.
    pub fn say(&mut self, key: Key, value: Value, origin: Origin) {
        self.0.insert(key, Setting { value, origin });
    }

    /// What the environment says is above what was said before. An empty variable says nothing.
    pub fn environment(&mut self, variable: impl Fn(&str) -> Option<String>) {
        let variable = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
        if let Some(text) = variable(RESOURCES) {
            self.resources(&text, &Origin::Variable(RESOURCES));
        }
        for key in Key::ALL {
            if let Some(text) = variable(key.variable()) {
                self.say(*key, Value::String(text), Origin::Variable(key.variable()));
            }
        }
    }

    /// `cpu=4,mem=8g,gpu=0`: each of them is a setting of its own.
    pub fn resources(&mut self, text: &str, origin: &Origin) {
        for entry in text.split(',') {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            let key = match name.trim().to_ascii_lowercase().as_str() {
                "cpu" => Key::Cpu,
                "gpu" => Key::Gpu,
                // What is none of them is found wrong with the rest, as a memory that is no size.
                "mem" | "memory" => Key::Memory,
                _ => {
                    self.say(Key::Memory, Value::String(entry.to_owned()), origin.clone());
                    continue;
                }
            };
            self.say(key, Value::String(value.trim().to_owned()), origin.clone());
        }
    }

    /// What was said of `key`.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&Setting> {
        self.0.get(&key)
    }

    /// The settings of a node, or all that is wrong with them.
    ///
    /// # Errors
    /// Every [`Problem`] that there is.
    pub fn check(&self) -> Result<NodeConfig, Vec<Problem>> {
        let mut reader = Reader {
            said: self,
            problems: Vec::new(),
        };
        let config = reader.config();
        match reader.problems.is_empty() {
            true => Ok(config),
            false => Err(reader.problems),
        }
    }
}

/// Takes settings out, and notes those that cannot be used.
struct Reader<'a> {
    said: &'a Said,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn config(&mut self) -> NodeConfig {
        NodeConfig {
            name: self.read(Key::Name, |text| words(NodeName::new(text))),
            labels: self.labels(),
            addresses: self.list(Key::Addresses, |text| {
                words(text.parse::<std::net::IpAddr>()).map(|address| address.to_string())
            }),
            cpu: self.read(Key::Cpu, |text| number(text).and_then(at_least_one)),
            memory: self.read(Key::Memory, |text| {
                words(size::parse(text)).and_then(at_least_one)
            }),
            gpu: self.read(Key::Gpu, number),
            reserved: Resources {
                cpu: self.read(Key::ReservedCpu, number).unwrap_or_default(),
                memory: self
                    .read(Key::ReservedMemory, |text| words(size::parse(text)))
                    .unwrap_or_default(),
                gpu: 0,
            },
            slots: self.read(Key::Slots, |text| match number(text)? {
                slots @ 1..=MAX_SLOTS => Ok(slots),
                _ => Err(format!("it must be a number from 1 to {MAX_SLOTS}")),
            }),
            runtime: self
                .choice(
                    Key::Runtime,
                    &[RuntimeKind::Process, RuntimeKind::Systemd],
                    |kind| kind.as_str(),
                )
                .unwrap_or_default(),
            sandbox: self
                .choice(
                    Key::Sandbox,
                    &[Sandbox::Strict, Sandbox::Standard, Sandbox::None],
                    |sandbox| sandbox.as_str(),
                )
                .unwrap_or_default(),
            work_directories: self.list(Key::WorkDirectories, directory),
            standby: self
                .read(Key::Standby, |text| match number(text)? {
                    standby @ 0..=MAX_STANDBY => Ok(standby),
                    _ => Err(format!("it must be a number from 0 to {MAX_STANDBY}")),
                })
                .unwrap_or(DEFAULT_STANDBY),
            patience: self.patience(),
            life: LifeConfig {
                drain_timeout: self
                    .read(Key::DrainTimeout, |text| words(duration::parse_span(text)))
                    .unwrap_or(DEFAULT_DRAIN_TIMEOUT),
                idle_timeout: self.read(Key::IdleTimeout, limit).flatten(),
                max_lifetime: self.read(Key::MaxLifetime, limit).flatten(),
                ephemeral: self
                    .read(Key::Ephemeral, |text| {
                        text.parse()
                            .map_err(|_| format!("it must be true or false, not {text:?}"))
                    })
                    .unwrap_or_default(),
            },
        }
    }

    fn patience(&mut self) -> Patience {
        let default = Patience::default();
        Patience {
            start: self
                .read(Key::StartTimeout, |text| words(duration::parse_span(text)))
                .unwrap_or(default.start),
            enter: self.read(Key::EnterTimeout, limit).unwrap_or(default.enter),
        }
    }

    fn problem(&mut self, key: Key, reason: String) {
        let origin = self.said.get(key).map(|setting| setting.origin.clone());
        self.problems.push(Problem { key, origin, reason });
    }

    fn read<T>(&mut self, key: Key, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = match &self.said.get(key)?.value {
            Value::String(text) => text.trim().to_owned(),
            Value::Integer(number) => number.to_string(),
            Value::Boolean(truth) => truth.to_string(),
            other => {
                self.problem(key, format!("it must be one value, not a {}", other.type_str()));
                return None;
            }
        };
        parse(&text).map_err(|reason| self.problem(key, reason)).ok()
    }

    fn list<T>(&mut self, key: Key, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let mut read = Vec::new();
        for text in self.texts(key) {
            match parse(&text) {
                Ok(value) => read.push(value),
                Err(reason) => self.problem(key, reason),
            }
        }
        read
    }

    /// The elements of a list, or of a text with commas. An empty one, or a comma too many, is none.
    fn texts(&mut self, key: Key) -> Vec<String> {
        let Some(setting) = self.said.get(key) else {
            return Vec::new();
        };
        let texts: Option<Vec<String>> = match &setting.value {
            Value::String(text) => Some(text.split(',').map(|text| text.trim().to_owned()).collect()),
            Value::Array(values) => values
                .iter()
                .map(|value| value.as_str().map(|text| text.trim().to_owned()))
                .collect(),
            _ => None,
        };
        match texts {
            Some(texts) => texts.into_iter().filter(|text| !text.is_empty()).collect(),
            None => {
                self.problem(key, "it must be a list of texts, e.g. [\"a\", \"b\"]".to_owned());
                Vec::new()
            }
        }
    }

    fn labels(&mut self) -> Vec<String> {
        let texts = self.texts(Key::Labels);
        match label::set(texts.iter().map(String::as_str)) {
            Ok(labels) => labels.into_iter().collect(),
            Err(error) => {
                self.problem(Key::Labels, error.to_string());
                Vec::new()
            }
        }
    }

    fn choice<T: Copy>(&mut self, key: Key, all: &[T], name: impl Fn(T) -> &'static str) -> Option<T> {
        self.read(key, |text| {
            let found = all.iter().copied().find(|one| name(*one) == text);
            let names: Vec<_> = all.iter().map(|one| name(*one)).collect();
            found.ok_or_else(|| format!("there is no {text:?}; there are: {}", names.join(", ")))
        })
    }
}

fn words<T, E: fmt::Display>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("it must be a whole number, not {text:?}"))
}

fn at_least_one(number: u64) -> Result<u64, String> {
    match number {
        0 => Err("a node without any cannot run anything; leave it out to have it detected".to_owned()),
        number => Ok(number),
    }
}

fn limit(text: &str) -> Result<Option<Duration>, String> {
    match text {
        OFF => Ok(None),
        text => match duration::parse_span(text) {
            Ok(span) => Ok(Some(span)),
            Err(error) => Err(format!("{error}, or {OFF}")),
        },
    }
}

fn directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let plain = path
        .components()
        .all(|part| !matches!(part, std::path::Component::ParentDir));
    match path.is_absolute() && plain {
        true => Ok(path),
        false => Err(format!("{text:?} is no absolute path without \"..\"")),
    }
}
