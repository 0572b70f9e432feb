"""The escape suite: what an attacker inside or outside of a sandbox tries, against a real server.

`conformance/run escape` starts it. Result lines and time limits are those of the conformance suites; what is added
here is the ledger: each attempt is a case with an answer (blocked or not) and a control (shown to work without the
defence, or the reason why that cannot be shown here).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CONFORMANCE = HERE.parent.parent / "conformance"
sys.path[:0] = [str(HERE), str(CONFORMANCE / "lib")]


def _conformance_hooks():
    spec = importlib.util.spec_from_file_location("conformance_hooks", CONFORMANCE / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_hooks = _conformance_hooks()
pytest_configure = _hooks.pytest_configure
pytest_runtest_logreport = _hooks.pytest_runtest_logreport
pytest_runtest_protocol = _hooks.pytest_runtest_protocol

import harness  # noqa: E402


def pytest_sessionfinish():
    lines = harness.LEDGER.lines()
    path = os.environ.get("CONFORMANCE_NOTES")
    if path:
        Path(path).write_text("".join(f"{line}\n" for line in lines))
    print("\n" + "\n".join(lines))


def armed_sandbox(seconds: int):
    """A sandbox with the attacker's programs in it, for as long as it is used."""
    from e2b import Sandbox

    sandbox = Sandbox.create(timeout=seconds)
    harness.upload(sandbox)
    yield sandbox
    sandbox.kill()


@pytest.fixture(scope="session")
def sandbox():
    """The attacker's sandbox. Tests leave it usable."""
    yield from armed_sandbox(900)


@pytest.fixture
def throwaway():
    """A sandbox that may be broken."""
    yield from armed_sandbox(300)


@pytest.fixture(scope="session")
def victim():
    """Another sandbox, of the same team."""
    yield from armed_sandbox(900)


@pytest.fixture(scope="session")
def loot():
    """A directory of the host with a secret in it, which nobody inside may read, change or remove."""
    loot = harness.Loot()
    yield loot
    loot.remove()


@pytest.fixture(scope="session")
def attack(sandbox):
    """Runs a program of the attacker in the sandbox."""

    def run(program: str, *arguments: str, user: str = "root", **options) -> harness.Attempts:
        return harness.attack(sandbox, program, *arguments, user=user, **options)

    return run
