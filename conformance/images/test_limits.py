"""Builds that find no room and builds that never end, on a server with a small disk and little patience."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from e2b import BuildException, Sandbox, SandboxException, Template

import host
from registry import small_system
from server import Server, kill_every_sandbox, prepare_data_dir

MIB = 1 << 20
LAYER_MIB = 96
PATIENCE = 12


class SmallDisk:
    """A file system of its own in a file, with the base template on it."""

    def __init__(self):
        base = Path(os.environ["CONFORMANCE_BASE_DATA"])
        self.image = Path(tempfile.mkstemp(prefix="soulbox-disk-", suffix=".img")[1])
        self.place = Path(tempfile.mkdtemp(prefix="soulbox-small-"))
        used = int(subprocess.run(["du", "-sxm", base], capture_output=True, text=True, check=True).stdout.split()[0])
        os.truncate(self.image, (used * 2 + 1024) * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", self.image], check=True)
        subprocess.run(["mount", "-o", "loop", self.image, self.place], check=True)
        self.data_dir = self.place / "data"
        prepare_data_dir(base, self.data_dir)
        self.fill = self.place / "fill"

    def leave(self, mib: int) -> None:
        """Takes everything but so much."""
        self.fill.unlink(missing_ok=True)
        free = shutil.disk_usage(self.place).free
        with self.fill.open("wb") as fill:
            os.posix_fallocate(fill.fileno(), 0, free - mib * MIB)

    def give_back(self) -> None:
        self.fill.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", self.place], check=True)
        self.place.rmdir()
        self.image.unlink()


@pytest.fixture(scope="module")
def disk():
    disk = SmallDisk()
    yield disk
    disk.close()


@pytest.fixture(scope="module")
def server(disk, registries):
    server = Server(
        Path(os.environ["CONFORMANCE_BINARY"]),
        disk.data_dir,
        *("--private-registries", f"http://{registries.open.address}"),
        *("--disk-reserve-mib", "16"),
        *("--max-build-seconds", str(PATIENCE)),
    )
    server.log_path = Path(tempfile.gettempdir()) / f"{disk.place.name}.log"
    before = host.snapshot(str(server.data_dir))
    server.start()
    yield server
    kill_every_sandbox(server.env)
    assert server.stop() == 0
    left = host.leaks(before, str(server.data_dir))
    assert left == {}, left
    server.log_path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def large(registries, images):
    """An image with a layer of noise."""

    def noise(root):
        with (root / "noise").open("wb") as out:
            for _ in range(LAYER_MIB):
                out.write(os.urandom(MIB))

    layout = images.layout("large").tree(small_system).tree(noise)
    registries.open.push(layout.path, "latest", "large:1")
    return f"{registries.open.address}/large:1"


# What is left free, and what the build is at when that is not enough.
@pytest.mark.parametrize("free", [48, LAYER_MIB + 12], ids=["fetching", "saving"])
def test_no_room_for_an_image(disk, server, large, build, create, name, free):
    disk.leave(free)
    with pytest.raises(BuildException) as caught:
        build(Template().from_image(large), skip_cache=True)
    assert "no space left" in str(caught.value).lower() and "FIX: " in str(caught.value), caught.value
    assert not list((disk.data_dir / "pulls").glob("*[!t]")), "what was fetched in part stays"
    disk.give_back()
    build(Template().from_image(large), skip_cache=True)
    run = create(name).commands.run
    assert run("stat -c %s /noise").stdout == f"{LAYER_MIB * MIB}\n"


def test_a_step_that_hangs(server, build, create, name, options):
    began = time.monotonic()
    with pytest.raises(BuildException) as caught:
        build(Template().from_template("base").run_cmd("trap '' TERM INT HUP; while :; do sleep 1000; done"))
    assert PATIENCE <= time.monotonic() - began < PATIENCE + 20
    assert str(caught.value).startswith(f"build timed out after {PATIENCE} seconds\nFIX: "), caught.value
    # Nothing of it is in the way of the next one.
    build(Template().from_template("base").run_cmd("echo fine > /home/user/fine"))
    assert create(name).files.read("/home/user/fine") == "fine\n"
    assert len(Sandbox.list(**options).next_items()) == 1


def test_no_room_for_a_pause(disk, server, create):
    """What cannot be kept runs on; with room again, it is kept."""
    sandbox = create("base")
    sandbox.commands.run(f"head -c {LAYER_MIB}M /dev/urandom > noise && sync -f noise && sha256sum noise > sum")
    sandbox.commands.run("nohup sleep 1000 > /dev/null 2>&1 &")
    disk.leave(60)
    with pytest.raises(SandboxException) as caught:
        sandbox.pause(mode="filesystem")
    assert "disk is full. FIX: " in str(caught.value), caught.value
    assert sandbox.is_running() and sandbox.commands.run("pgrep -xc sleep").stdout == "1\n"
    disk.give_back()
    assert sandbox.pause(mode="filesystem") is True
    sandbox.connect(timeout=120)
    assert sandbox.commands.run("sha256sum -c sum").stdout == "noise: OK\n"
