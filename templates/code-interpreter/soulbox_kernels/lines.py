"""A kernel around a program that runs code of another language and speaks lines of JSON.

The program reads requests from its standard input and writes events to the descriptor that `SOULBOX_EVENTS` numbers; what
the code prints comes through its standard output and error, unchanged. It has a session of its own: an interrupt is passed on as a request.
"""

import codecs
import json
import os
import selectors
import signal
import subprocess
import time

from ipykernel.kernelbase import Kernel

# The Python kernel, which was there first, has set these for what it starts.
COLOURS = ("CLICOLOR_FORCE", "FORCE_COLOR")
# How long a program may take to stop what it does before it is ended.
PATIENCE_SECONDS = 2


class Ended(Exception):
    """The program is no more."""


class Program:
    """The program and what comes from it."""

    def __init__(self, argv, env):
        events, theirs = os.pipe()
        own = {name: value for name, value in os.environ.items() if name not in COLOURS}
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs],
            start_new_session=True,
            env={**own, **env, "SOULBOX_EVENTS": str(theirs)},
        )
        os.close(theirs)
        self.events = theirs
        self.selector = selectors.DefaultSelector()
        self.partial = b""
        self.decoders = {}
        for name, descriptor in (
            ("events", events),
            ("stdout", self.process.stdout.fileno()),
            ("stderr", self.process.stderr.fileno()),
        ):
            os.set_blocking(descriptor, False)
            self.selector.register(descriptor, selectors.EVENT_READ, name)
            self.decoders[name] = codecs.getincrementaldecoder("utf-8")("replace")

    def send(self, **request):
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise Ended from None

    def receive(self, timeout=None):
        """What has come: pairs of where from and what. Prints come before the event that follows them."""
        found = {key.data: key.fd for key, _ in self.selector.select(timeout)}
        if "events" in found:
            data = self.read(found["events"])
            if not data:
                yield from self.printed()
                raise Ended
            *lines, self.partial = (self.partial + data).split(b"\n")
            yield from self.printed()
            for line in lines:
                yield "events", json.loads(line)
        else:
            yield from self.printed()

    def printed(self):
        for key in list(self.selector.get_map().values()):
            if key.data == "events":
                continue
            while data := self.read(key.fd):
                yield key.data, self.decoders[key.data].decode(data)
            if data == b"":
                self.selector.unregister(key.fd)

    @staticmethod
    def read(descriptor):
        try:
            return os.read(descriptor, 1 << 20)
        except BlockingIOError:
            return None

    def end(self):
        try:
            os.killpg(self.process.pid, 9)
        except ProcessLookupError:
            pass
        code = self.process.wait()
        self.selector.close()
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


class LinesKernel(Kernel):
    implementation = "soulbox"
    implementation_version = "1"
    banner = ""
    argv = ()
    env = {}
    language = ""
    program_class = Program

    def __init__(self, **settings):
        super().__init__(**settings)
        self.language_info = {"name": self.language, "mimetype": "text/plain", "file_extension": ""}
        self.program = self.program_class(self.argv, self.env)

    async def do_execute(self, code, silent, store_history=True, user_expressions=None, allow_stdin=False, **_):
        try:
            error = self.run(code, silent)
        except Ended:
            how = self.program.end()
            self.program = self.program_class(self.argv, self.env)
            error = {"name": "ProcessEnded", "value": f"The process of the kernel has ended ({how}); it was started again", "traceback": ""}
        except KeyboardInterrupt:
            error = self.interrupted()
        if error is None:
            return {"status": "ok", "execution_count": self.execution_count, "payload": [], "user_expressions": {}}
        content = {"ename": error["name"], "evalue": error["value"], "traceback": [error["traceback"]]}
        if not silent:
            self.send_response(self.iopub_socket, "error", content)
        return {"status": "error", "execution_count": self.execution_count, **content}

    def run(self, code, silent):
        self.program.send(code=code)
        while True:
            for source, item in self.program.receive():
                if source != "events":
                    self.tell("stream", {"name": source, "text": item}, silent)
                elif "done" in item:
                    return item["done"]
                elif "display" in item:
                    self.tell("display_data", {"data": item["display"], "metadata": {}}, silent)
                elif "result" in item:
                    content = {"data": item["result"], "metadata": {}, "execution_count": self.execution_count}
                    self.tell("execute_result", content, silent)

    def tell(self, kind, content, silent):
        if not silent and content.get("text") != "":
            self.send_response(self.iopub_socket, kind, content)

    def interrupted(self):
        """Has the program stop; one that does not is ended."""
        error = {"name": "KeyboardInterrupt", "value": "", "traceback": "KeyboardInterrupt"}
        # It is told again while it has not stopped yet, and knows already.
        usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.program.send(interrupt=True)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while (left := deadline - time.monotonic()) > 0:
                for source, item in self.program.receive(left):
                    if source == "events" and "done" in item:
                        return error
            raise Ended
        except Ended:
            self.program.end()
            self.program = self.program_class(self.argv, self.env)
            return error
        finally:
            signal.signal(signal.SIGINT, usual)
