//! Typed D-Bus proxies of `org.freedesktop.systemd1`, as far as Flame uses it.
//!
//! The interfaces are those of systemd 247 and later (Debian 11, RHEL 9). Property caches are off
//! where they are built: a value that is a moment old is worse than one more round trip.

use std::collections::HashMap;

use zbus::{OwnedObjectPath, OwnedVariant, Variant, proxy};

/// A change that enabling or disabling made: kind (`symlink` or `unlink`), path, target.
pub type UnitFileChange = (String, String, String);

/// One line of `ListUnitsByPatterns`: name, description, load, active and sub state, followed unit,
/// object path, job id, job type, job path.
pub type ListedUnit = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// The service manager itself.
#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub trait Manager {
    /// Reads all unit files again.
    fn reload(&self) -> zbus::Result<()>;
    /// Makes the manager send signals to this connection.
    fn subscribe(&self) -> zbus::Result<()>;
    /// Object of a loaded unit.
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    /// Object of a unit, loading it if need be.
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    /// Starts a unit; gives the job.
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    /// Stops a unit; gives the job.
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    /// Stops and starts a unit; gives the job.
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    /// Sends a signal to processes of a unit: `main`, `control` or `all`.
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
    /// Object of the unit that a process belongs to.
    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;
    /// Forgets the failure and the start counter of a unit.
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    /// Changes properties of a unit.
    fn set_unit_properties(
        &self,
        name: &str,
        runtime: bool,
        properties: &[(&str, OwnedVariant)],
    ) -> zbus::Result<()>;
    /// Makes the links of the files' `[Install]` sections.
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<UnitFileChange>)>;
    /// Removes these links.
    fn disable_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<Vec<UnitFileChange>>;
    /// Whether a unit file is enabled, disabled, static, ...
    fn get_unit_file_state(&self, file: &str) -> zbus::Result<String>;
    /// Loaded units in these states (all if empty) whose names match these patterns.
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<ListedUnit>>;

    /// A job has ended: its number, object, unit and result.
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;

    /// Version of systemd, e.g. `252.39-1~deb12u1`.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;
}

/// What every unit has, as far as it is asked for by itself; see `properties` for all of it at once.
#[proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1",
    assume_defaults = false
)]
pub trait Unit {
    /// `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`.
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
    /// Id of the current run, 16 bytes, or none.
    #[zbus(property(emits_changed_signal = "false"), name = "InvocationID")]
    fn invocation_id(&self) -> zbus::Result<Vec<u8>>;
    /// The pending job: its number (0 if there is none) and object.
    #[zbus(property(emits_changed_signal = "false"))]
    fn job(&self) -> zbus::Result<(u32, OwnedObjectPath)>;
}

/// What services have besides.
#[proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1",
    assume_defaults = false
)]
pub trait Service {
    /// How the last run ended: `success`, `exit-code`, `signal`, `timeout`, `watchdog`, ...
    #[zbus(property(emits_changed_signal = "false"))]
    fn result(&self) -> zbus::Result<String>;
    /// Process id of the main process, 0 if there is none.
    #[zbus(property(emits_changed_signal = "false"), name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
    /// Variables of the environment that the unit sets, as `NAME=value`.
    #[zbus(property(emits_changed_signal = "false"))]
    fn environment(&self) -> zbus::Result<Vec<String>>;
    /// Where it may write although `ProtectSystem=` says otherwise, with the marks of systemd.exec(5) in front.
    #[zbus(property(emits_changed_signal = "false"))]
    fn read_write_paths(&self) -> zbus::Result<Vec<String>>;
    /// How the last main process ended, one of the `CLD_` numbers of waitid(2); 0 if it runs.
    #[zbus(property(emits_changed_signal = "false"))]
    fn exec_main_code(&self) -> zbus::Result<i32>;
    /// Exit status or signal of the last main process.
    #[zbus(property(emits_changed_signal = "false"))]
    fn exec_main_status(&self) -> zbus::Result<i32>;
}

/// A pending job.
#[proxy(
    interface = "org.freedesktop.systemd1.Job",
    default_service = "org.freedesktop.systemd1",
    assume_defaults = false
)]
pub trait Job {
    /// `start`, `stop`, `restart`, ...
    #[zbus(property(emits_changed_signal = "false"))]
    fn job_type(&self) -> zbus::Result<String>;
}

/// The clock, kept by systemd-timedated.
#[proxy(
    interface = "org.freedesktop.timedate1",
    default_service = "org.freedesktop.timedate1",
    default_path = "/org/freedesktop/timedate1"
)]
pub trait Clock {
    /// Whether the kernel says that its clock is synchronized.
    #[zbus(property(emits_changed_signal = "false"), name = "NTPSynchronized")]
    fn ntp_synchronized(&self) -> zbus::Result<bool>;
}

/// polkit, which decides what an unprivileged caller may do.
#[proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
pub trait Authority {
    /// Whether a subject (kind and its details) may do something: yes, not without asking, details.
    fn check_authorization(
        &self,
        subject: &(&str, HashMap<&str, Variant<'_>>),
        action: &str,
        details: HashMap<&str, &str>,
        flags: u32,
        cancellation: &str,
    ) -> zbus::Result<(bool, bool, HashMap<String, String>)>;
    /// Version of polkit.
    #[zbus(property(emits_changed_signal = "const"))]
    fn backend_version(&self) -> zbus::Result<String>;
}
