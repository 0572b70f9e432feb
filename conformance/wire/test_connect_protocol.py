"""envd's RPC as bytes: envelopes, codecs, codes. Clients of other languages and older builds rely on all of it."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import time

import pytest

import raw
from raw import api
from server import patience


@pytest.fixture(scope="module")
def sandbox():
    body = api("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 600}).json
    yield body
    api("DELETE", f"/sandboxes/{body['sandboxID']}")


def address(sandbox) -> dict[str, str]:
    return {"E2b-Sandbox-Id": sandbox["sandboxID"], "E2b-Sandbox-Port": "49983", "X-Access-Token": sandbox["envdAccessToken"]}


@pytest.fixture
def envd(sandbox):
    """Sends one request to envd of the module's sandbox."""

    def send(method: str, path: str, body: bytes = b"", **headers: str) -> raw.Answer:
        fields = address(sandbox) | {name.replace("_", "-"): value for name, value in headers.items()}
        return raw.request(method, path, {name: value for name, value in fields.items() if value}, body)

    return send


def envelope(payload: bytes, flags: int = 0) -> bytes:
    return struct.pack("!BI", flags, len(payload)) + payload


def frames(body: bytes) -> list[tuple[int, bytes]]:
    found = []
    while body:
        flags, length = struct.unpack("!BI", body[:5])
        assert len(body) >= 5 + length, "a frame is cut"
        found.append((flags, body[5 : 5 + length]))
        body = body[5 + length :]
    return found


def unary(envd, path: str, message, **headers) -> raw.Answer:
    return envd("POST", path, json.dumps(message).encode(), Content_Type="application/json", Connect_Protocol_Version="1", **headers)


def stream(envd, path: str, *messages, **headers) -> list[tuple[int, dict]]:
    """The messages of a streaming answer, which must be 200, of the exact type, and end with one end frame."""
    body = b"".join(envelope(json.dumps(message).encode()) for message in messages)
    answer = envd("POST", path, body, Content_Type="application/connect+json", Connect_Protocol_Version="1", **headers)
    assert answer.status == 200 and answer.complete, answer
    assert answer.headers["content-type"] == "application/connect+json", answer
    found = frames(answer.body)
    assert found[-1][0] == 2 and all(flags == 0 for flags, _ in found[:-1]), found
    return [(flags, json.loads(payload)) for flags, payload in found]


def end_error(found) -> dict:
    return found[-1][1]["error"]


def shell(command: str) -> dict:
    return {"process": {"cmd": "/bin/bash", "args": ["-l", "-c", command]}, "stdin": False}


def test_start_stream(envd):
    found = [message for _, message in stream(envd, "/process.Process/Start", shell("echo out; echo err >&2"))]
    assert isinstance(found[0]["event"]["start"]["pid"], int)
    out = b"".join(base64.b64decode(m["event"]["data"]["stdout"]) for m in found[1:-2] if "stdout" in m["event"]["data"])
    err = b"".join(base64.b64decode(m["event"]["data"]["stderr"]) for m in found[1:-2] if "stderr" in m["event"]["data"])
    assert (out, err) == (b"out\n", b"err\n")
    assert found[-2] == {"event": {"end": {"exited": True, "status": "exit status 0"}}}
    assert found[-1] == {}


@pytest.mark.parametrize(
    "command, end",
    [
        ("exit 3", {"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"}),
        ("kill -9 $$", {"exitCode": -1, "status": "signal: killed", "error": "signal: killed"}),
    ],
)
def test_end_events(envd, command, end):
    assert stream(envd, "/process.Process/Start", shell(command))[-2][1] == {"event": {"end": end}}


def test_immediate_errors_of_streams_are_in_the_stream(envd):
    assert end_error(stream(envd, "/process.Process/Connect", {"process": {"pid": 999999}})) == {"code": "not_found", "message": "process with pid 999999 not found"}
    assert end_error(stream(envd, "/process.Process/Connect", {"process": {"tag": "nope"}}))["message"] == "process with tag nope not found"
    assert end_error(stream(envd, "/process.Process/Start", {"process": {"cmd": "/bin/true", "cwd": "/no/such"}})) == {"code": "invalid_argument", "message": "cwd '/no/such' does not exist"}
    basic = "Basic " + base64.b64encode(b"nobody-knows:").decode()
    error = end_error(stream(envd, "/process.Process/Start", shell("true"), Authorization=basic))
    assert error == {"code": "unauthenticated", "message": "invalid username: 'nobody-knows'"}
    assert end_error(stream(envd, "/filesystem.Filesystem/WatchDir", {"path": "/no/such"}))["code"] == "not_found"


def test_selector_without_choice(envd):
    assert end_error(stream(envd, "/process.Process/Connect", {"process": {}}))["code"] in ("unimplemented", "invalid_argument")


def test_tags(envd, sandbox):
    """A process can be found by its tag, also when others have tags too."""
    started = []
    for tag in ("one", "two"):
        with_tag = shell("sleep 30") | {"tag": tag}
        wire = raw.Wire()
        started.append(wire)
        wire.send(
            raw.request_bytes(
                "POST",
                "/process.Process/Start",
                address(sandbox) | {"Content-Type": "application/connect+json"},
                envelope(json.dumps(with_tag).encode()),
            )
        )
        wire.head()
        wire.chunk()
    listed = unary(envd, "/process.Process/List", {}).json["processes"]
    assert {"one", "two"} <= {process.get("tag") for process in listed}
    for tag in ("one", "two"):
        answer = unary(envd, "/process.Process/SendSignal", {"process": {"tag": tag}, "signal": "SIGNAL_SIGKILL"})
        assert (answer.status, answer.json) == (200, {})
    for wire in started:
        wire.close()


UNARY_ERRORS = [
    ("/process.Process/SendSignal", {"process": {"pid": 999999}, "signal": "SIGNAL_SIGKILL"}, 404, "not_found"),
    ("/process.Process/SendInput", {"process": {"pid": 999999}, "input": {"stdin": "eA=="}}, 404, "not_found"),
    ("/process.Process/CloseStdin", {"process": {"pid": 999999}}, 404, "not_found"),
    ("/process.Process/Update", {"process": {"pid": 999999}, "pty": {"size": {"cols": 1, "rows": 1}}}, 404, "not_found"),
    ("/filesystem.Filesystem/Stat", {"path": "/no/such"}, 404, "not_found"),
    ("/filesystem.Filesystem/Stat", {"path": "~other/x"}, 400, "invalid_argument"),
    ("/filesystem.Filesystem/Stat", {"path": "/etc/passwd/x"}, 500, "internal"),
    ("/filesystem.Filesystem/ListDir", {"path": "/no/such"}, 404, "not_found"),
    ("/filesystem.Filesystem/ListDir", {"path": "/etc/passwd"}, 400, "invalid_argument"),
    ("/filesystem.Filesystem/MakeDir", {"path": "/etc"}, 409, "already_exists"),
    ("/filesystem.Filesystem/MakeDir", {"path": "/etc/passwd"}, 400, "invalid_argument"),
    ("/filesystem.Filesystem/MakeDir", {"path": "/etc/passwd/x"}, 500, "internal"),
    ("/filesystem.Filesystem/Move", {"source": "/no/such", "destination": "/tmp/x"}, 404, "not_found"),
    ("/filesystem.Filesystem/GetWatcherEvents", {"watcherId": "wnothing"}, 404, "not_found"),
    ("/filesystem.Filesystem/CreateWatcher", {"path": "/no/such"}, 404, "not_found"),
    ("/filesystem.Filesystem/CreateWatcher", {"path": "/etc/passwd"}, 400, "invalid_argument"),
]


@pytest.mark.parametrize("path, message, status, code", UNARY_ERRORS, ids=lambda value: str(value)[-40:])
def test_unary_errors(envd, path, message, status, code):
    answer = unary(envd, path, message)
    assert answer.status == status and answer.headers["content-type"].startswith("application/json"), answer
    assert answer.json["code"] == code and answer.json["message"], answer


def test_signals_that_are_not_offered(envd):
    answer = unary(envd, "/process.Process/SendSignal", {"process": {"pid": 1}, "signal": "SIGNAL_UNSPECIFIED"})
    assert answer.status in (404, 501), answer


def test_unary_answers(envd):
    answer = unary(envd, "/filesystem.Filesystem/Stat", {"path": "/etc/passwd"})
    assert answer.status == 200 and answer.headers["content-type"] == "application/json"
    entry = answer.json["entry"]
    assert isinstance(entry["size"], str) and entry["type"] == "FILE_TYPE_FILE" and entry["mode"] == 0o644
    assert entry["modifiedTime"].endswith("Z") and "isSymlink" not in entry and "symlinkTarget" not in entry
    assert unary(envd, "/process.Process/List", {}).json == {}
    assert unary(envd, "/filesystem.Filesystem/Remove", {"path": "/no/such"}).json == {}


def test_json_is_read_leniently(envd):
    unary(envd, "/filesystem.Filesystem/MakeDir", {"path": "/tmp/w"})
    for message in (
        {"path": "/tmp/w", "include_entry": True, "someNewField": [1, {"a": None}]},
        {"path": "/tmp/w", "includeEntry": True, "recursive": None},
    ):
        answer = unary(envd, "/filesystem.Filesystem/CreateWatcher", message)
        assert answer.status == 200 and answer.json["watcherId"].startswith("w"), answer
        assert unary(envd, "/filesystem.Filesystem/RemoveWatcher", {"watcher_id": answer.json["watcherId"]}).status == 200
    assert unary(envd, "/process.Process/SendSignal", {"process": {"pid": 999999}, "signal": 9}).json["code"] == "not_found"


@pytest.mark.parametrize("body", [b"", b"{", b'"x"', b'{"path": 5}', b"\xff", b'{"path": "a" "b"}'])
def test_bad_unary_bodies(envd, body):
    answer = envd("POST", "/filesystem.Filesystem/Stat", body, Content_Type="application/json")
    assert answer.status in (200, 400, 404), answer
    if body != b"":
        assert answer.status == 400 and answer.json["code"] == "invalid_argument", answer


BAD_STREAMS = {
    "no envelope": b'{"process":{}}',
    "cut header": b"\0\0",
    "cut payload": struct.pack("!BI", 0, 100) + b"{}",
    "nothing": b"",
    "two messages": envelope(b'{"process":{"pid":1}}') * 2,
    "bad json": envelope(b"{"),
    "unknown flags": envelope(b"{}", 0x80),
    "compressed without saying so": envelope(gzip.compress(b"{}"), 1),
    "claims 4 GiB": struct.pack("!BI", 0, 0xFFFFFFFF) + b"x",
}


@pytest.mark.parametrize("name", BAD_STREAMS)
def test_bad_envelopes(envd, name):
    answer = envd("POST", "/process.Process/Connect", BAD_STREAMS[name], Content_Type="application/connect+json")
    assert answer.status in (200, 400), answer
    if answer.status == 200:
        found = frames(answer.body)
        assert found[-1][0] == 2 and json.loads(found[-1][1])["error"]["code"], found
    assert unary(envd, "/process.Process/List", {}).status == 200


def test_oversized_message(envd):
    answer = envd("POST", "/filesystem.Filesystem/Stat", b'{"path":"' + b"a" * 20_000_000 + b'"}', Content_Type="application/json")
    assert answer.status in (400, 413, 429, 500), answer
    assert unary(envd, "/process.Process/List", {}).status == 200


def test_unknown_methods(envd):
    for path in ("/process.Process/Nothing", "/nothing.Nothing/List", "/process.Process/", "/process.Process"):
        answer = unary(envd, path, {})
        assert answer.status in (404, 501), answer


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_only_post(envd, method):
    answer = envd(method, "/process.Process/List", Content_Type="application/json")
    assert answer.status == 405 and answer.headers["allow"] == "POST", answer


def test_unknown_content_type(envd):
    answer = envd("POST", "/process.Process/List", b"x", Content_Type="text/plain")
    assert answer.status == 415, answer


def test_token_is_asked_before_anything_else(envd):
    for headers in ({"X_Access_Token": ""}, {"X_Access_Token": "wrong"}):
        for path, kind in (("/process.Process/List", "application/json"), ("/process.Process/Start", "application/connect+json"), ("/no/such/route", "application/json")):
            answer = envd("POST", path, b"{}", Content_Type=kind, **headers)
            assert answer.status in (401, 404) and (answer.status == 401 or path == "/no/such/route"), answer
            if answer.status == 401:
                assert answer.json["code"] == 401 and answer.json["message"].startswith("unauthorized access")
    assert envd("GET", "/health", X_Access_Token="").status == 204


def test_health(envd):
    answer = envd("GET", "/health")
    assert answer.status == 204 and answer.headers["cache-control"] == "no-store" and answer.body == b""


def test_metrics(envd):
    body = envd("GET", "/metrics").json
    for key in ("ts", "cpu_count", "cpu_used_pct", "mem_total", "mem_used", "mem_cache", "disk_used", "disk_total"):
        assert isinstance(body[key], (int, float)), key
    assert abs(body["ts"] - time.time()) < 5


def test_deadline(envd):
    started = time.monotonic()
    found = stream(envd, "/process.Process/Start", shell("exec sleep 60"), Connect_Timeout_Ms="700")
    assert 0.5 < time.monotonic() - started < patience(3)
    assert end_error(found)["code"] == "deadline_exceeded"
    assert not any("end" in message.get("event", {}) for _, message in found[:-1])
    for bad in ("soon", "-5", "1e3", "99999999999"):
        body = envelope(json.dumps(shell("true")).encode())
        answer = envd("POST", "/process.Process/Start", body, Content_Type="application/connect+json", Connect_Timeout_Ms=bad)
        error = json.loads(frames(answer.body)[-1][1])["error"] if answer.status == 200 else answer.json
        assert error["code"] == "invalid_argument", answer


def test_kill_resets_open_streams():
    """Not just closed: the 2.45 generation looks whether the sandbox is gone only after a reset."""
    made = api("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 60}).json
    with raw.Wire() as wire:
        body = envelope(json.dumps(shell("sleep 60")).encode())
        wire.send(raw.request_bytes("POST", "/process.Process/Start", address(made) | {"Content-Type": "application/connect+json"}, body))
        wire.head()
        wire.chunk()
        assert api("DELETE", f"/sandboxes/{made['sandboxID']}").status == 204
        with pytest.raises(ConnectionResetError):
            while wire.socket.recv(65536):
                pass


def test_keepalive(envd):
    found = stream(envd, "/process.Process/Start", shell("sleep 2.5"), Keepalive_Ping_Interval="1")
    assert len([1 for _, message in found if "keepalive" in message.get("event", {})]) == 2
    found = stream(envd, "/process.Process/Start", shell("sleep 0.2"), Keepalive_Ping_Interval="0")
    assert found[-1][1] == {}


# --- binary codec, by hand: field number << 3 | wire type -------------------------------------------------------


def text(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + bytes([len(value)]) + value


def test_binary_unary(envd):
    answer = envd("POST", "/filesystem.Filesystem/Stat", text(1, b"/etc/passwd"), Content_Type="application/proto", Connect_Protocol_Version="1")
    assert answer.status == 200 and answer.headers["content-type"] == "application/proto", answer
    assert text(1, b"passwd") in answer.body and text(3, b"/etc/passwd") in answer.body
    answer = envd("POST", "/filesystem.Filesystem/Stat", text(1, b"/no/such"), Content_Type="application/proto")
    assert answer.status == 404 and answer.json["code"] == "not_found"


def test_binary_stream(envd):
    process = text(1, b"/bin/bash") + text(2, b"-c") + text(2, b"echo binary")
    answer = envd("POST", "/process.Process/Start", envelope(text(1, process)), Content_Type="application/connect+proto", Connect_Protocol_Version="1")
    assert answer.status == 200 and answer.headers["content-type"] == "application/connect+proto", answer
    found = frames(answer.body)
    assert any(b"binary\n" in payload for _, payload in found)
    assert found[-1] == (2, b"{}")


def test_binary_garbage(envd):
    answer = envd("POST", "/filesystem.Filesystem/Stat", b"\xff\xff\xff\xff", Content_Type="application/proto")
    assert answer.status == 400 and answer.json["code"] == "invalid_argument"


def test_stream_input_shape(envd, sandbox):
    """Exactly one message and one end frame, errors early."""
    found = stream(envd, "/process.Process/StreamInput", {"start": {"process": {"pid": 999999}}})
    assert end_error(found)["code"] == "not_found"
    found = stream(envd, "/process.Process/StreamInput", {"data": {"input": {"stdin": "eA=="}}})
    assert end_error(found)["code"] == "invalid_argument"
    with raw.Wire() as wire:
        start = {"process": {"cmd": "/bin/cat"}}
        wire.send(raw.request_bytes("POST", "/process.Process/Start", address(sandbox) | {"Content-Type": "application/connect+json"}, envelope(json.dumps(start).encode())))
        wire.head()
        pid = json.loads(wire.chunk()[5:])["event"]["start"]["pid"]
        select = {"process": {"pid": pid}}
        found = stream(envd, "/process.Process/StreamInput", {"start": select}, {"data": {"input": {"stdin": base64.b64encode(b"a").decode()}}}, {"keepalive": {}}, {"data": {"input": {"stdin": ""}}})
        assert found == [(0, {}), (2, {})]
        assert unary(envd, "/process.Process/CloseStdin", select).json == {}
        output = b""
        while piece := wire.chunk():
            output += piece
        assert base64.b64encode(b"a") in output and b"exit status 0" in output


def test_files_rest_errors(envd):
    assert envd("GET", "/files?path=/no/such").json == {"code": 404, "message": "path '/no/such' does not exist"}
    assert envd("GET", "/files?path=/etc").json == {"code": 400, "message": "path '/etc' is a directory"}
    assert envd("GET", "/files?path=/etc/hostname&username=nobody-knows").json["message"].startswith("error looking up user 'nobody-knows'")
    assert envd("GET", "/files?path=~x/y").status == 400
    assert envd("GET", "/files?path=/etc/hostname", Accept_Encoding="identity;q=0, gzip;q=0").status == 406
    answer = envd("POST", "/files", b"x", Content_Type="application/octet-stream")
    assert answer.json == {"code": 400, "message": "path query parameter is required for raw body upload"}
    assert envd("POST", "/files?path=/tmp/x", b"x", Content_Type="text/plain").json["message"].startswith("unsupported content type")
    assert envd("POST", "/files?path=/tmp/x", b"x", Content_Type="application/octet-stream", Content_Encoding="br").json["message"].startswith("error decompressing request body")
    assert envd("POST", "/files?path=/tmp/x", b"not gzip", Content_Type="application/octet-stream", Content_Encoding="gzip").status in (400, 500)
    assert envd("POST", "/files?path=/tmp/x", b"x", Content_Type="application/octet-stream", X_Metadata_Key="ü").json["message"].startswith("invalid metadata")


def test_files_encodings(envd):
    plain = envd("GET", "/files?path=/etc/passwd")
    packed = envd("GET", "/files?path=/etc/passwd", Accept_Encoding="gzip, deflate")
    assert plain.headers["content-length"] == str(len(plain.body)) and "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip" and gzip.decompress(packed.body) == plain.body
    for answer in (plain, packed):
        assert "accept-encoding" in answer.headers["vary"].lower()
        assert answer.headers["content-disposition"].startswith("inline; filename=passwd")


def test_multipart_details(envd):
    def post(query: str, *parts: tuple[str, bytes]):
        body = b"".join(b"--limit\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)
        return envd("POST", f"/files{query}", body + b"--limit--\r\n", Content_Type="multipart/form-data; boundary=limit")

    assert post("?path=/tmp/plain-field", ('name="file"', b"no filename")).json == [{"path": "/tmp/plain-field", "name": "plain-field", "type": "file"}]
    two = post("", ('name="file"; filename="/tmp/d/one"', b"1"), ('name="other"', b"skipped"), ('name="file"; filename="/tmp/d/two"', b"2"))
    assert [entry["path"] for entry in two.json] == ["/tmp/d/one", "/tmp/d/two"]
    same = post("", ('name="file"; filename="/tmp/same"', b"1"), ('name="file"; filename="/tmp/same"', b"2"))
    assert same.status == 400 and same.json["message"].startswith("you cannot upload multiple files to the same path '/tmp/same' in one upload request")
    assert post("").json == []
    assert post("?path=/etc", ('name="file"', b"x")).json == {"code": 400, "message": "path is a directory: /etc"}


def test_compose(envd):
    for n, part in enumerate((b"one ", b"two")):
        envd("POST", f"/files?path=/tmp/part{n}", part, Content_Type="application/octet-stream")
    answer = envd("POST", "/files/compose", json.dumps({"source_paths": ["/tmp/part0", "/tmp/part1"], "destination": "/tmp/whole"}).encode(), Content_Type="application/json")
    assert answer.json == {"path": "/tmp/whole", "name": "whole", "type": "file"}
    assert envd("GET", "/files?path=/tmp/whole").body == b"one two"
    assert envd("GET", "/files?path=/tmp/part0").status == 404
    assert envd("POST", "/files/compose", b'{"source_paths":[],"destination":"/x"}', Content_Type="application/json").status == 400
    assert envd("POST", "/files/compose", b'{"source_paths":["/a"],"destination":"/x"}', Content_Type="application/json", X_Access_Token="").status == 401
