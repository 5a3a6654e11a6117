//! systemd, as the parts of Flame need it: readiness and watchdog notification, journald logging,
//! and the service manager over D-Bus.

pub mod logging;
pub mod login;
pub mod manager;
pub mod notify;
mod text;

pub use manager::Systemd;
pub use notify::Notifier;
