//! `flmadm uninstall`: stops the services and removes exactly what the manifest lists.

mod backup;
mod remove;

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use serde_json::json;

use crate::accounts;
use crate::cli::UninstallArgs;
use crate::failure::{Failure, Outcome};
use crate::host::{Host, is_system};
use crate::install::{ACCOUNTS, all_accounts, drop_ins};
use crate::manifest::{FileKind, Manifest, UserRecord};
use crate::output::Output;
use crate::prefix::Prefix;
use crate::unit_files;

/// Removes an installation.
///
/// # Errors
/// [`Failure`]; it can be run again and goes on where it stopped.
pub(crate) fn run(host: &dyn Host, args: &UninstallArgs, output: &mut Output<'_>) -> Outcome<()> {
    let (prefix, found) = args.at.find()?;
    let Some(manifest) = found else {
        output.line(&format!("Nothing is installed in {}.", prefix.path().display()));
        output.json(&json!({"prefix": prefix.path(), "removed": false, "kept": [], "notes": []}));
        return Ok(());
    };
    check(host, &manifest)?;
    confirm(args, &prefix)?;
    let mut notes = Vec::new();
    stop_services(host, &manifest, output)?;
    refuse_running(host, &prefix)?;
    let backup = make_backup(args, &prefix)?;
    if let Some(path) = &backup {
        output.progress(&format!("backup of conf and data in {}", path.display()));
    }
    remove_units(host, &manifest, &mut notes, output)?;
    // The user goes before the directory that remembers what the account files were like.
    remove_accounts(host, args, &prefix, &manifest, &mut notes, output)?;
    let kept = remove::files(&prefix, &manifest, &preserved(args, &prefix))?;
    output.progress("programs, configuration, data and directories");
    report(&prefix, backup, &kept, &notes, output);
    Ok(())
}

fn report(
    prefix: &Prefix,
    backup: Option<PathBuf>,
    kept: &[PathBuf],
    notes: &[String],
    output: &mut Output<'_>,
) {
    output.json(&json!({
        "prefix": prefix.path(), "removed": true, "backup": backup, "kept": kept, "notes": notes,
    }));
    for path in kept {
        output.line(&format!("Kept: {}", path.display()));
    }
    for note in notes {
        output.line(&format!("Note: {note}"));
    }
    output.line(&format!("Flame was removed from {}.", prefix.path().display()));
}

fn check(host: &dyn Host, manifest: &Manifest) -> Outcome<()> {
    if manifest.units.is_empty() {
        return Ok(());
    }
    if !host.is_root() {
        return Err(
            Failure::installation("only root may remove an installation with systemd units")
                .hint("run it with sudo"),
        );
    }
    host.systemd().map(drop)
}

fn confirm(args: &UninstallArgs, prefix: &Prefix) -> Outcome<()> {
    if args.force {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::arguments(
            "uninstall asks before it removes, but there is no terminal to answer on",
        )
        .hint("use --force to remove without a question"));
    }
    eprint!("Remove Flame from {}? [y/N] ", prefix.path().display());
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::arguments("cannot read the answer").because(error))?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(Failure::arguments("nothing was removed, as you wish"))
}

/// Whether the unit file is this installation's: another one may have taken the name over.
fn is_ours(host: &dyn Host, manifest: &Manifest, unit: &str) -> Outcome<bool> {
    unit_files::is_of(&host.unit_directory().join(unit), &manifest.prefix)
}

fn ours<'a>(host: &dyn Host, manifest: &'a Manifest) -> Outcome<Vec<&'a str>> {
    let mut units = Vec::new();
    for unit in manifest.units.iter().map(String::as_str) {
        if is_ours(host, manifest, unit)? {
            units.push(unit);
        }
    }
    Ok(units)
}

fn stop_services(host: &dyn Host, manifest: &Manifest, output: &mut Output<'_>) -> Outcome<()> {
    // The target last stops nothing more, the agent before the manager can still say goodbye.
    // Executors come after the agent, which ends them in order.
    for unit in ours(host, manifest)?.into_iter().rev() {
        match unit.split_once("@.") {
            None => {
                host.systemd()?.stop(unit)?;
                output.progress(&format!("stop of {unit}"));
            }
            Some((template, _)) => {
                for instance in host.systemd()?.loaded(&format!("{template}@*.service"))? {
                    host.systemd()?.stop(&instance)?;
                    output.progress(&format!("stop of {instance}"));
                }
            }
        }
    }
    Ok(())
}

fn refuse_running(host: &dyn Host, prefix: &Prefix) -> Outcome<()> {
    let running = host.running_from(&prefix.bin());
    if running.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = running
        .iter()
        .map(|process| format!("{} ({})", process.program, process.pid))
        .collect();
    Err(
        Failure::installation(format!("programs of this installation run: {}", list.join(", ")))
            .hint("stop them first, then uninstall again"),
    )
}

fn preserved(args: &UninstallArgs, prefix: &Prefix) -> Vec<PathBuf> {
    [
        (args.preserve_data, "data"),
        (args.preserve_config, "conf"),
        (args.preserve_logs, "logs"),
    ]
    .into_iter()
    .filter(|(keep, _)| *keep)
    .map(|(_, below)| prefix.join(below))
    .collect()
}

fn make_backup(args: &UninstallArgs, prefix: &Prefix) -> Outcome<Option<PathBuf>> {
    if args.no_backup {
        return Ok(None);
    }
    let parts: Vec<&str> = [(args.preserve_config, "conf"), (args.preserve_data, "data")]
        .into_iter()
        .filter(|(keep, _)| !keep)
        .map(|(_, part)| part)
        .collect();
    backup::make(prefix, args.backup_dir.as_deref(), &parts)
}

fn remove_units(
    host: &dyn Host,
    manifest: &Manifest,
    notes: &mut Vec<String>,
    output: &mut Output<'_>,
) -> Outcome<()> {
    if manifest.units.is_empty() {
        return Ok(());
    }
    let systemd = host.systemd()?;
    let ours = ours(host, manifest)?;
    if !ours.is_empty() {
        let mut enabled: Vec<&str> = manifest.loadable().filter(|unit| ours.contains(unit)).collect();
        // With a template its instances are disabled; those of executors never are enabled.
        let further = manifest.names().own(crate::profile::MORE_AGENTS);
        enabled.extend(ours.iter().filter(|unit| **unit == further));
        systemd.disable(&enabled)?;
    }
    for unit in &manifest.units {
        let path = host.unit_directory().join(unit);
        if ours.contains(&unit.as_str()) {
            remove::file(&path)?;
            output.progress(&format!("removal of {unit}"));
        } else if path.exists() {
            notes.push(format!(
                "{} belongs to another installation now and stays",
                path.display()
            ));
        }
    }
    remove_drop_ins(host, manifest, notes, output)?;
    systemd.reload()?;
    for unit in manifest.loadable().filter(|unit| ours.contains(unit)) {
        systemd.reset_failed(unit)?;
    }
    if ours.contains(&manifest.names().own(crate::profile::NODE_AGENT).as_str()) {
        remove_traces(host, manifest)?;
    }
    Ok(())
}

/// Takes the right to write to work directories back. What is in these is the administrator's.
fn remove_drop_ins(
    host: &dyn Host,
    manifest: &Manifest,
    notes: &mut Vec<String>,
    output: &mut Output<'_>,
) -> Outcome<()> {
    for path in drop_ins(host, &manifest.names()) {
        if unit_files::is_of(&path, &manifest.prefix)? {
            remove::file(&path)?;
            output.progress(&format!("removal of {}", path.display()));
        }
        if let Some(directory) = path.parent().filter(|directory| manifest.made(directory))
            && !remove::empty_directory(directory)?
        {
            notes.push(format!(
                "{} stays: there is something of yours in it",
                directory.display()
            ));
        }
    }
    Ok(())
}

/// Removes what executors have left outside of the prefix, and the rule that allowed them.
fn remove_traces(host: &dyn Host, manifest: &Manifest) -> Outcome<()> {
    let names = manifest.names();
    for directory in host.runtime_directories(&names) {
        remove::tree(&directory)?;
    }
    let templates: Vec<String> = crate::unit_files::EXECUTORS
        .iter()
        .map(|template| names.own(template).replace("@.service", "@"))
        .collect();
    // The limits of each slot, and the directory if nobody else has any.
    let control = host.control_directory();
    if let Ok(entries) = std::fs::read_dir(control) {
        for entry in entries.flatten() {
            let is_ours = entry.file_name().to_str().is_some_and(|name| {
                name.ends_with(".service.d") && templates.iter().any(|template| name.starts_with(template))
            });
            if is_ours {
                remove::tree(&entry.path())?;
            }
        }
        remove::empty_directory(control)?;
    }
    for record in manifest.files.iter().filter(|file| file.kind == FileKind::Rule) {
        remove::file(&record.path)?;
    }
    let rules = host.rules_directory();
    for directory in rules.ancestors().take_while(|path| manifest.made(path)) {
        remove::empty_directory(directory)?;
    }
    Ok(())
}

fn remove_accounts(
    host: &dyn Host,
    args: &UninstallArgs,
    prefix: &Prefix,
    manifest: &Manifest,
    notes: &mut Vec<String>,
    output: &mut Output<'_>,
) -> Outcome<()> {
    let Some(UserRecord { name, created }) = &manifest.user else {
        if args.remove_user {
            notes.push("this installation has no user of its own".to_owned());
        }
        return Ok(());
    };
    if !args.remove_user {
        notes.push(format!("the user {name} stays; --remove-user removes it"));
        return Ok(());
    }
    for account in all_accounts(&manifest.names()) {
        let Some(number) = account.look_up(host)? else {
            continue;
        };
        if created.is_none() && !is_system(number) {
            notes.push(format!(
                "the {account} stays: it was there before, and is a person's account"
            ));
            continue;
        }
        host.remove_account(&account)?;
        output.progress(&format!("removal of the {account}"));
    }
    if let Some(record) = created {
        notes.extend(accounts::restore(
            host.account_directory(),
            &prefix.join(ACCOUNTS),
            record,
        )?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
