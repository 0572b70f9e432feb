"""One test body for both flavours of the Python package.

`Sandbox` answers at once, `AsyncSandbox` answers with something to await. `Waiting` stands before the second and
awaits whatever it returns, so that a test written once drives both. It changes no argument and no result.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any


class Loop:
    """An event loop in a thread of its own: an async client must stay on one loop for its whole life."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def result(self, awaitable: Any) -> Any:
        async def waiter():
            return await awaitable

        return asyncio.run_coroutine_threadsafe(waiter(), self.loop).result()

    def call(self, function, *args, **kwargs) -> Any:
        """Calls on the loop's thread, since the client may create tasks while it is called."""

        async def caller():
            value = function(*args, **kwargs)
            return await value if inspect.isawaitable(value) else value

        return asyncio.run_coroutine_threadsafe(caller(), self.loop).result()

    def wrap(self, value: Any) -> Any:
        kind = value if isinstance(value, type) else type(value)
        if isinstance(value, list):
            return [self.wrap(item) for item in value]
        # Handles and modules of the async client do work; plain results (dataclasses, enums) do not.
        works = kind.__module__.startswith("e2b.sandbox_async") or kind.__name__.startswith("Async")
        return Waiting(self, value) if works else value


class Waiting:
    """Stands before an object of the async client and awaits what its methods return."""

    def __init__(self, loop: Loop, target: Any):
        self._loop = loop
        self._target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value) or isinstance(value, type):
            return self._loop.wrap(value)

        def method(*args, **kwargs):
            plain = [arg._target if isinstance(arg, Waiting) else arg for arg in args]
            return self._loop.wrap(self._loop.call(value, *plain, **kwargs))

        return method

    def __iter__(self):
        iterator = self._target.__aiter__()
        while True:
            try:
                yield self._loop.result(iterator.__anext__())
            except StopAsyncIteration:
                return

    def __enter__(self):
        self._loop.result(self._target.__aenter__())
        return self

    def __exit__(self, *exception):
        return self._loop.result(self._target.__aexit__(*exception))


def both() -> dict[str, Any]:
    """The two entry points under their names."""
    from e2b import AsyncSandbox, Sandbox

    return {"sync": Sandbox, "async": Waiting(Loop(), AsyncSandbox)}


class Building:
    """Stands before `AsyncTemplate`: what it awaits is awaited here; the builders themselves are the same in both."""

    def __init__(self, loop: Loop, target: Any):
        self._loop = loop
        self._target = target

    def __call__(self, **options) -> Any:
        return self._target(**options)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self._loop.call(getattr(self._target, name), *args, **kwargs)


def both_templates() -> dict[str, Any]:
    """The entry points for templates, under the same names."""
    from e2b import AsyncTemplate, Template

    return {"sync": Template, "async": Building(Loop(), AsyncTemplate)}
