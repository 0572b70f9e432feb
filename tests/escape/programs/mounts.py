"""Ways to change the tree of mounts, old interface and new, and to redirect what a runtime writes to /proc."""

import ctypes
import os

from attack import SCRATCH, add, attempt, check, main, syscall

LIBC = ctypes.CDLL(None, use_errno=True)
HERE = f"{SCRATCH}/mounts"
os.makedirs(f"{HERE}/a", exist_ok=True)
os.makedirs(f"{HERE}/b", exist_ok=True)
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_SHARED = 1, 32, 4096, 8192, 16384, 1 << 20
# The same numbers on every architecture.
OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT, FSPICK, MOUNT_SETATTR, STATMOUNT, LISTMOUNT = 428, 429, 430, 431, 432, 433, 442, 457, 458
AT_FDCWD, CREATE = -100, 6


def mount(source, target, kind=None, flags=0, data=None):
    encoded = [None if x is None else x.encode() for x in (source, target, kind)]
    check(LIBC.mount(*encoded, ctypes.c_ulong(flags), None if data is None else data.encode()))
    return "mounted"


def alone(work):
    """In a control, what one attempt does to the tree must not disturb the next one."""

    def run():
        if LIBC.unshare(0x20000) == 0:
            mount(None, "/", None, 1 << 18 | MS_REC)
        return work()

    return run


def umount(target, flags=0):
    check(LIBC.umount2(target.encode(), flags))
    return "unmounted"


def new_file_system(kind):
    fd = syscall(FSOPEN, kind.encode(), 0)
    syscall(FSCONFIG, fd, CREATE, None, None, 0)
    mounted = syscall(FSMOUNT, fd, 0, 0)
    syscall(MOVE_MOUNT, mounted, b"", AT_FDCWD, f"{HERE}/a".encode(), 4)
    return "mounted"


for kind in ("tmpfs", "proc", "sysfs", "devpts", "devtmpfs", "mqueue", "cgroup2", "debugfs", "tracefs", "securityfs", "binfmt_misc", "bpf", "ramfs"):
    add(f"mount {kind}", alone(lambda kind=kind: mount("none", f"{HERE}/a", kind)))
    add(f"fsopen {kind}", alone(lambda kind=kind: new_file_system(kind)))
add("bind the root elsewhere", alone(lambda: mount("/", f"{HERE}/a", None, MS_BIND | MS_REC)))
add("bind over /proc/sys", alone(lambda: mount(HERE, "/proc/sys", None, MS_BIND)))
add("cover /proc", alone(lambda: mount("none", "/proc", "tmpfs")))
add("cover /proc/self by a link's target", alone(lambda: mount("none", "/proc/self", "tmpfs")))
add("make /proc/sys writable", alone(lambda: mount(None, "/proc", None, MS_REMOUNT | MS_BIND)))
add("make / shared", alone(lambda: mount(None, "/", None, MS_SHARED | MS_REC)))
add("remount / read-only", alone(lambda: mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY)))
add("move /dev", alone(lambda: mount("/dev", f"{HERE}/b", None, MS_MOVE)))
add("unmount /proc", alone(lambda: umount("/proc", 2)))
add("unmount /dev", alone(lambda: umount("/dev", 2)))
add("unmount /sys", alone(lambda: umount("/sys", 2)))
add("open_tree clone of /proc", alone(lambda: syscall(OPEN_TREE, AT_FDCWD, b"/proc", 1)))
add("mount_setattr on /", alone(lambda: syscall(MOUNT_SETATTR, AT_FDCWD, b"/", 0, (ctypes.c_uint64 * 4)(0, 1, 0, 0), 32) == 0))
add("fspick /", alone(lambda: syscall(FSPICK, AT_FDCWD, b"/", 0)))


@attempt("pivot_root")
@alone
def pivot():
    mount("none", f"{HERE}/a", "tmpfs")
    os.mkdir(f"{HERE}/a/old")
    check(LIBC.syscall(155 if os.uname().machine == "x86_64" else 41, f"{HERE}/a".encode(), f"{HERE}/a/old".encode()))
    return "pivoted"


@attempt("redirect what a runtime writes to /proc/self/attr")
@alone
def redirect():
    """CVE-2025-52881: whoever controls what lies at /proc chooses where the runtime's writes go."""
    mount("none", "/proc", "tmpfs")
    os.makedirs("/proc/self/attr")
    with open("/proc/self/attr/exec", "w") as file:
        file.write("label")
    return open("/proc/self/attr/exec").read()


@attempt("put another directory in the place of /proc")
@alone
def replace():
    mount("none", f"{HERE}/a", "tmpfs")
    os.mkdir(f"{HERE}/a/proc")
    mount("/proc", f"{HERE}/a/proc", None, MS_MOVE)
    return "moved"


main()
