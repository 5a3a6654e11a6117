//! Who may change units: root those of the machine, everybody those of his own.

use crate::failure::{Failure, Kind, Outcome};
use crate::host::Host;
use crate::manifest::Manifest;

/// Makes sure that we may do to units what `doing` says, as "start services".
///
/// # Errors
/// We may not; of this `kind`.
pub(crate) fn over_units(host: &dyn Host, kind: Kind, doing: &str) -> Outcome<()> {
    match host.rules_units() {
        true => Ok(()),
        false => Err(Failure::new(kind, format!("only root may {doing}")).hint("run it with sudo")),
    }
}

/// Makes sure that we may `change` (or remove, ...) an installation, and that the service manager answers if it has
/// units.
///
/// # Errors
/// One of them is not so.
pub(crate) fn over(host: &dyn Host, manifest: &Manifest, change: &str) -> Outcome<()> {
    if manifest.units.is_empty() {
        return Ok(());
    }
    let doing = format!("{change} an installation with systemd units");
    over_units(host, Kind::Installation, &doing)?;
    host.systemd().map(drop)
}
