"""The control plane under requests that no official client sends, and the shapes that all of them rely on."""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.parse
import uuid
from datetime import datetime

import pytest

import raw
from raw import api, refused

UNKNOWN = "i" + "0" * 20
MESSAGE_UNKNOWN = f"Sandbox \"{UNKNOWN}\" doesn't exist or you don't have access to it"


@pytest.fixture
def create():
    made = []

    def create(path="/v2/sandboxes", **body):
        answer = api("POST", path, {"templateID": "base"} | body)
        assert answer.status == 201, answer
        made.append(answer.json["sandboxID"])
        return answer.json

    yield create
    for sandbox in made:
        api("DELETE", f"/sandboxes/{sandbox}")


def test_health():
    answer = raw.request("GET", "/health")
    assert answer.status == 200 and "successful" in answer.text


def test_created_body(create):
    body = create()
    assert re.fullmatch(r"i[a-z0-9]{20}", body["sandboxID"])
    assert re.fullmatch(r"[a-z0-9]{20}", body["templateID"])
    assert body["clientID"] and body["envdVersion"] and body["envdAccessToken"]
    assert body.get("trafficAccessToken") is None and body.get("domain") is None
    numbers = [int(part) for part in body["envdVersion"].split(".")]
    assert numbers >= [0, 6, 4]


def test_detail_body(create):
    sandbox = create(timeout=60, metadata={"a": "b"}, allow_internet_access=True)
    detail = api("GET", f"/sandboxes/{sandbox['sandboxID']}").json
    for key in ("templateID", "sandboxID", "clientID", "startedAt", "endAt", "envdVersion", "cpuCount", "memoryMB", "diskSizeMB", "state"):
        assert key in detail, key
    assert detail["envdAccessToken"] == sandbox["envdAccessToken"]
    assert detail["alias"] == "base" and detail["metadata"] == {"a": "b"} and detail["state"] == "running"
    assert detail["volumeMounts"] == [] and detail["allowInternetAccess"] is True
    assert detail["lifecycle"] == {"onTimeout": "kill", "autoResume": False}
    for key in ("startedAt", "endAt"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", detail[key]), detail[key]
    length = datetime.fromisoformat(detail["endAt"]) - datetime.fromisoformat(detail["startedAt"])
    assert length.total_seconds() == 60
    assert "pauseMode" not in detail


def test_listed_body(create):
    mark = uuid.uuid4().hex
    sandbox = create(metadata={"mark": mark})
    (entry,) = api("GET", f"/v2/sandboxes?metadata={urllib.parse.quote('mark=' + mark)}").json
    detail = api("GET", f"/sandboxes/{sandbox['sandboxID']}").json
    for key in ("templateID", "sandboxID", "clientID", "startedAt", "endAt", "cpuCount", "memoryMB", "diskSizeMB", "metadata", "state", "envdVersion", "alias"):
        assert entry[key] == detail[key], key
    assert entry["volumeMounts"] == [] and "envdAccessToken" not in entry


def test_ids_with_the_old_suffix(create):
    sandbox = create()["sandboxID"]
    for path in (f"/sandboxes/{sandbox}-6532622b", f"/sandboxes/{sandbox}"):
        assert api("GET", path).status == 200
    assert api("POST", f"/sandboxes/{sandbox}-6532622b/timeout", {"timeout": 60}).status == 204


@pytest.mark.parametrize("path, body, length", [("/sandboxes", {}, 15), ("/v2/sandboxes", {}, 300), ("/sandboxes", {"timeout": 40}, 40), ("/v2/sandboxes", {"timeout": 1}, 1)])
def test_default_timeouts(create, path, body, length):
    sandbox = create(path, **body)["sandboxID"]
    detail = api("GET", f"/sandboxes/{sandbox}").json
    lived = datetime.fromisoformat(detail["endAt"]) - datetime.fromisoformat(detail["startedAt"])
    assert lived.total_seconds() == length


@pytest.mark.parametrize("path", ["/sandboxes", "/v2/sandboxes"])
@pytest.mark.parametrize(
    "body, message",
    [
        (b"", ""),
        (b"{", ""),
        (b"[]", ""),
        (b"null", ""),
        (b'"base"', ""),
        (b"\xff\xfe", ""),
        ({}, ""),
        ({"templateID": 1}, ""),
        ({"templateID": None}, ""),
        ({"templateID": ""}, ""),
        ({"templateID": "base", "timeout": "60"}, ""),
        ({"templateID": "base", "timeout": -1}, ""),
        ({"templateID": "base", "timeout": 0}, ""),
        ({"templateID": "base", "timeout": 2**40}, ""),
        ({"templateID": "base", "timeout": 90_000}, "Timeout cannot be greater than"),
        ({"templateID": "base", "timeout": 1.5}, ""),
        ({"templateID": "base", "metadata": {"a": 1}}, ""),
        ({"templateID": "base", "metadata": []}, ""),
        ({"templateID": "base", "envVars": {"a": None}}, ""),
        ({"templateID": "base", "autoPauseMemory": False}, "autoPauseMemory=false only applies when autoPause is true."),
        ({"templateID": "a/b/c"}, "Invalid template reference: "),
        ({"templateID": "UPPER case"}, "Invalid template reference: "),
        ({"templateID": "base:"}, "Invalid template reference: "),
        ({"templateID": "../../etc"}, "Invalid template reference: "),
        ({"templateID": "base", "network": {"denyOut": ["example.com"]}}, "invalid denied CIDR"),
        ({"templateID": "base", "network": {"allowOut": ["example.com"]}}, "When specifying allowed domains in allow out"),
        ({"templateID": "base", "network": {"maskRequestHost": "exa mple/"}}, "mask request host is not valid"),
        ({"templateID": "base", "network": {"httpsPorts": [49983]}}, "HTTPS backend routing is not supported for reserved port 49983"),
    ],
    ids=lambda value: re.sub(r"[^a-zA-Z0-9]+", "-", str(value))[:40],
)
def test_bad_create_bodies(path, body, message):
    refused(api("POST", path, body), 400, message)


@pytest.mark.parametrize("name", ["no-such", "other-team/base-private", "a" * 20])
def test_unknown_templates(name):
    refused(api("POST", "/v2/sandboxes", {"templateID": name}), 404, "not found")


def test_unknown_tag():
    refused(api("POST", "/v2/sandboxes", {"templateID": "base:v99"}), 404, "tag 'v99' does not exist for template 'base'")


@pytest.mark.parametrize("reference", ["base:default", " Base ", "BASE"])
def test_template_references(create, reference):
    assert create(templateID=reference)["templateID"]


def test_unknown_fields_are_ignored(create):
    assert create(someFutureField={"a": 1})["sandboxID"]


@pytest.mark.parametrize("size", [17 << 20, 1 << 30])
def test_huge_bodies_are_refused(size):
    with raw.Wire(20) as wire:
        wire.send(raw.request_bytes("POST", "/v2/sandboxes", {"X-API-Key": os.environ["E2B_API_KEY"], "Content-Type": "application/json", "Content-Length": str(size)}))
        block = b" " * 65536
        try:
            for _ in range(min(size, 40 << 20) // len(block)):
                wire.send(block)
        except OSError:
            pass
        try:
            answer = wire.answer()
        except ConnectionError:
            return
        assert answer.status in (400, 413), answer


def test_large_but_allowed_metadata(create):
    big = {f"k{n}": "v" * 1000 for n in range(200)}
    sandbox = create(metadata=big)
    assert api("GET", f"/sandboxes/{sandbox['sandboxID']}").json["metadata"] == big


def test_metadata_without_end_is_refused():
    refused(api("POST", "/v2/sandboxes", {"templateID": "base", "metadata": {f"k{n}": "v" * 1000 for n in range(2000)}}), 400)


@pytest.mark.parametrize("bad", ["UPPER", "a-b-c", "with%20space", "%00", "..", "a.b", "i%2F..%2Fx", "ü", "-", "%ff"])
@pytest.mark.parametrize("method, tail, body", [("GET", "", None), ("DELETE", "", None), ("POST", "/timeout", {"timeout": 1}), ("POST", "/connect", {"timeout": 1})])
def test_bad_ids(bad, method, tail, body):
    answer = api(method, f"/sandboxes/{bad}{tail}", body)
    assert answer.status in (400, 404), answer
    assert answer.json["code"] == answer.status


def test_bad_id_message():
    refused(api("GET", "/sandboxes/UPPER"), 400, "Invalid sandbox ID")


@pytest.mark.parametrize(
    "method, path, body",
    [
        ("GET", f"/sandboxes/{UNKNOWN}", None),
        ("DELETE", f"/sandboxes/{UNKNOWN}", None),
        ("POST", f"/sandboxes/{UNKNOWN}/timeout", {"timeout": 5}),
        ("POST", f"/sandboxes/{UNKNOWN}/refreshes", {"duration": 5}),
        ("POST", f"/sandboxes/{UNKNOWN}/connect", {"timeout": 5}),
        ("POST", f"/v2/sandboxes/{UNKNOWN}/connect", {}),
    ],
)
def test_unknown_sandbox(method, path, body):
    refused(api(method, path, body), 404)


def test_unknown_sandbox_message():
    refused(api("GET", f"/sandboxes/{UNKNOWN}"), 404, MESSAGE_UNKNOWN)


@pytest.mark.parametrize("body", [{}, {"timeout": None}, {"timeout": "5"}, {"timeout": -5}, b"", b"x"])
def test_bad_timeout_bodies(create, body):
    refused(api("POST", f"/sandboxes/{create()['sandboxID']}/timeout", body), 400)


def test_refreshes_never_shorten(create):
    sandbox = create(timeout=100)["sandboxID"]
    end = api("GET", f"/sandboxes/{sandbox}").json["endAt"]
    assert api("POST", f"/sandboxes/{sandbox}/refreshes", {"duration": 5}).status == 204
    assert api("GET", f"/sandboxes/{sandbox}").json["endAt"] == end
    assert api("POST", f"/sandboxes/{sandbox}/refreshes", {"duration": 500}).status == 204
    assert api("GET", f"/sandboxes/{sandbox}").json["endAt"] > end
    refused(api("POST", f"/sandboxes/{sandbox}/refreshes", {"duration": 3601}), 400)


@pytest.mark.parametrize("version, body, status", [("", {"timeout": 30}, 200), ("", {}, 400), ("/v2", {}, 200), ("/v2", None, 200), ("/v2", {"timeout": 0}, 400), ("/v2", {"timeout": 30}, 200), ("/v2", {"timeout": 90_000}, 400)])
def test_connect(create, version, body, status):
    sandbox = create(timeout=1000)
    answer = api("POST", f"{version}/sandboxes/{sandbox['sandboxID']}/connect", body)
    assert answer.status == status, answer
    if status == 200:
        for key in ("sandboxID", "templateID", "clientID", "envdVersion", "envdAccessToken"):
            assert answer.json[key] == sandbox[key]


def test_kill_twice(create):
    sandbox = create()["sandboxID"]
    first = api("DELETE", f"/sandboxes/{sandbox}")
    assert first.status == 204 and first.body == b""
    refused(api("DELETE", f"/sandboxes/{sandbox}"), 404)


@pytest.mark.parametrize(
    "headers, status, message",
    [
        ({}, 401, ""),
        ({"X-API-Key": ""}, 401, ""),
        ({"X-API-Key": "e2b_" + "0" * 40}, 401, "Invalid API key"),
        ({"X-API-Key": "e2b_XYZ"}, 401, "Invalid API key format"),
        ({"X-API-Key": "sk_live_123"}, 401, "Invalid API key format"),
        ({"X-API-Key": "e2b_" + "0" * 100_0}, 401, "Invalid API key"),
        ({"X-API-Key": "' OR 1=1 --"}, 401, "Invalid API key"),
        ({"Authorization": "Bearer e2b_" + "0" * 40}, 401, ""),
        ({"Authorization": "nonsense"}, 401, ""),
        ({"X-Admin-Token": "guess"}, 401, ""),
        ({"Cookie": "api_key=x"}, 401, ""),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("method, path", [("GET", "/v2/sandboxes"), ("POST", "/v2/sandboxes"), ("GET", f"/sandboxes/{UNKNOWN}"), ("GET", "/templates")])
def test_bad_keys(method, path, headers, status, message):
    body = b'{"templateID": 1}' if method == "POST" else b""
    refused(raw.request(method, path, headers | {"Content-Type": "application/json"}, body), status, message)


def test_key_header_in_any_case():
    assert raw.request("GET", "/v2/sandboxes", {"x-api-KEY": os.environ["E2B_API_KEY"]}).status == 200


@pytest.mark.parametrize("path", ["/", "/v1/nothing", "/v2", "/sandboxes/", "/sandboxes/x/y/z", "/v9/sandboxes", "/.env", "/..%2f..%2fetc/passwd", "/%00"])
def test_unknown_routes(path):
    answer = api("GET", path)
    assert answer.status == 404, answer
    assert answer.json["code"] == 404 and answer.json["message"]


@pytest.mark.parametrize("method, path", [("PUT", "/v2/sandboxes"), ("PATCH", f"/sandboxes/{UNKNOWN}"), ("DELETE", "/v2/sandboxes"), ("BREW", "/v2/sandboxes")])
def test_wrong_methods(method, path):
    answer = api(method, path)
    assert answer.status in (404, 405), answer
    assert answer.json["code"] == answer.status


LATER = [
    ("POST", "/sandboxes/{id}/resume", {}),
    ("POST", "/sandboxes/{id}/fork", {}),
    ("POST", "/sandboxes/{id}/snapshots", {}),
    ("PUT", "/sandboxes/{id}/network", {}),
    ("GET", "/snapshots", None),
    ("POST", "/v3/templates", {"name": "x"}),
]


@pytest.mark.parametrize("method, path, body", LATER, ids=lambda value: str(value)[:30])
def test_later_work_answers_honestly(create, method, path, body):
    """Either it works, or it is refused for good: never a 5xx that a client retries, never a success that lies.

    409 is the answer to resuming what runs, whether or not anything can be paused."""
    sandbox = create()["sandboxID"]
    answer = api(method, path.format(id=sandbox), body)
    assert answer.json["code"] == answer.status if answer.status >= 400 else answer.status in (200, 201, 202, 204), answer
    assert answer.status in (200, 201, 202, 204, 400, 403, 501) or (path.endswith("/resume") and answer.status == 409), answer
    assert api("GET", f"/sandboxes/{sandbox}").json["state"] == "running"


def test_later_fields_are_refused_not_ignored():
    """A sandbox that silently lacks what was asked for would be worse than none."""
    for extra in (
        {"volumeMounts": [{"name": "data", "path": "/data"}]},
    ):
        answer = api("POST", "/v2/sandboxes", {"templateID": "base"} | extra)
        if answer.status == 201:
            api("DELETE", f"/sandboxes/{answer.json['sandboxID']}")
        assert answer.status in (400, 403, 501), (extra, answer)
        assert answer.json["code"] == answer.status


def test_templates():
    templates = api("GET", "/templates").json
    (base,) = [template for template in templates if "base" in template["aliases"]]
    for key in ("templateID", "buildID", "cpuCount", "memoryMB", "diskSizeMB", "public", "aliases", "names", "createdAt", "updatedAt", "lastSpawnedAt", "spawnCount", "buildCount", "envdVersion", "buildStatus"):
        assert key in base, key
    assert base["public"] is True and base["buildStatus"] == "ready"
    exists = api("GET", "/templates/aliases/base")
    assert exists.status == 200 and exists.json["templateID"] == base["templateID"]
    refused(api("GET", "/templates/aliases/no-such"), 404)
    detail = api("GET", f"/templates/{base['templateID']}")
    assert detail.status == 200 and detail.json["templateID"] == base["templateID"]


def test_list_headers_and_pages(create):
    mark = uuid.uuid4().hex
    ids = [create(metadata={"mark": mark})["sandboxID"] for _ in range(3)]
    filtered = "/v2/sandboxes?metadata=" + urllib.parse.quote(f"mark={mark}")
    answer = api("GET", filtered + "&limit=2&state=running")
    assert answer.headers["x-total-running"] == "3"
    token = urllib.parse.quote(answer.headers["x-next-token"])
    rest = api("GET", f"{filtered}&limit=2&state=running&nextToken={token}")
    assert "x-next-token" not in rest.headers
    assert [e["sandboxID"] for e in answer.json + rest.json] == ids[::-1]
    assert "x-total-running" not in api("GET", filtered + "&state=paused").headers
    assert len(api("GET", filtered + "&state=running&state=paused").json) == 3
    refused(api("GET", f"{filtered}&order=asc&nextToken={token}"), 400, "Invalid next token")
    for bad in ("x", "====", base64.urlsafe_b64encode(b"2020__x").decode(), "%00", "A" * 5000):
        refused(api("GET", f"{filtered}&nextToken={bad}"), 400)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=-1", "order=up", "state=dead", "startedAfter=yesterday", "metadata=novalue", "metadata=a%3Db%3Dc"])
def test_bad_list_queries(query):
    refused(api("GET", f"/v2/sandboxes?{query}"), 400)


def test_list_by_unknown_template():
    answer = api("GET", "/v2/sandboxes?template=no-such")
    assert answer.status == 200 and answer.json == [] and answer.headers["x-total-running"] == "0"
    refused(api("GET", "/v2/sandboxes?template=base:v1"), 400, "Invalid template: tags are not supported here")


def test_v1_list(create):
    mark = uuid.uuid4().hex
    ids = [create(metadata={"mark": mark})["sandboxID"] for _ in range(2)]
    entries = api("GET", "/sandboxes?metadata=" + urllib.parse.quote(f"mark={mark}")).json
    assert [entry["sandboxID"] for entry in entries] == ids[::-1]


def test_metadata_double_encoding(create):
    value = "a&b=c %41+ü"
    mark = uuid.uuid4().hex
    sandbox = create(metadata={"k=&": value, "mark": mark})["sandboxID"]
    quote = urllib.parse.quote
    pairs = urllib.parse.urlencode({quote("k=&"): quote(value), "mark": mark})
    entries = api("GET", "/v2/sandboxes?" + urllib.parse.urlencode({"metadata": pairs})).json
    assert [entry["sandboxID"] for entry in entries] == [sandbox]


def test_metrics_and_logs_of_unknown():
    assert api("GET", f"/sandboxes/{UNKNOWN}/metrics").json == []
    assert api("GET", f"/sandboxes/{UNKNOWN}/logs").json == {"logs": [], "logEntries": []}
    assert api("GET", f"/v2/sandboxes/{UNKNOWN}/logs").json == {"logs": []}


def test_metrics_queries(create):
    sandbox = create()["sandboxID"]
    refused(api("GET", f"/sandboxes/{sandbox}/metrics?start=20&end=10"), 400, "Invalid time range for metrics")
    refused(api("GET", f"/sandboxes/{sandbox}/metrics?start=-1"), 400)
    refused(api("GET", f"/sandboxes/{sandbox}/metrics?end=99999999999"), 400, "Invalid time range for metrics")
    many = ",".join(f"i{n:020}" for n in range(101))
    refused(api("GET", f"/sandboxes/metrics?sandbox_ids={many}"), 400, "Too many sandboxes requested, maximum is 100")
    assert api("GET", f"/sandboxes/metrics?sandbox_ids={UNKNOWN}").json == {"sandboxes": {}}
    refused(api("GET", "/sandboxes/metrics"), 400)


def test_logs(create):
    from server import wait_until

    sandbox = create()["sandboxID"]
    wait_until("a log entry", 10, lambda: api("GET", f"/sandboxes/{sandbox}/logs").json["logEntries"])
    body = api("GET", f"/sandboxes/{sandbox}/logs").json
    for entry in body["logEntries"]:
        assert set(entry) >= {"timestamp", "message", "level", "fields"} and entry["level"] in ("debug", "info", "warn", "error")
    for line in body["logs"]:
        assert isinstance(json.loads(line["line"])["level"], str)
    newest = api("GET", f"/v2/sandboxes/{sandbox}/logs").json["logs"]
    stamps = [entry["timestamp"] for entry in newest]
    assert stamps == sorted(stamps, reverse=True) and newest
    for bad in ("limit=1001", "limit=-1", "direction=up", "level=loud"):
        refused(api("GET", f"/v2/sandboxes/{sandbox}/logs?{bad}"), 400)


def test_idempotency():
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = api("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 60}, headers=key)
    try:
        again = api("POST", "/v2/sandboxes", {"timeout": 60, "templateID": "base"}, headers=key)
        assert (first.status, again.status) == (201, 201) and first.json == again.json
        other = api("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 61}, headers=key)
        refused(other, 409)
        assert other.json["error_code"] == "idempotency_request_mismatch"
    finally:
        api("DELETE", f"/sandboxes/{first.json['sandboxID']}")
    for bad in ("UPPER", "a" * 256, "with space", "ü"):
        refused(api("POST", "/v2/sandboxes", {"templateID": "base"}, headers={"Idempotency-Key": bad}), 400)


def test_idempotency_replays_refusals():
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = api("POST", "/v2/sandboxes", {"templateID": "no-such"}, headers=key)
    assert api("POST", "/v2/sandboxes", {"templateID": "no-such"}, headers=key).json == first.json


def test_idempotency_under_a_race():
    from concurrent.futures import ThreadPoolExecutor

    key = {"Idempotency-Key": uuid.uuid4().hex}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 60}, headers=key), range(8)))
    made = {answer.json["sandboxID"] for answer in answers if answer.status == 201}
    for sandbox in made:
        api("DELETE", f"/sandboxes/{sandbox}")
    assert len(made) == 1
    for answer in answers:
        assert answer.status == 201 or answer.json["error_code"] == "idempotency_in_progress", answer


def test_cross_origin_preflight():
    answer = raw.request("OPTIONS", "/v2/sandboxes", {"Origin": "https://app.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"})
    assert answer.status in (200, 204), answer
    assert answer.headers["access-control-allow-origin"] in ("*", "https://app.example")
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert allowed == "*" or "x-api-key" in allowed
    answer = api("GET", "/v2/sandboxes", headers={"Origin": "https://app.example"})
    assert "x-next-token" in answer.headers.get("access-control-expose-headers", "").lower()


def test_many_connections_that_say_nothing():
    """A slow or silent client holds its own connection and nobody else's."""
    idle = [raw.Wire(30) for _ in range(200)]
    try:
        idle[0].send(b"GET /v2/sand")
        assert api("GET", "/v2/sandboxes").status == 200
    finally:
        for wire in idle:
            wire.close()
