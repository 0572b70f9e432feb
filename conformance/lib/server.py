"""Starts and ends real SoulBox servers for the suites.

Responsible for a data directory that has the base template, for waiting on the `READY` line, and for ending
exactly the process it started. Separate from the runner because the fault suites start servers of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

# What the bootstrap of the base template leaves in a data directory and never changes afterwards.
# Everything else in it (database, keys, sandboxes) belongs to one server and is not taken over.
TEMPLATE_PARTS = ("layers", "templates")


def prepare_data_dir(base_data: Path, target: Path) -> None:
    """Gives `target` the templates of `base_data`, by hard links: layers are immutable. On another file system: a copy."""
    target.mkdir(parents=True, exist_ok=True)
    for part in TEMPLATE_PARTS:
        source = base_data / part
        if not source.exists():
            continue
        linked = subprocess.run(["cp", "-al", str(source), str(target / part)], stderr=subprocess.DEVNULL)
        if linked.returncode != 0:
            shutil.rmtree(target / part, ignore_errors=True)
            subprocess.run(["cp", "-a", str(source), str(target / part)], check=True)
    # Programs of the distribution that are only read.
    if (base_data / "criu").is_dir() and not (target / "criu").exists():
        (target / "criu").symlink_to((base_data / "criu").resolve())


def new_data_dir(base_data: Path, purpose: str) -> Path:
    """Makes a temporary data directory with the base template."""
    directory = Path(tempfile.mkdtemp(prefix=f"soulbox-{purpose}-"))
    prepare_data_dir(base_data, directory)
    return directory


def read_client_env(path: Path) -> dict[str, str]:
    """Reads `client.env`: one NAME=value per line, as a shell would source it."""
    values = {}
    for line in path.read_text().splitlines():
        line = line.strip().removeprefix("export ")
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            values[name] = value.strip("\"'")
    return values


class ServerError(Exception):
    """The server did not do what a server must; the text holds the end of its log."""


class Server:
    """One `soulbox serve` process and its data directory."""

    def __init__(self, binary: Path, data_dir: Path, *arguments: str, listen: str = "127.0.0.1:0"):
        self.binary = binary
        self.data_dir = data_dir
        self.arguments = arguments
        self.listen = listen
        self.url = ""
        self.env: dict[str, str] = {}
        self.process: subprocess.Popen | None = None
        self.log_path = data_dir.parent / f"{data_dir.name}.log"

    @property
    def pid(self) -> int:
        assert self.process is not None, "the server was started"
        return self.process.pid

    def launch(self, fault: str = "") -> None:
        """Starts the process. With a fault (see `soulbox debug fault-points`) it will end itself there."""
        command = [str(self.binary), "serve", "--data-dir", str(self.data_dir), "--listen", self.listen]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
                # Nothing of the caller's configuration may change what is tested.
                env={name: value for name, value in os.environ.items() if not name.startswith("SOULBOX_")}
                | ({"SOULBOX_FAULT": fault} if fault else {}),
            )

    def start(self, timeout: float = 60, fault: str = "") -> "Server":
        """Starts the process and returns once it has printed `READY <url>`."""
        self.launch(fault)
        self.url = self._await_ready(timeout)
        self.env = read_client_env(self.data_dir / "client.env")
        return self

    def _await_ready(self, timeout: float) -> str:
        ready: list[str] = []
        seen = threading.Event()
        output = self.process.stdout

        def read() -> None:
            with self.log_path.open("a") as log:
                for line in output:
                    log.write(line)
                    log.flush()
                    if line.startswith("READY ") and not ready:
                        ready.append(line.split()[1])
                        seen.set()
            seen.set()

        threading.Thread(target=read, daemon=True).start()
        if not seen.wait(timeout):
            self.kill()
            raise ServerError(f"no READY line within {timeout} s\n{self.log_tail()}")
        if not ready:
            code = self.process.wait(timeout=5)
            # Few lines: a report that is cut must still show the last ones.
            raise ServerError(f"the server ended with {code} before it was ready\n{self.log_tail(6)}")
        return ready[0]

    def log_tail(self, lines: int = 30) -> str:
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self, timeout: float = 60) -> int:
        """Asks the server to end and returns its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(f"the server did not end within {timeout} s of SIGTERM\n{self.log_tail()}") from None

    def kill(self) -> None:
        """Ends the server as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def remove(self) -> None:
        """Deletes the data directory and the log of a server that has ended."""
        shutil.rmtree(self.data_dir, ignore_errors=True)
        self.log_path.unlink(missing_ok=True)


def kill_every_sandbox(env: dict[str, str]) -> None:
    """Kills what a suite left running, so that the leak check sees only real leaks."""

    def call(method: str, path: str):
        request = urllib.request.Request(
            env["E2B_API_URL"] + path, method=method, headers={"X-API-Key": env["E2B_API_KEY"]}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.read()

    # A page holds a hundred; there may be more.
    while page := json.loads(call("GET", "/v2/sandboxes")):
        for sandbox in page:
            try:
                call("DELETE", f"/sandboxes/{sandbox['sandboxID']}")
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise


def from_environment(purpose: str, *arguments: str) -> Server:
    """A server that is not started yet, from what the runner put into the environment."""
    base_data = Path(os.environ["CONFORMANCE_BASE_DATA"])
    return Server(Path(os.environ["CONFORMANCE_BINARY"]), new_data_dir(base_data, purpose), *arguments)


def patience(seconds: float) -> float:
    """A time limit that holds on an idle machine, made longer by as much as this one is busy."""
    return seconds * min(4, max(1, os.getloadavg()[0] / (os.cpu_count() or 1)))


def wait_until(what: str, timeout: float, condition, interval: float = 0.05):
    """Returns the first true value of `condition()`; fails with its last value when there is none within
    `patience(timeout)`."""
    timeout = patience(timeout)
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.1f} s: {what} (last value: {value!r})")
        time.sleep(interval)
