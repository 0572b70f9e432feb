"""A disk that loses what was not synced when the power goes: ext4 on a loop device, shut down without its journal."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import tempfile
from pathlib import Path

from server import wait_until

# EXT4_IOC_SHUTDOWN and the way that flushes nothing (linux/ext4.h).
SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class LossyDisk:
    """Mounted until it is removed. Nothing reaches it by the passing of time: it commits when it is told to."""

    def __init__(self, mib: int):
        self.place = Path(tempfile.mkdtemp(prefix="soulbox-power-"))
        self.image = self.place / "disk.img"
        self.files = self.place / "files"
        self.files.mkdir()
        with self.image.open("wb") as image:
            image.truncate(mib << 20)
        subprocess.run(["mkfs.ext4", "-q", str(self.image)], check=True)
        # Servers whose data directory others may not reach have a mount namespace of their own. It follows what is shared.
        subprocess.run(["mount", "--bind", str(self.place), str(self.place)], check=True)
        subprocess.run(["mount", "--make-shared", str(self.place)], check=True)
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop,commit=900", str(self.image), str(self.files)], check=True)

    def unmount(self) -> None:
        """When the last of those who were killed has let go of it."""

        def done() -> bool:
            return subprocess.run(["umount", str(self.files)], stderr=subprocess.DEVNULL).returncode == 0

        def free() -> bool:
            return not subprocess.run(["losetup", "-j", str(self.image)], check=True, capture_output=True).stdout

        wait_until("nobody uses the disk", 20, done)
        # Another namespace may have it mounted for a moment longer, and would bring back the disk that was cut.
        wait_until("no other namespace has the disk", 20, free)

    def cut(self) -> None:
        """From now on nothing is written any more, and what was not synced is lost."""
        directory = os.open(self.files, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(directory)

    def again(self) -> None:
        """The power is back."""
        self.unmount()
        self.mount()

    def remove(self) -> None:
        self.unmount()
        subprocess.run(["umount", str(self.place)], check=True)
        self.image.unlink()
        self.files.rmdir()
        for left in self.place.iterdir():
            left.unlink()
        self.place.rmdir()
