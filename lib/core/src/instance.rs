//! What an installation of Flame is called on its host. Several can be beside each other: each has units, users and
//! directories of its own, whose names are made of its instance's name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the names of the installation without an instance's name begin with.
const PRODUCT: &str = "flame";
/// Longest name of an instance: names of users are made of it, and are short.
const MAX_LENGTH: usize = 16;
/// What parts of Flame are called: `flame-exec` is a user, `flame-executor@.service` a unit of every host.
const RESERVED: [&str; 14] = [
    "agent",
    "cache",
    "cluster",
    "exec",
    "executor",
    "executors",
    "flame",
    "manager",
    "node",
    "recovery",
    "session",
    "system",
    "user",
    "work",
];
/// Where the running system keeps what lasts until the next boot.
const RUN: &str = "/run";

/// The name of an instance: lower case letters and digits, a letter first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName(String);

/// A text that cannot be the name of an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstanceNameError {
    /// It is no such name.
    #[error(
        "{0:?} cannot be the name of an instance; it has up to {MAX_LENGTH} lower case letters and digits, and begins \
         with a letter"
    )]
    Malformed(String),
    /// Something of Flame is called so.
    #[error("{0:?} cannot be the name of an instance: a part of Flame is called so")]
    Reserved(String),
    /// It is not what an installation's names begin with.
    #[error("{0:?} is not flame or flame-INSTANCE")]
    NotOurs(String),
}

impl FromStr for InstanceName {
    type Err = InstanceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if text.len() > MAX_LENGTH
            || !text.starts_with(|c: char| c.is_ascii_lowercase())
            || !text.bytes().all(plain)
        {
            return Err(InstanceNameError::Malformed(text.to_owned()));
        }
        match RESERVED.contains(&text) {
            true => Err(InstanceNameError::Reserved(text.to_owned())),
            false => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for InstanceName {
    type Error = InstanceNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<InstanceName> for String {
    fn from(name: InstanceName) -> Self {
        name.0
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names of one installation on its host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostNames(Option<InstanceName>);

impl HostNames {
    /// Those of an instance, or of the installation without a name.
    #[must_use]
    pub fn new(instance: Option<InstanceName>) -> Self {
        Self(instance)
    }

    /// The instance, if it has a name.
    #[must_use]
    pub fn instance(&self) -> Option<&InstanceName> {
        self.0.as_ref()
    }

    /// What most names begin with, and the user of the services: `flame`, or `flame-INSTANCE`.
    #[must_use]
    pub fn stem(&self) -> String {
        self.joined('-')
    }

    /// The same in one piece, `flame_INSTANCE`. Of a slice, a dash would make it a part of `flame.slice`: what limits or
    /// stops one installation would reach the others. And the users of slots of an agent that is called as the
    /// instance would be the same.
    #[must_use]
    pub fn undivided(&self) -> String {
        self.joined('_')
    }

    fn joined(&self, between: char) -> String {
        match &self.0 {
            Some(name) => format!("{PRODUCT}{between}{name}"),
            None => PRODUCT.to_owned(),
        }
    }

    /// What this installation calls that which the one without a name calls `name`, a unit, user or group.
    #[must_use]
    pub fn own(&self, name: &str) -> String {
        let stem = match name.ends_with(".slice") {
            true => self.undivided(),
            false => self.stem(),
        };
        match name.strip_prefix(PRODUCT) {
            Some(rest) => stem + rest,
            None => name.to_owned(),
        }
    }

    /// Directory of the agents until the next boot: `/run/flame`.
    #[must_use]
    pub fn runtime_directory(&self) -> PathBuf {
        Path::new(RUN).join(self.stem())
    }

    /// Below it each executor in a unit has a directory: `/run/flame-executor`.
    #[must_use]
    pub fn executor_directory(&self) -> PathBuf {
        Path::new(RUN).join(self.own("flame-executor"))
    }
}

impl FromStr for HostNames {
    type Err = InstanceNameError;

    /// From the stem.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(PRODUCT) {
            Some("") => Ok(Self(None)),
            Some(rest) if rest.starts_with('-') => Ok(Self(Some(rest[1..].parse()?))),
            _ => Err(InstanceNameError::NotOurs(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_a_name_that_units_and_users_can_have() {
        for (name, good) in [
            ("prod", true),
            ("a1", true),
            ("abcdefghijklmnop", true),
            ("abcdefghijklmnopq", false),
            ("1a", false),
            ("", false),
            ("Prod", false),
            ("a-b", false),
            ("a_b", false),
            ("a.b", false),
            ("ä", false),
            ("exec", false),
            ("executor", false),
            ("work", false),
            ("recovery", false),
        ] {
            assert_eq!(name.parse::<InstanceName>().is_ok(), good, "{name}");
        }
    }

    #[test]
    fn every_name_of_an_instance_is_its_own() {
        let (plain, prod): (HostNames, HostNames) =
            (HostNames::default(), "flame-prod".parse().expect("a stem"));
        for (name, of_prod) in [
            ("flame.target", "flame-prod.target"),
            ("flame-node-agent@.service", "flame-prod-node-agent@.service"),
            ("flame.slice", "flame_prod.slice"),
            ("flame-executors.slice", "flame_prod-executors.slice"),
            ("flame", "flame-prod"),
            ("flame-exec", "flame-prod-exec"),
        ] {
            assert_eq!(plain.own(name), name);
            assert_eq!(prod.own(name), of_prod);
        }
        assert_eq!(plain.runtime_directory(), Path::new("/run/flame"));
        assert_eq!(prod.executor_directory(), Path::new("/run/flame-prod-executor"));
    }

    #[test]
    fn names_are_found_by_their_stem() {
        for names in [
            HostNames::default(),
            HostNames::new(Some("prod".parse().expect("a name"))),
        ] {
            assert_eq!(names.stem().parse(), Ok(names));
        }
        for text in ["", "prod", "flame-", "flameprod", "flame-work", "flame-a-b"] {
            assert!(text.parse::<HostNames>().is_err(), "{text}");
        }
    }
}
