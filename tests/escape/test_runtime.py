"""Leaked descriptors, magic links, the runtime's executable, working directories: CVE-2019-5736, CVE-2024-21626."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys

import pytest
from e2b import CommandExitException
from harness import CONTROLS, PROGRAMS, Attempt, attack, control, judge, one, parse

import raw


def naive_chroot(tmp_path, program: str, *arguments: str) -> dict[str, Attempt]:
    """The program in a chroot that shares the host's processes and has a directory of the host open."""
    root = tmp_path / "root"
    root.mkdir()
    # The processes of the host stay visible: a namespace of mounts, and no other.
    command = ["unshare", "--mount", sys.executable, "-B", CONTROLS / "naive_chroot.py", root, PROGRAMS / program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return parse(done.stdout)


@pytest.fixture
def neighbour():
    """A process of the host with a directory open; its number."""
    code = "import os, signal; os.open('/', os.O_RDONLY); print('up', flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], cwd="/", stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    yield str(process.pid)
    process.kill()
    process.wait()


@pytest.fixture
def plain_runtime(tmp_path):
    """Starts a runtime that is a plain file and ends soon, as the one of CVE-2019-5736 was; its process number."""
    program = tmp_path / "runtime"
    program.write_bytes(open("/bin/sleep", "rb").read())
    program.chmod(0o755)
    started = []

    def start() -> str:
        started.append(subprocess.Popen([program, "1.5"]))
        return str(started[-1].pid)

    yield start
    for process in started:
        process.wait()


def test_descriptors_and_magic_links_lead_nowhere(attack, loot, plain_runtime, neighbour, tmp_path):
    """The attacker wants a file of the host, through anything the runtime has left open, or the runtime's own program."""
    inside = attack("descriptors.py", loot.path, loot.secret)
    shown = naive_chroot(tmp_path, "descriptors.py", str(loot.path), loot.secret, neighbour)
    shown |= {"overwrite the runtime's executable": control("descriptors.py", loot.path, loot.secret, plain_runtime())["overwrite the runtime's executable"]}
    judge("descriptors", inside, shown)
    assert loot.untouched()


def start(sandbox, program: str) -> int:
    """Runs a program as envd's own child, without any shell; the answer's status."""
    document = json.dumps({"process": {"cmd": program, "args": []}, "stdin": False}).encode()
    headers = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": sandbox._envd_access_token,
        "Authorization": "Basic cm9vdDo=",
        "Content-Type": "application/connect+json",
        "Connect-Protocol-Version": "1",
    }
    return raw.request("POST", "/process.Process/Start", headers, struct.pack("!BI", 0, len(document)) + document).status


def test_script_that_names_the_runtime_as_its_interpreter(sandbox, plain_runtime):
    """`#!/proc/self/exe` makes the runtime run its own program again, now under the attacker's rules (CVE-2019-5736)."""
    watcher = sandbox.commands.run(f"python3 /tmp/attack/watch_executables.py 3", user="root", background=True)
    sandbox.files.write("/tmp/interpreted", "#!/proc/self/exe\n")
    sandbox.commands.run("chmod 755 /tmp/interpreted", user="root")
    for _ in range(8):
        assert start(sandbox, "/tmp/interpreted") == 200
    inside = parse(watcher.wait().stdout)
    judge("runtime as interpreter", inside, control("watch_executables.py", "3", plain_runtime()))
    assert sandbox.commands.run("echo usable").stdout == "usable\n"


def test_working_directories_outside(sandbox, loot, tmp_path):
    """The attacker asks for a working directory that is a descriptor of the runtime (CVE-2024-21626)."""
    found = {}
    relative = "../../../../../../../.." + str(loot.path)
    directories = [f"/proc/self/fd/{n}" for n in range(3, 13)] + ["/proc/1/cwd", "/proc/1/root", "/proc/self/root", "/proc/thread-self/cwd"]
    for directory in directories:
        try:
            text = sandbox.commands.run(f"cat {relative}", cwd=directory, user="root").stdout
            found[f"cwd {directory}"] = Attempt(loot.secret in text, text[:80])
        except (CommandExitException, Exception) as refused:  # noqa: BLE001  (each refusal is fine, whatever its class)
            found[f"cwd {directory}"] = Attempt(loot.secret in str(refused), str(refused)[:200])
    shown = naive_chroot(tmp_path, "descriptors.py", str(loot.path), loot.secret, "1")["reach the host from the working directory"]
    judge("working directory", found, dict.fromkeys(found, shown))


@pytest.mark.parametrize("user", ["root", "user"])
def test_nobody_becomes_more_than_he_is(attack, user):
    """The attacker wants an id of the host's or a capability that reaches further than his own files."""
    shown = control("identity.py")
    reasons = {name: "the host's root of this machine has not got it either" for name, found in shown.items() if name.startswith("CAP_") and not found.did}
    judge(f"identity as {user}", attack("identity.py", user=user), shown, reasons)


def test_set_id_program_is_no_way_up_outside(sandbox, tmp_path):
    """The attacker leaves a set-user-id program of root's in the sandbox; a friend on the host, an ordinary user, runs it."""
    name = "escape-set-id"
    sandbox.commands.run(f"cp $(readlink -f /usr/bin/id) /root/{name} && chmod 4755 /root/{name} && chmod 755 /root", user="root")
    search = ["find", os.environ["CONFORMANCE_DATA_DIR"], "-name", name]
    found = subprocess.run(search, capture_output=True, text=True).stdout.split()
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    ran = [subprocess.run([*nobody, path, "-u"], capture_output=True, text=True) if _executable(nobody, path) else None for path in found]
    did = any(done is not None and done.stdout.strip() == "0" for done in ran)
    # Without the private directories around it: the same kind of file where everybody can go.
    scratch = f"/var/tmp/{name}-{os.getpid()}"
    shutil.copy("/usr/bin/id", scratch)
    try:
        os.chmod(scratch, 0o4755)
        shown = subprocess.run([*nobody, scratch, "-u"], capture_output=True, text=True).stdout.strip() == "0"
    finally:
        os.unlink(scratch)
    one("set-id programs", "run by a user of the host", did, shown, f"{found}")
    sandbox.commands.run(f"rm /root/{name}", user="root")


def _executable(prefix: list[str], path: str) -> bool:
    return subprocess.run([*prefix, "test", "-x", path], capture_output=True).returncode == 0
