//! JSON schemas of what commands print with `--output json`: made from the types that are printed.

use schemars::Schema;

use crate::failure::{Failure, Outcome};

/// Makes a schema.
type Make = fn() -> Schema;

/// Every command that has a result, with the schema of it, and what all print that fail before they have one.
const ALL: &[(&str, Make)] = &[
    ("bundle-create", || schemars::schema_for!(crate::bundle::Created)),
    ("bundle-keygen", || schemars::schema_for!(crate::bundle::Keys)),
    ("bundle-show", || schemars::schema_for!(crate::bundle::Shown)),
    ("bundle-verify", || schemars::schema_for!(crate::bundle::Verified)),
    ("config-check", || {
        schemars::schema_for!(crate::config::CheckReport)
    }),
    ("config-get", || schemars::schema_for!(crate::config::Setting)),
    ("config-set", || schemars::schema_for!(crate::config::Changed)),
    ("config-show", || schemars::schema_for!(crate::config::ShowReport)),
    ("config-unset", || schemars::schema_for!(crate::config::Changed)),
    ("dev-down", || schemars::schema_for!(crate::dev::DownReport)),
    ("dev-logs", || schemars::schema_for!(crate::dev::LogsReport)),
    ("dev-status", || schemars::schema_for!(crate::dev::StatusReport)),
    ("dev-up", || schemars::schema_for!(crate::dev::UpReport)),
    ("disable", || schemars::schema_for!(crate::services::Report)),
    ("enable", || schemars::schema_for!(crate::services::Report)),
    ("doctor", || schemars::schema_for!(crate::doctor::Printed)),
    ("error", || schemars::schema_for!(crate::failure::Document)),
    ("logs", || schemars::schema_for!(crate::logs::Entry)),
    ("restart", || schemars::schema_for!(crate::services::Report)),
    ("start", || schemars::schema_for!(crate::services::Report)),
    ("install", || schemars::schema_for!(crate::install::Report)),
    ("install-dry-run", || {
        schemars::schema_for!(crate::install::DryRun)
    }),
    ("releases", || schemars::schema_for!(crate::releases::Report)),
    ("repair", || schemars::schema_for!(crate::repair::Report)),
    ("rollback", || schemars::schema_for!(crate::install::Report)),
    ("uninstall", || schemars::schema_for!(crate::uninstall::Report)),
    ("upgrade", || schemars::schema_for!(crate::install::Report)),
    ("status", || schemars::schema_for!(crate::status::Report)),
    ("stop", || schemars::schema_for!(crate::services::Report)),
    ("verify", || schemars::schema_for!(crate::verify::Report)),
];

/// The schema of what the command `of` prints; without a command, the commands that have one.
///
/// # Errors
/// There is no such command.
pub(crate) fn text(of: Option<&str>) -> Outcome<String> {
    let names = || ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("\n");
    let Some(of) = of else {
        return Ok(format!("{}\n", names()));
    };
    let Some((_, make)) = ALL.iter().find(|(name, _)| *name == of) else {
        return Err(Failure::arguments(format!("there is no JSON schema of {of:?}"))
            .hint(format!("there are those of {}", names().replace('\n', ", "))));
    };
    serde_json::to_string_pretty(&make())
        .map(|text| text + "\n")
        .map_err(|error| Failure::arguments("cannot write the schema down").because(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_are_the_documented_ones() {
        for (name, _) in ALL {
            crate::golden::check(&format!("schema/{name}.json"), &text(Some(name)).expect(name));
        }
    }
}
