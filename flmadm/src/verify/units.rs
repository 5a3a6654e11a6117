//! What systemd has loaded, compared with the unit files of the installation.

use std::path::Path;

use super::files::{Finding, Kind};
use crate::failure::Outcome;
use crate::host::Host;
use crate::installed::Installed;

/// How what systemd uses differs from the installed files.
///
/// # Errors
/// systemd does not answer.
pub(super) fn compare(host: &dyn Host, installed: &Installed) -> Outcome<Vec<Finding>> {
    let systemd = host.systemd()?;
    let mut found = Vec::new();
    let directory = host.unit_directory();
    for unit in installed.manifest.loadable() {
        let finding = |kind, difference| Finding {
            kind,
            what: unit.to_owned(),
            difference,
        };
        let status = systemd.status(unit)?;
        let path = directory.join(unit);
        if !path.exists() {
            // Said of the file already.
            continue;
        }
        if status.load_state == "masked" {
            let words = format!("it is masked; systemctl unmask {unit} undoes that");
            found.push(finding(Kind::Unit, words));
        } else if status.load_state != "loaded" {
            found.push(finding(
                Kind::Unit,
                format!("systemd could not load it: {}", status.load_state),
            ));
        }
        let used = status.fragment_path.as_deref().map(Path::new);
        if let Some(used) = used.filter(|used| status.load_state == "loaded" && *used != path) {
            found.push(finding(
                Kind::Unit,
                format!("systemd uses {} instead of {}", used.display(), path.display()),
            ));
        }
        if status.needs_reload {
            let words = "systemd has read older files; systemctl daemon-reload makes it read these";
            found.push(finding(Kind::Unit, words.to_owned()));
        }
        let ours = |path: &str| {
            installed
                .manifest
                .files
                .iter()
                .any(|file| file.path == Path::new(path))
        };
        for drop_in in status.drop_ins.iter().filter(|path| !ours(path)) {
            let words = format!("its settings are changed by {drop_in}");
            found.push(finding(Kind::Extra, words));
        }
    }
    Ok(found)
}
