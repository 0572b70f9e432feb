"""Signed links to files: whoever holds one may read or write that file, and nobody else."""

from __future__ import annotations

import time
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from e2b import Sandbox, get_signature

import raw


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox.create(timeout=300)
    sandbox.files.write("signed ü.txt", "signed content")
    yield sandbox
    sandbox.kill()


def target(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


@pytest.fixture(params=["headers", "host"])
def way(request, sandbox) -> dict[str, str]:
    """The two ways of naming the sandbox on the one port."""
    if request.param == "headers":
        return {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    return {"Host": f"49983-{sandbox.sandbox_id}.sandboxes.example:3000"}


def upload(url: str, way: dict[str, str], content: bytes, name: str = "upload.txt") -> raw.Answer:
    body = (
        b'--limit\r\nContent-Disposition: form-data; name="file"; filename="' + name.encode() + b'"\r\n\r\n' + content + b"\r\n--limit--\r\n"
    )
    return raw.request("POST", target(url), way | {"Content-Type": "multipart/form-data; boundary=limit"}, body)


def test_known_signatures():
    token = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0"
    assert get_signature("hello.txt", "read", "user", token)["signature"] == "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E"


def test_download(sandbox, way):
    answer = raw.request("GET", target(sandbox.download_url("signed ü.txt")), way)
    assert (answer.status, answer.text) == (200, "signed content"), answer
    assert "filename*=utf-8''signed%20%C3%BC.txt" in answer.headers["content-disposition"]


def test_download_as_user(sandbox, way):
    sandbox.files.write("/root/secret", "of root", user="root")
    answer = raw.request("GET", target(sandbox.download_url("secret", user="root")), way)
    assert (answer.status, answer.text) == (200, "of root")


def test_upload(sandbox, way):
    answer = upload(sandbox.upload_url("/home/user/up/loaded"), way, b"uploaded")
    assert answer.status == 200
    assert answer.json == [{"path": "/home/user/up/loaded", "name": "loaded", "type": "file"}]
    assert sandbox.files.read("up/loaded") == "uploaded"


def test_upload_without_a_path_takes_the_name(sandbox, way):
    signature = get_signature("", "write", None, sandbox._envd_access_token)["signature"]
    answer = upload("/files?" + urlencode({"signature": signature}), way, b"by name", "named.txt")
    assert answer.status == 200 and sandbox.files.read("named.txt") == "by name"


def test_expiry(sandbox, way):
    good = sandbox.download_url("signed ü.txt", use_signature_expiration=60)
    assert raw.request("GET", target(good), way).status == 200
    query = {key: values[0] for key, values in parse_qs(urlsplit(good).query).items()}
    later = query | {"signature_expiration": str(int(time.time()) + 9999)}
    answer = raw.request("GET", "/files?" + urlencode(later), way)
    assert answer.status == 401 and "invalid signature" in answer.text
    old = sandbox.download_url("signed ü.txt", use_signature_expiration=-10)
    answer = raw.request("GET", target(old), way)
    assert answer.status == 401 and "signature is already expired" in answer.text


def test_expiry_in_time(sandbox):
    url = sandbox.download_url("signed ü.txt", use_signature_expiration=1)
    way = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    assert raw.request("GET", target(url), way).status == 200
    time.sleep(2.1)
    assert raw.request("GET", target(url), way).status == 401


def test_signature_is_for_one_thing(sandbox, way):
    download = sandbox.download_url("signed ü.txt")
    query = {key: values[0] for key, values in parse_qs(urlsplit(download).query).items()}
    for change in ({"path": "/etc/passwd"}, {"username": "root"}, {"signature": query["signature"][:-1] + "x"}):
        answer = raw.request("GET", "/files?" + urlencode(query | change), way)
        assert answer.status == 401, (change, answer)
    assert upload(download, way, b"no").status == 401
    del query["signature"]
    answer = raw.request("GET", "/files?" + urlencode(query), way)
    assert answer.status == 401 and "missing signature query parameter" in answer.text


def test_token_in_the_header(sandbox, way):
    answer = raw.request("GET", "/files?path=/etc/hostname", way | {"X-Access-Token": sandbox._envd_access_token})
    assert answer.status == 200
    answer = raw.request("GET", "/files?path=/etc/hostname", way | {"X-Access-Token": "wrong"})
    assert answer.status == 401 and "access token present in header but does not match" in answer.text


def test_signature_of_one_sandbox_is_nothing_to_another(sandbox):
    other = Sandbox.create(timeout=60)
    try:
        way = {"E2b-Sandbox-Id": other.sandbox_id, "E2b-Sandbox-Port": "49983"}
        assert raw.request("GET", target(sandbox.download_url("/etc/hostname")), way).status == 401
    finally:
        other.kill()


def test_ranges(sandbox, way):
    headers = way | {"X-Access-Token": sandbox._envd_access_token}
    answer = raw.request("GET", "/files?path=signed+%C3%BC.txt", headers | {"Range": "bytes=7-9"})
    assert (answer.status, answer.body) == (206, b"con")
    assert answer.headers["content-range"] == "bytes 7-9/14"
    answer = raw.request("GET", "/files?path=signed+%C3%BC.txt", headers | {"Range": "bytes=99-"})
    assert answer.status == 416
