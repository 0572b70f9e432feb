"""Events of sandboxes, in pages and as they come, and signed webhooks that outlive the server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.error
import urllib.request

import pytest
from e2b import Sandbox

from receiver import SECRET, Receiver
from server import from_environment, wait_until

KIND = "sandbox.lifecycle."


@pytest.fixture(scope="module")
def flavour() -> str:
    """No client of E2B knows events: one flavour is enough."""
    return "sync"


class Client:
    """Requests to one server, as its team or with another key."""

    def __init__(self, env: dict[str, str]):
        self.env = env

    def open(self, method: str, path: str, body=None, **headers: str):
        data = json.dumps(body).encode() if body is not None else None
        headers = {"X-API-Key": self.env["E2B_API_KEY"], "Content-Type": "application/json"} | headers
        request = urllib.request.Request(self.env["E2B_API_URL"] + path, data, headers, method=method)
        return urllib.request.urlopen(request, timeout=30)

    def call(self, method: str, path: str, body=None):
        """The status, and the answer as JSON if there is one."""
        try:
            with self.open(method, path, body) as response:
                status, answer = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, answer = error.code, error.read()
        return status, json.loads(answer) if answer else None

    def get(self, path: str):
        status, answer = self.call("GET", path)
        assert status == 200, answer
        return answer

    def types(self, sandbox: str) -> list[str]:
        events = self.get(f"/events/sandboxes/{sandbox}?orderAsc=true&limit=100")
        return [event["type"].removeprefix(KIND) for event in events]


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(dict(os.environ))


def options(env: dict[str, str]) -> dict[str, str]:
    return {"api_url": env["E2B_API_URL"], "sandbox_url": env["E2B_SANDBOX_URL"], "api_key": env["E2B_API_KEY"]}


def follow(client: Client, path: str, seen: str = ""):
    """Yields the events of a stream."""
    headers = {"Last-Event-ID": seen} if seen else {}
    with client.open("GET", path, **headers) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        event = ""
        for line in response:
            line = line.decode().rstrip("\n")
            if line.startswith("id: "):
                event = line[4:]
            if line.startswith("data: "):
                told = json.loads(line[6:])
                assert told["id"] == event
                yield told


def test_a_life_is_told(client):
    sandbox = Sandbox.create(timeout=300, metadata={"who": "test"})
    sandbox.set_timeout(200)
    sandbox.pause()
    sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=200)
    sandbox.kill()
    path = f"/events/sandboxes/{sandbox.sandbox_id}"
    events = client.get(f"{path}?orderAsc=true")
    assert [event["type"] for event in events] == [KIND + name for name in ("created", "updated", "paused", "resumed", "killed")]
    assert events[0]["eventData"] == {"sandbox_metadata": {"who": "test"}}
    assert events[1]["eventData"]["set_timeout"].startswith("20")
    assert {event["sandboxId"] for event in events} == {sandbox.sandbox_id}
    assert events[0]["sandboxExecutionId"] == events[2]["sandboxExecutionId"] != events[3]["sandboxExecutionId"]
    ended = events[4]["eventData"]
    assert ended["reason"] == "request" and 0 <= ended["execution"]["execution_time"] < 300_000
    assert client.get(f"{path}?limit=1") == events[4:]
    assert client.get(f"{path}?types={KIND}paused&types={KIND}created&offset=1") == events[:1]
    assert events[4] in client.get("/events/sandboxes?limit=100")
    assert client.call("GET", f"{path}?types=killed")[0] == 400


def test_ends_have_reasons(client):
    over = Sandbox.create(timeout=1)
    wait_until("its time is over", 20, lambda: client.types(over.sandbox_id) == ["created", "killed"])
    last = client.get(f"/events/sandboxes/{over.sandbox_id}?limit=1")[0]
    assert last["eventData"]["reason"] == "timeout"
    paused = Sandbox.create(timeout=2, lifecycle={"on_timeout": "pause"})
    wait_until("it is paused", 20, lambda: client.types(paused.sandbox_id)[-1] == "paused")
    last = client.get(f"/events/sandboxes/{paused.sandbox_id}?limit=1")[0]
    assert last["eventData"]["reason"] == "timeout"
    paused.kill()
    assert client.types(paused.sandbox_id)[-1] == "killed"


def test_a_stream(client):
    sandbox = Sandbox.create(timeout=300)
    path = f"/events/sandboxes/{sandbox.sandbox_id}?follow=true"
    stream = follow(client, path)
    first = next(stream)
    assert first["type"] == KIND + "created"
    sandbox.set_timeout(100)
    assert next(stream)["type"] == KIND + "updated"
    sandbox.kill()
    last = next(stream)
    assert last["type"] == KIND + "killed"
    assert list(stream) == []
    assert [event["type"] for event in follow(client, path, first["id"])] == [KIND + "updated", KIND + "killed"]
    with client.open("GET", path, **{"Last-Event-ID": last["id"]}) as response:
        assert response.status == 204


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


def wanted(url: str, *kinds: str) -> dict:
    return {"name": "test", "url": url, "enabled": True, "events": [KIND + kind for kind in kinds], "signatureSecret": SECRET}


def test_webhooks_that_are_refused(client):
    for url in ("http://127.0.0.1:1/", "http://169.254.169.254/", "http://[::1]/", "http://10.0.0.1/"):
        status, answer = client.call("POST", "/events/webhooks", wanted(url, "created"))
        assert status == 400 and "private_webhooks" in answer["message"], answer
    assert client.call("POST", "/events/webhooks", wanted("gopher://a/", "created"))[0] == 400
    assert client.call("POST", "/events/webhooks", wanted("https://a.example/"))[0] == 400


def test_names_that_lead_inside_are_not_sent_to(client):
    """What a name means is looked at when something is sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0)
    url = f"http://localhost:{listener.getsockname()[1]}/"
    status, made = client.call("POST", "/events/webhooks", wanted(url, "created"))
    assert status == 201, made
    path = f"/events/webhooks/{made['id']}"
    try:
        Sandbox.create(timeout=60).kill()
        tried = lambda: client.get(f"{path}/deliveries") and client.get(f"{path}/deliveries")[0].get("lastError")  # noqa: E731
        assert "not public" in wait_until("it was tried", 20, tried)
        with pytest.raises(BlockingIOError):
            listener.accept()
    finally:
        client.call("DELETE", path)
        listener.close()


@pytest.mark.seconds(300)
def test_webhooks_are_told_over_restarts_and_crashes(receiver):
    server = from_environment("events", "--private-webhooks", "127.0.0.1")
    server.start()
    try:
        client = Client(server.env)
        status, made = client.call("POST", "/events/webhooks", wanted(receiver.url, "created", "killed"))
        assert status == 201 and SECRET not in json.dumps(made)
        path = f"/events/webhooks/{made['id']}"
        assert client.get(path) == made and client.get("/events/webhooks") == [made]

        # A receiver that fails, and one that sends elsewhere, is asked again.
        receiver.statuses = [500, 307]
        first = Sandbox.create(timeout=300, metadata={"a": "b"}, **options(server.env))
        tries = [receiver.next() for _ in range(3)]
        assert len({headers["e2b-delivery-id"] for headers, _ in tries}) == 1
        headers, body = tries[0]
        assert headers["e2b-webhook-id"] == made["id"] and all(other == body for _, other in tries)
        assert body["type"] == KIND + "created" and body["sandbox_id"] == first.sandbox_id
        assert body["event_data"] == {"sandbox_metadata": {"a": "b"}} and body["sandbox_team_id"] == made["teamId"]
        log = lambda: client.get(f"{path}/deliveries")[0]  # noqa: E731
        done = wait_until("it is delivered", 20, lambda: log()["state"] == "delivered" and log())
        assert (done["tries"], done["lastStatus"], done["id"]) == (3, 200, headers["e2b-delivery-id"])

        # What the server could not tell before it died, the next one tells.
        receiver.statuses = [503]
        second = Sandbox.create(timeout=300, **options(server.env))
        headers, _ = receiver.next()
        server.kill()
        server.start()
        client = Client(server.env)
        again, body = receiver.next()
        assert again["e2b-delivery-id"] == headers["e2b-delivery-id"] and body["sandbox_id"] == second.sandbox_id
        assert client.types(second.sandbox_id) == ["created"]

        # Off, and on again.
        assert client.call("PATCH", path, {"enabled": False, "events": [KIND + "killed"]})[0] == 200
        first = Sandbox.connect(first.sandbox_id, timeout=1, **options(server.env))
        first.kill()
        assert client.types(first.sandbox_id)[-1] == "killed"
        assert client.call("PATCH", path, {"enabled": True})[1]["events"] == [KIND + "killed"]
        Sandbox.connect(second.sandbox_id, timeout=1, **options(server.env)).kill()
        _, body = receiver.next()
        assert (body["type"], body["sandbox_id"]) == (KIND + "killed", second.sandbox_id)
        assert client.call("DELETE", path)[0] == 200
        assert client.call("GET", path)[0] == 404
        assert receiver.received.empty()
        server.stop()
        told = [path for path in (server.log_path,) if SECRET in path.read_text()]
        assert not told, "the secret is in the log"
    finally:
        server.stop()
        server.remove()


def soulbox(client: Client, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
    command = [os.environ["CONFORMANCE_BINARY"], *arguments]
    env = os.environ | client.env
    return subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, timeout=60)


def test_on_the_command_line(client):
    made = soulbox(client, "webhook", "create", "https://hooks.example/a", "--events", "created,killed", "--secret-file", "-", stdin=SECRET)
    assert made.returncode == 0, made.stderr
    webhook = made.stdout.strip()
    try:
        listed = soulbox(client, "webhook", "list")
        assert webhook in listed.stdout and "created,killed" in listed.stdout and SECRET not in listed.stdout
        updated = soulbox(client, "webhook", "update", webhook, "--disable", "--name", "mine", "--json")
        assert json.loads(updated.stdout)["enabled"] is False, updated.stderr
        assert "mine" in soulbox(client, "webhook", "show", "mine").stdout
        assert soulbox(client, "webhook", "deliveries", "mine").returncode == 0
    finally:
        removed = soulbox(client, "webhook", "rm", webhook)
    assert removed.returncode == 0, removed.stderr
    missing = soulbox(client, "webhook", "show", webhook)
    assert missing.returncode == 1 and "FIX: soulbox webhook list" in missing.stderr, missing
    sandbox = Sandbox.create(timeout=60)
    sandbox.kill()
    shown = soulbox(client, "sandbox", "events", sandbox.sandbox_id)
    assert [line.split()[2] for line in shown.stdout.splitlines()] == ["created", "killed"], shown
    followed = soulbox(client, "sandbox", "events", sandbox.sandbox_id, "--follow", "--json")
    assert [json.loads(line)["type"] for line in followed.stdout.splitlines()] == [KIND + "created", KIND + "killed"]
