"""Two installations with units on one machine: both work, and what happens to one leaves the other alone."""

import json

import pytest
from machine import BIN, FLMADM, PREFIX, difference, whole
from testbed import wait_until

pytestmark = pytest.mark.nodes

NODE = "both"
PROD = f"{PREFIX}-prod"
MANAGER = "flame-prod-session-manager.service"
AGENT = "flame-prod-node-agent.service"
UNITS = ("flame-prod.target", MANAGER, AGENT)
OTHERS = ("flame.target", "flame-session-manager.service", "flame-node-agent.service")
WORK_SECONDS = 60
SLOW_TASK = '{"duration": 3000, "memory": null}'
# The first installation goes on working meanwhile, and systemd keeps what it keeps of any.
LIVING = (
    f"{PREFIX}/data/",
    f"{PREFIX}/logs/",
    "/run/flame",
    "/run/credentials/",
    "/run/systemd/",
    "/tmp/",
    "/var/tmp/",
)


@pytest.fixture(scope="module")
def machine(make_bed):
    """A machine with an installation, whose state before the second one is known."""
    machine = whole(make_bed, NODE)
    machine.flmping("-t", "5")
    machine.before = machine.files()
    machine.accounts = accounts(machine)
    return machine


@pytest.fixture(scope="module")
def prod(machine):
    """The endpoint of an instance beside it."""
    done = machine.install("--all", "--enable", "--instance", "prod", "-o", "json")
    endpoint = json.loads(done.stdout)["endpoint"]
    wait_until(lambda: ready(machine, endpoint), WORK_SECONDS, "the node ready in the instance")
    return endpoint


def ready(machine, endpoint):
    """Whether the node can run tasks of this cluster."""
    listing = flmctl(machine, endpoint, "list", "nodes", check=False)
    return listing.ok and [node["state"] for node in json.loads(listing.stdout)] == ["Ready"]


def flmctl(machine, endpoint, *words, check=True):
    """flmctl as a client of this cluster, with JSON."""
    return machine.tool("flmctl", *words, "-o", "json", check=check, env={"FLAME_ENDPOINT": endpoint})


def flmping(machine, endpoint, tasks):
    """How many of so many tasks succeed."""
    command = machine.tool("flmping", "-t", str(tasks), "--output", "json", env={"FLAME_ENDPOINT": endpoint})
    return json.loads(command.stdout)["succeeded"]


def accounts(machine):
    """All users and groups."""
    return machine.run(["sh", "-c", "cat /etc/passwd /etc/group /etc/shadow /etc/gshadow"]).stdout


def executors(machine, stem):
    """The units of executors of an installation that run a service or wait for one."""
    pattern = f"{stem}-executor*@*.service"
    listing = machine.run(["systemctl", "list-units", "--plain", "--no-legend", "--state=active", pattern])
    return [line.split()[0] for line in listing.stdout.splitlines()]


def busy(machine, endpoint):
    """Gives an executor of this cluster work for a while, and returns the session."""
    env = {"FLAME_ENDPOINT": endpoint, "TASK": SLOW_TASK}
    session = machine.tool("flmctl", "create", "session", "-a", "flmping", env=env).stdout.split()[0]
    machine.run(["sh", "-c", f'{BIN}/flmctl create task -s {session} --text "$TASK"'], env=env)

    def runs():
        tasks = json.loads(flmctl(machine, endpoint, "list", "tasks", "-s", session).stdout)
        return [task["state"] for task in tasks] == ["Running"]

    wait_until(runs, WORK_SECONDS, f"a task of {endpoint} runs")
    return session


def finished(machine, endpoint, session):
    """Whether the one task of the session succeeded."""
    tasks = json.loads(flmctl(machine, endpoint, "list", "tasks", "-s", session).stdout)
    return [task["state"] for task in tasks] == ["Succeed"]


def test_an_instance_has_its_own_address_units_and_users(machine, prod):
    assert prod == "http://127.0.0.1:8090"
    for unit in (*UNITS, *OTHERS):
        assert machine.active(unit), unit
    for unit, user in ((AGENT, "flame-prod"), (OTHERS[2], "flame")):
        pid = machine.node.main_pid(unit)
        assert machine.run(["ps", "-o", "user:20=", "-p", str(pid)]).stdout.strip() == user
    assert machine.show(AGENT, "Slice")["Slice"] == "flame_prod.slice"
    assert machine.show("flame_prod.slice", "Slice")["Slice"] == "-.slice"
    assert machine.run([FLMADM, "status", "--instance", "prod"]).ok
    assert machine.run([FLMADM, "status"]).ok


def test_tasks_run_in_both_at_the_same_time(machine, prod):
    sessions = [(at, busy(machine, at)) for at in (machine.endpoint, prod)]
    own, of_prod = executors(machine, "flame"), executors(machine, "flame-prod")
    assert own and of_prod and not set(own) & set(of_prod)
    users = {
        unit: machine.run(["ps", "-o", "user:32=", "-p", str(machine.node.main_pid(unit))]).stdout.strip()
        for unit in own + of_prod
    }
    assert len(set(users.values())) == len(users), f"slots share a user: {users}"
    for at, session in sessions:
        wait_until(lambda at=at, session=session: finished(machine, at, session), WORK_SECONDS, "both done")
    assert (flmping(machine, machine.endpoint, 100), flmping(machine, prod, 100)) == (100, 100)


def test_the_agent_of_one_may_not_touch_executors_of_the_other(machine, prod):
    for user, stem in (("flame", "flame-prod"), ("flame-prod", "flame")):
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        stop = machine.run([*command, "systemctl", "stop", f"{stem}-executor@77.service"], check=False)
        assert not stop.ok, f"{user} may stop executors of {stem}"
        own = machine.run([*command, "systemctl", "stop", f"{user}-executor@77.service"], check=False)
        assert own.ok, own


def test_a_stop_of_one_leaves_the_other_running(machine, prod):
    before = machine.node.main_pid(AGENT)
    machine.run(["systemctl", "stop", "flame.target", "flame.slice"])
    wait_until(lambda: not machine.active(OTHERS[2]), WORK_SECONDS, "the first stopped")
    assert flmping(machine, prod, 10) == 10
    assert machine.node.main_pid(AGENT) == before
    machine.run(["systemctl", "start", *OTHERS])
    machine.wait_ready(NODE)


def test_names_are_not_mixed_up(machine, prod):
    for words in (
        ["install", "--all", "--prefix", PROD, "--instance", "other"],
        ["install", "--all", "--prefix", PREFIX, "--instance", "prod"],
        ["uninstall", "--force", "--prefix", PREFIX, "--instance", "prod"],
    ):
        assert machine.run([FLMADM, *words], check=False).returncode == 1
    taken = machine.install("--all", "--prefix", "/opt/third", "--instance", "prod", check=False)
    assert taken.returncode == 3 and PROD in taken.stderr


def test_the_removal_leaves_the_other_as_it_was(machine, prod):
    session = busy(machine, machine.endpoint)
    pids = [machine.node.main_pid(unit) for unit in OTHERS[1:]]
    machine.run([FLMADM, "uninstall", "--instance", "prod", "--force", "--no-backup", "--remove-user"])
    assert [machine.node.main_pid(unit) for unit in OTHERS[1:]] == pids
    wait_until(lambda: finished(machine, machine.endpoint, session), WORK_SECONDS, "the first's task done")
    assert flmping(machine, machine.endpoint, 10) == 10
    lines = difference(machine.before, machine.files())
    assert [line for line in lines if not line.startswith(LIVING)] == []
    assert [line for line in lines if "prod" in line] == []
    assert accounts(machine) == machine.accounts
    assert "prod" not in machine.run(["systemctl", "list-units", "--all", "--plain", "flame*"]).stdout
