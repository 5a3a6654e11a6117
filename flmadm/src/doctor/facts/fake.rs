//! A machine for tests: healthy until a test breaks it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Facts, FileSystem, Listener, Running};
use crate::failure::{Failure, Kind, Outcome};

/// A healthy machine; every field is a switch.
pub(crate) struct FakeFacts {
    pub(crate) now: SystemTime,
    pub(crate) texts: BTreeMap<PathBuf, String>,
    /// Paths that cannot be looked at, whatever is asked about them.
    pub(crate) closed: BTreeSet<PathBuf>,
    pub(crate) file_system: FileSystem,
    /// File systems that are others below these paths.
    pub(crate) mounted: BTreeMap<PathBuf, FileSystem>,
    pub(crate) labels: BTreeMap<PathBuf, String>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) running: Vec<Running>,
    pub(crate) hosts: BTreeMap<String, IpAddr>,
    /// Ports of other machines, and of this one, that answer.
    pub(crate) answers: BTreeSet<u16>,
    /// Whether D-Bus answers at all.
    pub(crate) bus: bool,
    pub(crate) systemd: String,
    /// Version of polkit; without one, it is not there.
    pub(crate) polkit: Option<String>,
    /// Whether polkit answers if it is there.
    pub(crate) polkit_answers: bool,
    pub(crate) may_start: bool,
    pub(crate) synchronized: bool,
}

/// What a machine of today says.
const TEXTS: [(&str, &str); 13] = [
    ("/proc/1/comm", "systemd"),
    ("/proc/sys/kernel/osrelease", "6.1.0-18-amd64"),
    ("/proc/sys/kernel/hostname", "node1"),
    ("/proc/sys/kernel/pid_max", "4194304"),
    ("/proc/sys/kernel/threads-max", "63704"),
    ("/proc/loadavg", "0.00 0.01 0.05 1/200 1234"),
    ("/proc/sys/fs/nr_open", "1048576"),
    ("/proc/sys/fs/inotify/max_user_instances", "128"),
    ("/proc/sys/user/max_user_namespaces", "31852"),
    (
        "/sys/fs/cgroup/cgroup.controllers",
        "cpuset cpu io memory hugetlb pids rdma",
    ),
    (
        "/etc/nsswitch.conf",
        "passwd: files systemd\ngroup: files [SUCCESS=merge] systemd\nhosts: files dns",
    ),
    (
        "/proc/meminfo",
        "MemTotal:        8000000 kB\nMemFree:  1000000 kB\nMemAvailable:    6000000 kB",
    ),
    (
        "/proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\nMax open files            65536                1048576              files",
    ),
];

impl FakeFacts {
    pub(crate) fn new() -> Self {
        Self {
            now: SystemTime::now() + Duration::from_secs(60),
            texts: TEXTS
                .map(|(path, text)| (PathBuf::from(path), text.to_owned()))
                .into(),
            closed: BTreeSet::new(),
            file_system: FileSystem {
                id: 1,
                free_bytes: 50 << 30,
                free_files: Some(1_000_000),
                read_only: false,
                no_programs: false,
            },
            mounted: BTreeMap::new(),
            labels: BTreeMap::new(),
            listeners: Vec::new(),
            running: Vec::new(),
            hosts: BTreeMap::from([("127.0.0.1".to_owned(), IpAddr::from([127, 0, 0, 1]))]),
            answers: BTreeSet::from([8080, 8081]),
            bus: true,
            systemd: "252.39-1~deb12u1".to_owned(),
            polkit: Some("122".to_owned()),
            polkit_answers: true,
            may_start: true,
            synchronized: true,
        }
    }

    /// Says something else in a file.
    pub(crate) fn say(&mut self, path: &str, text: &str) {
        self.texts.insert(path.into(), text.to_owned());
    }

    fn look(&self, path: &Path) -> Outcome<()> {
        match self.closed.contains(path) {
            true => Err(Failure::path(
                "read",
                path,
                std::io::ErrorKind::PermissionDenied.into(),
            )),
            false => Ok(()),
        }
    }

    fn asked<T>(&self, answer: T) -> Outcome<T> {
        match self.bus {
            true => Ok(answer),
            false => Err(Failure::new(Kind::Systemd, "cannot reach D-Bus")),
        }
    }
}

impl Facts for FakeFacts {
    fn now(&self) -> SystemTime {
        self.now
    }
    fn text(&self, path: &Path) -> Outcome<Option<String>> {
        self.look(path)?;
        Ok(self.texts.get(path).cloned())
    }
    fn entries(&self, directory: &Path) -> Outcome<Vec<PathBuf>> {
        self.look(directory)?;
        let below = self
            .texts
            .keys()
            .filter_map(|path| path.strip_prefix(directory).ok());
        let names: BTreeSet<PathBuf> = below
            .filter_map(|path| path.components().next())
            .map(|name| directory.join(name))
            .collect();
        Ok(names.into_iter().collect())
    }
    fn file_system(&self, path: &Path) -> Outcome<FileSystem> {
        self.look(path)?;
        let mounted = path.ancestors().find_map(|path| self.mounted.get(path));
        Ok(*mounted.unwrap_or(&self.file_system))
    }
    fn label(&self, path: &Path) -> Outcome<Option<String>> {
        self.look(path)?;
        Ok(self.labels.get(path).cloned())
    }
    fn listeners(&self, ports: &[u16]) -> Outcome<Vec<Listener>> {
        self.look(Path::new("/proc/net/tcp"))?;
        let mut found = self.listeners.clone();
        found.retain(|listener| ports.contains(&listener.address.port()));
        Ok(found)
    }
    fn running_below(&self, directory: &Path) -> Vec<Running> {
        let mut found = self.running.clone();
        found.retain(|process| process.program.starts_with(directory));
        found
    }
    fn addresses(&self, host: &str) -> Outcome<Vec<IpAddr>> {
        match self.hosts.get(host) {
            Some(address) => Ok(vec![*address]),
            None => Err(Failure::installation(format!(
                "cannot find the address of {host}"
            ))),
        }
    }
    fn connect(&self, host: &str, port: u16) -> Outcome<SocketAddr> {
        let address = SocketAddr::new(self.addresses(host)?[0], port);
        match self.answers.contains(&port) {
            true => Ok(address),
            false => Err(Failure::installation(format!("cannot connect to {address}"))),
        }
    }
    fn systemd_version(&self) -> Outcome<String> {
        self.asked(self.systemd.clone())
    }
    fn has_polkit(&self) -> Outcome<bool> {
        self.asked(self.polkit.is_some())
    }
    fn polkit_version(&self) -> Outcome<String> {
        match (&self.polkit, self.polkit_answers) {
            (Some(version), true) => self.asked(version.clone()),
            _ => Err(Failure::new(Kind::Systemd, "polkit does not answer")),
        }
    }
    fn may_start(&self, _: u32, _: u32, _: &str) -> Outcome<bool> {
        self.asked(self.may_start)
    }
    fn clock_is_synchronized(&self) -> Outcome<bool> {
        self.asked(self.synchronized)
    }
}
