"""Processes of a reusable application serve one session after the other; those of others never do."""

import json
import os
import signal
import sys
from pathlib import Path

import flamepy
import pytest
from testbed import wait_until

pytestmark = pytest.mark.usefixtures("published_client")

SERVICES = Path(__file__).resolve().parent / "services"
SECONDS = 60
KINDS = pytest.mark.parametrize("service", ["python", "rust"])


@pytest.fixture
def application(local_cluster):
    """Registers an application with flags of flmctl and returns how to ask it, in a session of its own, for
    what its process knows."""
    made = []

    def register(service, *flags):
        name = f"reuse-{service}-{len(made)}"
        if service == "python":
            command = [sys.executable, "--arg", str(SERVICES / "echo.py")]
            ask = ask_python
        else:
            command = ["${FLAME_HOME}/bin/flmexec-service"]
            ask = ask_rust
        local_cluster.tool("flmctl", "register", "application", name, "--command", *command, *flags)
        made.append(name)

        def served(common=None):
            known = ask(local_cluster, name, common)
            wait_until(lambda: not local_cluster.flmctl("list", "executors"), SECONDS, "no executor")
            return known

        return name, served

    yield register
    for name in made:
        local_cluster.tool("flmctl", "unregister", "application", name)


def ask_python(_, name, common):
    """A service of flamepy, which gets its tasks by single calls."""
    session = flamepy.create_session(name, common_data=common)
    known = json.loads(session.run(b"x").result(timeout=SECONDS))
    assert (known["session"], known["common"]) == (session.id, common.decode() if common else None)
    session.close()
    return known["pid"]


def ask_rust(cluster, name, _):
    """A service of flame-rs, which gets its tasks as a stream."""
    return int(cluster.tool("flmexec", "-a", name, "-c", "echo $PPID").stdout)


@KINDS
def test_a_reusable_process_serves_one_session_after_the_other(application, service):
    _, served = application(service, "--reusable")
    first = served(b"one")
    assert served(b"two") == first
    assert served() == first, "and nothing of the session before is left"


@KINDS
def test_any_other_process_serves_one_session(application, service):
    _, served = application(service)
    assert len({served(b"one"), served(b"two"), served()}) == 3


@KINDS
def test_a_process_that_died_in_between_is_not_missed(application, service):
    _, served = application(service, "--reusable")
    first = served()
    os.kill(first, signal.SIGKILL)
    second = served()
    assert second != first
    assert served() == second


def test_an_update_brings_new_processes(application, local_cluster):
    name, served = application("python", "--reusable")
    first = served()
    # Nothing in the specification changes, as when the program has been replaced.
    local_cluster.tool("flmctl", "update", "application", name, "--reusable")
    second = served()
    assert second != first
    local_cluster.tool("flmctl", "update", "application", name, "--reusable=false")
    assert served() != second
    wait_until(lambda: not _lives(second), SECONDS, "the end of the old process")


def test_a_process_is_kept_for_the_time_of_an_idle_executor(application):
    _, served = application("python", "--reusable", "--delay-release", "1")
    first = served()
    wait_until(lambda: not _lives(first), SECONDS, "the end of a process that nobody wants")
    assert served() != first


def _lives(pid):
    return Path(f"/proc/{pid}").exists()
