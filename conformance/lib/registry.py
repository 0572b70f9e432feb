"""Registries: Debian's `docker-registry` as it is, and a proxy before it that does what registries do on bad days.

Images are made with umoci and pushed with skopeo, both from Debian, out of static programs from Debian.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

USER, PASSWORD = "reader", "open sesame"
# bcrypt of the password; the registry knows no other kind.
HTPASSWD = f"{USER}:$2b$04$GAkvUDsjISgVU3SEkgPUNuMur6H9xQtaeOpmcL6jCL60x3/ZEGtCW\n"
BASH, BUSYBOX = Path("/bin/bash-static"), Path("/bin/busybox")
APPLETS = ("sh", "adduser", "cat", "chmod", "chown", "cut", "dirname", "echo", "grep", "id", "ln", "ls", "mkdir", "mv", "passwd", "pwd", "rm", "sed", "sleep", "stat", "tar", "touch", "true", "false", "head", "wc", "whoami", "mktemp", "find", "readlink", "getent")


def run(*command: str, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Registry:
    """One `docker-registry` on loopback, with its files in a directory of its own."""

    def __init__(self, protected: bool = False):
        self.directory = Path(tempfile.mkdtemp(prefix="soulbox-registry-"))
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.protected = protected
        auth = ""
        if protected:
            (self.directory / "htpasswd").write_text(HTPASSWD)
            auth = f"auth: {{htpasswd: {{realm: tests, path: {self.directory}/htpasswd}}}}\n"
        config = self.directory / "config.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {self.directory}/data}}}}\n"
            f"http: {{addr: '{self.address}'}}\n{auth}"
        )
        self.process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._await()

    def _await(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            assert self.process.poll() is None, "the registry ended"
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the registry does not listen")

    def push(self, layout: Path, tag: str, name: str) -> None:
        login = ["--dest-creds", f"{USER}:{PASSWORD}"] if self.protected else []
        run("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", *login, f"oci:{layout}:{tag}", f"docker://{self.address}/{name}")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.directory, ignore_errors=True)


class Images:
    """Layouts of images, made layer by layer."""

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="soulbox-images-"))

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def layout(self, name: str) -> "Layout":
        return Layout(self.directory / name, self.directory)


class Layout:
    def __init__(self, path: Path, scratch: Path):
        self.path = path
        self.scratch = scratch
        self.layers = 0
        run("umoci", "init", "--layout", path)
        run("umoci", "new", "--image", f"{path}:latest")

    def insert(self, source: Path, target: str, *options: str) -> "Layout":
        self.layers += 1
        run("umoci", "insert", "--image", f"{self.path}:latest", *options, source, target)
        return self

    def add(self, target: str, text: str, mode: int = 0o644) -> "Layout":
        source = self.scratch / f"{self.path.name}-{self.layers}"
        source.write_text(text)
        source.chmod(mode)
        return self.insert(source, target)

    def tree(self, make) -> "Layout":
        """A layer of whatever `make` puts into a directory."""
        source = self.scratch / f"{self.path.name}-{self.layers}"
        source.mkdir()
        make(source)
        return self.insert(source, "/")

    def whiteout(self, target: str) -> "Layout":
        self.layers += 1
        run("umoci", "insert", "--image", f"{self.path}:latest", "--whiteout", target)
        return self

    def config(self, *options: str) -> "Layout":
        run("umoci", "config", "--image", f"{self.path}:latest", *options)
        return self


def small_system(root: Path, bash: bool = True) -> None:
    """The least that an image needs: a shell, some programs, users."""
    for directory in ("bin", "etc", "home", "root", "tmp", "usr/bin", "var"):
        (root / directory).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    if bash:
        shutil.copy(BASH, root / "bin/bash")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/shadow").write_text("root:*:19000:0:99999:7:::\n")


class Proxy:
    """Stands before a registry and spoils what it is told to.

    `spoil(method, path, attempt)` returns None to pass a request on, or a function that answers with the handler. Every
    request is noted in `seen` as (path, headers).
    """

    def __init__(self, registry: Registry, spoil=None):
        self.registry = registry
        self.spoil = spoil
        self.seen: list[tuple[str, dict]] = []
        self.attempts: dict[str, int] = {}
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                self.do_GET()

            def do_GET(self):
                proxy.seen.append((self.path, {name.title(): value for name, value in self.headers.items()}))
                attempt = proxy.attempts[self.path] = proxy.attempts.get(self.path, 0) + 1
                answer = proxy.spoil(self.path, attempt) if proxy.spoil else None
                (answer or proxy.forward)(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def forward(self, handler, keep_login: bool = False, change=None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.registry.port, timeout=30)
        headers = {name: handler.headers[name] for name in ("Accept", "Range") if name in handler.headers}
        if self.registry.protected or keep_login:
            headers["Authorization"] = handler.headers.get("Authorization", "")
        connection.request("GET", handler.path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        answer(handler, response.status, change(body) if change else body, {name: value for name, value in response.getheaders() if name in ("Content-Type", "Content-Range", "Location", "Www-Authenticate")})

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def answer(handler, status: int, body: bytes = b"", headers: dict | None = None) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def cut_off(handler, body: bytes, promised: int, headers: dict | None = None, status: int = 200) -> None:
    """Less than was promised, then nothing."""
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(promised))
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


__all__ = ["Registry", "Images", "Layout", "Proxy", "answer", "cut_off", "basic", "sha256", "small_system", "run", "USER", "PASSWORD", "json", "os"]
