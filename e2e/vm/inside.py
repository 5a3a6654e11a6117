"""Runs inside the machine: installs Flame, tries it, and writes what was seen, one JSON object a line.

Nothing is judged here: the test outside does that.
"""

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

BIN = Path(__file__).resolve().parent / "bin"
AGENT = "flame-node-agent.service"
CGROUPS = Path("/sys/fs/cgroup")
# An emulated machine is some twenty times slower than the one it runs on.
PATIENCE = 240
POLL_SECONDS = 0.25
STANDING_BY = "standing by for an executor"
# What the greedy service may have, and what it takes.
ALLOWED = "64m"
TAKEN = 256 << 20
# How long CPU time is measured, and how long the threads spin at most.
WINDOW_SECONDS = 10
SPIN_SECONDS = 600

GREEDY = f"""
blocks = []
for _ in range({TAKEN >> 20}):
    blocks.append(bytearray(b'x') * (1 << 20))
print('took it all')
"""
# Says which process served it: the shell is a child of the service. It mostly sleeps, because the CPUs of an
# emulated machine also have to tell within a second that the greedy service is dead.
NEIGHBOUR = "sleep 2; echo $PPID"
SPIN = f"for i in 1 2; do timeout {SPIN_SECONDS} sh -c 'while :; do :; done' & done; wait"


def run(*words, check=True):
    """The standard output of a command."""
    environment = {**os.environ, "NO_COLOR": "1", "FLAME_ENDPOINT": "http://127.0.0.1:8080"}
    words = [str(word) for word in words]
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def flmctl(*words, check=True):
    """The answer of flmctl."""
    return run(BIN / "flmctl", *words, check=check)


def view(*words):
    """What flmctl shows, as data."""
    return json.loads(flmctl("view", *words, "-o", "json"))


def wait(condition, what):
    """Waits until the condition is true, and returns its value."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"not within {PATIENCE} s: {what}")


def show(unit, *properties):
    """Properties of a unit."""
    shown = run("systemctl", "show", unit, f"--property={','.join(properties)}")
    return dict(line.split("=", 1) for line in shown.splitlines())


def executors():
    """Units of executors that run, without those that wait for one."""
    listed = run("systemctl", "list-units", "--plain", "--no-legend", "--state=active", "flame-executor@*")
    units = [line.split()[0] for line in listed.splitlines()]
    return [unit for unit in units if show(unit, "StatusText")["StatusText"] != STANDING_BY]


def session(resources):
    """The id of a new session for scripts, of one executor with these resources."""
    words = ["-a", "flmexec", "--resreq", resources, "--max-instances", "1"]
    return flmctl("create", "session", *words).split()[0]


def script(language, code):
    """The input of a task that runs this code."""
    return json.dumps({"language": language, "code": code})


def ready():
    """Whether a node is ready for tasks."""
    listed = flmctl("list", "nodes", "-o", "json", check=False)
    return bool(listed) and any(node["state"] == "Ready" for node in json.loads(listed))


def install():
    """Installs Flame, and says what machine this is."""
    run(BIN / "flmadm", "install", "--all", "--skip-build", "--enable", "--bin-dir", BIN)
    wait(ready, "a node is ready")
    return {
        "cgroup": run("stat", "-fc", "%T", CGROUPS).strip(),
        "kernel": os.uname().release,
    }


class Neighbour(threading.Thread):
    """A session that runs one short task after the other until it is told to stop."""

    def __init__(self):
        super().__init__()
        self.session = session("cpu=1,mem=64m")
        self.stop = threading.Event()
        self.ended = []
        self.failures = []
        self.start()

    def run(self):
        while not self.stop.is_set():
            words = ["-s", self.session, "--text", script("shell", NEIGHBOUR), "--wait"]
            try:
                self.ended.append(flmctl("create", "task", *words))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                self.failures.append(str(error))

    def more(self):
        """Waits until two more tasks have ended, so that one has begun after this call."""
        wanted = len(self.ended) + 2
        wait(lambda: len(self.ended) >= wanted or self.failures, "the neighbour's tasks")


def memory():
    """A service takes more memory than its session asked for, beside another one and the agent."""
    neighbour = Neighbour()
    try:
        neighbour.more()
        (unit,) = executors()
        untouched = {"agent": (AGENT, "MainPID", "NRestarts"), "neighbour": (unit, "MainPID", "InvocationID")}
        before = {name: show(*what) for name, what in untouched.items()}
        greedy = session(f"cpu=1,mem={ALLOWED}")
        tasks_before = len(neighbour.ended)
        began = time.monotonic()
        flmctl("create", "task", "-s", greedy, "--text", script("python", GREEDY))
        task = wait(lambda: ended_task(greedy), "the greedy task ends")
        seconds = time.monotonic() - began
        tasks_meanwhile = len(neighbour.ended) - tasks_before
        neighbour.more()
        after = {name: show(*what) for name, what in untouched.items()}
        found = {"task": task, "session": view("session", greedy), "seconds": round(seconds, 1)}
        flmctl("close", "-s", greedy)
    finally:
        neighbour.stop.set()
        neighbour.join()
    flmctl("close", "-s", neighbour.session)
    wait(lambda: not executors(), "no executor is left")
    return {
        **found,
        "before": before,
        "after": after,
        "neighbour": neighbour.ended,
        "neighbour_meanwhile": tasks_meanwhile,
        "neighbour_failures": neighbour.failures,
        "journal": run(
            "journalctl", "-u", "flame-executor@*", "-u", AGENT, "--no-pager", "-o", "short-precise"
        ),
    }


def ended_task(chosen):
    """The only task of the session, once it has ended."""
    task = view("task", "1", "-s", chosen)
    return task if task["state"] in ("Succeed", "Failed") else None


def cpu():
    """Two threads spin in an executor of one CPU, and for comparison in one of two."""
    return {"one": spin("cpu=1,mem=64m"), "two": spin("cpu=2,mem=64m")}


def spin(resources):
    """How many CPUs an executor with these resources gets when two threads want all they can get."""
    chosen = session(resources)
    flmctl("create", "task", "-s", chosen, "--text", script("shell", SPIN))
    (unit,) = wait(executors, "an executor")
    group = CGROUPS / show(unit, "ControlGroup")["ControlGroup"].lstrip("/")
    wait(lambda: spinning(group) == 2, "two threads that spin")
    began, first = time.monotonic(), statistics(group)
    time.sleep(WINDOW_SECONDS)
    last, seconds = statistics(group), time.monotonic() - began
    found = {
        "cpus": (last["usage_usec"] - first["usage_usec"]) / 1e6 / seconds,
        "throttled": last["nr_throttled"] - first["nr_throttled"],
        "seconds": seconds,
        "quota": (group / "cpu.max").read_text().strip(),
    }
    flmctl("close", "--cancel-running", "-s", chosen)
    wait(lambda: not executors(), "no executor is left")
    return found


def spinning(group):
    """How many shells of the executor are in their loop."""
    lines = [Path(f"/proc/{pid}/cmdline") for pid in (group / "cgroup.procs").read_text().split()]
    return sum(line.exists() and line.read_bytes().startswith(b"sh\0-c\0while") for line in lines)


def statistics(group):
    """What the kernel counts of a group's CPU time."""
    lines = (group / "cpu.stat").read_text().splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}


def main():
    """Runs all of it; what goes wrong is a result, too."""
    with open(sys.argv[1], "w") as out:
        for measure in (install, memory, cpu):
            try:
                line = {"measure": measure.__name__, **measure()}
            except Exception:
                journal = run(
                    "journalctl", "-u", "flame*", "--no-pager", "-n", "60", "-o", "cat", check=False
                )
                line = {"measure": measure.__name__, "error": traceback.format_exc(), "journal": journal}
            print(json.dumps(line), file=out, flush=True)


if __name__ == "__main__":
    main()
