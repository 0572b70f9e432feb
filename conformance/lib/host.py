"""What a server may leave behind on the host, read from the kernel.

What is there after a server has ended and was not before it started is a leak. Only what bears that server's marks
counts (its data directory, and the block of names and ids that it claimed), so other servers do not disturb. The settings
that a server with IPv6 changes bear no marks and are no leak: who starts one puts them back.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

# Where the servers of a machine claim their blocks: a file `<number>` that holds the data directory of its owner.
CLAIMS = Path("/run/soulbox/blocks")
# First user id that is handed to sandboxes; 16 blocks of 2048 slots of 65536 ids follow.
FIRST_UID = 0x7000_0000
BLOCKS = 16
UIDS_OF_A_BLOCK = 2048 * 65536
# The kernel's settings of IPv6: of each interface, and of `all`.
IPV6_SETTINGS = Path("/proc/sys/net/ipv6/conf")


class Marks:
    """How to recognise what belongs to the server of one data directory, or to any server."""

    def __init__(self, data_dir: str, any_server: bool = False):
        self.data_dir = os.path.realpath(data_dir)
        self.blocks = [number for number in range(BLOCKS) if any_server or self._owner(number) == self.data_dir]
        # Everything a server puts on the host begins with its block's prefix: `sb` and one hexadecimal digit.
        digits = "".join(f"{number:x}" for number in self.blocks)
        prefix = f"sb[{digits}]" if digits else r"(?!)"
        self.name = re.compile(rf"^{prefix}($|v\d+$|gw$|p$|[^0-9a-z])")

    @staticmethod
    def _owner(number: int) -> str | None:
        try:
            return (CLAIMS / str(number)).read_text()
        except OSError:
            return None

    def owns_uid(self, uid: int) -> bool:
        return (uid - FIRST_UID) // UIDS_OF_A_BLOCK in self.blocks

    def in_path(self, path: str) -> bool:
        return any(self.name.match(part) for part in path.split("/"))


def _process(entry: Path, marks: Marks) -> str | None:
    status = (entry / "status").read_text()
    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    executable = os.readlink(entry / "exe")
    uids = [int(uid) for uid in re.search(r"^Uid:\s+(.*)$", status, re.M).group(1).split()]
    program = os.path.basename(executable.split(" ")[0]).removeprefix("memfd:")
    ours = (
        any(marks.owns_uid(uid) for uid in uids)
        or any(marks.in_path(line.split(":", 2)[2]) for line in (entry / "cgroup").read_text().splitlines())
        or (program.startswith("soulbox") and marks.data_dir in command)
        or (program in ("soulbox-jail", "soulbox-envd") and marks.data_dir in (entry / "mountinfo").read_text())
    )
    return f"{executable} {command[:120]} uid {uids[0]}" if ours else None


def _processes(marks: Marks) -> dict[str, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = _process(entry, marks)
        except OSError:
            continue
        if text is not None:
            found[f"process {entry.name}"] = text
    return found


def _mounts(marks: Marks) -> dict[str, str]:
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split()[4]
        if marks.data_dir in line or marks.in_path(target):
            found[f"mount {target}"] = line
    return found


def _cgroups(marks: Marks) -> dict[str, str]:
    found = {}
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        for path in (os.path.join(directory, name) for name in names):
            if "/soulbox/" in path and marks.in_path(path):
                found[f"cgroup {path}"] = path
    return found


def _network(marks: Marks) -> dict[str, str]:
    found = {f"interface {name}": name for name in os.listdir("/sys/class/net") if marks.name.match(name)}
    if os.path.isdir("/run/netns"):
        found |= {f"network namespace {name}": name for name in os.listdir("/run/netns") if marks.name.match(name)}
    listing = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, text=True)
    if listing.returncode == 0 and listing.stdout:
        for item in json.loads(listing.stdout).get("nftables", []):
            table = item.get("table")
            if table and marks.name.match(table["name"]):
                found[f"nft table {table['family']} {table['name']}"] = table["name"]
    return found


def _sandbox_directories(marks: Marks) -> dict[str, str]:
    """What of a data directory belongs to one sandbox. All else in it is the server's own and stays."""
    directory = Path(marks.data_dir) / "sandboxes"
    if not directory.is_dir():
        return {}
    return {f"directory {child}": str(child) for child in directory.iterdir()}


def _disks(marks: Marks) -> dict[str, str]:
    """Images of disks, and loop devices that are bound to any, removed or not."""
    found = {}
    directory = Path(marks.data_dir) / "disks"
    if directory.is_dir():
        found |= {f"disk {child}": str(child) for child in directory.iterdir()}
    for device in Path("/sys/block").glob("loop*"):
        try:
            file = (device / "loop/backing_file").read_text().strip()
        except OSError:
            continue
        if file.startswith(f"{marks.data_dir}/"):
            found[f"loop device {device.name}"] = file
    return found


def _everything(marks: Marks) -> dict[str, str]:
    parts = (_processes, _mounts, _cgroups, _network, _sandbox_directories, _disks)
    return {name: text for part in parts for name, text in part(marks).items()}


def snapshot(data_dir: str) -> dict[str, str]:
    """What is there before the server of this data directory starts, of whichever server."""
    return _everything(Marks(data_dir, any_server=True))


def leaks(before: dict[str, str], data_dir: str, patience: float = 10) -> dict[str, str]:
    """What this server has left; release of cgroups and namespaces may take the kernel a moment."""
    deadline = time.monotonic() + patience
    while True:
        left = {name: text for name, text in _everything(Marks(data_dir)).items() if name not in before}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


@contextmanager
def ipv6_settings_restored():
    """Puts back at its end what a server with IPv6 changes of the host. The server must have ended by then."""
    settings = {path: path.read_text() for path in (IPV6_SETTINGS / "all/forwarding", *IPV6_SETTINGS.glob("*/accept_ra"))}
    try:
        yield
    finally:
        for path, value in settings.items():
            if path.exists():
                path.write_text(value)
