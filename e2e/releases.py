"""Other releases of Flame for upgrades: the tested programs with a small difference, and ones that fail."""

from machine import BIN

# Where they lie on a node: not on the tmpfs of /tmp, which may be small.
SHELF = "/var/tmp/flame-releases"
# Stand-ins for a session manager: what systemd and clients see of one that is broken.
CRASHES = "#!/bin/sh\nexit 1\n"
CRASHES_LATER = "#!/bin/sh\nsystemd-notify --ready\nsleep 1\nexit 1\n"
HANGS = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n"


def shelve(machine, name, **replaced):
    """A folder with all programs, each with `name` at its end, which none minds; some are other texts."""
    folder = f"{SHELF}/{name}"
    machine.run(["mkdir", "-p", folder])
    each = f'cp "$p" {folder}/; printf %s "{name}" >> {folder}/$(basename "$p")'
    script = f"for p in {BIN}/*; do {each}; done"
    machine.run(["sh", "-c", script])
    for program, text in replaced.items():
        machine.node.write(f"{folder}/{program.replace('_', '-')}", text, mode="755")
    return folder


def upgrade(machine, folder, *words, check=True, timeout=90, env=None):
    """Runs `flmadm upgrade` of that release, with its own flmadm."""
    command = [f"{folder}/flmadm", "upgrade", "--bin-dir", folder, *words]
    return machine.run(command, check=check, timeout=timeout, env=env)


def current(machine, prefix="/usr/local/flame"):
    """Name of the current release."""
    return machine.run(["readlink", f"{prefix}/current"]).stdout.strip().rsplit("/", 1)[-1]
