//! Manual pages and completion scripts, made from the definition of the command line.

mod programs;
mod texts;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::Cli;
use crate::failure::{EXIT_CODES, Failure, Outcome};

/// Section of the manual for administrators.
const SECTION: &str = "8";
pub(crate) use programs::documents_of;
pub(crate) use texts::texts;

/// A text with its place below a prefix.
pub(crate) type Placed = (PathBuf, String);

/// All manual pages and completion scripts of flmadm, for a bundle or an installation.
///
/// # Errors
/// One cannot be rendered.
pub(crate) fn documents() -> Outcome<Vec<Placed>> {
    /// They are the same for every plan that one run makes.
    static MADE: OnceLock<Vec<Placed>> = OnceLock::new();
    if let Some(made) = MADE.get() {
        return Ok(made.clone());
    }
    let all: Vec<Placed> = pages()?
        .into_iter()
        .map(|(name, text)| (Path::new("share/man/man8").join(name), text))
        .collect();
    let scripts = SHELLS.map(|shell| (script_place(shell, "flmadm"), completion(shell)));
    let all = all.into_iter().chain(scripts).collect();
    Ok(MADE.get_or_init(|| all).clone())
}

/// Shells that look for scripts below share/.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Where `shell` looks for the completion script of `program`, below a prefix.
fn script_place(shell: Shell, program: &str) -> PathBuf {
    match shell {
        Shell::Zsh => format!("share/zsh/site-functions/_{program}"),
        Shell::Fish => format!("share/fish/vendor_completions.d/{program}.fish"),
        _ => format!("share/{shell}-completion/completions/{program}"),
    }
    .into()
}

/// The completion script for `shell`.
pub(crate) fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "flmadm", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The page of the command with these `words`; without any, of flmadm itself.
///
/// # Errors
/// There is no such command.
pub(crate) fn page(words: &[String]) -> Outcome<String> {
    let name = format!("{}.{SECTION}", [&["flmadm".to_owned()], words].concat().join("-"));
    let found = pages()?
        .into_iter()
        .find(|(page, _)| page.as_os_str() == name.as_str());
    found.map(|(_, text)| text).ok_or_else(|| {
        Failure::arguments(format!("there is no manual page of {:?}", words.join(" ")))
            .hint("flmadm help lists the commands")
    })
}

/// Writes one page per command to `directory`, which is made if it is missing.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write(directory: &Path) -> Outcome<usize> {
    std::fs::create_dir_all(directory).map_err(|error| Failure::path("make", directory, error))?;
    let pages = pages()?;
    for (name, text) in &pages {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|error| Failure::path("write", &path, error))?;
    }
    Ok(pages.len())
}

/// One page per command, with the name of its file.
fn pages() -> Outcome<Vec<Placed>> {
    let mut command = Cli::command();
    // Gives commands within commands their whole names.
    command.build();
    let mut pages = Vec::new();
    add(&command, None, &mut pages)
        .map_err(|error| Failure::arguments("cannot render the manual").because(error))?;
    Ok(pages)
}

fn add(command: &Command, parent: Option<&str>, pages: &mut Vec<Placed>) -> std::io::Result<()> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned();
    let man = Man::new(command.clone()).section(SECTION);
    let mut text = Vec::new();
    // Not by clap, which loses an empty date: a date would make two builds of the same sources differ.
    writeln!(
        text,
        ".TH {} {SECTION} \"\" \"Flame {}\" \"Flame\"",
        name.to_uppercase(),
        env!("CARGO_PKG_VERSION")
    )?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    exit_status(&mut text)?;
    see_also(&mut text, command, parent, &name)?;
    pages.push((
        format!("{name}.{SECTION}").into(),
        String::from_utf8_lossy(&text).into_owned(),
    ));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        add(below, Some(&name), pages)?;
    }
    Ok(())
}

fn exit_status(text: &mut dyn Write) -> std::io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_CODES {
        roff.control("TP", []);
        roff.text([bold(code.to_string())]);
        roff.text([roman(meaning)]);
    }
    roff.to_writer(text)
}

fn see_also(
    text: &mut dyn Write,
    command: &Command,
    parent: Option<&str>,
    name: &str,
) -> std::io::Result<()> {
    let below = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .map(|below| format!("{name}-{}", below.get_name()));
    let others: Vec<String> = parent.map(str::to_owned).into_iter().chain(below).collect();
    if others.is_empty() {
        return Ok(());
    }
    let mut line = Vec::new();
    for (index, other) in others.iter().enumerate() {
        if index > 0 {
            line.push(roman(", "));
        }
        line.extend([bold(other), roman(format!("({SECTION})"))]);
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    roff.text(line);
    roff.to_writer(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests of man(7) that roff and clap make.
    const REQUESTS: [&str; 10] = ["TH", "SH", "TP", "PP", "RS", "RE", "IP", "br", "ie", "el"];

    #[test]
    fn every_command_has_a_page_that_man_understands() {
        let pages = pages().expect("pages");
        for (name, text) in &pages {
            for line in text.lines() {
                let request = line
                    .strip_prefix('.')
                    .map(|rest| rest.split(' ').next().unwrap_or(rest));
                assert!(
                    request.is_none_or(|request| REQUESTS.contains(&request)),
                    "{name:?}: {line}"
                );
                assert!(!line.starts_with('\''), "{name:?}: {line}");
            }
            for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "SEE ALSO"] {
                assert!(
                    text.contains(&format!(".SH {section}")) || text.contains(&format!(".SH \"{section}\"")),
                    "{name:?} has no {section}"
                );
            }
        }
        let names: Vec<String> = pages.iter().map(|(name, _)| name.display().to_string()).collect();
        for command in Cli::command().get_subcommands() {
            assert!(
                names.contains(&format!("flmadm-{}.8", command.get_name())),
                "{names:?}"
            );
        }
    }

    #[test]
    fn a_page_has_the_whole_name_and_its_options() {
        let text = page(&["install".to_owned()]).expect("a page");
        assert!(text.starts_with(".TH FLMADM-INSTALL 8 \"\" \"Flame "), "{text}");
        assert!(text.contains("flmadm\\-install \\- Install Flame"), "{text}");
        assert!(text.contains("\\-\\-control\\-plane"), "{text}");
        assert!(page(&["instal".to_owned()]).is_err());
    }

    #[test]
    fn pages_are_written_where_they_are_wanted() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let place = directory.path().join("man/man8");
        let count = write(&place).expect("written");
        assert_eq!(std::fs::read_dir(&place).expect("read").count(), count);
        assert_eq!(
            std::fs::read_to_string(place.join("flmadm.8")).expect("read"),
            page(&[]).expect("a page")
        );
    }

    #[test]
    fn documents_have_places_of_their_own() {
        let mut places: Vec<PathBuf> = documents()
            .expect("made")
            .into_iter()
            .map(|(place, _)| place)
            .collect();
        let count = places.len();
        places.sort();
        places.dedup();
        assert_eq!(places.len(), count);
        assert!(places.iter().all(|place| place.starts_with("share")));
        assert!(places.contains(&"share/man/man8/flmadm.8".into()));
        for shell in SHELLS {
            assert!(places.contains(&script_place(shell, "flmadm")));
            assert!(completion(shell).contains("control-plane"), "{shell}");
        }
    }
}
