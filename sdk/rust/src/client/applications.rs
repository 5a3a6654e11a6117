//! The registry of applications.

use flame_rpc::v1;

use super::{Client, took};
use crate::error::Error;

impl Client {
    /// Registers `spec` under `name`.
    ///
    /// ```no_run
    /// # async fn example(client: flame_rs::Client) -> Result<(), flame_rs::Error> {
    /// let spec = flame_rs::v1::ApplicationSpec {
    ///     command: Some("/opt/pi/bin/pi-service".to_owned()),
    ///     description: Some("Digits of pi".to_owned()),
    ///     ..Default::default()
    /// };
    /// client.register_application("pi", spec).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] for a name that is taken or not valid, [`Error::Rpc`] with
    /// `InvalidArgument` for a schema or a directory that is not valid.
    pub async fn register_application(&self, name: &str, spec: v1::ApplicationSpec) -> Result<(), Error> {
        let request = v1::RegisterApplicationRequest {
            name: name.to_owned(),
            application: Some(spec),
        };
        let doing = || format!("register application {name}");
        done(
            took(self.frontend().register_application(request).await, doing)?,
            doing,
        )
    }

    /// Replaces the specification of application `name`.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is none or while it has open sessions, and as
    /// [`Client::register_application`].
    pub async fn update_application(&self, name: &str, spec: v1::ApplicationSpec) -> Result<(), Error> {
        let request = v1::UpdateApplicationRequest {
            name: name.to_owned(),
            application: Some(spec),
        };
        let doing = || format!("update application {name}");
        done(
            took(self.frontend().update_application(request).await, doing)?,
            doing,
        )
    }

    /// Removes application `name` from the registry.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is none or while it has open sessions.
    pub async fn unregister_application(&self, name: &str) -> Result<(), Error> {
        let request = v1::UnregisterApplicationRequest {
            name: name.to_owned(),
        };
        let doing = || format!("unregister application {name}");
        done(
            took(self.frontend().unregister_application(request).await, doing)?,
            doing,
        )
    }

    /// Application `name`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Rpc`] and [`Error::Lost`].
    pub async fn get_application(&self, name: &str) -> Result<Option<v1::Application>, Error> {
        let request = v1::GetApplicationRequest {
            name: name.to_owned(),
        };
        let call = || {
            let (mut frontend, request) = (self.frontend(), request.clone());
            async move { frontend.get_application(request).await }
        };
        match self.repeat(|| format!("get application {name}"), call).await {
            Ok(application) => Ok(Some(application)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All applications.
    ///
    /// # Errors
    /// [`Error::Rpc`] and [`Error::Lost`].
    pub async fn list_applications(&self) -> Result<Vec<v1::Application>, Error> {
        let call = || {
            let mut frontend = self.frontend();
            async move { frontend.list_application(v1::ListApplicationRequest {}).await }
        };
        let answer = self.repeat(|| "list the applications".to_owned(), call);
        Ok(answer.await?.applications)
    }
}

/// Errors of the registry come inside an answer that is itself OK.
fn done(result: v1::Result, doing: impl FnOnce() -> String) -> Result<(), Error> {
    match result.return_code {
        0 => Ok(()),
        return_code => Err(Error::Refused {
            doing: doing(),
            return_code,
            message: result
                .message
                .unwrap_or_else(|| format!("the server says no more than code {return_code}")),
        }),
    }
}
