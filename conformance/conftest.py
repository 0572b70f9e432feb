"""What every Python-driven suite shares: one result line per test for the runner, and a time limit per test."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "lib"))

# The longest any test may take on a machine that is busy with other things.
TEST_SECONDS = 180
# A client that hangs in native code does not notice that its time is up: after these its whole suite is ended.
GRACE_SECONDS = 30


def pytest_configure(config):
    config.addinivalue_line("markers", "seconds(n): a longer time limit for one test")
    missing = [name for name in ("E2B_API_URL", "E2B_SANDBOX_URL", "E2B_API_KEY") if name not in os.environ]
    if missing and not config.option.collectonly:
        raise pytest.UsageError(f"{', '.join(missing)} not set. FIX: start the suites with conformance/run")


def _write(result: dict) -> None:
    path = os.environ.get("CONFORMANCE_RESULTS")
    if path:
        with open(path, "a") as results:
            results.write(json.dumps(result) + "\n")


def _reason(report) -> str:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(report.longrepr or "")


_seen: dict[str, str] = {}


def pytest_runtest_logreport(report):
    """Counts a test once: as failed when any of its phases failed, as skipped or passed otherwise."""
    worse = report.outcome == "failed" or (report.when == "setup" and report.outcome == "skipped")
    if not worse and report.when != "call":
        return
    if _seen.get(report.nodeid) == "failed" or (report.when == "teardown" and not worse):
        return
    already_counted = report.nodeid in _seen
    _seen[report.nodeid] = report.outcome
    _write(
        {
            "name": report.nodeid,
            "outcome": report.outcome,
            "seconds": round(report.duration, 2),
            "reason": _reason(report)[-6000:],
            "replaces": already_counted,
        }
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    mark = item.get_closest_marker("seconds")
    limit = mark.args[0] if mark else TEST_SECONDS

    def interrupt(*_) -> None:
        # Not an Exception: the test under way may catch those.
        pytest.fail(f"hung for {limit} s")

    def give_up() -> None:
        _write({"name": item.nodeid, "outcome": "failed", "seconds": limit, "reason": f"hung for {limit} s"})
        print(f"\nHUNG: {item.nodeid} after {limit} s", file=sys.stderr, flush=True)
        import faulthandler

        faulthandler.dump_traceback(all_threads=True)
        os._exit(70)

    usual = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit)
    timer = threading.Timer(limit + GRACE_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    started = time.monotonic()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, usual)
    timer.cancel()
    if time.monotonic() - started > 20 and not mark:
        print(f"\nslow: {item.nodeid} took {time.monotonic() - started:.0f} s", file=sys.stderr)


@pytest.fixture(scope="module")
def sandbox(sdk):
    """One sandbox for a whole module: for tests that leave it as they found it. `sdk` is the suite's entry point."""
    sandbox = sdk.create(timeout=600)
    yield sandbox
    sandbox.kill()


@pytest.fixture
def create(sdk):
    """Creates sandboxes that belong to one test and are killed after it."""
    made = []

    def create(*args, **kwargs):
        sandbox = sdk.create(*args, **kwargs)
        made.append(sandbox)
        return sandbox

    yield create
    for sandbox in made:
        sandbox.kill()
