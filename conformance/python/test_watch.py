"""Watching directories: what the synchronous client polls and the asynchronous one is told."""

from __future__ import annotations

import asyncio
import functools
import uuid

import pytest
from e2b import AsyncSandbox, FileNotFoundException, FilesystemEventType, InvalidArgumentException, NotFoundException, Sandbox, SandboxException

from server import wait_until

CREATE, WRITE, REMOVE, RENAME, CHMOD = (
    FilesystemEventType.CREATE,
    FilesystemEventType.WRITE,
    FilesystemEventType.REMOVE,
    FilesystemEventType.RENAME,
    FilesystemEventType.CHMOD,
)


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox.create(timeout=300)
    yield sandbox
    sandbox.kill()


@pytest.fixture
def place(sandbox):
    path = f"/home/user/watch-{uuid.uuid4().hex[:12]}"
    sandbox.files.make_dir(path)
    return path


def brief(events):
    return [(event.name, event.type) for event in events]


def test_new_file_is_three_events(sandbox, place):
    watch = sandbox.files.watch_dir(place)
    assert watch.get_new_events() == []
    sandbox.files.write(f"{place}/new", "content")
    assert brief(watch.get_new_events()) == [("new", CREATE), ("new", CHMOD), ("new", WRITE)]
    assert watch.get_new_events() == []
    watch.stop()


def test_change_rename_remove(sandbox, place):
    sandbox.files.write(f"{place}/file", "one")
    watch = sandbox.files.watch_dir(place)
    sandbox.files.write(f"{place}/file", "two")
    assert ("file", WRITE) in brief(watch.get_new_events())
    sandbox.files.rename(f"{place}/file", f"{place}/renamed")
    assert brief(watch.get_new_events()) == [("file", RENAME), ("renamed", CREATE)]
    sandbox.commands.run(f"chmod 600 {place}/renamed")
    assert brief(watch.get_new_events()) == [("renamed", CHMOD)]
    sandbox.files.remove(f"{place}/renamed")
    assert brief(watch.get_new_events()) == [("renamed", REMOVE)]
    watch.stop()


def test_not_recursive_by_default(sandbox, place):
    sandbox.files.make_dir(f"{place}/sub")
    watch = sandbox.files.watch_dir(place)
    sandbox.files.write(f"{place}/sub/file", "x")
    assert [name for name, _ in brief(watch.get_new_events()) if "/" in name] == []
    watch.stop()


def test_recursive_sees_old_and_new_directories(sandbox, place):
    sandbox.files.make_dir(f"{place}/old")
    watch = sandbox.files.watch_dir(place, recursive=True)
    sandbox.files.write(f"{place}/old/file", "x")
    assert ("old/file", WRITE) in brief(watch.get_new_events())
    sandbox.files.make_dir(f"{place}/new")
    sandbox.files.write(f"{place}/new/file", "x")
    events = brief(watch.get_new_events())
    assert ("new", CREATE) in events and ("new/file", WRITE) in events
    watch.stop()


def test_recursive_reports_what_came_with_a_directory(sandbox, place):
    sandbox.commands.run("rm -rf /tmp/tree && mkdir -p /tmp/tree/inner && touch /tmp/tree/inner/file")
    watch = sandbox.files.watch_dir(place, recursive=True)
    sandbox.commands.run(f"mv /tmp/tree {place}/")
    seen = set()

    def complete():
        seen.update(brief(watch.get_new_events()))
        return {("tree", CREATE), ("tree/inner", CREATE), ("tree/inner/file", CREATE)} <= seen

    wait_until(f"all creations, seen {seen}", 5, complete)
    sandbox.commands.run(f"echo x >> {place}/tree/inner/file")
    wait_until("a write below", 5, lambda: seen.update(brief(watch.get_new_events())) or ("tree/inner/file", WRITE) in seen)
    watch.stop()


def test_entries(sandbox, place):
    watch = sandbox.files.watch_dir(place, include_entry=True)
    sandbox.files.write(f"{place}/file", "12345", metadata={"k": "v"})
    written = [event for event in watch.get_new_events() if event.type == WRITE][-1]
    assert written.entry.path == f"{place}/file" and written.entry.size == 5 and written.entry.owner == "user"
    sandbox.files.remove(f"{place}/file")
    removed = [event for event in watch.get_new_events() if event.type == REMOVE]
    assert removed and removed[0].entry is None
    watch.stop()


def test_without_entries(sandbox, place):
    watch = sandbox.files.watch_dir(place)
    sandbox.files.write(f"{place}/file", "x")
    assert all(event.entry is None for event in watch.get_new_events())
    watch.stop()


def test_many_events_arrive_in_order(sandbox, place):
    watch = sandbox.files.watch_dir(place)
    sandbox.commands.run(f"cd {place} && for n in $(seq 500); do : > f$n; done")
    names, deadline = [], 50
    while len(names) < 500 and deadline:
        names += [event.name for event in watch.get_new_events() if event.type == CREATE]
        deadline -= 1
    assert names == [f"f{n}" for n in range(1, 501)]
    watch.stop()


def test_removal_of_the_directory_itself(sandbox, place):
    watch = sandbox.files.watch_dir(place)
    sandbox.files.remove(place)
    assert any(event.type == REMOVE for event in watch.get_new_events())
    watch.stop()


def test_stopped(sandbox, place):
    watch = sandbox.files.watch_dir(place)
    watch.stop()
    with pytest.raises(SandboxException):
        watch.get_new_events()


def test_unknown_watcher(sandbox, place):
    watch = sandbox.files.watch_dir(place)
    watch._watcher_id = "w" + "0" * 20
    with pytest.raises(NotFoundException):
        watch.get_new_events()


def test_missing_and_not_a_directory(sandbox, place):
    with pytest.raises(FileNotFoundException):
        sandbox.files.watch_dir(f"{place}/missing")
    sandbox.files.write(f"{place}/file", "x")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.watch_dir(f"{place}/file")


def in_async_sandbox(test):
    @functools.wraps(test)
    def wrapper():
        async def scenario():
            sandbox = await AsyncSandbox.create(timeout=120)
            try:
                await asyncio.wait_for(test(sandbox), 30)
            finally:
                await sandbox.kill()

        asyncio.run(scenario())

    del wrapper.__wrapped__
    return wrapper


async def next_of(queue: asyncio.Queue, wanted):
    """The first event with this name and type; others are let pass."""
    while True:
        event = await asyncio.wait_for(queue.get(), 5)
        if (event.name, event.type) == wanted:
            return event


@in_async_sandbox
async def test_async_events_and_stop(sandbox):
    await sandbox.files.make_dir("/home/user/w")
    seen, ended = asyncio.Queue(), asyncio.Queue()
    watch = await sandbox.files.watch_dir("/home/user/w", on_event=seen.put_nowait, on_exit=ended.put_nowait, include_entry=True)
    await sandbox.files.write("/home/user/w/file", "12")
    event = await next_of(seen, ("file", WRITE))
    assert event.entry.size == 2
    await sandbox.files.rename("/home/user/w/file", "/home/user/w/new")
    await next_of(seen, ("file", RENAME))
    await next_of(seen, ("new", CREATE))
    await watch.stop()
    assert await asyncio.wait_for(ended.get(), 5) is None


@in_async_sandbox
async def test_async_recursive(sandbox):
    await sandbox.files.make_dir("/home/user/w")
    seen = asyncio.Queue()
    await sandbox.files.watch_dir("/home/user/w", on_event=seen.put_nowait, recursive=True)
    await sandbox.files.make_dir("/home/user/w/sub")
    await sandbox.files.write("/home/user/w/sub/file", "x")
    await next_of(seen, ("sub", CREATE))
    await next_of(seen, ("sub/file", WRITE))


@in_async_sandbox
async def test_async_timeout(sandbox):
    ended = asyncio.Queue()
    await sandbox.files.watch_dir("/home/user", on_event=lambda _: None, on_exit=ended.put_nowait, timeout=1)
    error = await asyncio.wait_for(ended.get(), 5)
    assert type(error).__name__ == "TimeoutException"


@in_async_sandbox
async def test_async_missing_directory(sandbox):
    with pytest.raises(FileNotFoundException):
        await sandbox.files.watch_dir("/no/such", on_event=lambda _: None)


@in_async_sandbox
async def test_async_kill_ends_the_watch(sandbox):
    ended = asyncio.Queue()
    await sandbox.files.watch_dir("/home/user", on_event=lambda _: None, on_exit=ended.put_nowait)
    await sandbox.kill()
    error = await asyncio.wait_for(ended.get(), 5)
    assert type(error).__name__ == "SandboxNotRunningException"
