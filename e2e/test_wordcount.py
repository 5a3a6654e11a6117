"""A real job on real input: the words of every licence text of the system, one task per file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import ROOT

TEXTS = Path("/usr/share/common-licenses")
PYTHON_SERVICE = ROOT / "examples/wordcount/wordcount_service.py"
FLAGS = {
    "wordcount": [],
    "wordcount-py": ["--register-command", sys.executable, "--script", PYTHON_SERVICE],
}


def wc(folder):
    """What wc says about all regular files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    printed = subprocess.run(["wc", *files], check=True, capture_output=True, env={"LC_ALL": "C"}).stdout
    lines, words, size = printed.splitlines()[-1].split()[:3]
    return {"lines": int(lines), "words": int(words), "bytes": int(size)}


def count(cluster, folder, *flags):
    """What the example says."""
    report = json.loads(cluster.tool("wordcount", folder, "--output", "json", *flags).stdout)
    assert report["errors"] == []
    return {key: report["total"][key] for key in ("lines", "words", "bytes")}


@pytest.mark.parametrize("application", list(FLAGS))
def test_totals_are_those_of_wc(local_cluster, application):
    assert count(local_cluster, TEXTS, "--application", application, *FLAGS[application]) == wc(TEXTS)


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
