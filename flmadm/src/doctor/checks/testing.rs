//! Machines for the tests of checks.

use std::cell::RefCell;

use crate::doctor::check::{Check, Look};
use crate::doctor::facts::fake::FakeFacts;
use crate::doctor::site::Site;
use crate::host::fake::FakeHost;
use crate::host::snapshot::Snapshot;
use crate::host::{Host, Units};
use crate::install::install_on_fake;
use crate::manifest::Manifest;
use crate::prefix::Prefix;

/// What a test expects of a check, with a part of the words.
#[derive(Debug)]
pub(crate) enum Found {
    Good,
    Wrong(&'static str),
    Unknown(&'static str),
}

/// A machine with everything installed.
pub(crate) struct Machine {
    pub(crate) host: FakeHost,
    pub(crate) prefix: Prefix,
}

impl Machine {
    /// With systemd units.
    pub(crate) fn new() -> Self {
        Self::with("--all")
    }

    /// As `flmadm install LINE` makes it.
    pub(crate) fn with(line: &str) -> Self {
        let host = FakeHost::new();
        install_on_fake(&host, line).expect("installed");
        Self::on(host)
    }

    /// As a user makes it for himself.
    pub(crate) fn of_user(line: &str) -> Self {
        let host = FakeHost::of_user();
        install_on_fake(&host, &format!("{line} --user")).expect("installed");
        Self::on(host)
    }

    /// Without an installation.
    pub(crate) fn bare() -> Self {
        Self::on(FakeHost::new())
    }

    /// The machine `host`.
    pub(crate) fn on(host: FakeHost) -> Self {
        let prefix = Prefix::new(&host.path("opt/flame")).expect("a prefix");
        Self { host, prefix }
    }

    /// What is known about the machine, to break it.
    pub(crate) fn facts(&mut self) -> &mut FakeFacts {
        &mut self.host.facts
    }

    /// Starts all services.
    pub(crate) fn start(&mut self) {
        for unit in self.manifest().expect("installed").installable() {
            self.host.start(unit).expect("started");
        }
    }

    /// Stops everything.
    fn stop(&mut self) {
        let running = self.host.instances.borrow().clone();
        let units = self.manifest().expect("installed").units;
        for unit in units.iter().chain(&running) {
            self.host.stop(unit).expect("stopped");
        }
    }

    pub(crate) fn manifest(&self) -> Option<Manifest> {
        Manifest::load(&self.prefix).expect("read")
    }

    /// Looks at it with one check.
    pub(crate) fn look(&self, id: &str) -> Look {
        let manifest = self.manifest();
        let host: &dyn Host = &self.host;
        let site = Site::new(host, &self.prefix, manifest.as_ref());
        let check: &Check = super::all().find(|check| check.id == id).expect("a check");
        (check.look)(&site)
    }
}

thread_local! {
    /// Installed once for all tests of a thread, which takes most of their time, with its files as they were then.
    static SHARED: RefCell<Option<(Machine, Snapshot)>> = const { RefCell::new(None) };
}

/// As [`expect`], for what breaks nothing but what is known about the machine.
pub(crate) fn expect_facts(id: &str, expected: &Found, break_it: impl FnOnce(&mut FakeFacts)) {
    on_shared(|machine| {
        break_it(&mut machine.host.facts);
        expect_of(machine, id, expected);
    });
}

/// Breaks a healthy machine, and says what the check `id` must find.
pub(crate) fn expect(id: &str, expected: &Found, break_it: impl FnOnce(&mut Machine)) {
    on_shared(|machine| {
        break_it(machine);
        expect_of(machine, id, expected);
    });
    SHARED.with_borrow_mut(|shared| {
        let (machine, snapshot) = shared.as_mut().expect("made");
        snapshot.restore();
        machine.stop();
    });
}

fn on_shared(look: impl FnOnce(&mut Machine)) {
    SHARED.with_borrow_mut(|shared| {
        let (machine, _) = shared.get_or_insert_with(|| {
            let machine = Machine::new();
            let snapshot = Snapshot::of(machine.host.directory.path());
            (machine, snapshot)
        });
        machine.host.facts = FakeFacts::new();
        machine.host.sight.forget_changes();
        machine.host.uid = 999;
        machine.host.has_bus = true;
        look(machine);
    });
}

/// The same of a machine that is as it is.
pub(crate) fn expect_of(machine: &Machine, id: &str, expected: &Found) {
    match (machine.look(id), expected) {
        (Ok(Ok(_)), Found::Good) => {}
        (Ok(Err(found)), Found::Wrong(words)) => {
            assert!(
                found.evidence.contains(words),
                "{id}: {words:?} is not in {found:?}"
            );
            assert!(!found.remedy.is_empty(), "{id}: {found:?}");
        }
        (Err(failure), Found::Unknown(words)) => {
            assert!(failure.report().contains(words), "{id}: {}", failure.report());
        }
        (found, expected) => panic!("{id}: {found:?} instead of {expected:?}"),
    }
}
