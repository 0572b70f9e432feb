"""What belongs to whoever owns the namespaces: settings, names, clocks, networks and mounts of one's own, and the way
from one namespace to its owner and back in with all rights."""

import ctypes
import fcntl
import os
import socket

from attack import LIBC, X86, add, attempt, check, main, syscall

NEWTIME, NEWNS, NEWUTS, NEWIPC, NEWNET = 0x80, 0x20000, 0x4000000, 0x8000000, 0x40000000
NS_GET_USERNS, SIOCGSKNS = 0xB701, 0x894C
SETNS = 308 if X86 else 268
IOPRIO_SET = 251 if X86 else 30
# Settings of a network, of message queues and of shared memory: each namespace has its own.
OWN = """
net/ipv4/ip_forward net/ipv4/conf/all/rp_filter net/ipv4/conf/all/route_localnet net/ipv4/conf/all/accept_local
net/ipv4/ip_nonlocal_bind net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range net/ipv6/conf/all/disable_ipv6
net/ipv6/conf/default/disable_ipv6 kernel/shmmax kernel/msgmax kernel/sem kernel/msgmnb fs/mqueue/queues_max fs/mqueue/msgsize_max
""".split()


def open_for_writing(path):
    os.close(os.open(path, os.O_WRONLY))
    return "opened for writing"


def first_opened(paths):
    last = None
    for path in paths:
        try:
            open_for_writing(path)
            return path
        except OSError as error:
            last = error
    if last:
        raise last
    return None


for name in OWN:
    add(f"/proc/sys/{name}", open_for_writing, f"/proc/sys/{name}")


@attempt("another way to /proc/sys")
def other_way():
    roots = ("/proc/self/root", "/proc/1/root", "/proc/thread-self/root", "/proc/self/task/self/root", "/proc/self/cwd/" + "../" * 12)
    return first_opened(f"{root}/proc/sys/{name}" for root in roots for name in OWN)


@attempt("something below /proc/net")
def below_net():
    names = [os.path.join(place, name) for place, _, files in os.walk("/proc/self/net") for name in files]
    return first_opened(names)


def set_name(function):
    check(function(b"escape", 6))
    return "set"


add("the host name", set_name, LIBC.sethostname)
add("the domain name", set_name, LIBC.setdomainname)


def enter(fd, kind):
    syscall(SETNS, fd, kind)
    return "entered"


for name, kind in (("net", NEWNET), ("uts", NEWUTS), ("ipc", NEWIPC), ("mnt", NEWNS)):
    add(f"enter the own {name} namespace anew", lambda name=name, kind=kind: enter(os.open(f"/proc/self/ns/{name}", os.O_RDONLY), kind))


@attempt("the network namespace by a socket")
def by_socket():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return enter(fcntl.ioctl(one, SIOCGSKNS), NEWNET)


@attempt("who owns the namespace of processes")
def owner_of_processes():
    with open("/proc/self/ns/pid") as namespace:
        return fcntl.ioctl(namespace, NS_GET_USERNS)


@attempt("other clocks")
def clocks():
    LIBC.unshare(NEWTIME)
    with open("/proc/self/timens_offsets", "w") as file:
        file.write("monotonic 1000000 0\n")
    return "written"


@attempt("a class of real time for the disk")
def real_time():
    syscall(IOPRIO_SET, 1, 0, 1 << 13)
    return "set"


def option(level, name, value):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.setsockopt(level, name, value)
    return "set"


add("mark packets", option, socket.SOL_SOCKET, 36, 1)
add("a high priority for packets", option, socket.SOL_SOCKET, 12, 7)
add("a buffer beyond the limit", option, socket.SOL_SOCKET, 33, 1 << 28)
add("repair a connection", option, socket.IPPROTO_TCP, 19, 1)
add("packets with a false source", option, socket.SOL_IP, 19, 1)


@attempt("messages of all network namespaces")
def all_namespaces():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as one:
        one.setsockopt(270, 8, 1)
    return "set"


@attempt("another envd in the place of envd's program")
def replace():
    """A file of one's own over the one that process one runs."""
    open("/tmp/owned", "w").close()
    check(LIBC.mount(b"/tmp/owned", b"/dev/null" if not os.path.exists("/dev/.envd") else b"/dev/.envd", None, ctypes.c_ulong(4096), None))
    return "mounted"


main()
