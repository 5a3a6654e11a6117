"""Units of executors on a machine, and what they leave behind."""


def executors(machine):
    """Units of executors that systemd knows."""
    listed = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "flame-executor*@*"])
    return [line.split()[0] for line in listed.stdout.splitlines()]


def left_behind(machine):
    """Files of executors, without the limits of slots."""
    found = machine.run(
        ["find", "/run/flame/executors", "/run/flame/records", "/run/flame-executor", "-mindepth", "1"]
    )
    return [line for line in found.stdout.splitlines() if not line.endswith("/.lock")]
