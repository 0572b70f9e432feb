"""A sandbox with name servers of its own is told what they say, others what the server's says, and those that lie do no harm.

See `lib/resolvers.py`: each answers every question about an address with one of its own.
"""

from __future__ import annotations

import time

import pytest
from e2b import ALL_TRAFFIC, Sandbox

import internet
from farside import FarSide
from resolvers import Resolvers
from server import patience


@pytest.fixture(scope="module")
def far():
    far = FarSide()
    try:
        yield far.open()
    finally:
        far.close()


@pytest.fixture(scope="module")
def resolvers(far):
    resolvers = Resolvers(far)
    try:
        yield resolvers.open()
    finally:
        resolvers.close()


@pytest.fixture
def create(resolvers):
    made = []

    def create(*which: str, **network) -> Sandbox:
        if which:
            network["dns_servers"] = [resolvers.addresses[one] for one in which]
        made.append(Sandbox.create(timeout=300, network=network or None))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.kill()


def told(sandbox: Sandbox, name: str) -> list[str]:
    lines = sandbox.commands.run(f"timeout 30 getent ahostsv4 {name}; true", timeout=60).stdout.splitlines()
    return sorted({line.split()[0] for line in lines})


def test_each_has_its_own(far, resolvers, create):
    one, other, usual = create("outside"), create("elsewhere"), create()
    assert told(one, far.name) == [far.outside]
    assert told(other, far.name) == ["11.99.99.99"]
    assert told(usual, far.name) == [far.inside]
    # While it runs, and what is left out is the server's again.
    one.update_network({"dns_servers": [resolvers.addresses["elsewhere"]]})
    usual.update_network({"dns_servers": [resolvers.addresses["outside"]]})
    assert (told(one, far.name), told(usual, far.name)) == (["11.99.99.99"], [far.outside])
    one.update_network({})
    assert (told(one, far.name), told(usual, far.name)) == ([far.inside], [far.outside])


def test_names_of_a_policy_are_theirs(far, resolvers, create):
    sandbox = create("outside", allow_out=[far.name], deny_out=[ALL_TRAFFIC])
    before = len(far.seen())
    assert "REACHED" in sandbox.commands.run(f"curl -sS -m 5 http://{far.name}/").stdout
    assert [line for line in far.seen()[before:] if "tcp" in line] == ["outside tcp 80"]
    # Of a name that is not open they are not even asked.
    assert told(sandbox, far.other_name) == []


@pytest.mark.parametrize("how", ["other-name", "wrong-id", "truncates", "silent"])
def test_one_that_lies_is_not_believed(far, create, how):
    sandbox = create(how)
    begun = time.monotonic()
    assert told(sandbox, far.name) == []
    assert time.monotonic() - begun < patience(25)
    # The next one is asked in place of one from which nothing comes that is an answer.
    if how != "truncates":
        second = create(how, "outside")
        assert told(second, far.name) == [far.outside]


def test_a_private_address_opens_nothing(far, create):
    by_address = create("private")
    by_name = create("private", allow_out=[far.name], deny_out=[ALL_TRAFFIC])
    for sandbox in (by_address, by_name):
        assert internet.PRIVATE[0] in told(sandbox, far.name) or told(sandbox, far.name) == []
        for url in (f"http://{far.name}:{internet.PORT}/", f"http://{far.name}/", f"https://{far.name}/"):
            begun = time.monotonic()
            said = sandbox.commands.run(f"curl -sSk -m 8 {url} 2>&1; true").stdout
            assert "peer" not in said and "REACHED" not in said and "timed out" not in said, said
            assert time.monotonic() - begun < patience(4), said
