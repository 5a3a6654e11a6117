//! A stream into the journal (`/run/systemd/journal/stdout`, as `systemd-cat` has it), for lines of standard output.
//!
//! journald looks up the unit of each line by the process that wrote it, and cannot if that is gone. Only for
//! streams that systemd itself made it knows the unit anyway, so standard error, which tells why a service died, stays
//! on that of the unit.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Where journald takes streams.
pub const JOURNALD: &str = "/run/systemd/journal/stdout";
/// Between two looks at whether journald has read.
const PAUSE: Duration = Duration::from_micros(100);

/// Priority of each line, as in syslog(3): lower than that of standard error, so that readers can tell.
const INFO: u8 = 6;

/// A stream of lines.
#[derive(Debug)]
pub struct Stream(UnixStream);

impl Stream {
    /// Opens a stream at `journald` for lines of `identifier`.
    ///
    /// # Errors
    /// Nobody listens there, or it cannot be written to.
    pub fn open(journald: &Path, identifier: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(journald)?;
        stream.shutdown(Shutdown::Read)?;
        stream.write_all(header(identifier).as_bytes())?;
        Ok(Self(stream))
    }

    /// Waits until journald has read what was sent, see [`await_read`].
    pub fn await_notice(&self, limit: Duration) {
        await_read(&self.0, limit);
    }

    /// As a standard output or error of a process.
    #[must_use]
    pub fn into_stdio(self) -> Stdio {
        OwnedFd::from(self.0).into()
    }
}

/// Waits until the other side has read what was sent, at most for `limit`. journald looks up which
/// unit a stream belongs to by the process that opened it, when it reads: later, when the process may
/// be gone, it cannot. Returns at once for what is no socket.
pub fn await_read(socket: impl AsFd, limit: Duration) {
    let deadline = Instant::now() + limit;
    while unread(&socket).is_ok_and(|bytes| bytes > 0) && Instant::now() < deadline {
        std::thread::sleep(PAUSE);
    }
}

/// What journald wants to know first: identifier, unit (only root may name one), priority, whether
/// lines have a priority in front, and three places to copy them to. The last line is empty: it is
/// not logged, but makes journald look up whose stream it is.
fn header(identifier: &str) -> String {
    let one_line = identifier.replace(['\n', '\0'], " ");
    format!("{one_line}\n\n{INFO}\n0\n0\n0\n0\n\n")
}

/// Bytes that the other side has not read yet, with the kernel's own around them.
#[allow(unsafe_code)]
fn unread(socket: impl AsFd) -> io::Result<i32> {
    /// SIOCOUTQ of unix(7), which is the TIOCOUTQ of the architecture.
    const QUEUED: rustix::ioctl::Opcode = if cfg!(any(
        target_arch = "powerpc",
        target_arch = "powerpc64",
        target_arch = "mips",
        target_arch = "mips64",
        target_arch = "sparc64"
    )) {
        0x4004_7473
    } else {
        0x5411
    };
    // SAFETY: the kernel writes one int for this request, and nothing else, whatever the socket.
    Ok(unsafe { rustix::ioctl::ioctl(socket, rustix::ioctl::Getter::<QUEUED, i32>::new()) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_header_is_as_journald_wants_it() {
        assert_eq!(header("app"), "app\n\n6\n0\n0\n0\n0\n\n");
        assert_eq!(header("a\nb"), "a b\n\n6\n0\n0\n0\n0\n\n");
    }

    #[test]
    fn what_was_sent_is_awaited_until_it_is_read_or_the_limit_passes() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("stdout");
        assert!(Stream::open(&path, "app").is_err());
        let listener = UnixListener::bind(&path).expect("bound");
        let stream = Stream::open(&path, "app").expect("opened");
        assert!(unread(&stream.0).expect("asked") > 0);
        let limit = Duration::from_millis(20);
        let begin = Instant::now();
        stream.await_notice(limit);
        assert!(begin.elapsed() >= limit, "nobody has read");
        let (mut reader, _) = listener.accept().expect("connected");
        let mut read = [0; 64];
        let length = reader.read(&mut read).expect("sent");
        assert_eq!(&read[..length], header("app").as_bytes());
        stream.await_notice(Duration::from_secs(20));
        assert_eq!(unread(&stream.0).expect("asked"), 0);
    }
}
