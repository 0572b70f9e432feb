"""What the suites that kill servers share: calls to one of several servers, and sandboxes that outlive theirs."""

from __future__ import annotations

import json

from e2b import Sandbox

from server import Server


def options(server: Server) -> dict[str, str]:
    """The client's options for this server, whatever the environment says."""
    return {"api_url": server.env["E2B_API_URL"], "sandbox_url": server.env["E2B_SANDBOX_URL"], "api_key": server.env["E2B_API_KEY"]}


def call(server: Server, method: str, path: str, body=None) -> tuple[int, bytes]:
    import urllib.error
    import urllib.request

    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(server.env["E2B_API_URL"] + path, data, {"X-API-Key": server.env["E2B_API_KEY"], "Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def survivor(server: Server, **opts) -> tuple[Sandbox, int]:
    """A sandbox with a command that counts up, whose client has left."""
    sandbox = Sandbox.create(**opts, **options(server))
    handle = sandbox.commands.run("n=0; while :; do n=$((n+1)); echo $n; echo $n > /tmp/count; sleep 0.1; done", background=True, timeout=0)
    handle.disconnect()
    return sandbox, handle.pid


def moved(sandbox: Sandbox, server: Server) -> Sandbox:
    """The same sandbox through the server's new port."""
    return Sandbox.connect(sandbox.sandbox_id, timeout=1, **options(server))
