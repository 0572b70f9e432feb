"""A restart of the machine, played: as far as a server and its sandboxes can tell."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import host
from server import Server, wait_until


def reboot(server: Server, meanwhile=lambda: None) -> None:
    """What a restart of the machine does to a server: everything goes but the files, and the boot is another. `meanwhile`
    is called when nobody uses the files."""
    wanted = os.path.realpath(server.data_dir)
    claim = next(path for path in host.CLAIMS.iterdir() if path.name.isdigit() and path.read_text() == wanted)
    prefix = f"sb{int(claim.name):x}"
    # `walk` does not mind what other servers remove meanwhile.
    slots = [Path(found) for found, _, _ in os.walk("/sys/fs/cgroup") if found.endswith(f"/soulbox/{prefix}")]
    for _ in range(100):
        pids = {int(pid) for slot in slots for file in slot.rglob("cgroup.procs") for pid in file.read_text().split()}
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        thaw(slots)
        if not pids:
            break
        time.sleep(0.02)
    for slot in slots:
        for directory in sorted((path for path in slot.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts)):
            wait_until("the cgroup can be removed", 5, lambda: removed(directory))
        wait_until("the cgroup can be removed", 5, lambda: removed(slot))
    claim.unlink()
    subprocess.run(["ip", "link", "del", f"{prefix}gw"], check=True)
    subprocess.run(["nft", "delete", "table", "inet", prefix], check=True)
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = file.read_text()
        except OSError:
            continue  # Of another server, which has just ended it.
        if backing.startswith(wanted + "/"):
            subprocess.run(["losetup", "-d", f"/dev/{file.parts[3]}"], check=True)
    meanwhile()
    (server.data_dir / "soulbox.db-boot").write_text("an earlier boot")
    for path in (server.data_dir / "sandboxes").glob("*/state.json"):
        text = path.read_text()
        if not text:
            continue  # Not on the disk yet, when the power went.
        record = json.loads(text)
        del record["sha256"]
        record["boot_id"] = "an earlier boot"
        digest = hashlib.sha256(json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
        path.write_text(json.dumps(record | {"sha256": digest}, separators=(",", ":"), ensure_ascii=False))


def thaw(slots: list[Path]) -> None:
    """What is frozen dies only then."""
    for slot in slots:
        for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            for file in slot.rglob(name):
                file.write_text(value)


def removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return not directory.exists()
    return True
