"""Known defects (docs/defects.md): stories that need real processes, and the table itself."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from cluster import LocalCluster, bin_dir, free_port
from testbed import wait_until

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs/defects.md"
DAEMONS = ("flame-session-manager", "flame-node-agent")
WATCHED_SECONDS = 3
# A clock tick of /proc/PID/stat is 10 ms; a loop that spins takes all of the time.
FEW_TICKS = 0.2 * WATCHED_SECONDS * os.sysconf("SC_CLK_TCK")
RETRIES_SPENT = 1002


@pytest.fixture(scope="module")
def cluster(places):
    """A cluster of one node."""
    made = LocalCluster()
    places.append(made)
    try:
        yield made.up()
    finally:
        places.remove(made)
        made.down()


def stat(pid):
    """The fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def ticks(pid):
    """The processor time that a process has used."""
    return sum(int(field) for field in stat(pid)[11:13])


def children(pid):
    """Names and states of a process's children."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = stat(folder.name)[:2]
            if int(parent) == pid:
                found.append(f"{(folder / 'comm').read_text().strip()} is {state}")
        except OSError:
            pass
    return found


def quiet(cluster):
    """What the daemons do while nothing is asked of them: processor time and lines of logs."""
    logs = {name: cluster.prefix / f"logs/{name}.log" for name in DAEMONS}
    before = {name: (ticks(cluster.pid(name)), logs[name].read_text().count("\n")) for name in DAEMONS}
    time.sleep(WATCHED_SECONDS)
    return {
        name: (ticks(cluster.pid(name)) - used, logs[name].read_text().count("\n") - lines)
        for name, (used, lines) in before.items()
    }


def test_defect_11_a_service_that_dies_at_once_leaves_nothing(cluster):
    """The executor was binding for ever, the agent polled with a whole core, the child was a zombie."""
    cluster.tool("flmctl", "register", "application", "dies", "--command", "/bin/false")
    session = cluster.tool("flmctl", "create", "session", "-a", "dies").stdout.strip()
    cluster.tool("flmctl", "create", "task", "-s", session)

    def given_up():
        events = cluster.flmctl("view", "session", session)["events"]
        return any(event["code"] == RETRIES_SPENT for event in events)

    wait_until(given_up, 30, "the session manager gives up")
    assert cluster.flmctl("list", "executors") == []
    assert children(cluster.pid("flame-node-agent")) == []
    for name, (used, lines) in quiet(cluster).items():
        assert used < FEW_TICKS and lines == 0, f"{name}: {used} ticks, {lines} lines"
    cluster.tool("flmctl", "close", "-s", session, "--cancel-running")


def test_defect_28_an_idle_cluster_is_quiet_and_starts_tasks_at_once(cluster):
    """Idle daemons logged ten lines per second, and a task waited for a tick of 100 ms."""
    report = cluster.flmping("-t", "50", "--window", "1", "--warm-up", "10")
    assert report["p50_ms"] < 50, report
    for name, (used, lines) in quiet(cluster).items():
        assert used < FEW_TICKS and lines == 0, f"{name}: {used} ticks, {lines} lines"


@pytest.mark.parametrize("place", ["/", "/proc"])
def test_defect_30_the_session_manager_starts_from_any_directory(tmp_path, place):
    """Migrations were looked for in the current directory; the daemon never came up and said nothing."""
    port = free_port()
    config = tmp_path / "flame-cluster.yaml"
    lines = ["name: t", f'endpoint: "http://127.0.0.1:{port}"', f'storage: "sqlite://{tmp_path}/flame.db"']
    config.write_text("cluster:\n" + "".join(f"  {line}\n" for line in lines))
    log = tmp_path / "log"
    with log.open("w") as out:
        daemon = subprocess.Popen(
            [bin_dir() / "flame-session-manager", "--config", config],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        wait_until(
            lambda: daemon.poll() is not None or "serving clients" in log.read_text(), 30, "it serves clients"
        )
        assert daemon.poll() is None, log.read_text()
        assert (tmp_path / "flame.db").stat().st_size > 0
    finally:
        daemon.terminate()
        daemon.wait(30)


# -- the table ----------------------------------------------------------------------------------


def rows():
    """Number -> the tests that the table names."""
    found = {}
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0].isdigit():
            assert int(cells[0]) not in found, f"{cells[0]} is there twice"
            found[int(cells[0])] = re.findall(r"`([^`]+::[^`]+)`", cells[-1])
    return found


def is_test(place):
    """Whether `file::name` is a test, which is run: a Rust function below #[test], or one of pytest."""
    file, name = place.split("::")
    path = ROOT / file
    if not path.is_file():
        return False
    text = path.read_text()
    if path.suffix == ".py":
        return re.search(rf"^def {name}\(", text, re.M) is not None and name.startswith("test_")
    attributes = r"#\[(?:tokio::)?test(?:\([^\]]*\))?\]\n(?:\s*(?:#\[(?!ignore)|//)[^\n]*\n)*"
    return re.search(rf"{attributes}\s*(?:async )?fn {name}\(\)", text) is not None


def test_each_test_that_the_table_names_is_there():
    places = {place for tests in rows().values() for place in tests}
    assert len(places) > 50
    assert sorted(place for place in places if not is_test(place)) == []


def test_each_defect_has_a_test_or_waits_for_what_it_is_about():
    later = re.findall(r"^Not built yet: (.*)\.$", TABLE.read_text(), re.M)
    assert len(later) == 1
    waiting = {int(number) for number in re.findall(r"\d+", later[0])}
    tested = {number for number, tests in rows().items() if tests}
    assert tested | waiting == set(range(1, 43))
    assert tested & waiting == set()
    assert tested == set(rows())


def test_each_test_with_a_number_is_in_the_table():
    """A test called defect_N, or with "Defect N" above it, stands in the line of N."""
    listing = subprocess.run(
        ["git", "ls-files", "*.rs", "e2e/*.py"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    missing = []
    for file in listing.stdout.splitlines():
        for number, name in re.findall(r"fn (?:test_)?defect_(\d+)(_\w+)", (ROOT / file).read_text()):
            place = f"{file}::defect_{number}{name}"
            if place not in rows().get(int(number), []):
                missing.append(place)
    assert missing == []
