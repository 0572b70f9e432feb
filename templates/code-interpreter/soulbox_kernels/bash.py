"""The Bash kernel: an interactive shell, so that an interrupt stops what it does and not itself."""

import os
import signal
import subprocess
import tempfile

from soulbox_kernels import app
from soulbox_kernels.lines import Ended, LinesKernel, Program

class Shell(Program):
    """Reads each piece of code from a file, and says among the events how it ended."""

    def __init__(self, argv, env):
        super().__init__(argv, {**env, "PS1": "", "PS2": "", "PROMPT_COMMAND": "", "HISTFILE": "", "TERM": "dumb"})
        self.file = tempfile.NamedTemporaryFile("w", prefix="bash-", dir="/tmp")
        # A shell without a terminal complains of it when it starts: what comes before this is nobody's.
        self.write(f"printf '{{\"ready\": 1}}\\n' >&{self.events}")
        while not any(source == "events" for source, _ in self.receive()):
            pass

    def write(self, line):
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise Ended from None

    def send(self, code=None, interrupt=False):
        if interrupt:
            for group in (self.process.pid, *self.children()):
                try:
                    os.killpg(group, signal.SIGINT)
                except ProcessLookupError:
                    pass
            # The line that would have said so is dropped with the rest of it.
            self.write(f"printf '{{\"done\": 130}}\\n' >&{self.events}")
            return
        self.file.seek(0)
        self.file.truncate()
        self.file.write(code)
        self.file.flush()
        self.write(f". {self.file.name} </dev/null; printf '{{\"done\": %d}}\\n' \"$?\" >&{self.events}")

    def children(self):
        """Groups that the shell has made: each of its commands has one."""
        try:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as children:
                return [int(pid) for pid in children.read().split()]
        except OSError:
            return []

    def end(self):
        self.file.close()
        return super().end()


class Kernel(LinesKernel):
    language = "bash"
    program_class = Shell
    argv = ("bash", "--noprofile", "--norc", "--noediting", "-i")

    def run(self, code, silent):
        status = super().run(code, silent)
        if status == 0:
            return None
        return {"name": "ExitStatus", "value": str(status), "traceback": f"the last command ended with exit status {status}"}


def run(connection, ready):
    app.run(Kernel, connection, ready)
