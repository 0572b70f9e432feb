"""Control groups as a way out: CVE-2022-0492 and its relatives."""

import ctypes
import os

from attack import SCRATCH, add, attempt, check, main, syscall

LIBC = ctypes.CDLL(None, use_errno=True)
NAME = f"escape-{os.getpid()}"
CONTROLLERS = ("memory", "pids", "cpu", "devices", "freezer", "blkio", "cpuset")


def mount(kind, data=None):
    target = f"{SCRATCH}/cgroup-{os.getpid()}"
    os.makedirs(target)
    check(LIBC.mount(b"none", target.encode(), kind.encode(), 0, None if data is None else data.encode()))
    return target


def with_group(target, work):
    group = f"{target}/{NAME}"
    os.mkdir(group)
    try:
        return work(group)
    finally:
        os.rmdir(group)


def v1(controller):
    return with_group(mount("cgroup", controller), lambda group: f"made {os.path.basename(group)}")


for controller in CONTROLLERS:
    add(f"mount v1 {controller} and make a group", v1, controller)


@attempt("mount v2 and make a group")
def v2():
    return with_group(mount("cgroup2"), lambda group: "made a group")


@attempt("mount v2 by fsopen")
def v2_fsopen():
    fd = syscall(430, b"cgroup2", 0)
    syscall(431, fd, 6, None, None, 0)
    return syscall(432, fd, 0, 0)


@attempt("a release agent")
def release_agent():
    """The classical escape: the kernel runs a program of the host's when the last process has left."""
    target = mount("cgroup", "pids")

    def notify(group):
        with open(f"{group}/notify_on_release", "w") as file:
            file.write("0")
        # Opening is enough to see that it could be written.
        os.close(os.open(f"{target}/release_agent", os.O_WRONLY))
        return "release_agent can be written"

    return with_group(target, notify)


@attempt("move a process into another group")
def move():
    def join(group):
        pid = os.fork()
        if pid == 0:
            import signal

            signal.pause()
        try:
            with open(f"{group}/cgroup.procs", "w") as file:
                file.write(str(pid))
            return "moved"
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            with open(f"{target}/cgroup.procs") as file:
                file.read(1)

    target = mount("cgroup", "pids")
    return with_group(target, join)


@attempt("groups below /sys/fs/cgroup")
def visible():
    found = [path for path, _, files in os.walk("/sys/fs/cgroup") if "cgroup.procs" in files]
    for path in found:
        os.close(os.open(f"{path}/cgroup.procs", os.O_WRONLY))
        return path
    return None


@attempt("a new cgroup namespace")
def namespace():
    return check(LIBC.unshare(0x02000000)) == 0


@attempt("descriptors of cgroup files")
def descriptors():
    """The runtime's own way to its limits, if it has left one open or lets it be taken."""
    last = None
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if "cgroup.procs" in os.readlink(f"/proc/{pid}/fd/{fd}"):
                    return f"/proc/{pid}/fd/{fd}"
        except OSError as error:
            last = error
    if last:
        raise last
    return None


main()
