//! `flmctl version`, `completion` and `man`: what needs no session manager.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::cli::Cli;
use crate::error::CtlError;
use crate::printer::Printer;

/// Prints the version of this program.
pub(crate) fn version(printer: &Printer) -> Result<(), CtlError> {
    let version = env!("CARGO_PKG_VERSION");
    printer.show(&json!({ "version": version }), |_| format!("flmctl {version}\n"))
}

/// Prints the completion script of `shell`.
pub(crate) fn completion(printer: &Printer, shell: Shell) -> Result<(), CtlError> {
    // Into memory first: the generator panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "flmctl", &mut script);
    printer.bytes(&script)
}

/// Prints the manual page, or writes one page per command to `dir`.
pub(crate) fn man(printer: &Printer, dir: Option<&Path>) -> Result<(), CtlError> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command())
            .render(&mut page)
            .map_err(CtlError::Output)?;
        return printer.bytes(&page);
    };
    let failed = |source| CtlError::File {
        action: "write manual pages to",
        path: dir.to_path_buf(),
        source,
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)
}
