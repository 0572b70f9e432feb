"""Create, connect, list, kill and everything the control plane tells about a sandbox."""

from __future__ import annotations

import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest
from e2b import (
    AuthenticationException,
    InvalidArgumentException,
    SandboxException,
    SandboxNotFoundException,
    SandboxQuery,
    SandboxState,
)

from server import wait_until

UNKNOWN = "i" + "0" * 20


def pages(paginator):
    """Every page of a listing."""
    found = []
    while paginator.has_next:
        found.append(paginator.next_items())
    return found


def listed(sdk, **query):
    return [info for page in pages(sdk.list(query=SandboxQuery(**query))) for info in page]


def test_created_sandbox_is_usable_at_once(create):
    sandbox = create()
    assert sandbox.commands.run("echo usable").stdout == "usable\n"
    assert re.fullmatch(r"i[a-z0-9]{20}", sandbox.sandbox_id)
    assert sandbox.is_running()


def test_default_timeout_is_five_minutes(sandbox, create):
    info = create().get_info()
    assert info.end_at - info.started_at == timedelta(seconds=300)


def test_info(create):
    before = datetime.now(timezone.utc)
    info = create(timeout=120, metadata={"purpose": "info"}).get_info()
    after = datetime.now(timezone.utc)
    assert info.name == "base" and re.fullmatch(r"[a-z0-9]{20}", info.template_id)
    assert info.state == SandboxState.RUNNING
    assert info.metadata == {"purpose": "info"}
    assert info.end_at - info.started_at == timedelta(seconds=120)
    assert before - timedelta(seconds=1) <= info.started_at <= after + timedelta(seconds=1)
    assert info.cpu_count >= 1 and info.memory_mb >= 128
    assert info.envd_version and info.volume_mounts == []
    assert info.allow_internet_access is None
    assert info.lifecycle["on_timeout"] == "kill" and info.lifecycle["auto_resume"] is False


def test_info_tells_what_was_asked(create):
    info = create(allow_internet_access=False).get_info()
    assert info.allow_internet_access is False


def test_info_of_unknown_sandbox(sdk):
    with pytest.raises(SandboxNotFoundException):
        sdk.get_info(UNKNOWN)


def test_unknown_template(sdk):
    with pytest.raises(SandboxException) as error:
        sdk.create("no-such-template")
    assert error.value.status_code == 404
    assert "no-such-template" in str(error.value)


def test_wrong_key(sdk):
    with pytest.raises(AuthenticationException):
        sdk.create(api_key="e2b_" + "0" * 40)


def test_timeout_beyond_the_limit_is_refused(sdk):
    with pytest.raises(SandboxException) as error:
        sdk.create(timeout=25 * 3600)
    assert error.value.status_code == 400


def test_connect_by_id_sees_the_same_sandbox(sdk, sandbox):
    sandbox.files.write("/tmp/connect", "same")
    other = sdk.connect(sandbox.sandbox_id)
    assert other.sandbox_id == sandbox.sandbox_id
    assert other.files.read("/tmp/connect") == "same"
    assert other.commands.run("echo over").stdout == "over\n"


def test_connect_never_shortens_and_can_extend(create):
    sandbox = create(timeout=200)
    end = sandbox.get_info().end_at
    sandbox.connect(timeout=10)
    assert sandbox.get_info().end_at == end
    sandbox.connect(timeout=900)
    extended = sandbox.get_info().end_at
    assert timedelta(seconds=895) < extended - datetime.now(timezone.utc) <= timedelta(seconds=901)


def test_connect_to_unknown(sdk):
    with pytest.raises(SandboxNotFoundException):
        sdk.connect(UNKNOWN)


def test_kill_is_seen_everywhere_at_once(sdk, create):
    mark = uuid.uuid4().hex
    sandbox = create(metadata={"mark": mark})
    assert [info.sandbox_id for info in listed(sdk, metadata={"mark": mark})] == [sandbox.sandbox_id]
    assert sandbox.kill() is True
    assert sandbox.is_running() is False
    assert listed(sdk, metadata={"mark": mark}) == []
    assert sandbox.kill() is False
    with pytest.raises(SandboxNotFoundException):
        sandbox.get_info()
    with pytest.raises(SandboxNotFoundException):
        sdk.connect(sandbox.sandbox_id)


def test_kill_by_id(sdk, create):
    sandbox = create()
    assert sdk.kill(sandbox.sandbox_id) is True
    assert sandbox.is_running() is False
    assert sdk.kill(UNKNOWN) is False


def test_with_statement_kills(sdk):
    with sdk.create(timeout=60) as sandbox:
        assert sandbox.is_running()
    assert sandbox.is_running() is False


def test_end_time_is_honoured(create):
    sandbox = create(timeout=3)
    created = time.monotonic()
    wait_until("the sandbox is gone", 5, lambda: not sandbox.is_running())
    lived = time.monotonic() - created
    # The SDK returns a little after the sandbox's time began to count.
    assert 2.5 <= lived <= 5, lived
    with pytest.raises(SandboxNotFoundException):
        sandbox.get_info()


def test_set_timeout_shortens(create):
    sandbox = create(timeout=300)
    sandbox.set_timeout(2)
    asked = time.monotonic()
    wait_until("the sandbox is gone", 4, lambda: not sandbox.is_running())
    assert time.monotonic() - asked >= 1.5


def test_set_timeout_extends(create):
    sandbox = create(timeout=2)
    sandbox.set_timeout(60)
    time.sleep(3)
    assert sandbox.is_running()
    left = sandbox.get_info().end_at - datetime.now(timezone.utc)
    assert timedelta(seconds=50) < left < timedelta(seconds=60)


def test_set_timeout_zero_ends_now(create):
    sandbox = create()
    sandbox.set_timeout(0)
    wait_until("the sandbox is gone", 2, lambda: not sandbox.is_running())


def test_set_timeout_is_clamped(create):
    sandbox = create()
    sandbox.set_timeout(10 * 24 * 3600)
    left = sandbox.get_info().end_at - datetime.now(timezone.utc)
    assert timedelta(hours=1) <= left < timedelta(days=2)


def test_set_timeout_of_unknown(sdk):
    with pytest.raises(SandboxNotFoundException):
        sdk.set_timeout(UNKNOWN, 10)


def test_metadata_filter(sdk, create):
    mark = uuid.uuid4().hex
    first = create(metadata={"mark": mark, "n": "1"})
    second = create(metadata={"mark": mark, "n": "2"})
    plain = create()
    ids = [info.sandbox_id for info in listed(sdk, metadata={"mark": mark})]
    assert sorted(ids) == sorted([first.sandbox_id, second.sandbox_id])
    assert [i.sandbox_id for i in listed(sdk, metadata={"mark": mark, "n": "2"})] == [second.sandbox_id]
    assert listed(sdk, metadata={"mark": mark, "n": "3"}) == []
    assert plain.sandbox_id in [info.sandbox_id for info in listed(sdk)]
    assert plain.get_info().metadata == {}


def test_metadata_keeps_odd_characters(sdk, create):
    odd = {"m=a&b": "50% + ümlaut/ß ?#", "empty": "", "mark": uuid.uuid4().hex}
    sandbox = create(metadata=odd)
    assert sandbox.get_info().metadata == odd
    del odd["empty"]
    found = listed(sdk, metadata=odd)
    assert [info.sandbox_id for info in found] == [sandbox.sandbox_id]


def test_list_order_and_pages(sdk, create):
    mark = uuid.uuid4().hex
    ids = [create(metadata={"mark": mark}).sandbox_id for _ in range(3)]
    query = SandboxQuery(metadata={"mark": mark})
    for order, wanted in (("asc", ids), ("desc", ids[::-1]), (None, ids[::-1])):
        found = pages(sdk.list(query=query, order=order, limit=2))
        assert [len(page) for page in found] == [2, 1]
        assert [info.sandbox_id for page in found for info in page] == wanted
    exact = pages(sdk.list(query=query, limit=3))
    assert [len(page) for page in exact] == [3]
    paginator = sdk.list(query=query, limit=1)
    paginator.next_items()
    again = pages(sdk.list(query=query, limit=1, next_token=paginator.next_token))
    assert [info.sandbox_id for page in again for info in page] == ids[::-1][1:]


def test_list_by_state_template_and_start(sdk, create):
    mark = uuid.uuid4().hex
    first = create(metadata={"mark": mark})
    second = create(metadata={"mark": mark})
    meta = {"mark": mark}
    assert len(listed(sdk, metadata=meta, state=[SandboxState.RUNNING])) == 2
    assert listed(sdk, metadata=meta, state=[SandboxState.PAUSED]) == []
    assert len(listed(sdk, metadata=meta, state=[SandboxState.RUNNING, SandboxState.PAUSED])) == 2
    assert len(listed(sdk, metadata=meta, template="base")) == 2
    assert len(listed(sdk, metadata=meta, template=first.get_info().template_id)) == 2
    assert listed(sdk, metadata=meta, template="no-such-template") == []
    start = second.get_info().started_at
    assert [i.sandbox_id for i in listed(sdk, metadata=meta, started_after=start)] == [second.sandbox_id]


def test_listed_and_detailed_agree(sdk, create):
    sandbox = create(metadata={"mark": uuid.uuid4().hex})
    detail = sandbox.get_info()
    (entry,) = listed(sdk, metadata=detail.metadata)
    for field in ("sandbox_id", "template_id", "name", "started_at", "end_at", "state", "cpu_count", "memory_mb", "envd_version"):
        assert getattr(entry, field) == getattr(detail, field), field


def test_environment_of_a_sandbox(create):
    sandbox = create(envs={"GREETING": "hällo wörld", "EMPTY": "", "LINES": "a\nb"})
    run = sandbox.commands.run
    assert run('printf "%s|%s|%s" "$GREETING" "$EMPTY" "$LINES"').stdout == "hällo wörld||a\nb"
    assert run('printf "%s" "$GREETING"', envs={"GREETING": "other"}).stdout == "other"
    assert run("printf $GREETING", user="root").stdout.startswith("hällo")
    info = sandbox.get_info()
    wanted = f"true {sandbox.sandbox_id} {info.template_id}"
    assert run('printf "%s %s %s" "$E2B_SANDBOX" "$E2B_SANDBOX_ID" "$E2B_TEMPLATE_ID"').stdout == wanted
    assert run("cd /run/e2b; cat .E2B_SANDBOX .E2B_SANDBOX_ID .E2B_TEMPLATE_ID").stdout.replace("\n", "") == wanted.replace(" ", "")


def test_sandboxes_are_separate(create):
    first, second = create(), create()
    first.files.write("/tmp/mine", "secret")
    assert not second.files.exists("/tmp/mine")
    assert first.commands.run("hostname").stdout != second.commands.run("hostname").stdout


def test_metrics(create):
    created = datetime.now(timezone.utc)
    sandbox = create()
    sandbox.commands.run("head -c 30000000 /dev/urandom > /tmp/noise")
    samples = wait_until("a metrics sample", 30, sandbox.get_metrics, interval=0.5)
    sample = samples[-1]
    info = sandbox.get_info()
    assert sample.cpu_count == info.cpu_count
    assert 0 <= sample.cpu_used_pct <= 100
    assert sample.mem_total == info.memory_mb * 1024 * 1024
    assert 0 < sample.mem_used <= sample.mem_total
    assert 0 < sample.disk_used < sample.disk_total
    assert abs((sample.timestamp - datetime.now(timezone.utc)).total_seconds()) < 40
    start = created - timedelta(seconds=10)
    within = sandbox.get_metrics(start=start, end=datetime.now(timezone.utc) + timedelta(seconds=10))
    assert len(within) >= 1
    assert [s.timestamp for s in within] == sorted(s.timestamp for s in within)
    old = sandbox.get_metrics(start=created - timedelta(hours=2), end=created - timedelta(hours=1))
    assert old == []


def test_idempotency_key_creates_once(sdk, create):
    key = uuid.uuid4().hex
    mark = uuid.uuid4().hex
    first = create(metadata={"mark": mark}, idempotency_key=key)
    again = create(metadata={"mark": mark}, idempotency_key=key)
    assert again.sandbox_id == first.sandbox_id
    assert len(listed(sdk, metadata={"mark": mark})) == 1
    with pytest.raises(SandboxException) as error:
        sdk.create(metadata={"mark": "other"}, idempotency_key=key)
    assert error.value.status_code == 409
    with pytest.raises(InvalidArgumentException):
        sdk.create(idempotency_key="Not A Key")


def test_many_at_once(sdk):
    with ThreadPoolExecutor(10) as pool:
        sandboxes = list(pool.map(lambda _: sdk.create(timeout=60), range(10)))
        assert len({sandbox.sandbox_id for sandbox in sandboxes}) == 10
        answers = list(pool.map(lambda sandbox: sandbox.commands.run("echo here").stdout, sandboxes))
        assert answers == ["here\n"] * 10
        assert all(pool.map(lambda sandbox: sandbox.kill(), sandboxes))
