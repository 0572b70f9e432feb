"""/proc, /sys, mounts, control groups and device nodes: what root inside could do to the host's kernel through files."""

from __future__ import annotations

import pytest
from harness import CONTAINER, PLAIN, control, judge, refused_to_the_host

def test_settings_of_the_kernel_cannot_be_written(attack):
    """The attacker wants a handler of his to be run by the host: core_pattern, modprobe, uevent_helper, release_agent, binfmt_misc."""
    shown = control("proc_writes.py")
    odd = refused_to_the_host(shown)
    judge("kernel settings", attack("proc_writes.py"), shown, odd)
    assert sum(found.did for found in shown.values()) > 40, "the controls show most of them"


def test_users_cannot_write_them_either(attack):
    inside = attack("proc_writes.py", user="user")
    assert not any(found.did for found in inside.values()), inside


def test_kernel_secrets_cannot_be_read(attack):
    """The attacker wants addresses, keys, messages and memory of the kernel; covers are to be no obstacle (CVE-2025-31133, CVE-2025-52565)."""
    shown = control("proc_reads.py")
    judge("kernel secrets", attack("proc_reads.py"), shown, refused_to_the_host(shown))
    assert sum(found.did for found in shown.values()) > 10, shown


@pytest.mark.parametrize("user", ["root", "user"])
def test_the_tree_of_mounts_cannot_be_changed(attack, user):
    """The attacker wants /proc/sys writable, a fresh procfs, or a /proc of his own for the runtime to write to (CVE-2025-52881)."""
    judge(f"mounts as {user}", attack("mounts.py", user=user), control("mounts.py", around=CONTAINER))


def test_what_lies_at_known_places_cannot_be_replaced(attack):
    """The attacker wants the runtime to find something else under a name that it trusts."""
    inside = attack("renames.py")
    judge("places", inside, "a mount cannot be renamed or removed by anybody; the names could only be freed by unmounting, which is shown in its own case")


def test_control_groups_are_no_way_out(attack):
    """The attacker wants a release agent, or out of his limits (CVE-2022-0492)."""
    shown = control("cgroups.py", around=("unshare", "--mount", "--fork"))
    judge("cgroups", attack("cgroups.py"), shown, {"descriptors of cgroup files": "the runtime of the control has none"})


@pytest.mark.parametrize("user", ["root", "user"])
def test_device_nodes(attack, user):
    """The attacker wants the host's disk, memory, or a driver with a bug."""
    judge(f"devices as {user}", attack("devices.py", "/", user=user), control("devices.py", "/dev", around=PLAIN))
