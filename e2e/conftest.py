"""Fixtures of the end-to-end tests, and what a failed test shows of the machines it ran on."""

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "hack")]

from cluster import LocalCluster, bin_dir  # noqa: E402
from fleet import Fleet  # noqa: E402
from machine import BIN, PROGRAMS, SITE, Machine, strip  # noqa: E402
from testbed import TestBed, cache_dir  # noqa: E402

TESTED = (
    *PROGRAMS,
    "flame-units",
    "wordcount",
    "wordcount-service",
    "flame-soak",
    "flame-soak-service",
)
JOURNAL_LINES = 150
_places = pytest.StashKey()


@pytest.fixture(scope="session", autouse=True)
def private_home(tmp_path_factory):
    """A home without a ~/.flame of the developer: the tests must not see his clusters."""
    os.environ["FLAME_TEST_CACHE"] = str(cache_dir())
    home = os.environ.get("HOME")
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    for name in (
        "FLAME_ENDPOINT",
        "INSTALL_PREFIX",
        "FLAME_HOME",
        "FLAME_SOCKET_DIR",
        "FLAME_CACHE_ENDPOINT",
    ):
        os.environ.pop(name, None)
    yield
    if home is not None:
        os.environ["HOME"] = home


@pytest.fixture(scope="session")
def places(request):
    """Everything that can show logs when a test fails: objects with `logs()`."""
    return request.config.stash.setdefault(_places, [])


@pytest.fixture(scope="module")
def local_cluster(places):
    """A running cluster of plain processes, shared by the tests of one module."""
    running = os.environ.get("FLAME_E2E_PREFIX")
    if running:
        cluster = _running_cluster(running)
        places.append(cluster)
        yield cluster
        places.remove(cluster)
        return
    cluster = LocalCluster()
    places.append(cluster)
    try:
        yield cluster.up()
    finally:
        places.remove(cluster)
        cluster.down()


@pytest.fixture(scope="module")
def make_module_fleet(places):
    """As make_fleet, for fleets that the tests of one module share."""
    with _fleets(places) as make:
        yield make


@pytest.fixture
def make_fleet(places):
    """Makes fleets that are not up yet, and ends them."""
    with _fleets(places) as make:
        yield make


@contextlib.contextmanager
def _fleets(places):
    with contextlib.ExitStack() as stack:

        def make(nodes, configuration=""):
            fleet = Fleet(nodes, configuration)
            stack.callback(fleet.down)
            places.append(fleet.cluster)
            stack.callback(places.remove, fleet.cluster)
            return fleet

        yield make


@pytest.fixture(scope="module")
def published_client(local_cluster):
    """Makes flamepy's own connection, the way a user does: by FLAME_ENDPOINT."""
    from flamepy.core.client import ConnectionInstance

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAME_ENDPOINT", local_cluster.endpoint)
        patch.setattr(ConnectionInstance, "_connection", None)
        yield
        if ConnectionInstance._connection is not None:
            ConnectionInstance._connection.close()


def _running_cluster(prefix):
    """The cluster that `hack/local-test.sh test` started; it is not ours to stop."""
    config = (Path(prefix) / "conf/flame-cluster.yaml").read_text()
    port = next(line.rsplit(":", 1)[1].strip(" \"'/") for line in config.splitlines() if "endpoint:" in line)
    return LocalCluster(prefix, int(port))


@pytest.fixture(scope="session")
def stripped_programs():
    """The binaries under test, stripped."""
    folder = Path(tempfile.mkdtemp(prefix="flame-bin-"))
    strip(TESTED, bin_dir(), folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def make_bed(places, stripped_programs):
    """Boots nodes that show the binaries in /opt/flame-bin and flamepy in /opt/flame-site."""
    beds = []

    def make(*names):
        binds = {BIN: stripped_programs}
        if os.environ.get("FLAME_NODE_SITE"):
            binds[SITE] = os.environ["FLAME_NODE_SITE"]
        bed = TestBed(list(names), binds)
        beds.append(bed)
        bed.start()
        machines = [Machine(bed, node) for node in bed.nodes]
        places.extend(machines)
        return machines

    yield make
    for bed in beds:
        places[:] = [place for place in places if getattr(place, "bed", None) is not bed]
        bed.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """Adds the logs of every running machine and cluster to the report of a failed test."""
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    for place in item.config.stash.get(_places, []):
        try:
            text = "\n".join(place.logs().splitlines()[-JOURNAL_LINES:])
        except Exception as error:  # a report is made of what is left of a broken machine
            text = f"no logs: {error}"
        report.sections.append((f"logs of {place}", text))
