"""A real job on real input: the words of every licence text of the system, one task per file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TEXTS = Path("/usr/share/common-licenses")


def wc(folder):
    """What wc says about all regular files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    printed = subprocess.run(["wc", *files], check=True, capture_output=True, text=True).stdout.splitlines()
    lines, words, size = printed[-1].split()[:3]
    return {"lines": int(lines), "words": int(words), "bytes": int(size)}


def count(cluster, folder, *flags):
    """What the example says."""
    printed = cluster.tool(
        "wordcount", folder, "--output", "json", *flags, env={"FLAME_PYTHON": sys.executable}
    ).stdout
    report = json.loads(printed)
    totals = report.get("totals", report.get("total", report))
    return {key: totals[key] for key in ("lines", "words", "bytes")}


@pytest.mark.parametrize("application", ["wordcount", "wordcount-py"])
def test_totals_are_those_of_wc(local_cluster, application):
    assert count(local_cluster, TEXTS, "--application", application) == wc(TEXTS)


def test_texts_of_every_kind(local_cluster, tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "no newline at the end").write_bytes(b"one two")
    (tmp_path / "deep/blank").write_bytes(b" \t\n\n  \r\n")
    (tmp_path / "deep/er/umlauts").write_text("Äpfel und Öl\nüber alles\n")
    assert count(local_cluster, tmp_path) == wc(tmp_path)


def test_a_folder_that_is_not_there(local_cluster, tmp_path):
    result = local_cluster.tool("wordcount", tmp_path / "nowhere", check=False)
    assert not result.ok and "nowhere" in result.stderr
