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


@pytest.fixture(scope="module")
def sandbox(sdk):
    """One sandbox for a whole module: for tests that leave it as they found it."""
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
