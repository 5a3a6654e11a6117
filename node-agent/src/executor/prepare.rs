//! From the session manager's order to a process that can be launched.

use std::path::{Path, PathBuf};

use flame_core::event::bind;
use flame_core::{ApplicationName, ExecutorId, Resources};
use flame_rpc::node::StartExecutor;
use flame_rpc::v1::Shim;

use super::{BindError, Host};
use crate::directories::WorkingDirectory;
use crate::environment::Particulars;
use crate::runtime::{Launch, Owner};
use crate::spec::Spec;

/// Variable that says where a service is at home.
const HOME: &str = "HOME";
/// Variable that says where a service may write.
const WORK_DIR: &str = "FLAME_WORK_DIR";

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
    /// None if the runtime has one for it.
    _directory: Option<WorkingDirectory>,
    /// None if the runtime removes it, when the process has ended: it may outlive the agent.
    socket: Option<PathBuf>,
}

impl Files {
    /// Those of a process whose runtime sees to all of them.
    pub(super) fn none() -> Self {
        Self {
            _directory: None,
            socket: None,
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            // Services usually remove it themselves.
            let _ = std::fs::remove_file(socket);
        }
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

    let owner = Owner {
        executor: id.clone(),
        session: order.session_id.clone(),
        session_number: order.session_number,
        application: order.application.clone(),
        resources: order.resreq.as_ref().map(Resources::from).unwrap_or_default(),
    };
    let site = host
        .runtime
        .site(&owner, &spec.labels)
        .map_err(|error| process(&error))?;
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
    let mut environment = host.surroundings.of(&Particulars {
        application: &own,
        socket: &site.socket,
        temporary: site.temporary.clone(),
        session: &order.session_id,
        executor: id.as_str(),
    });
    environment.extend(site.variables.iter().cloned());
    if let Some(home) = &site.home
        && !own.iter().any(|(name, _)| name == HOME)
    {
        environment.insert(HOME.to_owned(), home.display().to_string());
    }
    let expand = |text: &str| host.surroundings.expand_in(&environment, text);
    let wanted = spec
        .working_directory
        .as_deref()
        .filter(|path| !path.is_empty())
        .map(expand);
    let wanted = wanted.as_deref().map(Path::new);
    if let Some(wanted) = wanted {
        host.directories.allow(wanted).map_err(|error| process(&error))?;
    }
    // What the process can see is the runtime's affair: from here it may look different.
    let (working_directory, directory) = match &site.work {
        Some(work) => (wanted.unwrap_or(work).to_path_buf(), None),
        None => {
            let made = WorkingDirectory::prepare(wanted, &host.directories, id);
            let directory = made.map_err(|error| process(&error))?;
            (directory.path().to_path_buf(), Some(directory))
        }
    };
    let command = expand(command);
    let arguments = spec.arguments.iter().map(|argument| expand(argument)).collect();
    let own_directory = site.work.as_ref().unwrap_or(&working_directory);
    environment.insert(WORK_DIR.to_owned(), own_directory.display().to_string());
    let socket = site.socket.clone();
    let spec = Spec {
        command,
        arguments,
        working_directory,
        parent: Some(std::process::id()),
        environment,
    };
    Ok(Prepared {
        files: match site.work {
            Some(_) => Files::none(),
            None => Files {
                _directory: directory,
                socket: Some(socket.clone()),
            },
        },
        launch: Launch { owner, spec, site },
        socket,
    })
}

/// Whether the kernel takes such a variable.
fn settable(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}
