"""Load that checks itself: the soak client creates tasks and looks at every one of them."""

import contextlib
import json
import subprocess

from cluster import bin_dir

# What the client may need when it has created its last task.
REST_SECONDS = 120


@contextlib.contextmanager
def load(cluster, seconds, *words):
    """Runs the soak client while the block runs; yields its report, which is filled when the block ends."""
    report = {}
    command = [
        bin_dir() / "flame-soak",
        "--service",
        bin_dir() / "flame-soak-service",
        "--time",
        seconds,
        *words,
    ]
    with subprocess.Popen(
        [str(word) for word in command],
        env=cluster.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as client:
        try:
            yield report
            out, err = client.communicate(timeout=seconds + REST_SECONDS)
            assert not err, err
            report.update(json.loads(out))
        finally:
            client.kill()


def assert_all_was_well(report):
    """Nothing was lost, repeated or wrong. The client has looked at every single task."""
    assert report["violations"] == [], report
    assert report["ends"] == report["tasks"] > 0, report
