"""Sandboxes for the tests of the newest Python package, in both flavours."""

from __future__ import annotations

import pytest

from flavours import both

FLAVOURS = both()


@pytest.fixture(scope="module", params=list(FLAVOURS))
def flavour(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def sdk(flavour):
    """The entry point: `Sandbox`, or `AsyncSandbox` behind something that awaits."""
    return FLAVOURS[flavour]
