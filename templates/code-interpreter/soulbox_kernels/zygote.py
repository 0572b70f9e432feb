"""Loads libraries once and forks kernels that have them.

One line of JSON per request on standard input, one per event on standard output. It has no sockets and no threads but
those of libraries that see to forks themselves: a fork copies nothing that would have to be mended. It ends with its
input, and its children end with it.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import warnings

from soulbox_kernels import immortal

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
EVENTS = 1


def say(descriptor, **event):
    # Children write here, too: one call, and shorter than what a pipe takes at once.
    os.write(descriptor, (json.dumps(event) + "\n").encode())


def how_it_ended(status):
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)} ({signal.Signals(os.WTERMSIG(status)).name})"
    return f"exit code {os.waitstatus_to_exitcode(status)}"


class Zygote:
    def __init__(self, preloaded):
        self.events = os.dup(EVENTS)
        # What libraries print belongs to nobody.
        os.dup2(2, EVENTS)
        for name in preloaded:
            importlib.import_module(name)
        self.wake_read, self.wake_write = os.pipe()
        for descriptor in (self.wake_read, self.wake_write):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_write)
        # An interrupt is meant for kernels.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        immortal.settle()
        say(self.events, event="loaded")

    def serve(self):
        import select

        buffer = b""
        while True:
            readable, _, _ = select.select([0, self.wake_read], [], [])
            if self.wake_read in readable:
                os.read(self.wake_read, 4096)
                self.reap()
            if 0 in readable:
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    self.fork(json.loads(line))

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            say(self.events, event="exited", pid=pid, how=how_it_ended(status))

    def fork(self, request):
        hold_read, hold_write = os.pipe()
        try:
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                # Threads are what it warns of, see above.
                pid = os.fork()
        except OSError as error:
            say(self.events, event="refused", id=request["id"], reason=str(error))
            os.close(hold_read)
            os.close(hold_write)
            return
        if pid == 0:
            os.close(hold_write)
            # Nothing is said of a child before its parent has said that there is one.
            os.read(hold_read, 1)
            os.close(hold_read)
            self.become_kernel(request)
        os.close(hold_read)
        say(self.events, event="forked", id=request["id"], pid=pid)
        os.close(hold_write)

    def become_kernel(self, request):
        code = 1
        try:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # A group of its own: an interrupt is for it and for what it has started.
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.close(self.wake_read)
            os.close(self.wake_write)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.close(null)
            events = self.events
            os.set_inheritable(events, False)
            with open("/proc/self/oom_score_adj", "w") as score:
                # When memory runs out it is this one's, and not of those that can start another.
                score.write("500")
            os.chdir(request["cwd"])
            # As `cd` would: programs look there for the name of the directory.
            os.environ["PWD"] = request["cwd"]
            module = importlib.import_module(request["kernel"])
            module.run(request["connection"], lambda: say(events, event="ready", pid=os.getpid()))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except BaseException:
            import traceback

            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)


if __name__ == "__main__":
    Zygote(sys.argv[1:]).serve()
