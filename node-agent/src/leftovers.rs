//! Processes of an earlier run of this agent that outlived it: those that a service had started
//! when the agent was killed. (The service itself is killed by the kernel with the agent.)

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// What every process of an executor has in its environment.
const MARK: &[u8] = b"FLAME_INSTANCE_ENDPOINT=";

/// Kills every process whose service socket was below `sockets` and returns how many there were.
/// Only for who holds the lock of that directory: then no living agent can own them.
///
/// # Errors
/// Processes cannot be listed.
pub fn end(sockets: &Path) -> io::Result<usize> {
    let mut ended = 0;
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Some(pid) = Pid::from_raw(number).filter(|_| number.unsigned_abs() != std::process::id()) else {
            continue;
        };
        // Opened first: the signal then goes to the process that was looked at, or to nobody.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        // Those of other users cannot be read, and are not ours.
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else {
            continue;
        };
        if is_below(&environment, sockets) {
            match pidfd_send_signal(&process, Signal::KILL) {
                Ok(()) => ended += 1,
                Err(error) => tracing::warn!(%error, "cannot end process {number} of an earlier run"),
            }
        }
    }
    Ok(ended)
}

/// Whether `environment` (as the kernel shows it) names a service socket in `sockets`.
fn is_below(environment: &[u8], sockets: &Path) -> bool {
    environment
        .split(|byte| *byte == 0)
        .filter_map(|variable| variable.strip_prefix(MARK))
        .any(|socket| Path::new(std::ffi::OsStr::from_bytes(socket)).parent() == Some(sockets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_right_in_the_directory_count() {
        let sockets = Path::new("/run/flame");
        for (environment, ours) in [
            (
                &b"A=1\0FLAME_INSTANCE_ENDPOINT=/run/flame/e.sock\0B=2\0"[..],
                true,
            ),
            (b"FLAME_INSTANCE_ENDPOINT=/run/flame/other/e.sock\0", false),
            (b"FLAME_INSTANCE_ENDPOINT=/run/flame\0", false),
            (b"XFLAME_INSTANCE_ENDPOINT=/run/flame/e.sock\0", false),
            (b"FLAME_INSTANCE_ENDPOINT=\0", false),
            (b"", false),
        ] {
            assert_eq!(is_below(environment, sockets), ours, "{environment:?}");
        }
    }
}
