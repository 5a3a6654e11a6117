//! Sandbox profiles: which template an executor is an instance of.

use std::fmt;
use std::str::FromStr;

use flame_core::HostNames;
use serde::{Deserialize, Serialize};

/// What the label of an application begins with that asks for a profile.
const LABEL: &str = "sandbox=";

/// How much of the machine an executor may use.
///
/// In the order from strict to lax.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// No network, no devices, no JIT compilers.
    Strict,
    /// A user of its own, a read-only system, and otherwise what ordinary programs need.
    #[default]
    Standard,
    /// The user `flame-exec` without a sandbox, for what does not work in one.
    None,
}

/// A text that names no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no sandbox profile {0:?}; there are strict, standard and none")]
pub struct ProfileError(String);

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 3] = [Self::Strict, Self::Standard, Self::None];

    /// What the names of its units begin with in an installation with these `names`.
    #[must_use]
    pub fn template(self, names: &HostNames) -> String {
        names.own(match self {
            Self::Strict => "flame-executor-strict",
            Self::Standard => "flame-executor",
            Self::None => "flame-executor-open",
        })
    }

    /// The unit of `instance`, a slot.
    #[must_use]
    pub fn unit(self, names: &HostNames, instance: &str) -> String {
        format!("{}@{instance}.service", self.template(names))
    }

    /// Profile and instance of `unit`, if it is one of ours.
    #[must_use]
    pub fn of_unit<'a>(names: &HostNames, unit: &'a str) -> Option<(Self, &'a str)> {
        let (template, instance) = unit.strip_suffix(".service")?.split_once('@')?;
        let profile = Self::ALL
            .into_iter()
            .find(|profile| profile.template(names) == template)?;
        (!instance.is_empty()).then_some((profile, instance))
    }

    /// The profile for an application with these `labels`: one that says `sandbox=strict` gets that. An application
    /// can give up rights but not gain any, so what is less strict than `self` has no effect.
    ///
    /// # Errors
    /// A label names a profile that there is not.
    pub fn tightened(self, labels: &[String]) -> Result<Self, ProfileError> {
        let mut profile = self;
        for name in labels.iter().filter_map(|label| label.strip_prefix(LABEL)) {
            profile = profile.min(name.parse()?);
        }
        Ok(profile)
    }

    /// Whether executors may use devices such as GPUs.
    #[must_use]
    pub fn has_devices(self) -> bool {
        self != Self::Strict
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Standard => "standard",
            Self::None => "none",
        })
    }
}

impl FromStr for Profile {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.to_string() == text)
            .ok_or_else(|| ProfileError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_and_units_name_each_other() {
        let names = [HostNames::default(), "flame-prod".parse().expect("a stem")];
        for (profile, units) in [
            (
                Profile::Strict,
                [
                    "flame-executor-strict@7.service",
                    "flame-prod-executor-strict@7.service",
                ],
            ),
            (
                Profile::Standard,
                ["flame-executor@7.service", "flame-prod-executor@7.service"],
            ),
            (
                Profile::None,
                [
                    "flame-executor-open@7.service",
                    "flame-prod-executor-open@7.service",
                ],
            ),
        ] {
            for (own, other) in [(0, 1), (1, 0)] {
                assert_eq!(profile.unit(&names[own], "7"), units[own]);
                assert_eq!(Profile::of_unit(&names[own], units[own]), Some((profile, "7")));
                assert_eq!(Profile::of_unit(&names[own], units[other]), None);
            }
            assert_eq!(profile.to_string().parse(), Ok(profile));
        }
        for unit in [
            "flame-executor@.service",
            "flame-executor.service",
            "x@1.service",
            "flame-executor@1.slice",
        ] {
            assert_eq!(Profile::of_unit(&names[0], unit), None, "{unit}");
        }
        assert!("open".parse::<Profile>().is_err());
    }

    #[test]
    fn an_application_can_only_ask_for_less() {
        use Profile::{None, Standard, Strict};
        for (node, label, profile) in [
            (Standard, "sandbox=strict", Ok(Strict)),
            (Standard, "sandbox=none", Ok(Standard)),
            (None, "sandbox=standard", Ok(Standard)),
            (None, "other=strict", Ok(None)),
            (Strict, "sandbox=standard", Ok(Strict)),
            (Standard, "sandbox=lax", Err(ProfileError("lax".to_owned()))),
        ] {
            assert_eq!(node.tightened(&[label.to_owned()]), profile, "{node} {label}");
        }
    }
}
