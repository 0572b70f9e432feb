"""The server dies at every step of what it does, and the next one makes good of it.

The steps come from the server itself (`soulbox debug fault-points`), so a new one is tested without a change here.
For each of them a server is started that will kill itself there, is made to do what leads there, and dies. The next
server on the same data directory must then have everything that was promised, nothing that was not, and leave nothing.

Steps are independent: each has its own data directory and address block, and a few run beside each other.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import sqlite3
import ssl
import subprocess
import tempfile
import time
import traceback
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2b import Sandbox

import host
from acme import Authority
from counter import HAS_CRIU
from crashing import call, options
from place import DOMAIN, handshake_at, loopback
from receiver import SECRET, Receiver
from registry import small_system
from server import Server, ServerError, from_environment, kill_every_sandbox, patience, wait_until

# More only makes all of them slower; there are 16 address blocks for all servers of the machine.
BESIDE_EACH_OTHER = 4
CONTENT = "what its user has written"
# Steps of building from a file system that is unpacked.
OF_IMAGES = ("build.image-unpacked", "build.image-saved")
# Steps of saving memory.
OF_MEMORY = ("snapshot.captured", "snapshot.memory-kept", "build.captured", "build.memory-kept")
# Steps of taking away layers that nobody needs any more.
OF_REMOVAL = ("save.layer-taken-away", "save.marker-removed")
# Policies before and after a change. What is in both is never open; nobody is at any of the addresses.
BEFORE = {"denyOut": ["11.97.0.1", "11.98.0.1"]}
AFTER = {"denyOut": ["11.97.0.1", "11.99.0.1"], "rules": {"rule.example": [{"transform": {"headers": {"X-Key": "value"}}}]}}
# Prints which of its arguments it is refused, and is not only without a way to.
REFUSED = """
import socket, sys
for address in sys.argv[1:]:
    try:
        socket.create_connection((address, 9), timeout=2).close()
    except ConnectionRefusedError:
        print(address)
    except OSError:
        pass
"""


def refused(sandbox: str, server: Server) -> list[str]:
    connected = Sandbox.connect(sandbox, timeout=1, **options(server))
    everywhere = sorted({*BEFORE["denyOut"], *AFTER["denyOut"]})
    return connected.commands.run(f"python3 -c '{REFUSED}' {' '.join(everywhere)}").stdout.split()


def points() -> list[dict]:
    command = [os.environ["CONFORMANCE_BINARY"], "debug", "fault-points", "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def cases() -> list[str]:
    """`<point>` for a death there, `<point>:error` for a failure there."""
    if "CONFORMANCE_BINARY" not in os.environ:
        return []
    listed = points()
    return [point["name"] for point in listed] + [f"{point['name']}:error" for point in listed if point["fallible"]]


CASES = cases()


class Case:
    """One server after another on one data directory."""

    def __init__(self, name: str):
        self.point, _, self.action = name.partition(":")
        self.operation = self.point.split(".")[0]
        self.server = from_environment("crash")
        self.before = host.snapshot(str(self.server.data_dir))
        # Sandboxes that were promised: id -> must be there (True), must not (False), may be either (None).
        self.promised: dict[str, bool | None] = {}
        self.filled: set[str] = set()
        # Those whose rows somebody has removed by hand: nothing can tell of their end.
        self.unrecorded: set[str] = set()
        self.died = False
        self.answered = ""
        # A template that is being built, and where its build is found.
        self.template: str | None = None
        self.build = ""
        self.volume = ""
        # Who is told of events.
        self.receiver: Receiver | None = None
        # Who is asked for certificates.
        self.authority: Authority | None = None

    def run(self) -> None:
        try:
            getattr(self, f"die_in_{self.operation}")()
            self.check_the_next()
        except BaseException:
            self.clear()
            raise

    # What leads there

    def armed(self, hit: int = 1) -> str:
        return f"{self.point}:{hit}" + (f":{self.action}" if self.action else "")

    def make(self, fill: bool = True, **body) -> str:
        """Creates a sandbox, with a file in it."""
        status, answer = call(self.server, "POST", "/v2/sandboxes", {"templateID": "base", "timeout": 300, **body})
        assert status == 201, answer
        made = json.loads(answer)["sandboxID"]
        if not fill:
            return made
        # So short that it moves no end time: that is another step.
        Sandbox.connect(made, timeout=1, **options(self.server)).files.write("kept.txt", CONTENT)
        self.filled.add(made)
        return made

    def keep(self) -> str:
        made = self.make()
        self.promised[made] = True
        return made

    def attempt(self, method: str, path: str, body=None) -> tuple[int, bytes]:
        """A request that the server may not live to answer."""
        try:
            answer = call(self.server, method, path, body)
        except (OSError, http.client.HTTPException) as error:
            answer = (0, str(error).encode())
        self.answered = f"{method} {path}: {answer[0]}"
        return answer

    def await_death(self) -> None:
        try:
            code = self.server.process.wait(patience(20))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"nothing died at {self.point}; {self.answered}\n{self.server.log_tail()}") from None
        # Not -9 when another process of the server reached the point; at the end of a stop, that is only told.
        told = "the helper could not release everything" in self.server.log_path.read_text()
        assert code != 0 or told, f"it ended in peace\n{self.server.log_tail()}"
        self.died = True
        directory = str(self.server.data_dir)
        wait_until("all processes of the server are gone", 10, lambda: not processes_of(directory))

    def die_in_create(self) -> None:
        self.server.start(fault=self.armed(hit=2))
        self.keep()
        status, answer = self.attempt("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 300})
        if self.action == "error":
            assert status >= 500 and "FAULT" not in answer.decode(), (status, answer)
            assert self.server.alive()
            only = list(self.promised)
            wait_until("the failed one left nothing", 10, lambda: directories(self.server) == only)
            self.server.kill()
            return
        self.await_death()
        if status == 201:
            self.promised[json.loads(answer)["sandboxID"]] = True

    def die_in_kill(self) -> None:
        self.server.start(fault=self.armed())
        self.keep()
        victim = self.make()
        status, _ = self.attempt("DELETE", f"/sandboxes/{victim}")
        self.await_death()
        self.promised[victim] = False if status == 204 else None

    def die_in_timeout(self) -> None:
        self.server.start(fault=self.armed())
        self.keep()
        if self.point == "timeout.due":
            victim = self.make(fill=False, timeout=1)
            # Its time came before the server died.
            self.promised[victim] = False
        else:
            victim = self.make()
            self.promised[victim] = True
            self.attempt("POST", f"/sandboxes/{victim}/timeout", {"timeout": 900})
        self.await_death()

    def die_in_network(self) -> None:
        self.server.start(fault=self.armed())
        self.keep()
        victim = self.make(network=BEFORE)
        self.promised[victim] = True
        status, _ = self.attempt("PUT", f"/sandboxes/{victim}/network", AFTER)
        if self.action == "error":
            assert status >= 500 and self.server.alive()
            assert refused(victim, self.server) == BEFORE["denyOut"]
            self.server.kill()
            return
        self.await_death()

    def check_network(self) -> None:
        """One of the two policies is in force, whole; and the change can be made again."""
        victim = list(self.promised)[-1]
        assert refused(victim, self.server) in (BEFORE["denyOut"], AFTER["denyOut"])
        assert call(self.server, "PUT", f"/sandboxes/{victim}/network", AFTER)[0] == 204
        assert refused(victim, self.server) == AFTER["denyOut"]
        shown = json.loads(call(self.server, "GET", f"/sandboxes/{victim}")[1])["network"]
        assert shown["denyOut"] == AFTER["denyOut"], shown

    def die_in_pause(self) -> None:
        self.server.start(fault=self.armed())
        self.keep()
        self.attempt("POST", f"/sandboxes/{self.keep()}/pause", {"memory": False})
        self.await_death()

    def die_in_resume(self) -> None:
        self.server.start(fault=self.armed())
        self.keep()
        victim = self.keep()
        status, answer = call(self.server, "POST", f"/sandboxes/{victim}/pause", {"memory": self.point != "resume.guest-made"})
        assert status == 204, answer
        self.attempt("POST", f"/v2/sandboxes/{victim}/connect", {"memory": self.point != "resume.memory-given-up"})
        self.await_death()

    def die_in_hibernate(self) -> None:
        """What is paused goes to disk at once."""
        self.server.arguments = ("--save-paused-after-seconds", "0", "--hibernate-after-seconds", "0")
        self.server.start(fault=self.armed())
        self.attempt("POST", f"/sandboxes/{self.keep()}/pause", {"memory": True})
        self.await_death()
        # The next one leaves it where it finds it.
        self.server.arguments = ()

    def die_in_wake(self) -> None:
        # The server tries first whether it can do that, with a sandbox of its own.
        self.server.arguments = ("--save-paused-after-seconds", "0", "--hibernate-after-seconds", "0")
        self.server.start(fault=self.armed(hit=2 if self.point == "wake.recorded" else 1))
        victim = self.keep()
        status, answer = call(self.server, "POST", f"/sandboxes/{victim}/pause", {"memory": True})
        assert status == 204, answer
        wait_until("its memory is on disk", 20, lambda: self.is_away(victim))
        self.attempt("POST", f"/v2/sandboxes/{victim}/connect", {"timeout": 300})
        self.await_death()
        self.server.arguments = ()

    def is_away(self, sandbox: str) -> bool:
        """Its memory is on disk, and nothing else is there of it."""
        with sqlite3.connect(f"file:{self.server.data_dir}/soulbox.db?mode=ro", uri=True) as database:
            found = database.execute("SELECT memory FROM sandboxes WHERE id = ?", [sandbox]).fetchone()
        database.close()
        return bool(found and found[0]) and sandbox not in directories(self.server)

    def die_in_snapshot(self) -> None:
        self.server.start(fault=self.armed())
        self.keep()
        wanted = {"name": "crash", "memory": self.point in OF_MEMORY}
        self.attempt("POST", f"/sandboxes/{self.keep()}/snapshots", wanted)
        self.await_death()

    def die_in_fork(self) -> None:
        self.server.start(fault=self.armed())
        self.keep()
        self.attempt("POST", f"/sandboxes/{self.keep()}/fork", {"timeout": 300, "memory": False})
        self.await_death()

    def check_snapshots(self, sandbox: str) -> None:
        """A snapshot is whole or not there, and can be taken again."""
        listed = json.loads(call(self.server, "GET", "/snapshots")[1])
        assert len(listed) == (self.point == "snapshot.row-written"), listed
        status, answer = call(self.server, "POST", f"/sandboxes/{sandbox}/snapshots", {"name": "crash", "memory": False})
        assert status == 201, answer
        made = Sandbox.create(json.loads(answer)["snapshotID"], timeout=60, **options(self.server))
        assert made.files.read("kept.txt") == CONTENT

    def die_in_build(self) -> None:
        self.server.start(fault=self.armed())
        self.keep()
        self.template, _ = self.begin_build()
        if self.point in OF_REMOVAL:
            assert self.await_build()["status"] == "ready"
            with sqlite3.connect(self.server.data_dir / "soulbox.db") as database:
                # Two weeks later.
                database.execute("UPDATE layer_cache SET created_at = 0")
            database.close()
            self.attempt("DELETE", f"/templates/{self.template}")
            self.template = None
        if self.action == "error":
            assert self.await_build()["status"] == "error"
            self.server.kill()
            return
        self.await_death()

    die_in_save = die_in_build

    def begin_build(self) -> tuple[str, str]:
        """Asks for a template of two steps; its id and that of the build."""
        status, answer = call(self.server, "POST", "/v3/templates", {"name": "crash", "cpuCount": 1, "memoryMB": 512})
        assert status == 202, answer
        made = json.loads(answer)
        self.build = f"/templates/{made['templateID']}/builds/{made['buildID']}"
        steps = [{"type": "RUN", "args": [f"echo {n} > /home/user/{n}"]} for n in (1, 2)]
        source = {"fromRootfs": {"filesHash": self.upload(made["templateID"])}} if self.point in OF_IMAGES else {"fromTemplate": "base"}
        start = {"startCmd": "sleep 600", "readyCmd": "true"} if self.point in OF_MEMORY else {}
        self.attempt("POST", f"/v2{self.build}", {**source, "steps": steps, **start})
        return made["templateID"], made["buildID"]

    def upload(self, template: str) -> str:
        """A small root file system, as `soulbox template build --rootfs` sends it."""
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "root"
            root.mkdir()
            small_system(root)
            packed = subprocess.run(["tar", "-C", str(root), "-cf", "-", "."], capture_output=True, check=True).stdout
        digest = hashlib.sha256(packed).hexdigest()
        status, answer = call(self.server, "GET", f"/templates/{template}/files/{digest}")
        assert status == 201, answer
        request = urllib.request.Request(json.loads(answer)["url"], data=packed, method="PUT")
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.status < 300
        return digest

    def await_build(self) -> dict:
        def ended() -> dict | None:
            status, answer = call(self.server, "GET", f"{self.build}/status")
            assert status == 200, answer
            info = json.loads(answer)
            return info if info["status"] in ("ready", "error") else None

        return wait_until("the build has ended", 30, ended)

    def check_templates(self) -> None:
        """A build that was cut off has failed or is whole, and can be done again."""
        if self.template is not None:
            info = self.await_build()
            if info["status"] == "error":
                assert "FIX: build again" in info["reason"]["message"] or self.action == "error", info
            self.begin_build()
            assert self.await_build()["status"] == "ready"
            made = Sandbox.create(self.template, timeout=60, **options(self.server))
            assert made.commands.run("cat 1 2").stdout == "1\n2\n"
        layers = self.server.data_dir / "layers"
        for layer in layers.iterdir():
            assert layer.with_suffix(".json").exists() or layer.suffix == ".json" and layer.with_suffix("").exists(), f"half a layer: {layer}"

    def die_in_volume(self) -> None:
        """One volume is kept, with a sandbox that has it; another is being made or removed."""
        going = self.point in ("volume.row-removed", "volume.image-removed")
        self.server.start(fault=self.armed(hit=1 if going else 2))
        self.volume = json.loads(call(self.server, "POST", "/volumes", {"name": "kept"})[1])["volumeID"]
        self.promised[self.make(volumeMounts=[{"name": "kept", "path": "/home/user/v"}])] = True
        if going:
            other = json.loads(call(self.server, "POST", "/volumes", {"name": "other"})[1])["volumeID"]
            self.attempt("DELETE", f"/volumes/{other}")
        else:
            self.attempt("POST", "/volumes", {"name": "other"})
        self.await_death()

    def check_volumes(self, sandbox: str) -> None:
        """What was kept is there and shared, and nothing of the other."""
        listed = json.loads(call(self.server, "GET", "/volumes")[1])
        assert listed == [{"volumeID": self.volume, "name": "kept"}], listed
        images = os.listdir(self.server.data_dir / "volumes")
        assert images == [f"{self.volume}.img"], images
        first = Sandbox.connect(sandbox, timeout=60, **options(self.server))
        first.commands.run("echo shared > v/file")
        second = Sandbox.create(timeout=60, volume_mounts={"/v": "kept"}, **options(self.server))
        assert second.commands.run("cat /v/file").stdout == "shared\n"
        assert call(self.server, "POST", "/volumes", {"name": "other"})[0] == 201

    def die_in_webhook(self) -> None:
        """Somebody is told of a create, and the server dies before it has noted that."""
        self.receiver = Receiver()
        self.server.arguments = ("--private-webhooks", "127.0.0.1")
        self.server.start(fault=self.armed())
        wanted = {"name": "w", "url": self.receiver.url, "events": ["sandbox.lifecycle.created"], "signatureSecret": SECRET}
        status, answer = call(self.server, "POST", "/events/webhooks", wanted)
        assert status == 201, answer
        self.attempt("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 300})
        self.await_death()

    def check_webhook(self) -> None:
        """It was told at least once, and both times under the same id."""
        (first, _), (again, told) = self.receiver.next(), self.receiver.next()
        assert first["e2b-delivery-id"] == again["e2b-delivery-id"]
        path = f"/events/webhooks/{again['e2b-webhook-id']}/deliveries"
        log = lambda: json.loads(call(self.server, "GET", path)[1])  # noqa: E731
        wait_until("that is noted", 10, lambda: [one["state"] for one in log()] == ["delivered"])
        assert log()[0]["sandboxId"] == told["sandbox_id"]
        self.receiver.close()

    def die_in_acme(self) -> None:
        """An authority is asked for a certificate, at the start and by itself."""
        self.authority = Authority(loopback())
        self.server.arguments = ("--domain", DOMAIN, "--tls-listen", f"{self.authority.address}:0", *self.authority.flags)
        try:
            self.server.start(fault=self.armed())
        except ServerError:
            pass
        self.await_death()

    def check_acme(self) -> None:
        """There is a certificate and one account, what was kept is used, and no record is left."""
        port = int(self.server.env["E2B_DOMAIN"].partition(":")[2])

        def is_shown() -> bool:
            try:
                return bool(handshake_at((self.authority.address, port), f"api.{DOMAIN}", self.authority.root))
            except ssl.SSLError:
                return False

        wait_until("a certificate", 30, is_shown)
        wait_until("the records to be removed", 10, lambda: not list(self.server.data_dir.glob("acme-*.records")))
        assert self.authority.records() == []
        calls = [(act, value) for act, _, value in self.authority.calls()]
        made = {value for act, value in calls if act == "present"}
        assert made <= {value for act, value in calls if act == "cleanup"}, calls
        orders = {"acme.account-kept": 2, "acme.record-noted": 2, "acme.record-made": 3, "acme.issued": 4, "acme.certificate-kept": 2}
        assert len(made) == orders[self.point], calls
        self.authority.close()

    def check_events(self, listed: dict[str, dict]) -> None:
        """What is told is so: who is there was created once and not killed, who is not there was killed once."""
        told: dict[str, list[str]] = {}
        while page := json.loads(call(self.server, "GET", f"/events/sandboxes?orderAsc=true&limit=100&offset={sum(map(len, told.values()))}")[1]):
            for event in page:
                told.setdefault(event["sandboxId"], []).append(event["type"].rpartition(".")[2])
        for one, info in listed.items():
            names = told[one]
            assert names[0] == "created" and names.count("created") == 1 and "killed" not in names, (one, names)
            state = [name for name in names if name in ("created", "paused", "resumed")][-1]
            assert (state == "paused") == (info["state"] == "paused"), (one, info["state"], names)
        for one in told.keys() - listed.keys() - self.unrecorded:
            assert told[one][0] == "created" and told[one][-1] == "killed" and told[one].count("killed") == 1, (one, told[one])

    def die_in_stop(self) -> None:
        self.server.start(fault=self.armed())
        names = [point["name"] for point in points()]
        # What comes after is done only when no sandbox is left.
        if names.index(self.point) <= names.index("stop.database-closed"):
            self.keep()
        self.server.process.send_signal(signal.SIGTERM)
        self.await_death()

    def die_in_start(self) -> None:
        """The server before it left one of everything: a sandbox, a row without one, one without a row, half a launch."""
        server = self.server.start()
        self.keep()
        without_process, without_row = self.make(), self.make()
        server.kill()
        self.promised |= {without_process: False, without_row: False}
        self.unrecorded.add(without_row)
        os.kill(state(server, without_process)["pid"], signal.SIGKILL)
        with sqlite3.connect(server.data_dir / "soulbox.db") as database:
            database.execute("DELETE FROM sandboxes WHERE id = ?", (without_row,))
        database.close()
        (server.data_dir / "sandboxes" / "halfmade").mkdir()
        if self.point.startswith("start.claim"):
            claim_of(server).unlink()
        try:
            server.start(fault=self.armed())
            # Some of it goes on after the server is ready.
            self.await_death()
        except ServerError:
            self.await_death()

    # What must be so afterwards

    def check_the_next(self) -> None:
        server = self.server.start()
        end = time.monotonic() + patience(5)
        listed = {info["sandboxID"]: info for info in json.loads(call(server, "GET", "/v2/sandboxes")[1])}
        while unwanted := [one for one, there in self.promised.items() if there is False and one in listed]:
            assert time.monotonic() < end, f"{unwanted} came back"
            time.sleep(0.05)
            listed = {info["sandboxID"]: info for info in json.loads(call(server, "GET", "/v2/sandboxes")[1])}
        lost = [one for one, there in self.promised.items() if there and one not in listed]
        assert not lost, f"{lost} were promised and are gone\n{server.log_tail(60)}"
        unknown = set(listed) - set(self.promised)
        assert len(unknown) <= 1, unknown
        self.check_events(listed)
        guests = sorted(one for one in listed if self.has_guest(one))
        wait_until("files and rows are of the same sandboxes", 10, lambda: directories(server) == guests)
        for one in listed:
            sandbox = Sandbox.connect(one, timeout=60, **options(server))
            assert sandbox.commands.run("echo usable").stdout == "usable\n"
            if one in self.filled:
                assert sandbox.files.read("kept.txt") == CONTENT
        if self.operation in ("build", "save"):
            self.check_templates()
        if self.operation == "snapshot":
            self.check_snapshots(next(iter(self.filled)))
        if self.operation == "webhook":
            self.check_webhook()
        if self.operation == "network":
            self.check_network()
        if self.operation == "acme":
            self.check_acme()
        if self.operation == "volume":
            self.check_volumes(next(iter(listed)))
        fresh = Sandbox.create(timeout=60, **options(server))
        assert fresh.commands.run("echo fresh").stdout == "fresh\n"
        kill_every_sandbox(server.env)
        assert server.stop() == 0
        left = host.leaks(self.before, str(server.data_dir))
        assert left == {}, left
        server.remove()

    def has_guest(self, sandbox: str) -> bool:
        """Of one that is paused without memory, or whose memory is on disk, no process is on the host."""
        if json.loads(call(self.server, "GET", f"/sandboxes/{sandbox}")[1]).get("pauseMode") == "filesystem":
            return False
        return not self.is_away(sandbox)

    def clear(self) -> None:
        """Whatever went wrong: nothing may stay on the host. The log stays, for whoever looks."""
        if self.server.process is not None and self.server.alive():
            self.server.kill()
        if self.authority is not None and self.authority.process.poll() is None:
            self.authority.close()
        subprocess.run([str(self.server.binary), "purge", "--data-dir", str(self.server.data_dir), "--yes"], capture_output=True)
        shutil.rmtree(self.server.data_dir, ignore_errors=True)


def directories(server: Server) -> list[str]:
    return sorted(os.listdir(server.data_dir / "sandboxes"))


def state(server: Server, sandbox: str) -> dict:
    return json.loads((server.data_dir / "sandboxes" / sandbox / "state.json").read_text())


def claim_of(server: Server) -> Path:
    wanted = os.path.realpath(server.data_dir)
    return next(path for path in host.CLAIMS.iterdir() if path.name.isdigit() and path.read_text() == wanted)


def processes_of(directory: str) -> list[int]:
    """Processes that are servers of this data directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if command[0].endswith(b"soulbox") and directory.encode() in command:
                found.append(int(entry.name))
    return found


def needs_memory(case: str) -> bool:
    """Whether memory has to go to disk on the way."""
    point = case.partition(":")[0]
    return point in OF_MEMORY or point.partition(".")[0] in ("hibernate", "wake")


class Outcome:
    def __init__(self, died: bool, problem: str, seconds: float):
        self.died = died
        self.problem = problem
        self.seconds = seconds


def carry_out(name: str) -> Outcome:
    began = time.monotonic()
    case = Case(name)
    problem = ""
    try:
        case.run()
    except BaseException:
        problem = f"{traceback.format_exc()}\nlog: {case.server.log_path}"
    return Outcome(case.died, problem, time.monotonic() - began)


class Outcomes:
    """Runs the chosen cases once, a few beside each other."""

    def __init__(self, chosen: list[str]):
        began = time.monotonic()
        with ThreadPoolExecutor(BESIDE_EACH_OTHER) as pool:
            self.of = dict(zip(chosen, pool.map(carry_out, chosen)))
        self.seconds = time.monotonic() - began


@pytest.fixture(scope="module")
def outcomes(request) -> Outcomes:
    chosen = [item.callspec.params["case"] for item in request.session.items if item.originalname == "test_dies_and_is_made_good"]
    return Outcomes([case for case in chosen if HAS_CRIU or not needs_memory(case)])


@pytest.mark.seconds(400)
@pytest.mark.parametrize("case", CASES)
def test_dies_and_is_made_good(case, outcomes):
    if needs_memory(case) and not HAS_CRIU:
        pytest.skip("there is no CRIU in the data directory of the set-up")
    outcome = outcomes.of[case]
    assert not outcome.problem, outcome.problem
    assert outcome.died or case.endswith(":error")


@pytest.mark.seconds(400)
def test_figures(outcomes, capsys):
    """Says what was done; the runner shows it."""
    deaths = sum(outcome.died for outcome in outcomes.of.values())
    errors = sum(name.endswith(":error") for name in outcomes.of)
    good = sum(not outcome.problem for outcome in outcomes.of.values())
    slowest = max(outcomes.of.items(), key=lambda item: item[1].seconds, default=("none", Outcome(False, "", 0)))
    with capsys.disabled():
        print(
            f"\nFIGURES fault points {len(points())}: {deaths} deaths, {errors} errors, {good} of {len(outcomes.of)} made good,"
            f" {outcomes.seconds:.0f} s, slowest {slowest[0]} {slowest[1].seconds:.1f} s"
        )
    assert len(CASES) > 40
