//! Limits of a unit's resources, as properties that systemd takes while the unit exists.

use zbus::{OwnedVariant, Variant};

use super::{Systemd, SystemdError};

/// systemd's word for "no limit" in a number.
const UNLIMITED: u64 = u64::MAX;

/// What a unit may use. Setting them replaces all that were set before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory above which it is slowed down; `None`: never.
    pub memory_high: Option<u64>,
    /// Bytes of memory above which it is killed; `None`: never.
    pub memory_max: Option<u64>,
    /// Microseconds of CPU time in each second; `None`: all there is.
    pub cpu_quota_us: Option<u64>,
    /// Its share of contended CPUs, 1 to 10,000; 100 is what units have if nobody says otherwise.
    pub cpu_weight: u64,
    /// Processes and threads; `None`: as many as the machine takes.
    pub tasks_max: Option<u64>,
    /// Devices besides the harmless ones (`/dev/null` and its like), and how: `r`, `w`, `rw`.
    pub devices: Vec<(String, String)>,
}

impl Limits {
    fn properties(&self) -> Result<Vec<(&'static str, OwnedVariant)>, zbus::Error> {
        let number = |value: Option<u64>| OwnedVariant::try_from(Variant::from(value.unwrap_or(UNLIMITED)));
        Ok(vec![
            ("MemoryHigh", number(self.memory_high)?),
            ("MemoryMax", number(self.memory_max)?),
            ("CPUQuotaPerSecUSec", number(self.cpu_quota_us)?),
            ("CPUWeight", number(Some(self.cpu_weight))?),
            ("TasksMax", number(self.tasks_max)?),
            (
                "DeviceAllow",
                OwnedVariant::try_from(Variant::from(self.devices.clone()))?,
            ),
        ])
    }
}

impl Systemd {
    /// Sets the limits of `unit` until the machine stops; of one that does not run, for its next start.
    ///
    /// # Errors
    /// [`SystemdError::NoSuchUnit`], [`SystemdError::Denied`] or [`SystemdError::Call`].
    pub async fn limit(&self, unit: &str, limits: &Limits) -> Result<(), SystemdError> {
        let properties = limits
            .properties()
            .map_err(|source| SystemdError::from_call("limit", unit, Some(unit), source))?;
        self.set_properties(unit, true, &properties).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_limits_are_always_set_so_that_none_stays_of_another_run() {
        let limits = Limits {
            memory_high: None,
            memory_max: Some(1 << 30),
            cpu_quota_us: None,
            cpu_weight: 100,
            tasks_max: Some(7),
            devices: vec![("/dev/nvidia0".to_owned(), "rw".to_owned())],
        };
        let properties = limits.properties().expect("representable");
        let numbers: Vec<(&str, Option<u64>)> = properties
            .iter()
            .map(|(name, value)| (*name, u64::try_from(value).ok()))
            .collect();
        assert_eq!(
            numbers,
            [
                ("MemoryHigh", Some(u64::MAX)),
                ("MemoryMax", Some(1 << 30)),
                ("CPUQuotaPerSecUSec", Some(u64::MAX)),
                ("CPUWeight", Some(100)),
                ("TasksMax", Some(7)),
                ("DeviceAllow", None),
            ]
        );
        for (devices, signature) in [(limits.devices.clone(), "a(ss)"), (Vec::new(), "a(ss)")] {
            let limits = Limits {
                devices,
                ..limits.clone()
            };
            let (_, devices) = limits
                .properties()
                .expect("representable")
                .pop()
                .expect("the last");
            assert_eq!(devices.value_signature().to_string(), signature);
        }
    }
}
