//! What an executor needs and a node has: CPUs, memory, GPUs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::size::{self, SizeError};

/// An amount of resources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resources {
    /// Whole CPUs.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Whole devices.
    pub gpu: u32,
}

/// Why a text is no amount of resources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// An entry is not `key=value`.
    #[error("resource entry {0:?} is not KEY=VALUE; write e.g. cpu=2,mem=4g,gpu=1")]
    Entry(String),
    /// The key is none of cpu, mem, memory, gpu.
    #[error("unknown resource {0:?}; there are cpu, mem (or memory) and gpu")]
    Key(String),
    /// The number of CPUs or GPUs is no whole number.
    #[error("{key} must be a whole number, not {value:?}")]
    Number {
        /// "cpu" or "gpu".
        key: &'static str,
        /// As it was written.
        value: String,
    },
    /// The memory is no size.
    #[error("memory: {0}")]
    Memory(SizeError),
}

impl Resources {
    /// What a session's executor gets when neither it nor the cluster says: 1 CPU and 1 GiB.
    pub const DEFAULT: Self = Self {
        cpu: 1,
        memory: 1 << 30,
        gpu: 0,
    };

    /// Whether `self` is enough for `wanted` in every dimension.
    #[must_use]
    pub fn covers(&self, wanted: &Self) -> bool {
        self.cpu >= wanted.cpu && self.memory >= wanted.memory && self.gpu >= wanted.gpu
    }

    /// The sum, capped at the largest number.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
            gpu: self.gpu.saturating_add(other.gpu),
        }
    }

    /// What is left after taking `other`; nothing goes below zero.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(other.cpu),
            memory: self.memory.saturating_sub(other.memory),
            gpu: self.gpu.saturating_sub(other.gpu),
        }
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cpu={},mem={},gpu={}",
            self.cpu,
            size::format(self.memory),
            self.gpu
        )
    }
}

impl FromStr for Resources {
    type Err = ResourceError;

    /// Reads `cpu=N,mem=SIZE,gpu=N` in any order; what is not named is 0.
    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let mut read = Self::default();
        for entry in text.split(',') {
            let bad = || ResourceError::Entry(entry.to_owned());
            let (key, value) = entry.split_once('=').ok_or_else(bad)?;
            let (key, value) = (key.trim(), value.trim());
            if value.is_empty() {
                return Err(bad());
            }
            let number = |key| ResourceError::Number {
                key,
                value: value.to_owned(),
            };
            match key.to_ascii_lowercase().as_str() {
                "cpu" => read.cpu = value.parse().map_err(|_| number("cpu"))?,
                "gpu" => read.gpu = value.parse().map_err(|_| number("gpu"))?,
                "mem" | "memory" => read.memory = size::parse(value).map_err(ResourceError::Memory)?,
                _ => return Err(ResourceError::Key(key.to_owned())),
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_come_in_any_order_and_the_missing_are_zero() {
        let all = Resources {
            cpu: 2,
            memory: 4 << 30,
            gpu: 1,
        };
        assert_eq!("cpu=2,mem=4g,gpu=1".parse(), Ok(all));
        assert_eq!(" gpu=1, memory=4096M ,CPU=2".parse(), Ok(all));
        assert_eq!(
            "gpu=1".parse(),
            Ok(Resources {
                gpu: 1,
                ..Resources::default()
            })
        );
    }

    #[test]
    fn broken_entries_are_named() {
        for (text, part) in [
            ("", "KEY=VALUE"),
            ("cpu", "KEY=VALUE"),
            ("cpu=", "KEY=VALUE"),
            ("cpu=1,", "KEY=VALUE"),
            ("cpus=1", "\"cpus\""),
            ("cpu=1.5", "whole number"),
            ("gpu=-1", "whole number"),
            ("mem=4x", "not a size"),
        ] {
            let error = text.parse::<Resources>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(cpu: u64, memory: u64, gpu: u32) {
            let resources = Resources { cpu, memory, gpu };
            prop_assert_eq!(resources.to_string().parse(), Ok(resources));
        }

        #[test]
        fn what_was_taken_can_be_given_back(a in 0..1000u64, b in 0..1000u64) {
            let have = Resources { cpu: a + b, memory: a + b, gpu: 3 };
            let take = Resources { cpu: a, memory: b, gpu: 1 };
            prop_assert!(have.covers(&take));
            prop_assert_eq!(have.minus(&take).plus(&take), have);
        }
    }
}
