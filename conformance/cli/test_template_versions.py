"""SoulBox's own command line: versions, going back, the catalogue, comparing and exporting templates.

On the server that all suites share: every template here has a name of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import uuid

import pytest
from e2b import Template

ENVIRONMENT = {name: os.environ[name] for name in ("E2B_API_URL", "E2B_SANDBOX_URL", "E2B_API_KEY", "PATH")}


def soulbox(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    command = [os.environ["CONFORMANCE_BINARY"], "template", *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, timeout=170)
    if check:
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
    return done


def said(*arguments: str) -> str:
    return soulbox(*arguments).stdout.decode()


def answered(*arguments: str):
    return json.loads(soulbox(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def name():
    """A template with the versions 1.0.0 and 1.1.0."""
    name = f"cli-{uuid.uuid4().hex[:12]}"
    for text in ("first", "second"):
        Template.build(Template().from_template("base").run_cmd(f"echo {text} > /srv/what; : {name}", user="root"), name, cpu_count=1, memory_mb=512)
    yield name
    soulbox("rm", name, check=False)


def in_use(name: str) -> str:
    found = answered("versions", name)
    return next(build["version"] for build in found["builds"] if build["buildID"] == found["inUse"])


def test_versions_and_going_back(name):
    lines = said("versions", name).splitlines()
    assert lines[0].split()[:1] == ["VERSION"] and [line.split()[0] for line in lines[1:]] == ["1.1.0", "1.0.0"], lines
    assert "in use" in lines[1] and "ready" in lines[1] and "default" in lines[1] and "in use" not in lines[2]
    assert "version 1.0.0 from now on" in said("rollback", name)
    assert in_use(name) == "1.0.0"
    assert "version 1.1.0 from now on" in said("rollback", name, "v1.1.0")
    assert in_use(name) == "1.1.0"
    failed = soulbox("rollback", name, "9.9.9", check=False)
    assert failed.returncode == 1 and b"9.9.9" in failed.stderr, failed


def test_description_and_search(name):
    word = uuid.uuid4().hex
    soulbox("describe", name, f"Speaks {word}")
    assert f"Speaks {word}" in said("show", name)
    assert name in said("search", word) and "1.1.0" in said("search", "speaks", word)
    assert answered("search", word)[0]["names"] == [f"default/{name}"]
    nothing = soulbox("search", f"no-{word}")
    assert nothing.stdout == b"" and b"no template" in nothing.stderr


@pytest.mark.seconds(240)
def test_diff(name):
    text = said("diff", name, "1.0.0")
    assert text.startswith(f"{name} 1.0.0 to 1.1.0: ") and "  ~ /srv/what  6 B to 7 B" in text, text
    assert "nothing differs" in said("diff", name, "1.1.0", "default")


@pytest.mark.seconds(240)
def test_export(name, tmp_path):
    target = tmp_path / "image.tar"
    assert str(target) in said("export", f"{name}:1.0.0", str(target))
    assert [path.name for path in tmp_path.iterdir()] == ["image.tar"]
    with tarfile.open(target) as layout:
        assert {"oci-layout", "index.json"} <= set(layout.getnames())
    failed = soulbox("export", f"{name}:9.9.9", str(tmp_path / "none.tar"), check=False)
    assert failed.returncode == 1 and [path.name for path in tmp_path.iterdir()] == ["image.tar"], failed
