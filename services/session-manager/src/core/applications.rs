//! Applications: registered, updated, unregistered, and the built-in ones.

use flame_core::ApplicationName;
use flame_rpc::v1;

use super::{Application, Core, CoreError, Effects, Now};
use crate::store::Record;

/// Executors of an application unless it says otherwise: as good as unlimited.
const DEFAULT_MAX_INSTANCES: u32 = 1_000_000;
/// Seconds that an executor without work is kept unless the application says otherwise.
const DEFAULT_DELAY_RELEASE: i64 = 60;

impl Core {
    /// Adds an application.
    ///
    /// # Errors
    /// The name is taken, or the specification cannot be used.
    pub fn register_application(
        &mut self,
        name: &ApplicationName,
        spec: v1::ApplicationSpec,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), CoreError> {
        if self.applications.contains_key(name.as_str()) {
            return Err(CoreError::AlreadyExists(format!(
                "application {name} already exists"
            )));
        }
        let spec = normalised(spec)?;
        self.put_application(
            Application {
                name: name.clone(),
                spec,
                created: now.wall,
                version: 1,
                builtin: false,
            },
            fx,
        );
        Ok(())
    }

    /// Replaces an application's specification.
    ///
    /// # Errors
    /// It does not exist, has open sessions, or the specification cannot be used.
    pub fn update_application(
        &mut self,
        name: &ApplicationName,
        spec: v1::ApplicationSpec,
        fx: &mut Effects,
    ) -> Result<(), CoreError> {
        let old = self.application(name)?;
        let (created, version) = (old.created, old.version + 1);
        self.refuse_open_sessions(name, "updated")?;
        let spec = normalised(spec)?;
        self.put_application(
            Application {
                name: name.clone(),
                spec,
                created,
                version,
                builtin: false,
            },
            fx,
        );
        Ok(())
    }

    /// Removes an application with its closed sessions.
    ///
    /// # Errors
    /// It does not exist or has open sessions.
    pub fn unregister_application(
        &mut self,
        name: &ApplicationName,
        fx: &mut Effects,
    ) -> Result<(), CoreError> {
        self.application(name)?;
        self.refuse_open_sessions(name, "unregistered")?;
        let closed: Vec<_> = self
            .sessions
            .values()
            .filter(|s| s.row.application == *name)
            .map(|s| s.row.key)
            .collect();
        for key in closed {
            self.forget_session(key, fx);
        }
        self.applications.remove(name.as_str());
        fx.records.push(Record::ApplicationRemoved(name.clone()));
        Ok(())
    }

    /// One application.
    ///
    /// # Errors
    /// It does not exist.
    pub fn get_application(&self, name: &str) -> Result<v1::Application, CoreError> {
        let found = self.applications.get(name).map(Application::view);
        found.ok_or_else(|| CoreError::NotFound(format!("application {name} not found")))
    }

    /// All applications, by name.
    #[must_use]
    pub fn list_applications(&self) -> v1::ApplicationList {
        v1::ApplicationList {
            applications: self.applications.values().map(Application::view).collect(),
        }
    }

    /// Brings the built-in applications up to date. One that a user has changed is left alone.
    pub fn ensure_builtins(
        &mut self,
        builtins: Vec<(ApplicationName, v1::ApplicationSpec)>,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), CoreError> {
        for (name, spec) in builtins {
            let spec = normalised(spec)?;
            let (created, version) = match self.applications.get(name.as_str()) {
                None => (now.wall, 1),
                Some(old) if old.builtin && old.spec != spec => (old.created, old.version + 1),
                Some(_) => continue,
            };
            self.put_application(
                Application {
                    name,
                    spec,
                    created,
                    version,
                    builtin: true,
                },
                fx,
            );
        }
        Ok(())
    }

    /// A working directory is absolute, or left out. On its own because the wire contract wants this
    /// error as a status, and the others in the answer.
    pub(crate) fn check_working_directory(spec: &v1::ApplicationSpec) -> Result<(), CoreError> {
        match spec.working_directory.as_deref() {
            None | Some("") => Ok(()),
            Some(directory) if directory.starts_with('/') => Ok(()),
            Some(directory) => Err(CoreError::Invalid(format!(
                "working_directory must be an absolute path, not {directory:?}"
            ))),
        }
    }

    pub(super) fn application(&self, name: &ApplicationName) -> Result<&Application, CoreError> {
        self.applications
            .get(name.as_str())
            .ok_or_else(|| CoreError::NotFound(format!("application {name} not found")))
    }

    fn put_application(&mut self, application: Application, fx: &mut Effects) {
        fx.records.push(Record::ApplicationPut(application.clone()));
        self.applications.insert(application.name.clone(), application);
    }

    fn refuse_open_sessions(&self, name: &ApplicationName, action: &str) -> Result<(), CoreError> {
        let open = self
            .sessions
            .values()
            .filter(|s| s.is_open() && s.row.application == *name)
            .count();
        if open > 0 {
            let sessions = if open == 1 { "session" } else { "sessions" };
            let text =
                format!("application {name} has {open} open {sessions}; close them before it is {action}");
            return Err(CoreError::Invalid(text));
        }
        Ok(())
    }
}

/// The specification with defaults filled in.
fn normalised(mut spec: v1::ApplicationSpec) -> Result<v1::ApplicationSpec, CoreError> {
    spec.working_directory = spec.working_directory.filter(|directory| !directory.is_empty());
    Core::check_working_directory(&spec)?;
    if v1::Shim::try_from(spec.shim).is_err() {
        return Err(CoreError::Invalid(format!(
            "there is no shim number {}",
            spec.shim
        )));
    }
    if spec.max_instances == Some(0) {
        return Err(CoreError::Invalid("max_instances must be at least 1".to_owned()));
    }
    spec.max_instances.get_or_insert(DEFAULT_MAX_INSTANCES);
    let delay = *spec.delay_release.get_or_insert(DEFAULT_DELAY_RELEASE);
    if delay < 0 {
        return Err(CoreError::Invalid(format!(
            "delay_release must not be negative, but is {delay}"
        )));
    }
    Ok(spec)
}
