"""What an executor cannot reach from inside its unit. Root can do it all, so it can be seen to work."""

import contextlib
import json
import re

import pytest
from executor_units import executors
from machine import AGENT, PREFIX
from testbed import wait_until

pytestmark = pytest.mark.nodes

NODE = "isolation"
PROFILES = ("none", "standard", "strict")
TEMPLATES = {"none": "flame-executor-open", "standard": "flame-executor", "strict": "flame-executor-strict"}
SECONDS = 30
SECRET = "a-secret-of-the-victim"
# Programs that do one thing; an error says in words why not.
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
MEMORY = """
import sys
pid = sys.argv[1]
with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
    memory.seek(int(maps.readline().split("-")[0], 16))
    assert memory.read(1)
"""
TRACE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(0x4206, int(sys.argv[1]), 0, 0):
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""
RAW = "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)"
PACKETS = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"
KEYS = {"connect": CONNECT, "memory": MEMORY, "trace": TRACE, "raw": RAW, "packets": PACKETS}

# What is denied in each sandbox, and without one, too. $victim is another executor's process, $unit its unit.
DENIED = {
    "the records of executors": "ls /run/flame/records/.",
    "the specs of executors": "ls /run/flame/executors/.",
    "the id of the node": f"cat {PREFIX}/work/nodes/{NODE}/node-id",
    "the manager's data": f"ls {PREFIX}/data/.",
    "logs of the daemons": f"ls {PREFIX}/logs/.",
    "root's files": "cat /root/secret",
    "passwords": "cat /etc/shadow",
    "the journal": "head -c1 /var/log/journal/*/system.journal",
    "a file in /": "touch /x && rm /x",
    "a file in /usr": "touch /usr/x && rm /usr/x",
    "a file in /etc": "touch /etc/x && rm /etc/x",
    "a file in /run": "touch /run/x && rm /run/x",
    "a file in /var/lib": "touch /var/lib/x && rm /var/lib/x",
    "a file in /opt": "touch /opt/x && rm /opt/x",
    "a file in the prefix": f"touch {PREFIX}/x && rm {PREFIX}/x",
    "a program of Flame": f"touch {PREFIX}/bin/flmping",
    "a unit file": "touch /run/systemd/system/x.service && rm /run/systemd/system/x.service",
    "the agent's environment": "cat /proc/$agent/environ",
    "the agent's memory": 'python3 -c "$memory" $agent',
    "tracing the agent": 'python3 -c "$trace" $agent',
    "a signal to the agent": "kill -0 $agent",
    "a signal to systemd": "kill -0 1",
    "another user": "setpriv --reuid=0 true",
    "a mount": "mount -t tmpfs x /mnt && umount /mnt",
    "another root": "chroot / true",
    "systemd's own socket": 'python3 -c "$connect" /run/systemd/private',
    "starting a unit": "busctl call {systemd} StartUnit ss flame.slice replace",
    "ending an executor": "busctl call {systemd} KillUnit ssi $unit all 18",
    "raw sockets": 'python3 -c "$raw"',
    "packet sockets": 'python3 -c "$packets"',
}
# What is denied in a sandbox only: without one, executors are not protected from each other.
DENIED_IN_A_SANDBOX = {
    "another's socket": 'python3 -c "$connect" /run/flame-executor/$slot/instance.sock',
    "another's directory": "ls /run/flame-executor/$slot/.",
    "another's credential": "cat /run/credentials/$unit/spec",
    "another's process": "ls /proc/$victim/.",
    "another's environment": "cat /proc/$victim/environ",
    "another's memory": 'python3 -c "$memory" $victim',
    "tracing another": 'python3 -c "$trace" $victim',
    "a signal to another": "kill -0 $victim",
    "another's /tmp": f"grep {SECRET} /proc/$victim/root/tmp/secret",
    "another's /var/tmp": f"grep {SECRET} /proc/$victim/root/var/tmp/secret",
    "another's shared memory": f"grep {SECRET} /dev/shm/secret-of-{{profile}}",
    "writing to another's shared memory": "echo x >>/dev/shm/secret-of-{profile}",
    "a file in /run/lock": "touch /run/lock/x && rm /run/lock/x",
    "a user's files": "cat /home/somebody/public",
    "the system bus": 'python3 -c "$connect" /run/dbus/system_bus_socket',
    "a program of root": "test $(/opt/id-of-root -u) = 0",
    "making a program of its own user": 'cp /usr/bin/id "$own/id" && chmod 4755 "$own/id"',
    "a user namespace": "unshare --user true",
    "a mount namespace": "unshare --mount true",
}
DEVICES = {
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts/ptmx")
}
SYSTEMD = "org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager"
# What the system says of what it does not allow, and of what it does not show.
REFUSALS = (
    "Permission denied|Operation not permitted|No such (file|process)|Read-only file system|[Aa]ccess denied"
    "|authentication required|must be superuser|Address family not supported"
)
TRY = """
try() {
    if said=$(sh -c "$2" 2>&1 >/dev/null)
    then echo "$1: allowed"
    else echo "$1: denied, $(echo "$said" | tr '\\n' ' ')"
    fi
}
"""


@pytest.fixture(scope="module")
def machine(make_bed):
    """One node whose executors have no sandbox unless their application wants one."""
    (machine,) = make_bed(NODE)
    machine.install("--all", "--enable")
    environment = "FLAME_NODE_SANDBOX=none FLAME_NODE_RESOURCES=cpu=4,mem=4g"
    machine.drop_in(AGENT, f"[Service]\nEnvironment={environment}\n")
    machine.run(["systemctl", "restart", AGENT])
    machine.wait_ready(NODE)
    for profile in PROFILES:
        label = [] if profile == "none" else ["--label", f"sandbox={profile}"]
        command = ["--command", f"{PREFIX}/bin/flmexec-service"]
        machine.tool("flmctl", "register", "application", application(profile), *command, *label)
    machine.node.write("/root/secret", "x", "600")
    machine.node.write("/home/somebody/public", "x")
    machine.run(["install", "-m", "4755", "/usr/bin/id", "/opt/id-of-root"])
    return machine


def application(profile):
    """The application whose executors have this sandbox."""
    return f"exec-{profile}"


def execute(machine, profile, script):
    """What a script prints that runs in an executor with this sandbox."""
    return machine.run(
        ["/opt/flame-bin/flmexec", "-a", application(profile), "-l", "shell", "-"],
        stdin=script,
        env={"FLAME_ENDPOINT": machine.endpoint},
    ).stdout


def shared(profile):
    """Files of the victim in directories that it has in common with others."""
    return [f"{place}/secret-of-{profile}" for place in ("/dev/shm", "/dev/mqueue")]


@contextlib.contextmanager
def victim(machine, profile):
    """An executor with this sandbox that has secrets, and is bound to a session of its own; its unit."""
    session = machine.tool(
        "flmctl", "create", "session", "-a", application(profile), "--max-instances", "1"
    ).stdout.split()[0]
    secret, queue = shared(profile)
    files = f"/tmp/secret /var/tmp/secret {secret}"
    code = f"set -e; : >{queue}; for file in {files}; do echo {SECRET} >$file; done"
    text = json.dumps({"language": "shell", "code": code})
    machine.tool("flmctl", "create", "task", "-s", session, "--text", text, "--wait")
    try:
        (unit,) = executors(machine)
        assert unit.startswith(f"{TEMPLATES[profile]}@"), unit
        yield unit
    finally:
        machine.tool("flmctl", "close", "-s", session)
        wait_until(lambda: executors(machine) == [], SECONDS, "the victim has ended")


def probe(machine, profile, unit, attempts, own):
    """A script that tries each of these, and says what came of it."""
    values = {
        "victim": machine.node.main_pid(unit),
        "agent": machine.node.main_pid(AGENT),
        "unit": unit,
        "slot": unit.split("@")[1].removesuffix(".service"),
        "own": own,
        **KEYS,
    }
    lines = [f"export {name}='{value}'" for name, value in values.items()]
    lines.append(TRY)
    for name, command in attempts.items():
        command = command.replace("{profile}", profile).replace("{systemd}", SYSTEMD)
        quoted = command.replace("'", "'\\''")
        lines.append(f"try \"{name}\" '{quoted}'")
    return "\n".join(lines) + "\n"


def found(text):
    """What the script said: name -> what came of it."""
    return dict(line.split(": ", 1) for line in text.splitlines())


@pytest.mark.parametrize("profile", PROFILES)
def test_what_an_executor_cannot_do(machine, profile):
    attempts = DENIED if profile == "none" else {**DENIED, **DENIED_IN_A_SANDBOX}
    with victim(machine, profile) as unit:
        inside = found(execute(machine, profile, probe(machine, profile, unit, attempts, "/tmp")))
        outside = found(machine.run(["sh"], stdin=probe(machine, profile, unit, attempts, "/root")).stdout)
    assert outside == dict.fromkeys(attempts, "allowed"), "root cannot do it, so the test says nothing"
    assert inside.keys() == attempts.keys()
    other = {name: said for name, said in inside.items() if not said.startswith("denied, ")}
    assert other == {}
    # For a reason that a sandbox has: a program that is missing would be denied, too.
    unclear = {
        name: said
        for name, said in inside.items()
        if not re.search(REFUSALS, said) and name != "a program of root"
    }
    assert unclear == {}
    if profile != "none":
        # What it left where others could leave something went with it.
        assert not machine.run(["ls", *shared(profile)], check=False).stdout


def test_a_program_of_root_is_one_for_users(machine):
    """The control of an attempt that root could not fail."""
    words = ["setpriv", "--reuid=nobody", "--clear-groups", "/opt/id-of-root", "-u"]
    assert machine.run(words).stdout == "0\n"


@pytest.mark.parametrize("profile", ["standard", "strict"])
def test_a_process_in_a_sandbox_has_no_privileges_to_gain(machine, profile):
    words = "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status"
    inside = dict(line.split(":\t") for line in execute(machine, profile, words).splitlines())
    none = "0" * 16
    assert inside == {
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), none),
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }
    assert not machine.run(["sh", "-c", f"{words} | grep CapBnd"]).stdout.endswith(f"{none}\n")


@pytest.mark.parametrize("profile", ["standard", "strict"])
def test_a_sandbox_is_closed(machine, profile):
    """Everything that a process in it may write to, wherever that is."""
    kinds = "'(' -type d -o -type f -o -type b -o -type c ')'"
    script = f"find / -path /proc -prune -o {kinds} -writable -print 2>/dev/null; true"
    inside = execute(machine, profile, script).splitlines()
    directories = ["/dev/mqueue", "/dev/shm", "/run/flame-executor/SLOT", "/tmp", "/var/tmp"]
    own = "|".join(directories).replace("SLOT", "[0-9]+")
    assert {path for path in inside if not re.match(f"({own})(/|$)", path)} <= DEVICES
    places = [re.sub("/[0-9]+$", "/SLOT", path) for path in inside if re.fullmatch(own, path)]
    assert sorted(places) == directories
    # On the machine itself there are more places for everybody.
    everybody = machine.run(["find", "/run", "-type", "d", "-perm", "-0002"]).stdout.split()
    assert "/run/lock" in everybody


@pytest.mark.parametrize("profile", PROFILES)
def test_an_executor_has_a_place_of_its_own(machine, profile):
    script = f"""
    set -e
    connect='{CONNECT}'
    python3 -c "$connect" /run/flame-executor/*/instance.sock
    for d in "$PWD" /tmp /var/tmp /dev/shm; do echo x >$d/x; cat $d/x; rm $d/x; done
    """
    assert execute(machine, profile, script) == "x\n" * 4
