"""System calls and sockets that exploits of recent years needed. Numbers and families one by one: see the differential
tests `crates/driver-linux/tests/privileged/syscalls.rs`."""

from __future__ import annotations

import pytest
from harness import control, judge, refused_to_the_host


@pytest.mark.parametrize("user", ["root", "user"])
def test_doors_of_the_kernel_are_shut(attack, user):
    """The attacker wants code of the kernel that had or will have a bug: AF_ALG (Copy Fail), RXRPC, KEY and XFRM (Dirty Frag),
    nf_tables in a user namespace (CVE-2024-1086), io_uring, bpf, userfaultfd, keyrings, handles (shocker), foreign ABIs, TIOCSTI."""
    shown = control("kernel.py")
    judge(f"kernel as {user}", attack("kernel.py", user=user), shown, refused_to_the_host(shown))
    assert sum(found.did for found in shown.values()) > 40, {name: found.says for name, found in shown.items() if not found.did}
