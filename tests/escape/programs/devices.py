"""Device nodes: making them, and finding one that is there.

usage: devices.py DIRECTORY: where to look for some.
"""

import os
import stat
import sys

from attack import SCRATCH, add, attempt, main

BLOCK = {"sda": (8, 0), "vda": (254, 0), "vda of old": (253, 0), "loop0": (7, 0), "nvme": (259, 0), "ram0": (1, 0), "dm-0": (252, 0), "md0": (9, 0), "sr0": (11, 0)}
CHARACTER = {
    "mem": (1, 1), "kmem": (1, 2), "port": (1, 4), "kmsg": (1, 11), "tty0": (4, 0), "ttyS0": (4, 64), "console": (5, 1), "kvm": (10, 232),
    "fuse": (10, 229), "loop-control": (10, 237), "net/tun": (10, 200), "vhost-net": (10, 238), "vsock": (10, 121), "userfaultfd": (10, 126),
    "btrfs-control": (10, 234), "hpet": (10, 228), "watchdog": (10, 130), "snapshot": (10, 231), "input/event0": (13, 64), "fb0": (29, 0),
    "cpu/0/msr": (202, 0), "cpu/0/cpuid": (203, 0), "dri/card0": (226, 0), "nvidia0": (195, 0), "vfio": (10, 196), "raw1": (162, 1), "sg0": (21, 0),
    "ppp": (108, 0), "rtc0": (252, 0), "vhci": (10, 137),
}  # fmt: skip
# What a sandbox is meant to have.
HARMLESS = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (0, 0)}


def make(kind, numbers):
    path = f"{SCRATCH}/node-{os.getpid()}"
    os.mknod(path, kind | 0o600, os.makedev(*numbers))
    made = os.stat(path)
    os.unlink(path)
    return f"{stat.filemode(made.st_mode)} {os.major(made.st_rdev)},{os.minor(made.st_rdev)}"


for name, numbers in BLOCK.items():
    add(f"mknod b {name}", make, stat.S_IFBLK, numbers)
for name, numbers in CHARACTER.items():
    add(f"mknod c {name}", make, stat.S_IFCHR, numbers)


@attempt("find a device that is there")
def find():
    for directory, _, names in os.walk(sys.argv[1]):
        if directory.startswith("/proc/"):
            continue
        for name in names:
            path = os.path.join(directory, name)
            found = os.lstat(path)
            numbers = (os.major(found.st_rdev), os.minor(found.st_rdev))
            # Terminals of its own instance are its own.
            if stat.S_ISBLK(found.st_mode) or (stat.S_ISCHR(found.st_mode) and numbers not in HARMLESS and numbers[0] != 136):
                return f"{path} {numbers}"
    return None


@attempt("open the host's disk by /proc/self/mountinfo")
def disk():
    """The number of the device that holds the host's files is told; a node with it would be the disk."""
    with open("/proc/self/mountinfo") as file:
        numbers = {tuple(int(n) for n in line.split()[2].split(":")) for line in file}
    last = None
    for number in numbers:
        path = f"{SCRATCH}/disk-{os.getpid()}"
        try:
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(*number))
            fd = os.open(path, os.O_RDONLY)
            return f"{number}: {len(os.read(fd, 512))} bytes read"
        except OSError as error:
            last = error
        finally:
            if os.path.exists(path):
                os.unlink(path)
    raise last


main()
