//! The machine below an installation, as the checks look at it.

mod bus;
#[cfg(test)]
pub(crate) mod fake;
mod real;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::failure::Outcome;

pub(crate) use real::RealFacts;

/// The file system that a path is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// Which one it is, to tell it from others.
    pub(crate) id: u64,
    /// Bytes that are free for users.
    pub(crate) free_bytes: u64,
    /// Files that can still be made; `None` if there is no such limit.
    pub(crate) free_files: Option<u64>,
    /// Whether nothing can be written to it.
    pub(crate) read_only: bool,
    /// Whether no programs on it can be run.
    pub(crate) no_programs: bool,
}

/// A process and its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) pid: u32,
    /// Where its program is, or was.
    pub(crate) program: PathBuf,
    /// Whether the file was replaced or removed since it was started.
    pub(crate) replaced: bool,
}

/// A socket that waits for connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    /// User that made it.
    pub(crate) uid: u32,
    /// The process that holds it, if we may know.
    pub(crate) process: Option<Running>,
}

/// What can be known about the machine.
pub(crate) trait Facts {
    /// The time.
    fn now(&self) -> SystemTime;
    /// A text of the kernel or the system, without spaces around it; `None` if there is no such file.
    fn text(&self, path: &Path) -> Outcome<Option<String>>;
    /// What is in a directory of the system, sorted; nothing if there is none.
    fn entries(&self, directory: &Path) -> Outcome<Vec<PathBuf>>;
    /// The file system that `path` is on, or would be.
    fn file_system(&self, path: &Path) -> Outcome<FileSystem>;
    /// SELinux's label of a file, if it has one.
    fn label(&self, path: &Path) -> Outcome<Option<String>>;
    /// Who listens on one of these TCP ports.
    fn listeners(&self, ports: &[u16]) -> Outcome<Vec<Listener>>;
    /// Processes whose program is below `directory`, as far as we may look at them; without ourselves.
    fn running_below(&self, directory: &Path) -> Vec<Running>;
    /// Addresses of a host.
    fn addresses(&self, host: &str) -> Outcome<Vec<IpAddr>>;
    /// Connects to a TCP port; the address that answered.
    fn connect(&self, host: &str, port: u16) -> Outcome<SocketAddr>;
    /// Version of systemd.
    fn systemd_version(&self) -> Outcome<String>;
    /// Whether polkit is there; it need not run.
    fn has_polkit(&self) -> Outcome<bool>;
    /// Version of polkit, which answers.
    fn polkit_version(&self) -> Outcome<String>;
    /// Whether polkit lets a process of this user start a unit.
    fn may_start(&self, pid: u32, uid: u32, unit: &str) -> Outcome<bool>;
    /// Whether somebody keeps the clock right.
    fn clock_is_synchronized(&self) -> Outcome<bool>;
}
