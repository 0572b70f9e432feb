"""Servers of the fault suites: whatever becomes of them, nothing is left."""

from __future__ import annotations

import pytest

import host
from server import Server, from_environment, kill_every_sandbox


@pytest.fixture
def started():
    """Starts servers; whatever became of them, their sandboxes are killed, they are stopped and nothing is left."""
    servers: list[tuple[Server, dict[str, str]]] = []

    def start(server: Server | None = None, *arguments: str) -> Server:
        server = server or from_environment("faults", *arguments)
        servers.append((server, host.snapshot(str(server.data_dir))))
        return server.start()

    yield start
    for server, before in servers:
        if not server.alive():
            # A dead server's sandboxes live on: the next one on the same directory ends them.
            server.start()
        kill_every_sandbox(server.env)
        assert server.stop() == 0
    left: dict[str, str] = {}
    for server, before in servers:
        of_this = host.leaks(before, str(server.data_dir))
        left |= of_this
        # Deleting would reach through a mount that is left.
        if not any(name.startswith("mount") for name in of_this):
            server.remove()
    assert left == {}, left
