"""Streamed input: one long request that carries stdin, in the shape each flavour gives it."""

from __future__ import annotations

import asyncio
import hashlib
import time

import pytest
from e2b import AsyncSandbox, InvalidArgumentException, NotFoundException, Sandbox


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox.create(timeout=300)
    yield sandbox
    sandbox.kill()


def test_chunks_arrive_in_order(sandbox):
    handle = sandbox.commands.run("sha256sum", background=True, stdin=True)
    blocks = [bytes([n % 256]) * 10_000 for n in range(100)]
    sandbox.commands.stream_input(handle.pid, iter(blocks))
    handle.close_stdin()
    assert handle.wait().stdout.split()[0] == hashlib.sha256(b"".join(blocks)).hexdigest()


def test_nothing_to_send(sandbox):
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.stream_input(handle.pid, [])
    handle.send_stdin("still open")
    handle.close_stdin()
    assert handle.wait().stdout == "still open"


def test_unknown_process(sandbox):
    with pytest.raises(NotFoundException):
        sandbox.commands.stream_input(999_999, ["x"])


def test_one_chunk_is_not_an_iterable(sandbox):
    with pytest.raises(InvalidArgumentException):
        sandbox.commands.stream_input(1, "text")


def test_input_reaches_the_process_before_the_stream_ends(sandbox):
    handle = sandbox.commands.run("while read -r line; do echo \"$line\" >> /tmp/lines; done", background=True, stdin=True)
    seen = []

    def chunks():
        for n in range(3):
            yield f"line {n}\n"
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                if sandbox.files.exists("/tmp/lines") and f"line {n}" in sandbox.files.read("/tmp/lines"):
                    seen.append(n)
                    break
                time.sleep(0.05)

    sandbox.commands.stream_input(handle.pid, chunks())
    handle.close_stdin()
    handle.wait()
    assert seen == [0, 1, 2]


def test_async_handle_stays_open():
    async def scenario():
        sandbox = await AsyncSandbox.create(timeout=60)
        try:
            seen = asyncio.Queue()
            handle = await sandbox.commands.run("cat", background=True, stdin=True, on_stdout=seen.put_nowait)
            stream = sandbox.commands.stream_input(handle.pid)
            for n in range(3):
                await stream.send(f"{n}\n")
                assert await asyncio.wait_for(seen.get(), 5) == f"{n}\n"
            await stream.close()
            await handle.send_stdin("last\n")
            await handle.close_stdin()
            assert (await handle.wait()).stdout == "0\n1\n2\nlast\n"
        finally:
            await sandbox.kill()

    asyncio.run(scenario())


def test_async_unknown_process():
    async def scenario():
        sandbox = await AsyncSandbox.create(timeout=60)
        try:
            stream = sandbox.commands.stream_input(999_999)
            with pytest.raises(NotFoundException):
                await stream.close()
        finally:
            await sandbox.kill()

    asyncio.run(scenario())


def test_terminal(sandbox):
    from e2b import PtySize

    terminal = sandbox.pty.create(PtySize(rows=24, cols=80))
    sandbox.pty.stream_input(terminal.pid, ["echo st", "reamed-$((40+2))\n", "exit\n"])
    output = []
    terminal.wait(on_pty=output.append)
    assert b"streamed-42" in b"".join(output)
