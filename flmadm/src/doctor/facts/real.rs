//! This machine: /proc, /sys, its file systems, its network and its bus.

use std::cell::OnceCell;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process};

use super::bus::Bus;
use super::{Facts, FileSystem, Listener, Running};
use crate::failure::{Failure, Outcome};

/// Longest wait for the addresses of a host: resolvers that do not answer are asked twice, 5 s each.
const RESOLVE_LIMIT: Duration = Duration::from_secs(4);
/// Longest wait for a connection to one address.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Where SELinux keeps the label of a file.
const LABEL: &str = "security.selinux";
/// Longest label: they are a few dozen bytes.
const LABEL_LENGTH: usize = 1024;
/// The kernel's mark on a program whose file was replaced or removed.
const DELETED: &str = " (deleted)";

/// This machine.
#[derive(Default)]
pub(crate) struct RealFacts {
    bus: OnceCell<Bus>,
}

impl RealFacts {
    fn bus(&self) -> Outcome<&Bus> {
        if let Some(bus) = self.bus.get() {
            return Ok(bus);
        }
        let bus = Bus::connect()?;
        Ok(self.bus.get_or_init(|| bus))
    }
}

impl Facts for RealFacts {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn text(&self, path: &Path) -> Outcome<Option<String>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::path("read", path, error)),
        }
    }

    fn entries(&self, directory: &Path) -> Outcome<Vec<PathBuf>> {
        let failed = |error| Failure::path("read", directory, error);
        let entries = match directory.read_dir() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut found = entries
            .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
            .collect::<Outcome<Vec<_>>>()?;
        found.sort();
        Ok(found)
    }

    fn file_system(&self, path: &Path) -> Outcome<FileSystem> {
        let failed = |path: &Path, error| Failure::path("look at the file system of", path, error);
        let there = path.ancestors().find(|path| path.exists());
        let there = there.unwrap_or(Path::new("/"));
        let found = rustix::fs::statvfs(there).map_err(|error| failed(there, error.into()))?;
        let device =
            std::os::unix::fs::MetadataExt::dev(&there.metadata().map_err(|error| failed(there, error))?);
        Ok(FileSystem {
            id: device,
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            free_files: (found.f_files > 0).then_some(found.f_favail),
            read_only: found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
            no_programs: found.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC),
        })
    }

    fn label(&self, path: &Path) -> Outcome<Option<String>> {
        use rustix::io::Errno;
        let mut label = [0; LABEL_LENGTH];
        match rustix::fs::getxattr(path, LABEL, &mut label) {
            Ok(length) => {
                let text = String::from_utf8_lossy(label.get(..length).unwrap_or_default());
                Ok(Some(text.trim_end_matches('\0').to_owned()))
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT) => Ok(None),
            Err(error) => Err(Failure::path("read the label of", path, error.into())),
        }
    }

    fn listeners(&self, ports: &[u16]) -> Outcome<Vec<Listener>> {
        let failed = |error| Failure::installation("cannot list the open TCP ports").because(error);
        let mut open = procfs::net::tcp().map_err(failed)?;
        // A kernel without IPv6 has no such list.
        open.extend(procfs::net::tcp6().unwrap_or_default());
        open.retain(|entry| entry.state == TcpState::Listen && ports.contains(&entry.local_address.port()));
        Ok(open.iter().map(listener).collect())
    }

    fn running_below(&self, directory: &Path) -> Vec<Running> {
        let real = directory
            .canonicalize()
            .unwrap_or_else(|_| directory.to_path_buf());
        let mut found: Vec<Running> = processes().filter_map(|process| running(&process)).collect();
        found.retain(|process| process.program.starts_with(&real) && process.pid != std::process::id());
        found.sort_by_key(|process| process.pid);
        found
    }

    fn addresses(&self, host: &str) -> Outcome<Vec<IpAddr>> {
        let failed =
            |why: String| Failure::installation(format!("cannot find the address of {host}")).because(why);
        let (send, receive) = mpsc::channel();
        let name = host.to_owned();
        // The resolver of the system cannot be interrupted; a thread that still waits ends with us.
        std::thread::spawn(move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            send.send(found.map(|found| found.map(|address| address.ip()).collect::<Vec<_>>()))
        });
        match receive.recv_timeout(RESOLVE_LIMIT) {
            Ok(found) => found.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {} s", RESOLVE_LIMIT.as_secs()))),
        }
    }

    fn connect(&self, host: &str, port: u16) -> Outcome<SocketAddr> {
        let mut last = Failure::installation(format!("{host} has no address"));
        for address in self.addresses(host)? {
            let address = SocketAddr::new(address, port);
            match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
                Ok(_) => return Ok(address),
                Err(error) => {
                    last = Failure::installation(format!("cannot connect to {address}")).because(error);
                }
            }
        }
        Err(last)
    }

    fn systemd_version(&self) -> Outcome<String> {
        self.bus()?.ask(|systemd| systemd.version())
    }

    fn has_polkit(&self) -> Outcome<bool> {
        self.bus()?.ask(|systemd| systemd.has_polkit())
    }

    fn polkit_version(&self) -> Outcome<String> {
        self.bus()?.ask(|systemd| systemd.polkit_version())
    }

    fn may_start(&self, pid: u32, uid: u32, unit: &str) -> Outcome<bool> {
        self.bus()?.ask(|systemd| systemd.may_start(pid, uid, unit))
    }

    fn clock_is_synchronized(&self) -> Outcome<bool> {
        self.bus()?.ask(|systemd| systemd.clock_is_synchronized())
    }
}

/// Every process; those that end while we look are left out.
fn processes() -> impl Iterator<Item = Process> {
    let all = procfs::process::all_processes().into_iter().flatten();
    all.filter_map(Result::ok)
}

fn running(process: &Process) -> Option<Running> {
    let path = process.exe().ok()?;
    let text = path.to_str()?;
    let program = text.strip_suffix(DELETED);
    Some(Running {
        pid: process.pid.unsigned_abs(),
        replaced: program.is_some(),
        program: PathBuf::from(program.unwrap_or(text)),
    })
}

fn listener(entry: &TcpNetEntry) -> Listener {
    let holds = |process: &Process| {
        let mut open = process.fd().into_iter().flatten().filter_map(Result::ok);
        open.any(|open| matches!(open.target, FDTarget::Socket(inode) if inode == entry.inode))
    };
    let holder = processes().find(holds);
    Listener {
        address: SocketAddr::new(
            entry.local_address.ip().to_canonical(),
            entry.local_address.port(),
        ),
        uid: entry.uid,
        process: holder.as_ref().and_then(running),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_with_its_process() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = socket.local_addr().expect("bound");
        let facts = RealFacts::default();
        let found = facts.listeners(&[address.port()]).expect("listed");
        let [found] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(found.address, address);
        assert_eq!(
            found.process.as_ref().map(|process| process.pid),
            Some(std::process::id())
        );
        assert_eq!(
            facts.connect("127.0.0.1", address.port()).expect("connected"),
            address
        );
        drop(socket);
        assert_eq!(facts.listeners(&[address.port()]).expect("listed"), []);
        facts
            .connect("127.0.0.1", address.port())
            .expect_err("nobody listens");
    }

    #[test]
    fn a_program_that_was_replaced_is_told_from_one_that_was_not() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let program = directory.path().join("bin/sleeper");
        std::fs::create_dir(directory.path().join("bin")).expect("made");
        std::fs::copy("/bin/sleep", &program).expect("copied");
        let mut child = std::process::Command::new(&program)
            .arg("60")
            .spawn()
            .expect("started");
        let look = || RealFacts::default().running_below(directory.path());
        let before = look();
        std::fs::remove_file(&program).expect("removed");
        let after = look();
        child.kill().expect("killed");
        child.wait().expect("ended");
        for (found, replaced) in [(before, false), (after, true)] {
            let pid = child.id();
            let program = program.canonicalize().unwrap_or_else(|_| program.clone());
            assert_eq!(
                found,
                [Running {
                    pid,
                    program,
                    replaced
                }]
            );
        }
    }

    #[test]
    fn files_and_file_systems_are_looked_at() {
        let facts = RealFacts::default();
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("file");
        assert_eq!(facts.text(&file).expect("looked"), None);
        std::fs::write(&file, "two words\n").expect("written");
        assert_eq!(facts.text(&file).expect("read").as_deref(), Some("two words"));
        assert_eq!(
            facts.entries(directory.path()).expect("read"),
            std::slice::from_ref(&file)
        );
        assert_eq!(
            facts.entries(&directory.path().join("x")).expect("looked"),
            [""; 0].map(PathBuf::from)
        );
        facts.text(directory.path()).expect_err("a directory");
        let found = facts
            .file_system(&directory.path().join("not/there/yet"))
            .expect("looked");
        assert!(found.free_bytes > 0 && !found.read_only, "{found:?}");
        facts.label(&file).expect("looked");
    }

    #[test]
    fn names_are_looked_up() {
        let facts = RealFacts::default();
        assert_eq!(
            facts.addresses("127.0.0.1").expect("an address"),
            [IpAddr::from([127, 0, 0, 1])]
        );
        facts
            .addresses("no.such.host.invalid")
            .expect_err("reserved for this");
    }
}
