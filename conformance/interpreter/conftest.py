"""The template, built once by the server's own builds, and sandboxes of it for the tests in both flavours."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from flavours import Loop, Waiting

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def template() -> None:
    """`code-interpreter-v1` and `code-interpreter`, the small one."""
    env = os.environ | {
        "SOULBOX": os.environ["CONFORMANCE_BINARY"],
        "INTERPRETER_CACHE": str(Path(os.environ["CONFORMANCE_TOOLS"]) / "interpreter"),
    }
    built = subprocess.run([ROOT / "templates/code-interpreter/build", "small"], env=env, capture_output=True, text=True, timeout=360)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]


def entries() -> dict:
    from e2b_code_interpreter import AsyncSandbox, Sandbox

    return {"sync": Sandbox, "async": Waiting(Loop(), AsyncSandbox)}


ENTRIES = entries()


@pytest.fixture(scope="module", params=list(ENTRIES))
def sdk(request):
    """The entry point: `Sandbox`, or `AsyncSandbox` behind something that awaits."""
    return ENTRIES[request.param]
