"""Namespaces that belong to the sandbox's own user namespace, and what stands between their owner and power over them."""

from __future__ import annotations

import errno

import pytest
from harness import control, judge

# Root in a user namespace of his own that owns the rest, as the sandbox's does, and with every capability.
OWNER = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--ipc", "--uts")
# What belongs to the host even there is shown by the host's root.
OF_THE_HOST = ("who owns the namespace of processes", "a class of real time for the disk", "something below /proc/net", "a buffer beyond the limit")


@pytest.mark.parametrize("user", ["root", "user"])
def test_owning_a_namespace_is_no_power_over_it(attack, user):
    """The attacker is root of the user namespace that owns his network, mounts, queues, name and clocks, and wants to use that."""
    shown = control("owner.py", around=OWNER)
    plain = control("owner.py", around=("unshare", "--net", "--mount", "--ipc", "--uts"))
    shown |= {name: plain[name] for name in OF_THE_HOST}
    refused = {errno.EACCES, errno.EPERM}
    reasons = {name: "on this kernel it belongs to the host whoever owns the namespace" for name, found in shown.items() if name.startswith("/proc/sys/") and found.errno in refused}
    judge(f"owner as {user}", attack("owner.py", user=user), shown, reasons)
    assert sum(found.did for found in shown.values()) > 20, shown


# Ways to put something else where process one's program lies.
ENVD = "/dev/.envd"
CHANGES = {
    "write": f"echo owned >> {ENVD}",
    "write through process one": "echo owned >> /proc/1/exe",
    "remove": f"rm -f {ENVD}",
    "rename": f"mv {ENVD} /dev/elsewhere",
    "rename over it": f"cp /bin/true /dev/mine && mv /dev/mine {ENVD}",
    "exchange": f"cp /bin/true /dev/mine && mv --exchange /dev/mine {ENVD}",
    "change its mode": f"chmod 777 {ENVD}",
    "change its owner": f"chown 1000 {ENVD}",
    "a capability of its own": f"setcap cap_sys_admin+ep {ENVD}",
    "make it writable": f"mount -o remount,bind,rw {ENVD}",
    "unmount": f"umount -l {ENVD}",
    "shorten": f"truncate -s 0 {ENVD}",
}


@pytest.mark.parametrize("user", ["root", "user"])
def test_program_of_process_one_stays_as_it_is(sandbox, user, tmp_path):
    """The attacker wants envd to be another program for whoever runs it next: here, or in every other sandbox."""
    import subprocess

    from e2b import CommandExitException
    from harness import Attempt

    def inside(command: str) -> Attempt:
        try:
            return Attempt(True, sandbox.commands.run(f"({command}) 2>&1", user=user).stdout)
        except CommandExitException as refused:
            return Attempt(False, refused.stdout)

    def outside(command: str) -> Attempt:
        """The same on a plain file of the host's."""
        program = tmp_path / "envd"
        program.write_bytes(b"#!/bin/true\n")
        script = command.replace("/proc/1/exe", ENVD).replace(ENVD, str(program)).replace("/dev/", f"{tmp_path}/")
        script = f"mount --bind {program} {program} && {script}" if "mount" in command else script
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
        return Attempt(done.returncode == 0, done.stderr)

    before = sandbox.commands.run(f"sha256sum {ENVD}").stdout
    found = {name: inside(command) for name, command in CHANGES.items()}
    shown = {name: outside(command) for name, command in CHANGES.items()}
    missing = {"exchange": "mv of this host exchanges nothing", "a capability of its own": "no setcap here"}
    judge(f"program of process one as {user}", found, shown, {name: missing[name] for name in missing if not shown[name].did})
    assert sandbox.commands.run(f"sha256sum {ENVD}").stdout == before
