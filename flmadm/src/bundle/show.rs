//! `flmadm bundle show`: what a bundle says of itself.

use comfy_table::{CellAlignment, Table, presets};
use schemars::JsonSchema;
use serde::Serialize;

use super::args::ShowArgs;
use super::manifest::BundleManifest;
use super::open::peek;
use super::signature::Trust;
use super::{fetch_shown, size_text};
use crate::failure::Outcome;
use crate::host::Host;
use crate::output::Output;

/// What a bundle says of itself; nothing of it is checked.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Shown {
    /// File or address of the bundle.
    pub(crate) bundle: String,
    /// Number of the key that it says it is signed with, if it is signed.
    pub(crate) key_id: Option<String>,
    /// What it is for, and every file.
    pub(crate) manifest: BundleManifest,
}

/// Shows the manifest of a bundle.
///
/// # Errors
/// It cannot be read or downloaded.
pub(super) fn run(host: &dyn Host, args: &ShowArgs, output: &mut Output<'_>) -> Outcome<()> {
    let fetched = fetch_shown(host, &args.bundle, &args.download)?;
    let looked = peek(&fetched.located, &args.download.limits());
    fetched.discard()?;
    let (manifest, trust) = looked?;
    let shown = Shown {
        bundle: args.bundle.clone(),
        key_id: match trust {
            Trust::Signed { key_id, .. } | Trust::UnknownKey { key_id } => Some(key_id),
            Trust::Unsigned => None,
        },
        manifest,
    };
    output.json(&shown);
    for line in lines(&shown) {
        output.line(&line);
    }
    Ok(())
}

/// The result for people.
pub(super) fn lines(shown: &Shown) -> Vec<String> {
    let manifest = &shown.manifest;
    let key = shown
        .key_id
        .as_deref()
        .map_or_else(|| "none".to_owned(), |id| format!("of the key {id}"));
    let needs = match (&manifest.interpreter, &manifest.glibc) {
        (_, Some(version)) => format!("glibc {version}"),
        (Some(loader), None) => loader.clone(),
        (None, None) => "nothing else".to_owned(),
    };
    let mut lines = vec![
        format!("Flame {} for {}", manifest.version, manifest.architecture),
        format!("  upgrades     {} and later", manifest.minimum_version),
        format!("  needs        {needs}"),
        format!("  signature    {key}, not checked (flmadm bundle verify checks it)"),
        format!(
            "  files        {}, unpacked {}",
            manifest.files.len(),
            size_text(manifest.unpacked_size())
        ),
    ];
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["PATH", "MODE", "SIZE", "SHA-256"]);
    for file in &manifest.files {
        table.add_row([
            file.path.clone(),
            format!("{:04o}", file.mode),
            size_text(file.size),
            file.sha256.chars().take(16).collect(),
        ]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    lines.extend(table.lines().map(|line| line.trim_end().to_owned()));
    lines
}
