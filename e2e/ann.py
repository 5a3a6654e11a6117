"""Ann, who is not root, and her service manager, which runs without a session of hers."""

from machine import BIN, FLMADM
from testbed import wait_until

UID = 1000
HOME = "/home/ann"
RUNTIME = f"/run/user/{UID}"
PREFIX = f"{HOME}/.local/share/flame"
ENVIRONMENT = {"HOME": HOME, "XDG_RUNTIME_DIR": RUNTIME, "NO_COLOR": "1"}
# What makes a command hers, as in a session of hers.
AS_ANN = (
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--init-groups", "env"),
    *(f"{key}={value}" for key, value in ENVIRONMENT.items()),
)
# The directory of the journal, and what any program of the user leaves in the manager that runs all the time.
OTHERS = (
    *("/var/log/journal", f"{RUNTIME}/systemd/", "/run/systemd/", "/run/log/"),
    # Of services of systemd that run while they are asked, as timedated.
    *("/tmp/systemd-private-", "/var/tmp/systemd-private-"),
)
START_SECONDS = 60


class Ann:
    """A user of the machine who is not root."""

    def __init__(self, machine):
        self.machine = machine
        machine.run(["useradd", "--create-home", f"--uid={UID}", "--shell=/bin/sh", "ann"])
        machine.run(["loginctl", "enable-linger", "ann"])
        runs = ["systemctl", "--user", "is-system-running"]
        wait_until(
            lambda: self.run(runs, check=False).stdout.strip() == "running",
            START_SECONDS,
            "the service manager of ann",
        )
        # The first use of the bus starts it, and it makes a directory.
        self.run(["busctl", "--user", "list"])

    def run(self, command, check=True, env=None, timeout=120):
        """Runs a command as her."""
        words = [f"{key}={value}" for key, value in (env or {}).items()]
        return self.machine.run([*AS_ANN, *words, *command], check=check, timeout=timeout)

    def flmadm(self, *words, **options):
        """flmadm on her installation."""
        return self.run([FLMADM, *words], **options)

    def install(self, *words, **options):
        """Installs the prebuilt programs for her."""
        return self.flmadm("install", "--user", "--skip-build", "--bin-dir", BIN, *words, **options)

    def active(self, unit):
        """Whether her service manager calls the unit active."""
        return self.run(["systemctl", "--user", "is-active", unit], check=False).stdout.strip() == "active"

    def files(self):
        """All files of the machine, without what does not belong to anybody's installation."""
        return {path: what for path, what in self.machine.files().items() if not path.startswith(OTHERS)}
