"""The common part of the attacker's programs: tries things one after the other and prints what came of them.

Each attempt runs in a process of its own with a time limit, so that one that is killed tells as much as one that is
refused. What it returns is the evidence; nothing (None, False, "") means that nothing came of it.
"""

import ctypes
import json
import os
import platform
import signal
import sys
import traceback

LIBC = ctypes.CDLL(None, use_errno=True)
# Where a program may make files of its own.
SCRATCH = os.environ.get("ATTACK_SCRATCH", "/tmp")
SECONDS = 8
X86 = platform.machine() == "x86_64"
_attempts = []


def attempt(name):
    """Registers a function as an attempt."""

    def register(function):
        _attempts.append((name, function))
        return function

    return register


def add(name, function, *arguments):
    _attempts.append((name, lambda: function(*arguments)))


def syscall(number, *arguments):
    """The raw call; raises OSError when it fails."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    LIBC.syscall.restype = ctypes.c_long
    result = LIBC.syscall(ctypes.c_long(number), *words)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def check(result):
    """For functions of the C library that answer -1."""
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _child(function, into):
    signal.alarm(SECONDS)
    try:
        result = function()
        found = {"did": bool(result), "says": str(result)[:300], "errno": None}
    except OSError as error:
        found = {"did": False, "says": str(error)[:300], "errno": error.errno}
    except Exception as error:  # a mistake in the program: told, and no success
        found = {"did": False, "says": traceback.format_exc()[-600:], "errno": None, "broken": str(error)}
    os.write(into, json.dumps(found).encode())
    os._exit(0)


def run_one(function):
    out, into = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        _child(function, into)
    os.close(into)
    text = b""
    while part := os.read(out, 65536):
        text += part
    os.close(out)
    _, status = os.waitpid(pid, 0)
    if text:
        found = json.loads(text)
        if found.pop("broken", None):
            raise SystemExit(found["says"])
        return found
    how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit code {status >> 8}"
    return {"did": False, "says": f"ended by {how}", "errno": None}


def main():
    print(json.dumps({name: run_one(function) for name, function in _attempts}))
