"""Doors of the kernel that exploits have come through, each only knocked at: nothing is exploited."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
import struct

from attack import SCRATCH, X86, add, attempt, check, main, syscall

LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = {  # (x86-64, aarch64)
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "kcmp": (312, 272), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "unshare": (272, 97), "setns": (308, 268), "clone3": (435, 435), "kexec_load": (246, 104), "syslog": (103, 116), "vmsplice": (278, 75),
    "fanotify_init": (300, 262), "clock_settime": (227, 112), "adjtimex": (159, 171), "quotactl": (179, 60), "swapon": (167, 224),
    "lookup_dcookie": (212, 18), "acct": (163, 89), "sethostname": (170, 161), "setdomainname": (171, 162), "init_module": (175, 105),
    "reboot": (169, 142), "personality": (135, 92), "move_pages": (279, 239), "process_mrelease": (448, 448), "ioperm": (173, None),
    "iopl": (172, None), "modify_ldt": (154, None), "getpid": (39, 172),
}  # fmt: skip


def nr(name):
    number = NUMBERS[name][0 if X86 else 1]
    if number is None:
        raise OSError(errno.ENOSYS, "not on this architecture")
    return number


def call(name, *arguments):
    return syscall(nr(name), *arguments)


def opens(family, kind, protocol=0):
    socket.socket(family, kind, protocol).close()
    return "a socket"


# Copy Fail (CVE-2026-31431), Dirty Frag (CVE-2026-43284, -43500), CVE-2024-1086 and other families of sockets.
SOCKETS = {
    "AF_ALG": (38, 5, 0), "AF_RXRPC": (33, 2, 2), "AF_KEY": (15, 3, 2), "AF_PACKET raw": (17, 3, 0x300), "AF_PACKET datagram": (17, 2, 0x300),
    "AF_VSOCK": (40, 1, 0), "AF_TIPC": (30, 1, 0), "AF_SMC": (43, 1, 0), "AF_XDP": (44, 3, 0), "AF_CAN": (29, 3, 1), "AF_BLUETOOTH": (31, 3, 1),
    "AF_NFC": (39, 5, 0), "AF_QIPCRTR": (42, 2, 0), "AF_MCTP": (45, 2, 0), "AF_RDS": (21, 5, 0), "AF_PPPOX": (24, 1, 0), "AF_AX25": (3, 5, 0),
    "AF_X25": (9, 5, 0), "AF_PHONET": (35, 5, 0), "AF_KCM": (41, 5, 0), "AF_IEEE802154": (36, 3, 0), "AF_LLC": (26, 1, 0), "SCTP": (2, 1, 132),
    "netlink XFRM": (16, 3, 6), "netlink NETFILTER": (16, 3, 12), "netlink AUDIT": (16, 3, 9), "netlink KOBJECT_UEVENT": (16, 3, 15),
    "netlink GENERIC": (16, 3, 16), "netlink SOCK_DIAG": (16, 3, 4), "netlink CRYPTO": (16, 3, 21), "netlink RDMA": (16, 3, 20),
    "netlink CONNECTOR": (16, 3, 11), "netlink SELINUX": (16, 3, 7), "netlink FIB_LOOKUP": (16, 3, 10), "raw ICMP": (2, 3, 1),
    "raw IP": (2, 3, 255), "raw IPv6": (10, 3, 58), "raw TCP": (2, 3, 6), "DCCP": (2, 6, 33),
}  # fmt: skip
for name, arguments in SOCKETS.items():
    add(f"socket {name}", opens, *arguments)


def option(kind, protocol, level, name, value):
    with socket.socket(socket.AF_INET, kind, protocol) as one:
        one.setsockopt(level, name, value)
    return "set"


add("UDP_ENCAP (ESP in UDP)", option, socket.SOCK_DGRAM, 17, 17, 100, 2)


@attempt("TCP_ULP (ESP in TCP, TLS in the kernel)")
def ulp():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        last = None
        for kind in (b"espintcp", b"tls", b"smc", b"mptcp"):
            try:
                one.setsockopt(6, 31, kind)
                return kind
            except OSError as error:
                last = error
        raise last


NAMESPACES = {"user": 0x10000000, "mnt": 0x20000, "net": 0x40000000, "pid": 0x20000000, "ipc": 0x8000000, "uts": 0x4000000, "cgroup": 0x2000000, "time": 0x80}
for name, flag in NAMESPACES.items():
    add(f"unshare {name}", lambda flag=flag: call("unshare", flag) == 0)


@attempt("clone a user namespace")
def clone():
    pid = LIBC.syscall(56 if X86 else 220, ctypes.c_long(0x10000000 | signal.SIGCHLD), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    check(pid)
    return os.waitpid(pid, 0)[1] == 0


@attempt("clone3 a user namespace")
def clone3():
    arguments = struct.pack("11Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    pid = syscall(435, arguments, 88)
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


@attempt("a user namespace with nf_tables in it")
def nf_tables():
    """The road of CVE-2024-1086."""
    call("unshare", 0x10000000 | 0x40000000)
    return opens(16, 3, 12)


@attempt("setns to the first process's network")
def setns():
    fd = os.open("/proc/1/ns/net", os.O_RDONLY)
    return call("setns", fd, 0) == 0


@attempt("io_uring")
def io_uring():
    return call("io_uring_setup", 4, bytes(120)) > 0


@attempt("bpf map")
def bpf():
    return call("bpf", 0, struct.pack("5I", 2, 4, 8, 1, 0) + bytes(52), 72) > 0


@attempt("userfaultfd")
def userfaultfd():
    return call("userfaultfd", os.O_CLOEXEC | 1) > 0


@attempt("perf_event_open")
def perf():
    return call("perf_event_open", struct.pack("2IQ", 1, 112, 0) + bytes(96), 0, -1, -1, 0) > 0


@attempt("a key in a keyring")
def key():
    serial = call("add_key", b"user", b"escape-probe", b"x", 1, -2)
    return call("keyctl", 11, serial, ctypes.create_string_buffer(8), 8) == 1


@attempt("request_key")
def request_key():
    call("add_key", b"user", b"escape-probe", b"x", 1, -2)
    return call("request_key", b"user", b"escape-probe", None, -2) > 0


@attempt("a keyring of the session")
def session_keyring():
    return call("keyctl", 1, None) > 0


@attempt("kcmp")
def kcmp():
    return call("kcmp", os.getpid(), os.getpid(), 0, 0, 1) >= 0


@attempt("name_to_handle_at")
def name_to_handle():
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    return call("name_to_handle_at", -100, b"/etc/hostname", handle, ctypes.byref(ctypes.c_int()), 0) == 0


@attempt("open_by_handle_at")
def shocker():
    """The attack called shocker: handles name files of the whole file system, whatever is mounted where."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    call("name_to_handle_at", -100, b"/etc/hostname", handle, ctypes.byref(ctypes.c_int()), 0)
    return call("open_by_handle_at", os.open("/", os.O_RDONLY), handle, os.O_RDONLY) > 0


@attempt("open_by_handle_at with a made-up handle of inode 2")
def shocker_made_up():
    """Without name_to_handle_at: the root of an ext4 file system has inode 2 and generation 0."""
    last = None
    for mount in ("/etc/hostname", "/", "/proc/meminfo", "/sys"):
        handle = ctypes.create_string_buffer(struct.pack("IiII", 8, 1, 2, 0))
        try:
            return call("open_by_handle_at", os.open(mount, os.O_RDONLY), handle, os.O_RDONLY) > 0
        except OSError as error:
            last = error
    raise last


@attempt("vmsplice")
def vmsplice():
    _, into = os.pipe()
    buffer = ctypes.create_string_buffer(b"x")
    return call("vmsplice", into, struct.pack("QQ", ctypes.addressof(buffer), 1), 1, 0) == 1


@attempt("the kernel's messages")
def syslog():
    return call("syslog", 3, ctypes.create_string_buffer(1000), 1000) > 0


@attempt("fanotify")
def fanotify():
    return call("fanotify_init", 0, 0) > 0


@attempt("set the clock")
def clock():
    """To what it is: nothing changes where it is allowed."""
    now = ctypes.create_string_buffer(16)
    LIBC.clock_gettime(0, now)
    return call("clock_settime", 0, now) == 0


@attempt("adjtimex")
def adjtimex():
    """A question, which everybody may ask elsewhere."""
    return call("adjtimex", ctypes.create_string_buffer(256)) >= 0


@attempt("set the host name")
def hostname():
    name = os.uname().nodename.encode()
    return call("sethostname", name, len(name)) == 0


@attempt("load a module")
def module():
    """An empty image: refused as no module by those who would load one."""
    try:
        call("init_module", bytes(64), 64, b"")
    except OSError as error:
        if error.errno in (errno.ENOEXEC, errno.EINVAL, errno.EFAULT):
            return f"the image was looked at ({error})"
        raise
    return "loaded"


@attempt("reboot")
def reboot():
    """With a wrong magic number: those who may reboot are told so."""
    try:
        call("reboot", 1, 2, 3, 0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return "the magic number was looked at"
        raise


@attempt("kexec")
def kexec():
    try:
        return call("kexec_load", 0, 1 << 20, 0, 0) == 0
    except OSError as error:
        if error.errno == errno.EINVAL:
            return "the arguments were looked at"
        raise


@attempt("swapon")
def swapon():
    path = f"{SCRATCH}/swap-{os.getpid()}"
    with open(path, "wb") as file:
        file.write(bytes(4096))
    try:
        call("swapon", path.encode(), 0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return "the file was looked at"
        raise
    finally:
        os.unlink(path)


@attempt("process accounting")
def acct():
    """Of a directory: those who may switch it on are told that it is no file."""
    try:
        call("acct", b"/tmp")
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.EACCES):
            return "the path was looked at"
        raise


@attempt("quotactl")
def quotactl():
    """Q_SYNC of all file systems: allowed to everybody who may call it at all."""
    return call("quotactl", 0x80000100, None, 0, None) == 0


@attempt("personality without randomised addresses")
def personality():
    return call("personality", 0x0040000) >= 0


@attempt("ports of the hardware")
def iopl():
    return call("iopl", 3) == 0


@attempt("modify_ldt")
def modify_ldt():
    return call("modify_ldt", 0, ctypes.create_string_buffer(16), 16) >= 0


@attempt("move pages")
def move_pages():
    buffer = mmap.mmap(-1, 4096)
    buffer[0] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    return call("move_pages", 0, 1, struct.pack("Q", address), None, ctypes.create_string_buffer(8), 0) == 0


@attempt("calls of i386 by int 0x80")
def int80():
    if not X86:
        raise OSError(errno.ENOSYS, "not on this architecture")
    area = mmap.mmap(-1, 4096, prot=7)
    area.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of i386); int 0x80; ret
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(area)))() == os.getpid()


@attempt("calls of x32")
def x32():
    if not X86:
        raise OSError(errno.ENOSYS, "not on this architecture")
    return syscall(0x40000000 + 39) == os.getpid()


def push(request, argument):
    def run():
        pid, master = os.forkpty()
        if pid == 0:
            try:
                fcntl.ioctl(0, request, argument)
                os.write(1, b"pushed")
            except OSError as error:
                os.write(1, f"errno {error.errno} ".encode())
            os._exit(0)
        text = b""
        try:
            while part := os.read(master, 100):
                text += part
        except OSError:
            pass
        os.waitpid(pid, 0)
        if text.startswith(b"errno"):
            raise OSError(int(text.split()[1]), "refused")
        return b"pushed" in text

    return run


add("TIOCSTI types into a terminal", push(0x5412, b"x"))


@attempt("TIOCLINUX pastes into a console")
def console_paste():
    """On a terminal that is no console, those who get as far are told that it is none."""
    try:
        push(0x541C, b"\x03")()
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return "the terminal was looked at"
        raise


@attempt("scheduling that starves everybody")
def realtime():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    return "SCHED_FIFO"


@attempt("negative nice value")
def nice():
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    return "nice -10"


main()
