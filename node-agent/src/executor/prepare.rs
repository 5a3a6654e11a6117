//! From the session manager's order to a process that can be launched.

use std::path::{Path, PathBuf};

use flame_core::event::bind;
use flame_core::{ApplicationName, ExecutorId};
use flame_rpc::node::StartExecutor;
use flame_rpc::v1::Shim;

use super::{BindError, Host};
use crate::directories::WorkingDirectory;
use crate::environment::Particulars;
use crate::runtime::Launch;
use crate::spec::Spec;

/// All that is needed to start the service process.
pub(super) struct Prepared {
    /// What to start.
    pub(super) launch: Launch,
    /// Where it will listen.
    pub(super) socket: PathBuf,
    /// Removed when the executor is gone.
    pub(super) files: Files,
}

/// The executor's own files.
pub(super) struct Files {
    _directory: WorkingDirectory,
    socket: PathBuf,
}

impl Drop for Files {
    fn drop(&mut self) {
        // Services usually remove it themselves.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Checks the order and makes what the process needs.
pub(super) fn prepare(host: &Host, id: &ExecutorId, order: &StartExecutor) -> Result<Prepared, BindError> {
    let unusable = |error: &dyn std::fmt::Display| BindError::new(bind::UNKNOWN, error);
    let name = ApplicationName::new(&order.application).map_err(|error| unusable(&error))?;
    let spec = order
        .spec
        .as_ref()
        .ok_or_else(|| unusable(&"the session manager sent no application"))?;
    if let Some(installer) = spec
        .installer
        .as_deref()
        .filter(|installer| !installer.is_empty())
    {
        return Err(BindError::new(
            bind::INSTALL,
            format!(
                "application {name} wants the installer {installer:?}, but this release installs no packages; \
                 install it on the nodes and register the application without an installer"
            ),
        ));
    }
    let process = |error: &dyn std::fmt::Display| BindError::new(bind::PROCESS, error);
    if spec.shim() != Shim::Host {
        return Err(process(&format!(
            "application {name} wants the {} shim, but this node has only the host shim",
            spec.shim().as_str_name()
        )));
    }
    let command = spec.command.as_deref().filter(|command| !command.is_empty());
    let command = command.ok_or_else(|| process(&format!("application {name} has no command")))?;

    let socket = host.directories.socket(id).map_err(|error| process(&error))?;
    let own: Vec<(String, String)> = spec
        .environments
        .iter()
        .map(|variable| (variable.name.clone(), variable.value.clone()))
        .collect();
    if let Some((wrong, _)) = own.iter().find(|(name, value)| !settable(name, value)) {
        return Err(process(&format!(
            "application {name} has the environment variable {wrong:?}, which cannot be set"
        )));
    }
    let environment = host.surroundings.of(&Particulars {
        application: &own,
        socket: &socket,
        temporary: host.directories.temporary(name.as_str()),
        session: &order.session_id,
        executor: id.as_str(),
    });
    let expand = |text: &str| host.surroundings.expand_in(&environment, text);
    let wanted = spec
        .working_directory
        .as_deref()
        .filter(|path| !path.is_empty())
        .map(expand);
    let directory = WorkingDirectory::prepare(wanted.as_deref().map(Path::new), &host.directories, id)
        .map_err(|error| process(&error))?;
    let spec = Spec {
        command: expand(command),
        arguments: spec.arguments.iter().map(|argument| expand(argument)).collect(),
        working_directory: directory.path().to_path_buf(),
        parent: Some(std::process::id()),
        environment,
    };
    Ok(Prepared {
        launch: Launch {
            executor: id.clone(),
            spec,
        },
        files: Files {
            _directory: directory,
            socket: socket.clone(),
        },
        socket,
    })
}

/// Whether the kernel takes such a variable.
fn settable(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}
