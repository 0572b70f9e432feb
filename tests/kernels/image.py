"""Makes what a virtual machine starts from: a first file system in memory and two disks.

    initramfs   busybox, the modules that the disks need, `guest/init`
    host disk   the modules of one kernel, the server, the checks, `nft`, `mke2fs`
    data disk   a data directory with the base template; its layer is the virtual machine's own system, too

Separate from the runner because nothing here knows how a machine is started or judged.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
GUEST = HERE / "guest"

# Modules that are needed before any file system is there.
EARLY = ("virtio_pci", "virtio_blk", "ext4", "quota_v2")
# Parts of a kernel's modules that a server, or a check, may ask for. The rest is hardware.
KEPT = ("fs", "net", "crypto", "lib", "arch", "security", "mm", "block", "drivers/net/veth", "drivers/block", "drivers/virtio", "drivers/tty")


def make_initramfs(kernel: Path, busybox: Path, target: Path, work: Path) -> None:
    """Writes the archive that the kernel unpacks first."""
    tree = work / "initramfs"
    for directory in ("bin", "dev", "proc", "sys", "new", "data", "host"):
        (tree / directory).mkdir(parents=True)
    shutil.copy2(busybox, tree / "bin/busybox")
    shutil.copy2(GUEST / "init", tree / "init")
    version = release(kernel)
    source = kernel / "modules" / version
    depmod(kernel / "modules", version)
    for path in with_dependencies(source / "modules.dep", EARLY):
        place = tree / "lib/modules" / version / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / path, place)
    depmod_tree(tree, version)
    target.write_bytes(archive(tree))
    shutil.rmtree(tree)


def make_host_disk(kernel: Path, soulbox: Path, target: Path, work: Path, extra: list[Path]) -> None:
    """Writes the disk with what a host has installed. `extra` are more files for the checks."""
    tree = work / "host"
    version = release(kernel)
    source = kernel / "modules" / version
    for part in KEPT:
        for found in source.glob(f"kernel/{part}*"):
            link_tree(found, tree / "modules" / version / found.relative_to(source))
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        if (source / name).exists():
            shutil.copy2(source / name, tree / "modules" / version / name)
    lib = work / "depmod/lib"
    lib.mkdir(parents=True)
    (lib / "modules").symlink_to(tree / "modules")
    subprocess.run(["depmod", "-b", str(lib.parent), version], check=True, env=with_sbin())
    (tree / "checks").mkdir()
    for path in [*GUEST.iterdir(), *extra]:
        shutil.copy2(path, tree / "checks" / path.name)
    (tree / "bin").mkdir()
    shutil.copy2(soulbox, tree / "bin/soulbox")
    for program in ("nft", "mke2fs"):
        bundle(shutil.which(program, path=with_sbin()["PATH"]), tree)
    disk(target, tree, 1024)
    shutil.rmtree(tree)
    shutil.rmtree(lib.parent)


def make_data_disk(base_data: Path, target: Path, work: Path) -> None:
    """Writes the disk with the data directory. Project quotas are on, to be used or not by how it is mounted."""
    tree = work / "data"
    tree.mkdir()
    for part in ("layers", "templates"):
        link_tree(base_data / part, tree / "data" / part)
    disk(target, tree, 4096, "-O", "quota,project", "-E", "quotatype=usrquota:grpquota:prjquota")
    shutil.rmtree(tree)


def release(kernel: Path) -> str:
    """The version as the kernel says it, which is the name of its modules' directory."""
    return next((kernel / "modules").iterdir()).name


def disk(target: Path, tree: Path, megabytes: int, *options: str) -> None:
    target.unlink(missing_ok=True)
    command = ["mkfs.ext4", "-q", "-F", *options, "-d", str(tree), str(target), f"{megabytes}M"]
    subprocess.run(command, check=True, env=with_sbin(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def link_tree(source: Path, target: Path) -> None:
    """A copy by hard links where that is possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["cp", "-al", str(source), str(target)], stderr=subprocess.DEVNULL).returncode != 0:
        if target.is_dir():
            shutil.rmtree(target)
        subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def with_sbin() -> dict[str, str]:
    return os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}


def depmod(modules: Path, version: str) -> None:
    """Packages come without this index; installing them makes it."""
    if (modules / version / "modules.dep").exists():
        return
    lib = modules.parent / "depmod/lib"
    lib.mkdir(parents=True, exist_ok=True)
    link = lib / "modules"
    if not link.is_symlink():
        link.symlink_to(modules.resolve())
    subprocess.run(["depmod", "-b", str(lib.parent), version], check=True, env=with_sbin())


def depmod_tree(tree: Path, version: str) -> None:
    if (tree / "lib/modules" / version).is_dir():
        subprocess.run(["depmod", "-b", str(tree), version], check=True, env=with_sbin(), stderr=subprocess.DEVNULL)


def with_dependencies(index: Path, names: tuple[str, ...]) -> list[str]:
    """Files of modules and of all they need. A module that is not there is part of the kernel."""
    needs = {}
    for line in index.read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    stem = {re.sub(r"\.ko.*", "", os.path.basename(path)).replace("-", "_"): path for path in needs}
    wanted = [stem[name] for name in names if name in stem]
    # Checksums that ext4 asks for by name, which no dependency tells.
    wanted += [path for name, path in stem.items() if name.startswith("crc32c")]
    return sorted({path for first in wanted for path in [first, *needs[first]]})


def bundle(program: str, tree: Path) -> None:
    """A program with the libraries and the loader of this machine: the other system may have other ones."""
    name = os.path.basename(program)
    libraries = tree / "lib" / name
    libraries.mkdir(parents=True)
    listing = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    loader = None
    for line in listing.splitlines():
        if found := re.search(r"(/\S+) \(0x", line):
            shutil.copy2(found.group(1), libraries)
            if "=>" not in line:
                loader = os.path.basename(found.group(1))
    shutil.copy2(program, libraries / name)
    script = tree / "bin" / name
    script.write_text(f'#!/bin/sh\nexec /host/lib/{name}/{loader} --library-path /host/lib/{name} /host/lib/{name}/{name} "$@"\n')
    script.chmod(0o755)


def archive(tree: Path) -> bytes:
    """A cpio archive in the format that the kernel reads, all of it root's."""
    out = bytearray()
    paths = [tree, *sorted(tree.rglob("*"))]
    for number, path in enumerate(paths, 1):
        data = path.read_bytes() if path.is_file() else b""
        entry(out, str(path.relative_to(tree)), path.stat().st_mode, data, number)
    entry(out, "dev/console", 0o20600, b"", len(paths) + 1, device=(5, 1))
    entry(out, "TRAILER!!!", 0, b"", 0)
    return bytes(out)


def entry(out: bytearray, name: str, mode: int, data: bytes, inode: int, device: tuple[int, int] = (0, 0)) -> None:
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    out += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    out += b"\0" * (-len(out) % 4)
    out += data
    out += b"\0" * (-len(out) % 4)
