"""What must be true of every sandbox, from what the clients were told. No I/O.

A sandbox is known from the answer to its create. Until its end time has certainly come, and unless somebody has asked
for its death, it must be there. After its end time has certainly come, or its death was acknowledged, it must not.
In between, nothing is promised.
"""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass
class Entry:
    """One sandbox. Times are seconds on one clock."""

    sandbox_id: str
    marker: str
    # The end time lies between these: it was set at some moment of the request.
    ends_after: float
    ends_before: float
    kill_asked: bool = False
    # When the kill was acknowledged.
    killed_at: float = math.inf
    has_marker: bool = False


class Ledger:
    """All sandboxes that a server has acknowledged."""

    # A server looks for ended sandboxes once a second, and may be busy or just starting.
    GRACE = 15.0

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        # Names of creates without an answer: such a sandbox may or may not be there.
        self.unanswered: set[str] = set()

    def created(self, sandbox_id: str, marker: str, asked: float, answered: float, timeout: float) -> Entry:
        assert sandbox_id not in self.entries, f"{sandbox_id} was handed out twice"
        entry = Entry(sandbox_id, marker, asked + timeout, answered + timeout)
        self.entries[sandbox_id] = entry
        return entry

    def end_set(self, sandbox_id: str, asked: float, answered: float, timeout: float, acknowledged: bool) -> None:
        """An end time was asked for. Without an acknowledgement either the old or the new one holds."""
        entry = self.entries[sandbox_id]
        after, before = asked + timeout, answered + timeout
        if not acknowledged:
            after, before = min(after, entry.ends_after), max(before, entry.ends_before)
        entry.ends_after, entry.ends_before = after, before

    def must_be_there(self, now: float) -> set[str]:
        return {e.sandbox_id for e in self.entries.values() if not e.kill_asked and now < e.ends_after}

    def must_be_gone(self, now: float) -> set[str]:
        return {e.sandbox_id for e in self.entries.values() if now > min(e.killed_at, e.ends_before + self.GRACE)}

    def verdict(self, listed: dict[str, str], expected: set[str], began: float, ended: float) -> list[str]:
        """What is wrong with a list that a server gave between two moments: ids and the names of their creates.

        `expected` is what had to be there when it was asked for: more may have come while it was made.
        """
        missing = (expected & self.must_be_there(ended)) - listed.keys()
        undead = self.must_be_gone(began) & listed.keys()
        strangers = {name for sandbox_id, name in listed.items() if sandbox_id not in self.entries and name not in self.unanswered}
        names = [name for name in listed.values() if name]
        twice = {name for name in names if names.count(name) > 1}
        return (
            [f"lost: {name}" for name in sorted(missing)]
            + [f"there after its end: {name}" for name in sorted(undead)]
            + [f"there and never asked for: {name}" for name in sorted(strangers)]
            + [f"made twice for one request: {name}" for name in sorted(twice)]
        )
