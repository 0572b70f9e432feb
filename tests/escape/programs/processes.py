"""What can be done to a process of somebody else, given its number as the host knows it, or any number at all.

usage: processes.py SECRET PID...: the secret lies in the memory and in the environment of the first process.
"""

import ctypes
import os
import re
import signal
import struct
import sys

from attack import X86, add, attempt, check, main, syscall

LIBC = ctypes.CDLL(None, use_errno=True)
SECRET = sys.argv[1].encode()
PIDS = [int(pid) for pid in sys.argv[2:]]
PTRACE_ATTACH, PTRACE_SEIZE, PTRACE_DETACH = 16, 0x4206, 17
NUMBERS = {"process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "kcmp": (312, 272), "process_madvise": (440, 440), "migrate_pages": (256, 238), "get_robust_list": (274, 100)}


def number(name):
    return NUMBERS[name][0 if X86 else 1]


def each(work):
    """The first process that lets it be done; the last refusal otherwise."""

    def run():
        last = None
        for pid in PIDS:
            try:
                if found := work(pid):
                    return f"{pid}: {found}"
            except OSError as error:
                last = error
        if last:
            raise last
        return None

    return run


def writable_area(pid):
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            if " rw-p " in line:
                start, end = (int(word, 16) for word in re.match(r"([0-9a-f]+)-([0-9a-f]+)", line).groups())
                return start, end - start
    raise OSError(1, "no writable area")


@attempt("ptrace attach")
@each
def attach(pid):
    check(LIBC.ptrace(PTRACE_SEIZE, pid, 0, 0))
    LIBC.ptrace(PTRACE_DETACH, pid, 0, 0)
    return "traced"


@attempt("process_vm_readv")
@each
def read_memory(pid):
    # An address that is surely mapped in the first process of every kind is not known: ask, or try the usual place.
    try:
        start, _ = writable_area(pid)
    except OSError:
        start = 0x400000
    buffer = ctypes.create_string_buffer(8)
    local, remote = struct.pack("QQ", ctypes.addressof(buffer), 8), struct.pack("QQ", start, 8)
    return syscall(number("process_vm_readv"), pid, local, 1, remote, 1, 0) == 8


@attempt("process_vm_writev")
@each
def write_memory(pid):
    start, _ = writable_area(pid)
    buffer = ctypes.create_string_buffer(8)
    local, remote = struct.pack("QQ", ctypes.addressof(buffer), 8), struct.pack("QQ", start, 8)
    syscall(number("process_vm_readv"), pid, local, 1, remote, 1, 0)
    return syscall(number("process_vm_writev"), pid, local, 1, remote, 1, 0) == 8


@attempt("/proc/PID/mem")
@each
def proc_mem(pid):
    start, size = writable_area(pid)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(start)
        return f"{len(memory.read(min(size, 4096)))} bytes"


for name in ("environ", "maps", "auxv", "pagemap", "map_files", "fd", "ns"):

    def look(pid, name=name):
        path = f"/proc/{pid}/{name}"
        if name == "ns":
            return os.readlink(f"{path}/net")
        if os.path.isdir(path):
            # That there are so many tells nothing; where one leads does.
            return os.readlink(f"{path}/{os.listdir(path)[0]}")
        with open(path, "rb") as file:
            return len(file.read(64)) > 0 and "read"

    add(f"/proc/PID/{name}", each(look))


@attempt("the secret in an environment")
@each
def secret(pid):
    with open(f"/proc/{pid}/environ", "rb") as file:
        return SECRET in file.read() and "found"


@attempt("pidfd_getfd")
@each
def take_descriptor(pid):
    pidfd = os.pidfd_open(pid)
    last = None
    for fd in range(16):
        try:
            return syscall(number("pidfd_getfd"), pidfd, fd, 0) >= 0
        except OSError as error:
            last = error
    raise last


@attempt("kcmp with another process")
@each
def compare(pid):
    return syscall(number("kcmp"), os.getpid(), pid, 1, 0, 0) >= 0


@attempt("signals (0, which only asks)")
@each
def signals(pid):
    os.kill(pid, 0)
    return "would be delivered"


@attempt("signals by pidfd")
@each
def pidfd_signal(pid):
    signal.pidfd_send_signal(os.pidfd_open(pid), 0)
    return "would be delivered"


@attempt("limits of another process")
@each
def limits(pid):
    import resource

    now = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, now)
    return "set"


@attempt("CPUs of another process")
@each
def affinity(pid):
    os.sched_setaffinity(pid, os.sched_getaffinity(pid))
    return "set"


@attempt("priority of another process")
@each
def priority(pid):
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid))
    return "set"


@attempt("oom_score_adj of another process")
@each
def oom(pid):
    with open(f"/proc/{pid}/oom_score_adj", "r+") as file:
        value = file.read()
        file.seek(0)
        file.write(value)
    return "written"


@attempt("setns to another process's namespaces")
@each
def join(pid):
    check(LIBC.setns(os.pidfd_open(pid), 0x40000000))
    return "joined"


main()
