"""SoulBox's own command line: volumes and what is in them.

On the server that all suites share: every volume here has a name of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid

ENVIRONMENT = {name: os.environ[name] for name in ("E2B_API_URL", "E2B_SANDBOX_URL", "E2B_API_KEY", "PATH")}


def soulbox(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    command = [os.environ["CONFORMANCE_BINARY"], *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, timeout=170)
    if check:
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
    return done


def test_a_volume_from_first_to_last(tmp_path):
    name = f"cli-{uuid.uuid4().hex[:12]}"
    made = soulbox("volume", "create", name).stdout.decode().strip()
    assert str(uuid.UUID(made)) == made
    try:
        assert {"volumeID": made, "name": name} in json.loads(soulbox("volume", "list", "--json").stdout)
        data = os.urandom(3 << 20)
        (tmp_path / "in").write_bytes(data)
        soulbox("volume", "put", name, str(tmp_path / "in"), "/data.bin")
        soulbox("volume", "get", made, "/data.bin", str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == data
        assert soulbox("volume", "get", name, "/data.bin").stdout == data
        shown = soulbox("volume", "show", name).stdout.decode()
        assert "data.bin" in shown and "1000:1000" in shown and "token" not in shown
        sandbox = soulbox("sandbox", "create", "--volume", f"{name}:/v").stdout.decode().strip()
        try:
            counted = soulbox("sandbox", "exec", sandbox, "--", "stat", "-c", "%s %U", "/v/data.bin").stdout
            assert counted.decode() == f"{len(data)} user\n"
        finally:
            soulbox("sandbox", "kill", sandbox)
        failed = soulbox("volume", "get", name, "/none", check=False)
        assert failed.returncode == 1 and b"'/none' not found" in failed.stderr, failed
    finally:
        soulbox("volume", "rm", name)
    failed = soulbox("volume", "show", name, check=False)
    assert failed.returncode == 1 and b"there is no volume" in failed.stderr, failed
