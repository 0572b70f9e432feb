"""What code inside a sandbox can see and do to the host. Every claim is asked of the kernel, from inside."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess

import pytest
from e2b import CommandExitException, Sandbox
from server import wait_until

FIRST_UID = 0x7000_0000


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox.create(timeout=600)
    yield sandbox
    sandbox.kill()


@pytest.fixture
def root(sandbox):
    """Runs a command as root and returns its output, whatever its exit code."""

    def run(command: str) -> str:
        try:
            return sandbox.commands.run(f"({command}) 2>&1", user="root").stdout
        except CommandExitException as failed:
            return failed.stdout

    return run


@pytest.fixture
def python(sandbox):
    """Runs a Python program as root and returns what it printed as JSON."""

    def run(program: str, user: str = "root"):
        sandbox.files.write("/tmp/probe.py", "import ctypes, errno, json, os, socket, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n" + program)
        return json.loads(sandbox.commands.run("python3 /tmp/probe.py", user=user).stdout)

    return run


def test_user_ids_are_mapped_to_a_range_of_its_own(sandbox, root):
    inside, outside, count = (int(part) for part in root("cat /proc/self/uid_map").split())
    assert inside == 0 and count == 65536
    assert outside >= FIRST_UID and (outside - FIRST_UID) % 65536 == 0
    assert root("cat /proc/self/gid_map").split() == root("cat /proc/self/uid_map").split()
    assert root("cat /proc/self/setgroups").strip() == "allow"
    other = Sandbox.create(timeout=60)
    try:
        assert other.commands.run("cat /proc/self/uid_map").stdout.split()[1] != str(outside)
    finally:
        other.kill()


def _owners_on_the_host(command_line: bytes) -> list[int]:
    """The host's user ids of the processes with this command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if command_line in open(f"/proc/{pid}/cmdline", "rb").read():
                found.append(int(re.search(r"^Uid:\s+(\d+)", open(f"/proc/{pid}/status").read(), re.M).group(1)))
        except OSError:
            continue
    return found


def test_processes_outside_have_ids_of_the_range(sandbox, root):
    """Seen from the host, root inside is nobody special."""
    base = int(root("cat /proc/self/uid_map").split()[1])
    handle = sandbox.commands.run("exec sleep 4321", background=True, user="root")
    # The login shell reads its profile first and only then becomes the program.
    wait_until("the program shows on the host", 20, lambda: _owners_on_the_host(b"sleep\0" + b"4321"))
    found = _owners_on_the_host(b"sleep\0" + b"4321")
    handle.kill()
    assert found == [base]


def test_envd_is_process_one(root):
    assert "envd" in root("cat /proc/1/comm; tr '\\0' ' ' < /proc/1/cmdline")


def test_host_processes_are_invisible(root):
    pids = [int(pid) for pid in root("ls /proc").split() if pid.isdigit()]
    assert 1 in pids and len(pids) < 30 and max(pids) < 100_000
    assert str(os.environ["CONFORMANCE_SERVER_PID"]) not in root("ps -eo args")
    assert "soulbox serve" not in root("ps -eo args")


def test_host_files_are_invisible(root):
    for path in (os.environ["CONFORMANCE_DATA_DIR"], os.environ["CONFORMANCE_BINARY"], os.environ["CONFORMANCE_BASE_DATA"]):
        assert "No such file" in root(f"ls -d {path}")
    mounts = root("cat /proc/self/mountinfo")
    for line in mounts.splitlines():
        options = line.split(" - ")[1].split()
        assert options[0] in ("overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "devtmpfs", "cgroup", "cgroup2", "ext4", "xfs", "btrfs", "fuse"), line
    assert "/.old" not in mounts and "oldroot" not in mounts


def test_mount_options_do_not_tell_host_paths(root):
    """Neither sources nor options. The root field of mountinfo is the kernel's: for the few files bound over /sys and
    /proc it names the place on the host's file system, and says nothing about other sandboxes."""
    mounts = root("cat /proc/mounts") + "".join(line.split(" - ")[1] + "\n" for line in root("cat /proc/self/mountinfo").splitlines())
    assert "client.env" not in mounts
    for path in (os.environ["CONFORMANCE_DATA_DIR"], os.environ["CONFORMANCE_BASE_DATA"]):
        assert path not in mounts


def test_own_hostname(sandbox, root):
    assert root("hostname").strip() != socket.gethostname()
    assert "localhost" in root("getent hosts localhost")
    assert root("getent hosts $(hostname)").strip() != ""


def test_namespaces_are_not_the_hosts(root):
    for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"):
        try:
            ours = os.readlink(f"/proc/self/ns/{name}")
        except FileNotFoundError:
            continue
        assert root(f"readlink /proc/self/ns/{name}").strip() not in ("", ours), name


def test_capabilities_are_of_the_user_namespace_only(root):
    """Root inside may do what concerns its own files and users, and nothing that reaches the machine."""
    refused = {
        "mount": "mount -t tmpfs none /mnt",
        "bind mount": "mount --bind /etc /mnt",
        "remount": "mount -o remount,rw /sys",
        "umount": "umount /proc",
        "device node": "mknod /tmp/sda b 8 0",
        "character device": "mknod /tmp/mem c 1 1",
        "hostname": "hostname stolen",
        "module": "python3 -c 'import ctypes; exit(0 if ctypes.CDLL(None).syscall(313, 0, 0, 0) == 0 else 1)'",
        "reboot": "python3 -c 'import ctypes; exit(0 if ctypes.CDLL(None).syscall(169, 0xfee1dead, 672274793, 0x1234567, 0) == 0 else 1)'",
        "clock": "date -s 2001-01-01",
        "sysctl kernel": "sh -c 'echo x > /proc/sys/kernel/core_pattern'",
        "sysctl net": "sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'",
        "sysctl vm": "sh -c 'echo 1 > /proc/sys/vm/drop_caches'",
        "sysrq": "sh -c 'echo b > /proc/sysrq-trigger'",
        "sys write": "sh -c 'echo x > /sys/kernel/uevent_helper'",
        "link": "ip link add dummy0 type dummy",
        "address": "ip address add 1.2.3.4/32 dev lo",
        "route": "ip route add 1.2.3.0/24 dev lo",
        "firewall": "iptables -F",
        "nft": "nft flush ruleset",
        "kernel log": "dmesg",
        "cgroup": "mkdir /sys/fs/cgroup/x",
        "oom": "sh -c 'echo -1000 > /proc/1/oom_score_adj'",
    }
    done = [name for name, command in refused.items() if root(f"{command} >/dev/null 2>&1 && echo DONE").endswith("DONE\n")]
    assert done == []


def test_root_can_still_administer_its_own_system(root):
    for command in (
        "useradd -m extra && su extra -c whoami | grep -qx extra",
        "touch /root/f && chown 1000:1000 /root/f && chmod 4755 /root/f",
        "install -d -o user -g user /srv/data",
        "echo 127.0.0.9 name.test >> /etc/hosts && getent hosts name.test",
        "kill -0 1",
        "nice -n 5 true",
    ):
        assert root(f"{command} >/dev/null && echo DONE").endswith("DONE\n"), (command, root(command))


def test_sudo_works_for_the_user(sandbox):
    assert sandbox.commands.run("sudo sh -c 'id -u; touch /etc/by-sudo; ls /etc/by-sudo'").stdout == "0\n/etc/by-sudo\n"


def test_user_is_not_root(sandbox):
    with pytest.raises(CommandExitException):
        sandbox.commands.run("touch /etc/by-user")
    status = sandbox.commands.run("grep -E '^Cap(Eff|Prm|Inh|Amb)' /proc/self/status").stdout
    assert all(int(line.split()[1], 16) == 0 for line in status.splitlines()), status


def test_devices_are_minimal(root):
    names = set(root("ls /dev").split())
    allowed = {"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero", "log", "net", "initctl"}
    assert names <= allowed, names - allowed
    assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd"} <= names
    assert root("head -c 4 /dev/urandom | wc -c").strip() == "4"
    assert "DONE" in root("echo x > /dev/null && echo x > /dev/shm/f && rm /dev/shm/f && echo DONE")
    kinds = root("find /dev -type b").split()
    assert kinds == []


def test_sys_is_minimal_and_read_only(root):
    assert root("ls /sys/firmware /sys/kernel/debug /sys/kernel/security 2>/dev/null | grep -v : | head -1").strip() == ""
    assert root("find /sys -maxdepth 3 -name 'sd*' -o -maxdepth 3 -name 'vd*' 2>/dev/null | head").strip() == ""
    assert not root("touch /sys/x && echo DONE").endswith("DONE\n")


def test_proc_hides_the_machine(root):
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/kmsg", "/proc/sysrq-trigger"):
        content = root(f"head -c 100 {path} 2>/dev/null | wc -c").strip()
        assert content == "0", path
    assert root("ls /proc/scsi /proc/acpi 2>/dev/null | grep -v : | head -1").strip() == ""


SYSCALLS = r"""
def call(number, *args):
    result = libc.syscall(number, *args)
    return 0 if result >= 0 else ctypes.get_errno()
def sock(family, kind, protocol=0):
    try:
        socket.socket(family, kind, protocol).close()
        return 0
    except OSError as error:
        return error.errno
CLONE = dict(user=0x10000000, mnt=0x20000, net=0x40000000, pid=0x20000000, ipc=0x8000000, uts=0x4000000, cgroup=0x2000000, time=0x80)
found = {f"unshare {name}": call(272, flag) for name, flag in CLONE.items()}
found["setns"] = call(308, os.open("/proc/self/ns/net", 0), 0)
found["keyctl"] = call(250, 0, 0, 0)
found["add_key"] = call(248, b"user", b"x", b"y", 1, -2)
found["request_key"] = call(249, b"user", b"x", 0, 0)
found["bpf"] = call(321, 0, 0, 0)
found["perf_event_open"] = call(298, 0, 0, 0, 0, 0)
found["userfaultfd"] = call(323, 0)
found["io_uring_setup"] = call(425, 1, 0)
found["mount"] = call(165, b"none", b"/mnt", b"tmpfs", 0, 0)
found["open_tree"] = call(428, -100, b"/", 1)
found["fsopen"] = call(430, b"tmpfs", 0)
found["pivot_root"] = call(155, b"/", b"/")
found["kexec_load"] = call(246, 0, 0, 0, 0)
found["init_module"] = call(175, 0, 0, 0)
found["swapon"] = call(167, b"/x", 0)
found["syslog"] = call(103, 3, 0, 0)
found["open_by_handle_at"] = call(304, -100, 0, 0)
found["name_to_handle_at"] = call(303, -100, b"/", 0, 0, 0)
found["quotactl"] = call(179, 0, 0, 0, 0)
found["acct"] = call(163, b"/tmp/x")
found["iopl"] = call(172, 3)
found["modify_ldt"] = call(154, 0, 0, 0)
found["fanotify_init"] = call(300, 0, 0)
found["AF_ALG"] = sock(38, socket.SOCK_SEQPACKET)
found["AF_PACKET"] = sock(17, socket.SOCK_RAW, 0x300)
found["AF_VSOCK"] = sock(40, socket.SOCK_STREAM)
found["AF_KEY"] = sock(15, socket.SOCK_RAW, 2)
found["AF_RXRPC"] = sock(33, socket.SOCK_DGRAM, 2)
found["AF_XDP"] = sock(44, socket.SOCK_RAW)
found["AF_TIPC"] = sock(30, socket.SOCK_STREAM)
found["AF_BLUETOOTH"] = sock(31, socket.SOCK_RAW, 1)
found["netlink netfilter"] = sock(16, socket.SOCK_RAW, 12)
found["netlink xfrm"] = sock(16, socket.SOCK_RAW, 6)
found["raw ip"] = sock(2, socket.SOCK_RAW, 255)
print(json.dumps(found))
"""


@pytest.mark.parametrize("user", ["root", "user"])
def test_dangerous_system_calls_are_refused(python, user):
    found = python(SYSCALLS, user)
    allowed = {name: code for name, code in found.items() if code == 0}
    assert allowed == {}
    # EPERM by the filter, or "there is no such thing" for what this kernel lacks; EFAULT and EINVAL would mean
    # that the call reached the kernel's own code.
    refusals = {1, 38, 97, 93, 94}
    odd = {name: code for name, code in found.items() if code not in refusals}
    assert odd == {}


def test_ordinary_system_calls_work(python):
    found = python(
        r"""
found = {}
for family, kind in ((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_INET6, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_STREAM)):
    socket.socket(family, kind).close()
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()
import mmap, multiprocessing, select, signal, tempfile, threading, time
mmap.mmap(-1, 1 << 20).close()
select.epoll().close()
os.memfd_create("x"); os.eventfd(0)
pid = os.fork()
if pid == 0: os._exit(7)
found["fork"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
found["pool"] = multiprocessing.get_context("fork").Pool(2).map(abs, [-1, -2])
thread = threading.Thread(target=lambda: found.update(thread=True)); thread.start(); thread.join()
found["pidfd"] = os.pidfd_open(os.getpid()) > 0
found["random"] = len(os.getrandom(8))
os.setxattr("/tmp/probe.py", "user.test", b"v"); found["xattr"] = os.getxattr("/tmp/probe.py", "user.test").decode()
found["flock"] = __import__("fcntl").flock(open("/tmp/probe.py"), 2) is None
found["sched"] = len(os.sched_getaffinity(0)) >= 1
print(json.dumps(found))
"""
    )
    assert found == {"fork": 7, "pool": [1, 2], "thread": True, "pidfd": True, "random": 8, "xattr": "v", "flock": True, "sched": True}


def test_debuggers_work_inside(sandbox, python):
    """ptrace of one's own children stays allowed."""
    found = python(
        r"""
import signal, time
pid = os.fork()
if pid == 0:
    libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP); os._exit(3)
_, status = os.waitpid(pid, 0)
stopped = os.WIFSTOPPED(status)
libc.ptrace(7, pid, 0, 0)
_, status = os.waitpid(pid, 0)
print(json.dumps([stopped, os.waitstatus_to_exitcode(status)]))
""",
        "user",
    )
    assert found == [True, 3]


def test_other_architectures_are_killed(python):
    """int 0x80 enters the 32-bit table, where the numbers mean something else."""
    found = python(
        r"""
import mmap
code = bytes.fromhex("b814000000cd80c3")  # mov eax, 20 (getpid of i386); int 0x80; ret
pid = os.fork()
if pid == 0:
    area = mmap.mmap(-1, 4096, prot=7)
    area.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    os._exit(0)
_, status = os.waitpid(pid, 0)
x32 = os.fork()
if x32 == 0:
    os._exit(0 if libc.syscall(0x40000000 + 39) > 0 else 1)
_, x32_status = os.waitpid(x32, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), os.waitstatus_to_exitcode(x32_status)]))
"""
    )
    assert found[0] == -31, "SIGSYS expected"
    assert found[1] in (-31, 1)


def test_nothing_is_inherited(root):
    """No descriptor of the server reaches a process inside."""
    for process in ("self", "1"):
        for line in root(f"ls -l /proc/{process}/fd 2>/dev/null").splitlines():
            target = line.split(" -> ")[-1]
            assert os.environ["CONFORMANCE_DATA_DIR"] not in target and "/sys/fs/cgroup" not in target, line
    env = root("tr '\\0' '\\n' < /proc/1/environ; env")
    assert "E2B_API_KEY" not in env and "client.env" not in env


def test_token_is_not_readable_by_the_user(sandbox):
    token = sandbox._envd_access_token
    found = sandbox.commands.run(f"grep -rl {token} /proc/1 /run /etc /tmp /var 2>/dev/null; true").stdout
    assert found == ""


def test_ptrace_of_envd_is_refused(sandbox):
    with pytest.raises(CommandExitException):
        sandbox.commands.run("cat /proc/1/mem > /dev/null")
    with pytest.raises(CommandExitException):
        sandbox.commands.run("ls /proc/1/fd")


def test_files_of_a_sandbox_belong_to_nobody_on_the_host(sandbox, root):
    """A set-user-id program made inside is no danger outside: its owner is an id of the range."""
    base = int(root("cat /proc/self/uid_map").split()[1])
    name = "conformance-owner-check"
    root(f"cp /bin/true /root/{name} && chmod 4755 /root/{name}")
    found = subprocess.run(["find", os.environ["CONFORMANCE_DATA_DIR"], "-name", name, "-printf", "%U\n"], capture_output=True, text=True).stdout.split()
    assert found in ([str(base)], ["0"]) or found == [], found
    if found == ["0"]:
        # Stored unmapped below an idmapped mount: then nobody but root may reach the directory.
        path = subprocess.run(["find", os.environ["CONFORMANCE_DATA_DIR"], "-name", name], capture_output=True, text=True).stdout.strip()
        assert any(os.stat(parent).st_mode & 0o011 == 0 for parent in _parents(path))


def _parents(path: str):
    while path not in ("/", ""):
        path = os.path.dirname(path)
        yield path


def test_templates_stay_as_they_are(sandbox):
    """What one sandbox changes in its root file system no other sees."""
    sandbox.commands.run("rm -rf /usr/share/doc; echo changed > /etc/issue", user="root")
    other = Sandbox.create(timeout=60)
    try:
        assert other.commands.run("cat /etc/issue").stdout != "changed\n"
    finally:
        other.kill()
