//! Documents for those who install and run Flame.

use super::Placed;

/// The documents, with their names below `share/doc/`.
const DOCUMENTS: [(&str, &str); 14] = [
    ("LICENSE", include_str!("../../../LICENSE")),
    ("applications.md", include_str!("../../../docs/applications.md")),
    ("backup.md", include_str!("../../../docs/backup.md")),
    ("bundles.md", include_str!("../../../docs/bundles.md")),
    ("configuration.md", include_str!("../../../docs/configuration.md")),
    ("dev.md", include_str!("../../../docs/dev.md")),
    ("doctor.md", include_str!("../../../docs/doctor.md")),
    ("flmadm.md", include_str!("../../../docs/flmadm.md")),
    ("flmctl.md", include_str!("../../../docs/flmctl.md")),
    ("node-agent.md", include_str!("../../../docs/node-agent.md")),
    ("observability.md", include_str!("../../../docs/observability.md")),
    ("python.md", include_str!("../../../docs/python.md")),
    ("upgrades.md", include_str!("../../../docs/upgrades.md")),
    ("user-mode.md", include_str!("../../../docs/user-mode.md")),
];

/// Licence and documents, for a bundle or an installation.
pub(crate) fn texts() -> impl Iterator<Item = Placed> {
    DOCUMENTS
        .into_iter()
        .map(|(name, text)| (format!("share/doc/{name}").into(), text.to_owned()))
}
