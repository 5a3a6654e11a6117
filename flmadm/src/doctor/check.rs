//! What a check is, and what looking gives.

use schemars::JsonSchema;
use serde::Serialize;

use super::site::Site;
use crate::failure::{Kind, Outcome};
use crate::profile::Profile;
use crate::scope::Scope;

/// What it means if a check fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Something does not work, or will not.
    Error,
    /// It works, but not well, or not for long.
    Warning,
    /// Worth to know.
    Info,
}

impl Severity {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// How the services of an installation are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// By the machine's service manager.
    System,
    /// By the service manager of a user.
    User,
    /// By nobody of ours: there are only files.
    NoSystemd,
}

impl Mode {
    /// That of units in this scope.
    pub(crate) fn of(scope: Scope) -> Self {
        match scope {
            Scope::System => Self::System,
            Scope::User => Self::User,
        }
    }
}

/// Something that must hold for a check to make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// There is an installation.
    Installed,
    /// The services are units.
    Units,
    /// They are units of the machine's service manager.
    System,
    /// They are units of the service manager of a user.
    User,
    /// This is a part of it.
    Has(Profile),
    /// A service is a part of it.
    Service,
}

/// What was found and how it is mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// What was found.
    pub(crate) evidence: String,
    /// A line that mends it.
    pub(crate) remedy: String,
}

/// Outer error: could not look. Inner: what is good, or what is wrong.
pub(crate) type Look = Outcome<Result<String, Wrong>>;

/// It is good: the evidence.
pub(crate) fn good(evidence: impl Into<String>) -> Look {
    Ok(Ok(evidence.into()))
}

/// It is wrong: the evidence, and what mends it.
pub(crate) fn wrong(evidence: impl Into<String>, remedy: impl Into<String>) -> Look {
    Ok(Err(Wrong {
        evidence: evidence.into(),
        remedy: remedy.into(),
    }))
}

/// One check.
#[derive(Debug)]
pub(crate) struct Check {
    /// Name that never changes.
    pub(crate) id: &'static str,
    /// What holds if all is well.
    pub(crate) title: &'static str,
    /// What it means if it does not.
    pub(crate) severity: Severity,
    /// All of these must hold, or there is nothing to look at.
    pub(crate) when: &'static [When],
    /// Part of what install looks at first: how the installation ends if an error is found.
    pub(crate) preflight: Option<Kind>,
    /// Looks.
    pub(crate) look: fn(&Site<'_>) -> Look,
}
