"""The essentials in the 2.45 generation of the Python package: v1 endpoints, explicit defaults, older messages."""

from __future__ import annotations

import asyncio
import io
import os
import re
import threading
import uuid
from datetime import datetime, timedelta, timezone

import pytest
from e2b import (
    AsyncSandbox,
    AuthenticationException,
    CommandExitException,
    FileNotFoundException,
    FilesystemEventType,
    FileType,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    SandboxQuery,
    SandboxState,
    TimeoutException,
)

from server import wait_until

UNKNOWN = "i" + "0" * 20


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox.create(timeout=600)
    yield sandbox
    sandbox.kill()


@pytest.fixture
def create():
    made = []

    def create(**options):
        made.append(Sandbox.create(**options))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.kill()


@pytest.fixture
def place(sandbox):
    path = f"/home/user/{uuid.uuid4().hex}"
    sandbox.files.make_dir(path)
    return path


def test_this_is_the_old_generation():
    from importlib.metadata import version

    assert version("e2b") == "2.45.1"


def test_create_info_kill(create):
    sandbox = create(timeout=77, metadata={"a": "b"}, envs={"E": "v"})
    assert re.fullmatch(r"i[a-z0-9]{20}", sandbox.sandbox_id)
    info = sandbox.get_info()
    assert info.end_at - info.started_at == timedelta(seconds=77)
    assert info.metadata == {"a": "b"} and info.state == SandboxState.RUNNING and info.name == "base"
    assert sandbox.commands.run("echo $E").stdout == "v\n"
    assert sandbox.is_running() and sandbox.kill() and not sandbox.kill()
    assert not sandbox.is_running()
    with pytest.raises(SandboxNotFoundException):
        sandbox.get_info()


@pytest.mark.parametrize("secure", [True, False])
def test_secure_is_accepted_and_always_on(create, secure):
    sandbox = create(secure=secure)
    assert sandbox._envd_access_token
    assert sandbox.commands.run("echo ok").stdout == "ok\n"


def test_default_timeout(sandbox, create):
    info = create().get_info()
    assert info.end_at - info.started_at == timedelta(seconds=300)


def test_connect(create):
    sandbox = create(timeout=100)
    end = sandbox.get_info().end_at
    other = Sandbox.connect(sandbox.sandbox_id, timeout=10)
    assert other.sandbox_id == sandbox.sandbox_id and other.get_info().end_at == end
    assert other.commands.run("echo ok").stdout == "ok\n"
    other.connect(timeout=500)
    assert other.get_info().end_at > end
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect(UNKNOWN)


def test_list(create):
    mark = uuid.uuid4().hex
    ids = [create(metadata={"mark": mark}).sandbox_id for _ in range(3)]
    query = SandboxQuery(metadata={"mark": mark}, state=[SandboxState.RUNNING])
    paginator = Sandbox.list(query=query, limit=2)
    first = paginator.next_items()
    assert paginator.has_next
    second = paginator.next_items()
    assert not paginator.has_next
    assert [info.sandbox_id for info in first + second] == ids[::-1]


def test_timeouts(create):
    sandbox = create(timeout=3)
    wait_until("the sandbox is gone", 5, lambda: not sandbox.is_running())
    sandbox = create()
    sandbox.set_timeout(1)
    wait_until("the sandbox is gone", 3, lambda: not sandbox.is_running())

    def unknown() -> bool:
        # Until it has been taken down the answer is a conflict: it is being killed.
        try:
            sandbox.set_timeout(10)
        except SandboxNotFoundException:
            return True
        except SandboxException as error:
            assert "is being killed" in str(error)
        return False

    wait_until("the sandbox is unknown", 10, unknown)


def test_errors(create):
    with pytest.raises(SandboxException):
        Sandbox.create(template="no-such-template")
    with pytest.raises(AuthenticationException):
        Sandbox.create(api_key="e2b_" + "0" * 40)
    with pytest.raises(SandboxException):
        # Not 0: this generation takes that for its default.
        Sandbox.create(timeout=-1)
    assert Sandbox.kill(UNKNOWN) is False


def test_metrics(create):
    sandbox = create()
    sample = wait_until("a sample", 30, sandbox.get_metrics, interval=0.5)[-1]
    assert sample.cpu_count >= 1 and 0 < sample.mem_used <= sample.mem_total and sample.disk_total > 0
    past = datetime.now(timezone.utc) - timedelta(hours=2)
    assert sandbox.get_metrics(start=past, end=past + timedelta(hours=1)) == []


def test_commands(sandbox):
    run = sandbox.commands.run
    result = run("echo out; echo err >&2; whoami; pwd")
    assert result.stdout == "out\nuser\n/home/user\n" and result.stderr == "err\n"
    with pytest.raises(CommandExitException) as error:
        run("echo x; exit 3")
    assert error.value.exit_code == 3 and error.value.stdout == "x\n"
    pieces = []
    assert run("seq 1000", on_stdout=pieces.append).stdout == "".join(pieces)
    assert run("id -u; pwd", user="root", cwd="/").stdout == "0\n/\n"
    assert run("echo $K", envs={"K": "ü"}).stdout == "ü\n"
    with pytest.raises(AuthenticationException):
        run("true", user="nobody-knows")
    with pytest.raises(InvalidArgumentException):
        run("true", cwd="/no/such")
    assert len(run("head -c 3145728 /dev/zero | tr '\\0' x").stdout) == 3145728


def test_command_timeout(sandbox):
    with pytest.raises(TimeoutException):
        sandbox.commands.run("exec sleep 300", timeout=1)
    wait_until("no process", 3, lambda: not any("sleep 300" in str(p.args) for p in sandbox.commands.list()))


def test_background_input_connect_kill(sandbox):
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    assert handle.pid in [process.pid for process in sandbox.commands.list()]
    other = sandbox.commands.connect(handle.pid)
    sandbox.commands.send_stdin(handle.pid, "hällo\n")
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "hällo\n" and other.wait().stdout == "hällo\n"
    handle = sandbox.commands.run("exec sleep 300", background=True)
    handle.disconnect()
    assert sandbox.commands.kill(handle.pid) is True
    assert sandbox.commands.kill(handle.pid) is False
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(999_999)


def test_terminal(sandbox):
    terminal = sandbox.pty.create(PtySize(rows=20, cols=90))
    output = []
    reader = threading.Thread(target=lambda: terminal.wait(on_pty=output.append), daemon=True)
    reader.start()
    sandbox.pty.resize(terminal.pid, PtySize(rows=25, cols=99))
    sandbox.pty.send_stdin(terminal.pid, b"stty size; exit\n")
    reader.join(10)
    assert b"25 99" in b"".join(output)


def test_files(sandbox, place):
    files = sandbox.files
    info = files.write(f"{place}/ü/a.txt", "text ü")
    assert (info.path, info.name, info.type) == (f"{place}/ü/a.txt", "a.txt", FileType.FILE)
    assert files.read(f"{place}/ü/a.txt") == "text ü"
    assert b"".join(files.read(f"{place}/ü/a.txt", format="stream")) == "text ü".encode()
    data = os.urandom(5_000_000)
    files.write(f"{place}/io", io.BytesIO(data))
    assert bytes(files.read(f"{place}/io", format="bytes")) == data
    files.write(f"{place}/packed", data, gzip=True)
    assert bytes(files.read(f"{place}/packed", format="bytes", gzip=True)) == data
    files.write(f"{place}/empty", "")
    assert files.read(f"{place}/empty") == ""
    assert [entry.name for entry in files.list(place)] == ["empty", "io", "packed", "ü"]
    assert len(files.list(place, depth=2)) == 5
    written = files.write_files([{"path": f"{place}/m{n}", "data": str(n)} for n in range(3)])
    assert len(written) == 3 and files.read(f"{place}/m2") == "2"
    assert files.rename(f"{place}/m2", f"{place}/m3").path == f"{place}/m3"
    assert files.make_dir(f"{place}/d/e") and not files.make_dir(f"{place}/d/e")
    files.remove(f"{place}/d")
    assert not files.exists(f"{place}/d")
    with pytest.raises(FileNotFoundException):
        files.read(f"{place}/missing")


def test_file_info_and_links(sandbox, place):
    sandbox.files.write(f"{place}/target", "12345", metadata={"key": "value"})
    sandbox.commands.run(f"cd {place} && chmod 600 target && ln -s target link && ln -s . dirlink")
    info = sandbox.files.get_info(f"{place}/target")
    assert (info.size, info.mode, info.permissions, info.owner) == (5, 0o600, "-rw-------", "user")
    assert info.metadata == {"key": "value"}
    link = sandbox.files.get_info(f"{place}/link")
    assert link.type == FileType.FILE and link.symlink_target == f"{place}/target"
    assert sandbox.files.get_info(f"{place}/dirlink").type == FileType.DIR


def test_watch(sandbox, place):
    watch = sandbox.files.watch_dir(place, recursive=True, include_entry=True)
    sandbox.files.write(f"{place}/file", "x")
    events = watch.get_new_events()
    assert [event.type for event in events] == [FilesystemEventType.CREATE, FilesystemEventType.CHMOD, FilesystemEventType.WRITE]
    assert {event.name for event in events} == {"file"} and events[-1].entry.path == f"{place}/file"
    watch.stop()


def test_kill_while_a_command_runs(create):
    """This generation asks for the sandbox's health only when its connection was reset; one that is closed in the middle
    of an answer it takes for a timeout."""
    sandbox = create()
    threading.Thread(
        target=lambda: (wait_until("the command runs", 10, sandbox.commands.list), Sandbox.kill(sandbox.sandbox_id)), daemon=True
    ).start()
    with pytest.raises(TimeoutException) as error:
        sandbox.commands.run("sleep 60")
    assert "sandbox was killed or reached its end of life" in str(error.value)
    with pytest.raises(TimeoutException):
        sandbox.commands.run("true")


def test_async():
    async def scenario():
        sandbox = await AsyncSandbox.create(timeout=60)
        try:
            result = await sandbox.commands.run("echo async")
            assert result.stdout == "async\n"
            await sandbox.files.write("a", "b")
            assert await sandbox.files.read("a") == "b"
            seen = asyncio.Queue()
            watch = await sandbox.files.watch_dir("/home/user", on_event=seen.put_nowait)
            await sandbox.files.write("c", "d")
            assert (await asyncio.wait_for(seen.get(), 5)).name == "c"
            await watch.stop()
            results = await asyncio.gather(*(sandbox.commands.run(f"sleep 0.3; echo {n}") for n in range(20)))
            assert [result.stdout for result in results] == [f"{n}\n" for n in range(20)]
        finally:
            assert await sandbox.kill()

    asyncio.run(scenario())
