"""Templates with the official command line: from a Dockerfile to a sandbox, and away again."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from pathlib import Path

import pytest
from e2b import Sandbox

from server import from_environment, kill_every_sandbox

E2B = Path(os.environ.get("CONFORMANCE_TOOLS", ".")) / "js/node_modules/.bin/e2b"


@pytest.fixture(scope="module")
def server():
    server = from_environment("cli-templates").start()
    yield server
    kill_every_sandbox(server.env)
    assert server.stop() == 0
    server.remove()


@pytest.fixture
def e2b(server, tmp_path):
    def run(*arguments: str, check: bool = True) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_COLOR": "1", "NO_UPDATE_NOTIFIER": "1"} | server.env
        done = subprocess.run([str(E2B), *arguments], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert not check or done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout + done.stderr

    return run


def test_from_a_dockerfile_to_a_sandbox_and_away(e2b, server, tmp_path):
    name = f"cli-{uuid.uuid4().hex[:8]}"
    (tmp_path / "Dockerfile").write_text("FROM e2bdev/base\nCOPY hello.txt /srv/hello.txt\nRUN echo built > /srv/built\n")
    (tmp_path / "hello.txt").write_text("hello\n")
    said = e2b("template", "create", name, "--cpu-count", "1", "--memory-mb", "512")
    assert name in said, said
    listed = json.loads(e2b("template", "list", "--format", "json"))
    mine = next(one for one in listed if name in one["aliases"])
    assert mine["cpuCount"] == 1 and mine["memoryMB"] == 512 and not mine["public"]
    env = server.env
    with Sandbox.create(name, timeout=60, api_key=env["E2B_API_KEY"], api_url=env["E2B_API_URL"], sandbox_url=env.get("E2B_SANDBOX_URL"), domain=env.get("E2B_DOMAIN", "localhost")) as sandbox:
        assert sandbox.commands.run("cat /srv/hello.txt /srv/built").stdout == "hello\nbuilt\n"
    e2b("template", "publish", "-y", mine["templateID"])
    listed = json.loads(e2b("template", "list", "--format", "json"))
    assert next(one for one in listed if name in one["aliases"])["public"]
    e2b("template", "unpublish", "-y", mine["templateID"])
    e2b("template", "delete", "-y", mine["templateID"])
    assert not any(name in one["aliases"] for one in json.loads(e2b("template", "list", "--format", "json")))


def test_a_failing_build_is_told(e2b, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM e2bdev/base\nRUN exit 7\n")
    said = e2b("template", "create", f"cli-{uuid.uuid4().hex[:8]}", check=False)
    assert "exit status 7" in said, said
