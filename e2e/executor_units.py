"""Units of executors on a machine, and what they leave behind."""

import time

from testbed import wait_until

STANDING_BY = "standing by for an executor"
DIRECTORIES = ("/run/flame/executors", "/run/flame/records", "/run/flame-executor")
SECONDS = 20


def executors(machine):
    """Units of executors that systemd knows, without those that wait for an executor."""
    return sorted(unit for unit, status in _units(machine).items() if status != STANDING_BY)


def standbys(machine):
    """Units that wait for an executor."""
    return sorted(unit for unit, status in _units(machine).items() if status == STANDING_BY)


def _units(machine):
    """Status text of each unit. One that is being started does not say yet what it is, and has time."""
    command = ["systemctl", "show", "--all", "--property=Id,ActiveState,StatusText", "flame-executor*@*"]
    end = time.monotonic() + SECONDS
    while True:
        blocks = filter(None, machine.run(command).stdout.strip().split("\n\n"))
        units = [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks]
        if all(unit["ActiveState"] != "activating" for unit in units) or time.monotonic() > end:
            return {unit["Id"]: unit["StatusText"] for unit in units}
        time.sleep(0.05)


def left_behind(machine):
    """Files of executors, without the limits of slots and what belongs to units that wait for an executor.
    One that is being made has some time for it."""

    def found():
        waiting = {unit.split("@")[1].removesuffix(".service") for unit in standbys(machine)}
        lines = machine.run(["find", *DIRECTORIES, "-mindepth", "1", "-not", "-name", ".lock"]).stdout
        own = [f"/run/flame-executor/{slot}" for slot in waiting]
        return [
            line
            for line in lines.splitlines()
            if not any(line == path or line.startswith(f"{path}/") for path in own)
        ]

    try:
        wait_until(lambda: not found(), SECONDS, "nothing is left behind")
    except TimeoutError:
        return found()
    return []
