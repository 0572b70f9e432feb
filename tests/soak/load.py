"""The load: many workers that each keep one sandbox busy, through the official package.

Every operation checks its result. What fails is handed to `Soak.failed`, which decides whether an end of the server
explains it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from typing import Any

import httpx
from e2b import AsyncSandbox, CommandExitException, PtySize

from ledger import Entry, Ledger

PAUSE_SECONDS = (0.1, 1.5)


class Wrong(Exception):
    """An operation came to its end with a result that it must not have."""


class Soak:
    """What workers, the one who ends servers, and the auditor share."""

    def __init__(self, seed: int):
        self.seed = seed
        self.ledger = Ledger()
        self.counts: Counter[str] = Counter()
        self.explained: Counter[str] = Counter()
        self.unexplained: list[str] = []
        self.options: dict[str, str] = {}
        # The clients of the sandboxes: connecting anew would change their end times.
        self.handles: dict[str, AsyncSandbox] = {}
        self.slowest_start = 0.0
        self.up = asyncio.Event()
        self.over = False
        # Spans in which the server was not there, the last one open-ended while it is not.
        self.outages: list[list[float]] = []

    def random(self, who: str) -> random.Random:
        return random.Random(f"{self.seed} {who}")

    def excused(self, began: float, ended: float) -> bool:
        """Whether the server was away at some moment of the operation."""
        return any(start <= ended and began <= end for start, end in self.outages)

    def failed(self, what: str, began: float, error: BaseException, sandbox_id: str = "-") -> None:
        ended = time.monotonic()
        kind = f"{what}: {type(error).__name__}"
        if not isinstance(error, Wrong) and self.excused(began, ended):
            self.explained[kind] += 1
        else:
            self.unexplained.append(f"{sandbox_id} {kind}: {str(error)[:300]} ({ended - began:.1f} s, {time.strftime('%T')})")


class Worker:
    """Makes a sandbox, uses it for some time, ends it, again and again."""

    def __init__(self, soak: Soak, number: int):
        self.soak = soak
        self.name = f"worker-{number}"
        self.random = soak.random(self.name)
        self.made = 0
        self.sandbox: AsyncSandbox
        self.entry: Entry

    async def run(self) -> None:
        while not self.soak.over:
            await self.soak.up.wait()
            if await self.create():
                await self.use()
                await self.end()
            else:
                await asyncio.sleep(0.5)

    async def create(self) -> bool:
        """True when there is a sandbox with its marker in it."""
        self.made += 1
        label = f"{self.name}-{self.made}"
        # Some end by themselves, while nobody looks.
        self.short = self.random.random() < 0.2
        timeout = self.random.randint(10, 25) if self.short else self.random.randint(120, 600)
        key = f"{self.soak.seed}-{label}" if self.random.random() < 0.5 else None
        asked = time.monotonic()
        self.soak.ledger.unanswered.add(label)
        for attempt in range(4):
            began = time.monotonic()
            try:
                self.sandbox = await AsyncSandbox.create(
                    timeout=timeout, metadata={"soak": label}, idempotency_key=key, **self.soak.options
                )
                break
            except Exception as error:
                if attempt and "outcome of the request" in str(error):
                    # Said of a key whose first request a crash cut off: to be looked up, not repeated.
                    self.soak.counts["creates of unknown outcome"] += 1
                    return False
                self.soak.failed("create", began, error)
                await self.soak.up.wait()
                # With a key the same request may be made again and again: at most one sandbox comes of it.
                if key is None or attempt == 3:
                    return False
        self.entry = self.soak.ledger.created(self.sandbox.sandbox_id, label, asked, time.monotonic(), timeout)
        self.soak.ledger.unanswered.discard(label)
        self.soak.handles[self.entry.sandbox_id] = self.sandbox
        self.soak.counts["created"] += 1
        return await self.attempt("marker", self.write_marker())

    async def write_marker(self) -> None:
        await self.sandbox.files.write("/home/user/marker", self.entry.marker)
        self.entry.has_marker = True

    async def use(self) -> None:
        operations = [
            self.command, self.command, self.failing_command, self.as_root, self.background, self.files, self.big_file,
            self.terminal, self.port, self.metrics, self.info, self.new_end, self.watch,
        ]  # fmt: skip
        for _ in range(self.random.randint(3, 25)):
            # Towards its end anything may fail.
            if self.soak.over or time.monotonic() > self.entry.ends_after - 60 and not self.short:
                return
            if self.short and time.monotonic() > self.entry.ends_after - 8:
                return
            operation = self.random.choice(operations[:4] if self.short else operations)
            await asyncio.sleep(self.random.uniform(*PAUSE_SECONDS))
            await self.soak.up.wait()
            await self.attempt(operation.__name__, operation())

    async def attempt(self, what: str, operation: Any) -> bool:
        began = time.monotonic()
        try:
            await operation
        except Exception as error:
            self.soak.failed(what, began, error, self.entry.sandbox_id)
            return False
        self.soak.counts[what] += 1
        return True

    async def end(self) -> None:
        if self.short:
            return
        if self.random.random() < 0.1:
            # Left to its end time, which comes soon.
            await self.attempt("new end", self.set_end(5))
            return
        await self.soak.up.wait()
        self.entry.kill_asked = True
        if await self.attempt("kill", self.kill()):
            self.entry.killed_at = time.monotonic()

    # One operation each.

    async def kill(self) -> None:
        if not await self.sandbox.kill():
            raise Wrong("a sandbox that was there is not found")

    async def set_end(self, timeout: int) -> None:
        asked, acknowledged = time.monotonic(), False
        try:
            await self.sandbox.set_timeout(timeout)
            acknowledged = True
        finally:
            self.soak.ledger.end_set(self.entry.sandbox_id, asked, time.monotonic(), timeout, acknowledged)

    async def new_end(self) -> None:
        await self.set_end(self.random.randint(120, 600))

    async def command(self) -> None:
        words = f"{self.entry.marker} {self.random.random()}"
        result = await self.sandbox.commands.run(f"echo '{words}'; cat marker")
        expect(result.stdout, f"{words}\n{self.entry.marker}")

    async def failing_command(self) -> None:
        code = self.random.randint(1, 200)
        try:
            await self.sandbox.commands.run(f"echo gone >&2; exit {code}")
        except CommandExitException as error:
            expect((error.exit_code, error.stderr), (code, "gone\n"))
        else:
            raise Wrong("a failing command succeeds")

    async def as_root(self) -> None:
        result = await self.sandbox.commands.run("id -u; find /proc -maxdepth 1 -name '[0-9]*' | wc -l", user="root")
        expect(result.stdout.splitlines()[0], "0")

    async def background(self) -> None:
        lines: list[str] = []
        count = self.random.randint(3, 30)
        handle = await self.sandbox.commands.run(
            f"for i in $(seq {count}); do echo $i; sleep 0.05; done", background=True, on_stdout=lines.append
        )
        if self.random.random() < 0.3:
            await handle.kill()
            with contextlib.suppress(CommandExitException):
                await handle.wait()
        else:
            await handle.wait()
            expect("".join(lines).split(), [str(number) for number in range(1, count + 1)])

    async def files(self) -> None:
        text = f"{self.random.random()}\n" * self.random.randint(1, 50)
        files = self.sandbox.files
        await files.write("work/a.txt", text)
        expect(await files.read("work/a.txt"), text)
        await files.rename("work/a.txt", "work/b.txt")
        expect([entry.name for entry in await files.list("work")], ["b.txt"])
        await files.remove("work/b.txt")
        expect(await files.exists("work/b.txt"), False)

    async def big_file(self) -> None:
        data = self.random.randbytes(self.random.randint(1, 2_000_000))
        await self.sandbox.files.write("big", data)
        expect(bytes(await self.sandbox.files.read("big", format="bytes")) == data, True)

    async def terminal(self) -> None:
        output = bytearray()
        handle = await self.sandbox.pty.create(PtySize(rows=24, cols=80), on_data=output.extend)
        await self.sandbox.pty.send_stdin(handle.pid, b"echo $((6 * 7))-$((4 + 4))\n")
        await until("the terminal answers", lambda: b"42-8" in output)
        await self.sandbox.pty.kill(handle.pid)
        with contextlib.suppress(CommandExitException):
            await handle.wait()

    async def port(self) -> None:
        port = self.random.randint(8000, 60000)
        handle = await self.sandbox.commands.run(f"exec python3 -m http.server {port}", background=True)
        headers = {"E2b-Sandbox-Id": self.entry.sandbox_id, "E2b-Sandbox-Port": str(port)}
        async with httpx.AsyncClient(timeout=30) as client:
            for _ in range(100):
                answer = await client.get(f"{self.soak.options['sandbox_url']}/marker", headers=headers)
                if answer.status_code == 200:
                    break
                expect(answer.status_code, 502)
                await asyncio.sleep(0.2)
        expect(answer.text, self.entry.marker)
        await handle.kill()
        with contextlib.suppress(CommandExitException):
            await handle.wait()

    async def metrics(self) -> None:
        for sample in await self.sandbox.get_metrics():
            expect(0 <= sample.mem_used <= 2 * sample.mem_total, True)

    async def info(self) -> None:
        info = await self.sandbox.get_info()
        expect(info.metadata, {"soak": self.entry.marker})

    async def watch(self) -> None:
        events: list[str] = []
        await self.sandbox.files.make_dir("watched")
        handle = await self.sandbox.files.watch_dir("watched", on_event=lambda event: events.append(event.name))
        await self.sandbox.files.write("watched/it", "x")
        await until("the change is told", lambda: "it" in events)
        await handle.stop()


def expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise Wrong(f"{str(found)[:200]!r} instead of {str(wanted)[:200]!r}")


async def until(what: str, condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.02)
