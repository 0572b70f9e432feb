"""Becoming somebody else: ids of the host, capabilities, more rights by a program of one's own."""

import ctypes
import os
import shutil
import struct
import subprocess

from attack import SCRATCH, add, attempt, check, main

LIBC = ctypes.CDLL(None, use_errno=True)
CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13, "SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "SYS_BOOT": 22, "SYS_RESOURCE": 24, "SYS_TIME": 25, "MKNOD": 27, "BPF": 39}


def has(number):
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    return bool(effective >> number & 1)


for name, number in CAPABILITIES.items():
    add(f"CAP_{name}", has, number)


@attempt("map ids of the host's")
def map_ids():
    """In a namespace of one's own if there may be one, else in the one that is there."""
    LIBC.unshare(0x10000000)
    with open("/proc/self/uid_map", "w") as file:
        file.write("0 0 1")
    return "mapped"


ADMIN = 21


def set_capability(inheritable):
    """CAP_SYS_ADMIN and nothing else."""
    header, bit = struct.pack("=Ii", 0x20080522, 0), 1 << ADMIN
    check(LIBC.capset(header, struct.pack("=6I", bit, bit, bit if inheritable else 0, 0, 0, 0)))


@attempt("a capability by capset")
def capset():
    set_capability(False)
    return "set"


@attempt("a program with a capability of its own")
def file_capability():
    """An attribute with CAP_SYS_ADMIN, effective and permitted, on a copy of a program."""
    path = f"{SCRATCH}/capable-{os.getpid()}"
    shutil.copy(shutil.which("grep"), path)
    try:
        os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0))
        text = subprocess.run([path, "CapEff", "/proc/self/status"], capture_output=True, text=True).stdout
        return int(text.split()[1], 16) >> ADMIN & 1 and text
    finally:
        os.unlink(path)


@attempt("an ambient capability")
def ambient():
    set_capability(True)
    check(LIBC.prctl(47, 2, ADMIN, 0, 0))
    return "raised"


@attempt("the bounding set grows")
def bounding():
    """CAP_SYS_ADMIN is in the bounding set."""
    return LIBC.prctl(23, ADMIN) == 1


main()
