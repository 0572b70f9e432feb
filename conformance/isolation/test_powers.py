"""What whoever takes over the server would have: its own files, and a list of requests to the helper."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from e2b import Sandbox

SERVER = int(os.environ.get("CONFORMANCE_SERVER_PID", 0))
DATA = Path(os.environ.get("CONFORMANCE_DATA_DIR", "/")).resolve()
FIRST_SANDBOX_ID = 0x7000_0000


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def helper() -> int:
    """The one child of the server."""
    (child,) = [pid for pid in Path(f"/proc/{SERVER}/task/{SERVER}/children").read_text().split()] or [None]
    assert b"helper" in Path(f"/proc/{child}/cmdline").read_bytes()
    return int(child)


def as_server(program: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs Python where the server stands (its view of the file system), as the server's user, without capabilities."""
    facts = status(SERVER)
    uid, gid = facts["Uid"].split()[0], facts["Gid"].split()[0]
    enter = ["nsenter", "--target", str(SERVER), "--mount", "--"]
    drop = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--"]
    # The interpreter may lie where this user cannot go; Debian's own is everywhere.
    return subprocess.run([*enter, *drop, "/usr/bin/python3", "-c", program, *arguments], capture_output=True, text=True, timeout=30)


def test_the_server_is_nobody():
    facts = status(SERVER)
    ids = {int(number) for number in facts["Uid"].split() + facts["Gid"].split()}
    assert len(ids) == 1, facts
    (number,) = ids
    assert FIRST_SANDBOX_ID - 16 <= number < FIRST_SANDBOX_ID
    assert facts["Groups"] == ""
    assert facts["NoNewPrivs"] == "1"
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(facts[kind], 16) == 0, (kind, facts[kind])


def test_every_thread_of_the_server_is():
    for thread in Path(f"/proc/{SERVER}/task").iterdir():
        facts = status(int(thread.name))
        assert int(facts["CapPrm"], 16) == 0 and "0" not in facts["Uid"].split(), (thread.name, facts["Uid"])


def test_the_server_is_in_no_group_that_sandboxes_or_people_are_in():
    facts = status(SERVER)
    number = int(facts["Gid"].split()[0])
    for table in ("/etc/passwd", "/etc/group"):
        assert str(number) not in [line.split(":")[2] for line in Path(table).read_text().splitlines() if line.count(":") > 1]


TRIES = {
    "layers": "os.listdir(data + '/layers')",
    "sandboxes": "os.listdir(data + '/sandboxes')",
    "records": "os.listdir(data + '/run')",
    "replace the layers": "os.rename(data + '/layers', data + '/elsewhere')",
    "remove the lock": "os.unlink(data + '/lock')",
    "put a link in the place of the sandboxes": "os.symlink('/etc', data + '/sandboxes')",
    "write a template": "open(data + '/templates/evil.json', 'w')",
    "the helper's memory": "open(f'/proc/{helper}/mem', 'rb')",
    "the helper's descriptors": "os.listdir(f'/proc/{helper}/fd')",
    "end the helper": "os.kill(int(helper), 9)",
    "the claims of addresses": "open('/run/soulbox/blocks/0', 'w')",
    "the cgroups": "os.mkdir('/sys/fs/cgroup/' + (sorted(os.listdir('/sys/fs/cgroup'))[0]) + '/evil')",
    "a mount": "assert __import__('ctypes').CDLL(None).mount(b'none', b'/mnt', b'tmpfs', 0, None) == 0, PermissionError()",
    "become root": "os.setuid(0)",
    "a packet socket": "__import__('socket').socket(17, 3, 0)",
}


@pytest.mark.parametrize("what", TRIES)
def test_the_server_cannot_reach(what):
    program = (
        "import os, sys\ndata, helper = sys.argv[1:]\n"
        f"try:\n    {TRIES[what]}\n"
        "except (PermissionError, FileExistsError) as error: print('refused', error.errno)\n"
        "except AssertionError as error: print('refused')\n"
        "else: print('DONE')\n"
    )
    done = as_server(program, str(DATA), str(helper()))
    assert done.stdout.startswith("refused"), (done.stdout, done.stderr)


def test_the_way_in_for_this_test_is_the_servers_own():
    """The probe stands where the server stands: what it is refused, the server is refused."""
    done = as_server("import os, sys; print(open(sys.argv[1] + '/token.seed').read()); open(sys.argv[1] + '/probe', 'w'); os.unlink(sys.argv[1] + '/probe')", str(DATA))
    assert re.fullmatch(r"[0-9a-f]{64}\n", done.stdout), (done.stdout, done.stderr)


def test_nothing_of_the_host_is_open_in_the_server():
    """Its own files, sockets, and the kernel's event objects; no directory of sandboxes, no device but null."""
    allowed = re.compile(r"^(socket:|pipe:|anon_inode:|/dev/null$|/memfd:|" + re.escape(str(DATA)) + r"/(soulbox\.db|[a-z.]+$)|.*\.log$|/proc/\d+/)")
    targets = {}
    for entry in Path(f"/proc/{SERVER}/fd").iterdir():
        try:
            targets[entry.name] = os.readlink(entry)
        except FileNotFoundError:
            continue
    odd = {number: target for number, target in targets.items() if not allowed.match(target)}
    assert odd == {}, odd


def test_the_helper_listens_to_nobody():
    """No internet socket of the helper's is in the state of a listener, and it has no UDP socket."""
    Sandbox.create(timeout=60).kill()
    inodes = set()
    for entry in Path(f"/proc/{helper()}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        inodes |= {target[8:-1]} if target.startswith("socket:[") else set()
    for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet"):
        for line in Path(f"/proc/{helper()}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            inode = fields[-1] if table == "packet" else fields[9]
            listens = table not in ("tcp", "tcp6") or fields[3] == "0A"
            assert not (inode in inodes and listens), (table, line)
