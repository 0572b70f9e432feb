"""The two processes of a server: each ends with the other, and sandboxes with neither."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from e2b import Sandbox

from crashing import moved, options, survivor
from server import Server, wait_until

# The server's exit code when it cannot go on for a reason of its own.
INTERNAL = 70


def helper_of(server: Server) -> int:
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    (helper,) = [int(pid) for pid in children if b"\0helper\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return helper


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_helper_dies(started):
    server = started()
    sandbox, _ = survivor(server)
    os.kill(helper_of(server), signal.SIGKILL)
    assert server.process.wait(timeout=20) == INTERNAL
    assert "the helper has ended; sandboxes stay" in server.log_tail()
    server.start()
    assert int(moved(sandbox, server).files.read("/tmp/count")) > 0


def test_the_server_dies(started):
    server = started()
    sandbox, _ = survivor(server)
    helper = helper_of(server)
    server.kill()
    wait_until("the helper has ended", 5, lambda: gone(helper))
    server.start()
    assert int(moved(sandbox, server).files.read("/tmp/count")) > 0


def test_a_stop_ends_both_and_releases_the_host(started):
    server = started()
    helper = helper_of(server)
    Sandbox.create(timeout=60, **options(server)).kill()
    assert server.stop() == 0
    assert gone(helper)
    assert not any(Path(claim).read_text() == str(server.data_dir) for claim in Path("/run/soulbox/blocks").glob("[0-9]*"))


def test_ctrl_c_is_for_the_server(started):
    """A terminal's interrupt goes to a whole group of processes; the helper is in another and hears of it from the server."""
    server = started()
    sandbox, _ = survivor(server)
    os.killpg(os.getpgid(server.pid), signal.SIGINT)
    assert server.process.wait(timeout=30) == 0
    server.start()
    assert int(moved(sandbox, server).files.read("/tmp/count")) > 0
