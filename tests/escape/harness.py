"""Runs the attacker's programs, inside and without the defence, and keeps the books.

A program in `programs/` tries things and prints one JSON object: attempt -> {did, says, errno}. The same program runs
twice: in a sandbox, where nothing may come of it, and as a control in a throw-away environment of the host that
lacks the defence, where it must succeed. An attempt whose control fails because this kernel has not got the thing is
told as such and counted; a control that fails for any other reason fails its test, unless the test gives the reason.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
CONTROLS = HERE / "controls"
INSIDE = "/tmp/attack"

# Environments for controls. PLAIN is the host's root; CONTAINER is root in namespaces of its own and nothing else.
PLAIN: tuple[str, ...] = ()
CONTAINER = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--net", "--ipc", "--uts")
USER_NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")

# "There is no such thing here": the kernel was built without it, or has no such device.
LACKS = {
    errno.ENOENT,
    errno.ENOSYS,
    errno.ENODEV,
    errno.ENXIO,
    errno.EAFNOSUPPORT,
    errno.EPROTONOSUPPORT,
    errno.ESOCKTNOSUPPORT,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
}


@dataclass(frozen=True)
class Attempt:
    """What came of one thing that was tried."""

    did: bool
    says: str = ""
    errno: int | None = None


Attempts = dict[str, Attempt]


@dataclass
class Ledger:
    """Every case of this run."""

    blocked: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    not_shown: dict[str, str] = field(default_factory=dict)
    # Figures that are worth reading.
    notes: list[str] = field(default_factory=list)

    def case(self, name: str, did: bool, unshown: str | None) -> None:
        (self.open if did else self.blocked).append(name)
        if unshown is None:
            self.shown.append(name)
        else:
            self.not_shown[name] = unshown

    def lines(self) -> list[str]:
        together: dict[str, list[str]] = {}
        for name, reason in self.not_shown.items():
            family, _, attempt = name.partition(": ")
            together.setdefault(f"{family}: control: not shown, because {reason}", []).append(attempt)
        reasons = [f"{text} ({_some(names)})" for text, names in together.items()]
        cases = len(self.blocked) + len(self.open)
        found = [f"NOT BLOCKED {name}" for name in self.open]
        total = f"escape: {cases} cases, {len(self.blocked)} blocked, {len(self.shown)} controls shown, {len(self.not_shown)} not shown"
        return [*reasons, *self.notes, *found, total]


def _some(names: list[str]) -> str:
    """A few of them, and how many more there are."""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


LEDGER = Ledger()


def judge(family: str, inside: Attempts, control: Attempts | str, unshown: dict[str, str] | None = None) -> None:
    """Books every attempt; fails when one was not blocked, or when a control failed without a good reason.

    `control` is a text when nothing of the family can be shown; `unshown` gives reasons for single attempts.
    """
    assert inside, f"{family}: nothing was tried"
    unexplained = []
    for name, attempt in inside.items():
        reason = control if isinstance(control, str) else _why_not_shown(control.get(name), (unshown or {}).get(name))
        if reason == "":
            unexplained.append(f"{name}: {control.get(name)}")
            continue
        LEDGER.case(f"{family}: {name}", attempt.did, reason)
    did = {name: attempt.says for name, attempt in inside.items() if attempt.did}
    assert not did, f"{family}: not blocked: {did}"
    assert not unexplained, f"{family}: the controls failed: {unexplained}"


def _why_not_shown(control: Attempt | None, given: str | None) -> str | None:
    """None when the control worked, the reason when there is one, an empty text when there is none."""
    if control is not None and control.did:
        return None
    if given is not None:
        return given
    if control is not None and control.errno in LACKS:
        return f"this kernel has none ({errno.errorcode[control.errno]})"
    return ""


def refused_to_the_host(shown: Attempts) -> dict[str, str]:
    """Reasons for controls that the host's own root does not get through, for what is in the kernel."""
    names = {name: errno.errorcode[found.errno] if found.errno else "nothing is told" for name, found in shown.items() if not found.did and found.errno not in LACKS}
    return {name: f"the host's root is refused, too ({word})" for name, word in names.items()}


def one(family: str, name: str, did: bool, control: bool | str, says: str = "") -> None:
    """Books a single case that needed no program."""
    shown: Attempts | str = control if isinstance(control, str) else {name: Attempt(control, "the control did not succeed")}
    judge(family, {name: Attempt(did, says)}, shown)


def parse(output: str) -> Attempts:
    """The attempts that a program has printed, in its last line."""
    lines = output.strip().splitlines()
    assert lines, "the program printed nothing"
    return {name: Attempt(**found) for name, found in json.loads(lines[-1]).items()}


def upload(sandbox) -> None:
    """Puts all programs of the attacker into a sandbox, readable by every user."""
    entries = [{"path": f"{INSIDE}/{path.name}", "data": path.read_bytes()} for path in sorted(PROGRAMS.iterdir()) if path.is_file()]
    sandbox.files.write_files(entries)


def attack(sandbox, program: str, *arguments: str, user: str = "root", timeout: float = 60, **options) -> Attempts:
    """Runs a program in a sandbox."""
    import shlex

    command = shlex.join(["python3", f"{INSIDE}/{program}", *map(str, arguments)])
    return parse(sandbox.commands.run(command, user=user, timeout=timeout, **options).stdout)


def control(program: str, *arguments: str, around: tuple[str, ...] = PLAIN, timeout: float = 60, env: dict | None = None, **options) -> Attempts:
    """Runs the same program on the host, in an environment without the defence."""
    with tempfile.TemporaryDirectory(prefix="soulbox-escape-control-") as scratch:
        done = subprocess.run(
            [*around, sys.executable, "-B", str(PROGRAMS / program), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=timeout,
            cwd=scratch,
            env={**os.environ, "ATTACK_SCRATCH": scratch, **(env or {})},
            **options,
        )
    assert done.returncode == 0, f"the control of {program} ended with {done.returncode}: {done.stderr[-2000:]}"
    return parse(done.stdout)


class Loot:
    """What an escape would reach: a secret in a directory of the host that is world-readable and world-writable."""

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="soulbox-escape-loot-"))
        self.directory.chmod(0o777)
        self.path = self.directory / "secret"
        self.secret = f"loot-{secrets.token_hex(16)}"
        self.path.write_text(self.secret)
        self.path.chmod(0o666)

    def untouched(self) -> bool:
        return sorted(path.name for path in self.directory.iterdir()) == ["secret"] and self.path.read_text() == self.secret

    def restore(self) -> None:
        """After a control has done what it must."""
        for path in self.directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.path.write_text(self.secret)

    def remove(self) -> None:
        shutil.rmtree(self.directory)
