//! A machine for unit tests: directories below a temporary one, and units that do what they are told.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flame_core::HostNames;
use flame_core::config::ClusterConfig;
use flame_systemd::manager::UnitStatus;

use super::fake_sight::FakeSight;
use super::sight::Sight;
use super::{Account, Found, Host, Ids, Probed, Units};
use crate::doctor::facts::Facts;
use crate::doctor::facts::fake::FakeFacts;
use crate::failure::{Failure, Kind, Outcome};
use crate::processes::Process;
use crate::scope::Scope;

/// What a test catches that kills the program at a checkpoint.
#[derive(Debug)]
pub(crate) struct Killed;

/// The machine. Public fields are switches of the tests.
pub(crate) struct FakeHost {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) root: bool,
    pub(crate) scope: Scope,
    /// Whether services of the user go on without him.
    pub(crate) linger: Option<bool>,
    pub(crate) has_bus: bool,
    pub(crate) processes: Vec<Process>,
    /// Ports that others use.
    pub(crate) listening: BTreeSet<u16>,
    /// Units whose start fails.
    pub(crate) broken: BTreeSet<String>,
    /// Uid of the user flame if it is there.
    pub(crate) uid: u32,
    /// Units that end again at once after their start.
    pub(crate) short_lived: BTreeSet<String>,
    /// What a probe finds; a failure if there is nothing.
    pub(crate) probed: Option<Probed>,
    /// The checkpoint at which the program dies; see [`Killed`].
    pub(crate) kill_at: Cell<Option<usize>>,
    checkpoints: Cell<usize>,
    /// Starts so far: each has an id of its own.
    starts: Cell<u32>,
    /// Whether the next reload fails.
    pub(crate) reload_fails: Cell<bool>,
    unit_directory: PathBuf,
    package_unit_directories: [PathBuf; 1],
    etc: PathBuf,
    rules: PathBuf,
    control: PathBuf,
    /// Groups without a user, with their numbers.
    pub(crate) groups: RefCell<BTreeMap<String, u32>>,
    /// Instances of templates that run.
    pub(crate) instances: RefCell<Vec<String>>,
    /// What is seen of it.
    pub(crate) sight: FakeSight,
    /// What is known about it.
    pub(crate) facts: FakeFacts,
    calls: RefCell<Vec<String>>,
    pub(super) active: RefCell<BTreeMap<String, u32>>,
}

impl FakeHost {
    pub(crate) fn new() -> Self {
        // In memory, if there is such a place: thousands of installations make and remove many files.
        let memory = Path::new("/dev/shm");
        let directory = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        }
        .expect("temporary directory");
        let place = |below: &str| {
            let path = directory.path().join(below);
            std::fs::create_dir_all(&path).expect("made");
            path
        };
        place("run");
        let host = Self {
            unit_directory: place("etc/systemd/system"),
            package_unit_directories: [place("usr/lib/systemd/system")],
            etc: place("etc"),
            rules: directory.path().join("etc/polkit-1/rules.d"),
            control: directory.path().join("run/systemd/system.control"),
            instances: RefCell::default(),
            groups: RefCell::default(),
            root: true,
            scope: Scope::System,
            linger: Some(false),
            has_bus: true,
            processes: Vec::new(),
            listening: BTreeSet::new(),
            broken: BTreeSet::new(),
            short_lived: BTreeSet::new(),
            probed: Some(Probed::Done),
            kill_at: Cell::new(None),
            checkpoints: Cell::new(0),
            starts: Cell::new(0),
            reload_fails: Cell::new(false),
            uid: 999,
            sight: FakeSight::default(),
            facts: FakeFacts::new(),
            calls: RefCell::default(),
            active: RefCell::default(),
            directory,
        };
        std::fs::write(host.etc.join("passwd"), "root:x:0:0::/root:/bin/sh\n").expect("written");
        host.programs();
        host
    }

    /// As a user without rights sees it, who has no units yet.
    pub(crate) fn of_user() -> Self {
        let mut host = Self::new();
        host.unit_directory = host.path("home/.config/systemd/user");
        host.scope = Scope::User;
        host.root = false;
        host
    }

    /// The path of something on this machine.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    fn programs(&self) {
        let built = self.path("built");
        std::fs::create_dir_all(&built).expect("made");
        for profile in crate::profile::ALL {
            for program in profile.programs() {
                std::fs::write(built.join(program), format!("program {program}")).expect("written");
            }
        }
        std::fs::write(built.join("flmadm"), "program flmadm").expect("written");
    }

    /// Calls of the service manager since the last question.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.take()
    }

    /// Every path with its contents, for a comparison of before and after.
    pub(crate) fn listing(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.directory.path().to_path_buf()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory).expect("read") {
                let path = entry.expect("read").path();
                let kind = path.symlink_metadata().expect("read").file_type();
                let what = if kind.is_dir() {
                    open.push(path.clone());
                    "directory".to_owned()
                } else if kind.is_symlink() {
                    format!("link {:?}", path.read_link().expect("read"))
                } else {
                    std::fs::read_to_string(&path).expect("read")
                };
                found.insert(path, what);
            }
        }
        found
    }

    fn call(&self, text: String) {
        self.calls.borrow_mut().push(text);
    }

    fn account(&self, name: &str, line: Option<&str>) {
        let passwd = self.etc.join("passwd");
        let old = std::fs::read_to_string(&passwd).expect("read");
        std::fs::write(self.etc.join("passwd-"), &old).expect("written");
        let mut new: String = old
            .lines()
            .filter(|l| !l.starts_with(&format!("{name}:")))
            .map(|l| format!("{l}\n"))
            .collect();
        new.push_str(line.unwrap_or_default());
        std::fs::write(passwd, new).expect("written");
    }

    /// Checkpoints passed since the last question.
    pub(crate) fn passed(&self) -> usize {
        self.checkpoints.replace(0)
    }

    /// What runs and what starts at boot, for a comparison of before and after.
    pub(crate) fn services(&self) -> (Vec<String>, Vec<String>) {
        (
            self.active.borrow().keys().cloned().collect(),
            self.sight.enabled(),
        )
    }

    fn run(&self, unit: &str) -> Outcome<()> {
        if self.broken.contains(unit) {
            return Err(Failure::new(Kind::Start, format!("cannot start {unit}")));
        }
        self.starts.set(self.starts.get() + 1);
        self.active
            .borrow_mut()
            .insert(unit.to_owned(), 99 + self.starts.get());
        Ok(())
    }
}

impl Host for FakeHost {
    fn scope(&self) -> Scope {
        self.scope
    }
    fn lingers(&self) -> Option<bool> {
        self.linger
    }
    fn is_root(&self) -> bool {
        self.root
    }
    fn unit_directory(&self) -> &Path {
        &self.unit_directory
    }
    fn package_unit_directories(&self) -> &[PathBuf] {
        &self.package_unit_directories
    }
    fn account_directory(&self) -> &Path {
        &self.etc
    }
    fn rules_directory(&self) -> &Path {
        &self.rules
    }
    fn runtime_directories(&self, names: &HostNames) -> [PathBuf; 2] {
        let run = self.path("run");
        ["flame", "flame-executor"].map(|name| run.join(names.own(name)))
    }
    fn control_directory(&self) -> &Path {
        &self.control
    }
    fn user(&self, name: &str) -> Outcome<Option<Ids>> {
        let passwd = std::fs::read_to_string(self.etc.join("passwd")).expect("read");
        let there = passwd.lines().any(|line| line.starts_with(&format!("{name}:")));
        Ok(there.then_some(Ids {
            uid: self.uid,
            gid: self.uid,
        }))
    }
    fn group(&self, name: &str) -> Outcome<Option<u32>> {
        Ok(self.groups.borrow().get(name).copied())
    }
    fn create_accounts(&self, accounts: &[Account], sysusers: &str) -> Outcome<()> {
        for account in accounts {
            assert!(sysusers.contains(&format!("{} ", account.name())));
            match account {
                Account::User(name) => self.account(name, Some(&format!("{name}:x:999:999::/:/bin/false\n"))),
                Account::Group(name) => drop(self.groups.borrow_mut().insert(name.clone(), 998)),
            }
        }
        Ok(())
    }
    fn remove_account(&self, account: &Account) -> Outcome<()> {
        match account {
            Account::User(name) => self.account(name, None),
            Account::Group(name) => drop(self.groups.borrow_mut().remove(name)),
        }
        Ok(())
    }
    fn set_owner(&self, path: &Path, ids: Ids) -> Outcome<()> {
        assert!(path.exists(), "{}", path.display());
        self.sight.owners.borrow_mut().insert(path.to_owned(), ids);
        Ok(())
    }
    fn is_free(&self, port: u16) -> bool {
        !self.listening.contains(&port)
    }
    fn search_path(&self) -> OsString {
        self.path("usr/bin").into()
    }
    fn running_from(&self, _: &Path) -> Vec<Process> {
        self.processes.clone()
    }
    fn sight(&self) -> &dyn Sight {
        &self.sight
    }
    fn program_of(&self, _: u32) -> Option<PathBuf> {
        None
    }
    fn lock_directory(&self) -> PathBuf {
        self.path("run")
    }
    fn own_program(&self) -> Option<&Path> {
        None
    }
    fn probe(&self, _: &ClusterConfig, _: Duration) -> Outcome<Probed> {
        self.probed
            .clone()
            .ok_or_else(|| Failure::new(Kind::Start, "no task went through"))
    }
    fn checkpoint(&self) {
        let number = self.checkpoints.get() + 1;
        self.checkpoints.set(number);
        if self.kill_at.get() == Some(number) {
            self.kill_at.set(None);
            // Not as a panic, of which the hook would tell.
            std::panic::resume_unwind(Box::new(Killed));
        }
    }
    fn facts(&self) -> &dyn Facts {
        &self.facts
    }
    fn systemd(&self) -> Outcome<&dyn Units> {
        if self.has_bus {
            Ok(self)
        } else {
            Err(Failure::new(Kind::Systemd, "cannot reach D-Bus"))
        }
    }
}

impl Units for FakeHost {
    fn reload(&self) -> Outcome<()> {
        self.call("reload".to_owned());
        if self.reload_fails.take() {
            Err(Failure::new(Kind::Systemd, "cannot reload"))
        } else {
            Ok(())
        }
    }
    fn enable(&self, units: &[&str]) -> Outcome<()> {
        self.call(format!("enable {}", units.join(" ")));
        self.sight.set_enabled(units, true);
        Ok(())
    }
    fn disable(&self, units: &[&str]) -> Outcome<()> {
        self.call(format!("disable {}", units.join(" ")));
        self.sight.set_enabled(units, false);
        Ok(())
    }
    fn start(&self, unit: &str) -> Outcome<()> {
        self.start_within(unit, Duration::ZERO)
    }
    fn restart(&self, unit: &str) -> Outcome<()> {
        self.restart_within(unit, Duration::ZERO)
    }
    fn launch(&self, unit: &str) -> Outcome<()> {
        self.call(format!("launch {unit}"));
        Ok(())
    }
    fn kill(&self, unit: &str) {
        self.call(format!("kill {unit}"));
    }
    fn start_within(&self, unit: &str, _: Duration) -> Outcome<()> {
        self.call(format!("start {unit}"));
        self.run(unit)
    }
    fn restart_within(&self, unit: &str, _: Duration) -> Outcome<()> {
        self.call(format!("restart {unit}"));
        self.run(unit)
    }
    fn stop(&self, unit: &str) -> Outcome<()> {
        self.call(format!("stop {unit}"));
        self.active.borrow_mut().remove(unit);
        self.instances.borrow_mut().retain(|instance| instance != unit);
        Ok(())
    }
    fn reset_failed(&self, _: &str) -> Outcome<()> {
        Ok(())
    }
    fn status(&self, unit: &str) -> Outcome<UnitStatus> {
        // systemd has no state of these, either.
        assert!(!unit.contains("@."), "{unit} is a template");
        let mut status = UnitStatus::named(unit);
        if self.unit_directory.join(unit).exists() {
            status.load_state = "loaded".to_owned();
        }
        if let Some(pid) = self.active.borrow().get(unit) {
            status.active_state = "active".to_owned();
            status.invocation_id = Some(pid.to_string());
            status.main_pid = unit.ends_with(".service").then_some(*pid);
            status.status_text = Some("registered with http://127.0.0.1:8080".to_owned());
        }
        if self.instances.borrow().iter().any(|instance| instance == unit) {
            status.load_state = "loaded".to_owned();
        }
        self.sight.adjust(&mut status);
        Ok(status)
    }
    fn environment(&self, unit: &str) -> Outcome<Vec<String>> {
        Ok(self.sight.environment(unit))
    }
    fn loaded(&self, pattern: &str) -> Outcome<Vec<String>> {
        let (before, after) = pattern.split_once('*').expect("a pattern with one star");
        let mut found = self.instances.borrow().clone();
        found.retain(|unit| unit.starts_with(before) && unit.ends_with(after));
        Ok(found)
    }
    fn watch(
        &self,
        unit: &str,
        _: Duration,
        look: &dyn Fn(&UnitStatus) -> Found,
    ) -> Outcome<Option<Result<(), String>>> {
        if self.short_lived.contains(unit) {
            self.active.borrow_mut().remove(unit);
        }
        Ok(look(&self.status(unit)?))
    }
}
