//! What the machine's other services say that Flame rests on: polkit and the clock.

use std::collections::HashMap;

use zbus::Variant;
use zbus::proxy::CacheProperties;

use super::proxies::{AuthorityProxy, ClockProxy};
use super::{Systemd, SystemdError, call};

/// What an agent asks systemd for, in polkit's words.
const MANAGE_UNITS: &str = "org.freedesktop.systemd1.manage-units";
/// polkit must not ask a person.
const NO_QUESTIONS: u32 = 0;

impl Systemd {
    /// Version of polkit, which D-Bus starts if it does not run.
    ///
    /// # Errors
    /// [`SystemdError::Call`]: it does not answer.
    pub async fn polkit_version(&self) -> Result<String, SystemdError> {
        let version = async {
            let polkit = AuthorityProxy::builder(&self.connection)
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            polkit.backend_version().await
        };
        call("get an answer of", &["polkit"], version).await
    }

    /// Whether polkit lets the process `pid` of the user `uid` start `unit`. Only root may ask.
    ///
    /// # Errors
    /// [`SystemdError::Call`]: polkit does not answer, or the process is gone.
    pub async fn may_start(&self, pid: u32, uid: u32, unit: &str) -> Result<bool, SystemdError> {
        let answer = async {
            let polkit = AuthorityProxy::builder(&self.connection)
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            let process = HashMap::from([
                ("pid", Variant::from(pid)),
                // 0: polkit looks it up.
                ("start-time", Variant::from(0_u64)),
                ("uid", Variant::from(i32::try_from(uid).unwrap_or(i32::MAX))),
            ]);
            let details = HashMap::from([("unit", unit), ("verb", "start")]);
            let (yes, ..) = polkit
                .check_authorization(
                    &("unix-process", process),
                    MANAGE_UNITS,
                    details,
                    NO_QUESTIONS,
                    "",
                )
                .await?;
            zbus::Result::Ok(yes)
        };
        call("ask polkit about", &[unit], answer).await
    }

    /// Whether the kernel's clock is kept right by somebody.
    ///
    /// # Errors
    /// [`SystemdError::Call`]: there is no systemd-timedated that could say so.
    pub async fn clock_is_synchronized(&self) -> Result<bool, SystemdError> {
        let answer = async {
            let clock = ClockProxy::builder(&self.connection)
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            clock.ntp_synchronized().await
        };
        call("get an answer of", &["systemd-timedated"], answer).await
    }
}
