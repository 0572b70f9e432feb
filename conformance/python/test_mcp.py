"""`mcp` of a create request: the package itself starts the gateway, which is a program of the template."""

from __future__ import annotations

import json
import secrets

import pytest
from e2b import SandboxQuery
from e2b.exceptions import NotFoundException, SandboxException

GATEWAY = r"""#!/usr/bin/env python3
import json, os, subprocess, sys
config = json.loads(sys.argv[sys.argv.index("--config") + 1])
page = "/run/mcp"
os.makedirs(page, exist_ok=True)
open(page + "/mcp", "w").write(json.dumps({"token": os.environ["GATEWAY_ACCESS_TOKEN"], "servers": sorted(config)}))
subprocess.Popen([sys.executable, "-m", "http.server", "50005", "--directory", page], start_new_session=True,
                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""


def test_without_a_gateway_the_client_says_so(sdk):
    """It kills the sandbox by itself."""
    marked = {"mcp": secrets.token_hex(8)}
    with pytest.raises(SandboxException, match="Failed to start MCP gateway"):
        sdk.create("base", metadata=marked, mcp={"exa": {"apiKey": "x"}})
    assert sdk.list(query=SandboxQuery(metadata=marked)).next_items() == []


def test_the_default_template_is_one_that_nobody_has(sdk):
    with pytest.raises((NotFoundException, SandboxException), match="mcp-gateway"):
        sdk.create(mcp={"exa": {"apiKey": "x"}})


def test_a_template_with_a_gateway_is_enough(create, sandbox):
    sandbox.files.write("/tmp/gateway", GATEWAY)
    sandbox.commands.run("install -m 755 /tmp/gateway /usr/local/bin/mcp-gateway", user="root")
    snapshot = sandbox.create_snapshot(mode="filesystem")
    served = create(snapshot.snapshot_id, mcp={"exa": {"apiKey": "x"}, "github/a/b": {"runCmd": "y"}})
    served.commands.run("until curl -sf localhost:50005/mcp > /dev/null; do sleep 0.05; done", timeout=20)
    seen = json.loads(served.commands.run("curl -s localhost:50005/mcp").stdout)
    assert seen == {"token": served.get_mcp_token(), "servers": ["exa", "github/a/b"]}
    assert served.get_mcp_url().endswith("/mcp") and "50005-" in served.get_mcp_url()
