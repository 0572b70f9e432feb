"""What a server may leave behind on the host, read from the kernel.

A snapshot is taken before the server starts and after it has ended; what is in the second and not in the first
is a leak. Only things that bear SoulBox's marks are looked at, so that other work on the machine does not disturb.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

# Everything a server puts on the host begins with its block's prefix: `sb` and one hexadecimal digit.
BLOCK_NAME = re.compile(r"^sb[0-9a-f]($|v\d+$|gw$|[^0-9a-z])")
# First user id that is handed to sandboxes; 16 blocks of 2048 slots of 65536 ids follow.
FIRST_UID = 0x7000_0000
END_UID = FIRST_UID + 16 * 2048 * 65536


def _processes(data_dir: str) -> dict[str, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            status = (entry / "status").read_text()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            executable = os.readlink(entry / "exe")
        except OSError:
            continue
        uids = [int(uid) for uid in re.search(r"^Uid:\s+(.*)$", status, re.M).group(1).split()]
        program = os.path.basename(executable.split(" ")[0]).removeprefix("memfd:")
        ours = program in ("soulbox", "soulbox-jail", "soulbox-envd") and data_dir in command
        in_sandbox = any(FIRST_UID <= uid < END_UID for uid in uids)
        if ours or in_sandbox or "memfd:soulbox" in executable or "memfd:envd" in executable:
            found[f"process {entry.name}"] = f"{executable} {command[:120]} uid {uids[0]}"
    return found


def _mounts(data_dir: str) -> dict[str, str]:
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        target = fields[4]
        if data_dir in line or "soulbox" in target or re.search(r"/netns/sb[0-9a-f]", target):
            found[f"mount {target}"] = line
    return found


def _cgroups() -> dict[str, str]:
    """Everything below a `soulbox` directory, and that directory itself, in every hierarchy."""
    found = {}
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            path = os.path.join(directory, name)
            if "soulbox" in path.split("/") or BLOCK_NAME.match(name):
                found[f"cgroup {path}"] = path
    return found


def _network() -> dict[str, str]:
    found = {}
    for name in os.listdir("/sys/class/net"):
        if BLOCK_NAME.match(name):
            found[f"interface {name}"] = name
    for directory in ("/run/netns", "/var/run/netns"):
        if os.path.isdir(directory):
            for name in os.listdir(directory):
                if BLOCK_NAME.match(name) or "soulbox" in name:
                    found[f"network namespace {name}"] = name
    listing = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, text=True)
    if listing.returncode == 0 and listing.stdout:
        for item in json.loads(listing.stdout).get("nftables", []):
            table = item.get("table")
            if table and ("soulbox" in table["name"] or BLOCK_NAME.match(table["name"])):
                found[f"nft table {table['family']} {table['name']}"] = table["name"]
    return found


def _uid_ranges() -> dict[str, str]:
    found = {}
    for path in ("/etc/subuid", "/etc/subgid"):
        if os.path.exists(path):
            for line in Path(path).read_text().splitlines():
                if "soulbox" in line or f":{FIRST_UID}:" in line:
                    found[f"uid range {path}: {line}"] = line
    return found


def _sandbox_directories(data_dir: str) -> dict[str, str]:
    found = {}
    for name in ("sandboxes", "slots", "run"):
        directory = Path(data_dir) / name
        if directory.is_dir():
            for child in directory.iterdir():
                if child.is_dir():
                    found[f"directory {child}"] = str(child)
    return found


def snapshot(data_dir: str) -> dict[str, str]:
    """Everything on the host that could be a server's, by name."""
    return (
        _processes(data_dir)
        | _mounts(data_dir)
        | _cgroups()
        | _network()
        | _uid_ranges()
        | _sandbox_directories(data_dir)
    )


def leaks(before: dict[str, str], data_dir: str, patience: float = 5) -> dict[str, str]:
    """What is there now and was not before; release of cgroups and namespaces may take the kernel a moment."""
    deadline = time.monotonic() + patience
    while True:
        left = {name: text for name, text in snapshot(data_dir).items() if name not in before}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)
