"""A policy of a sandbox's network, and servers that die: it holds when nobody is there, and after."""

from __future__ import annotations

from e2b import ALL_TRAFFIC, Sandbox

import internet
from crashing import moved, options
from farside import FarSide
from server import wait_until

# Tries the address that is closed, all the time, and the one that is open; counts both.
PROBE = """
import socket, sys, time
outside, inside = sys.argv[1:]
def reaches(address):
    try:
        s = socket.create_connection((address, 8080), timeout=1)
        s.close()
        return True
    except OSError:
        return False
tries = opened = 0
while True:
    tries += 1
    assert not reaches(outside), 'out'
    opened += reaches(inside)
    open('/tmp/counted', 'w').write(f'{tries} {opened}')
    time.sleep(0.005)
"""


def counted(sandbox: Sandbox) -> tuple[int, int]:
    text = sandbox.files.read("/tmp/counted").split()
    return (int(text[0]), int(text[1])) if len(text) == 2 else (0, 0)


def test_there_is_no_moment_without_policy(started):
    far = FarSide().open()
    try:
        # Answers names of the far side.
        dns = internet.Dns()
        server = started(None, "--dns-upstreams", f"127.0.0.1:{dns.port}")
        lists = {"allow_out": [far.inside, far.name], "deny_out": [ALL_TRAFFIC]}
        sandbox = Sandbox.create(timeout=300, network=lists, **options(server))
        sandbox.files.write("/tmp/probe.py", PROBE)
        handle = sandbox.commands.run(f"python3 /tmp/probe.py {far.outside} {far.inside}", background=True)
        wait_until("it tries", 10, lambda: sandbox.files.exists("/tmp/counted") and counted(sandbox)[1] > 0)
        for _ in range(2):
            server.kill()
            before = len(far.seen())
            # No server is there, and it goes on with what is open.
            wait_until("it goes on", 10, lambda: len(far.seen()) > before + 20)
            server.start()
        again = moved(sandbox, server)
        tries = counted(again)[0]
        wait_until("it goes on trying", 10, lambda: counted(again)[0] > tries + 20)
        assert handle.pid in [process.pid for process in again.commands.list()], "it has never come out"
        assert not [line for line in far.seen() if line.startswith("outside")]
        # Names are told and judged again by the next server, and the policy can be changed.
        fetch = f"curl -sSk -m 4 https://{far.name}/ 2>&1; true"
        assert "REACHED" in again.commands.run(fetch).stdout
        again.commands.kill(handle.pid)
        Sandbox.update_network(again.sandbox_id, {"deny_out": [far.inside]}, **options(server))
        assert "REACHED" in again.commands.run(f"curl -sS -m 4 http://{far.outside}:8080/ 2>&1; true").stdout
        assert "REACHED" not in again.commands.run(f"curl -sS -m 4 http://{far.inside}:8080/ 2>&1; true").stdout
    finally:
        far.close()
