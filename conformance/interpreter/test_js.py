"""The official JavaScript package, in a Node of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

PROGRAM = Path(__file__).with_name("run.cjs")


def test_the_javascript_package():
    done = subprocess.run(["node", str(PROGRAM)], env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["value"] == "42"
    assert said["stdout"] == ["a\n", "b\n"] or "".join(said["stdout"]) == "a\nb\n"
    assert said["error"] == "ZeroDivisionError"
    assert said["chart"] == "bar" and said["png"]
    assert said["language"] == "4"
    assert said["context"] == "/tmp"
    assert said["contexts"] >= 2
