"""Building templates by hand: what is refused, in which order, and addresses of uploads."""

from __future__ import annotations

import gzip
import os
import urllib.parse
import uuid

import pytest

import raw
from raw import api, refused

HASH = "a" * 64


@pytest.fixture
def requested():
    made = []

    def request(**body):
        answer = api("POST", "/v3/templates", {"name": f"wire-{uuid.uuid4().hex[:12]}"} | body)
        assert answer.status == 202, answer
        made.append(answer.json["templateID"])
        return answer.json

    yield request
    for template in made:
        api("DELETE", f"/templates/{template}")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"name": "x", "cpuCount": 0}, 400, "validation error"),
        ({"name": "x", "memoryMB": 64}, 400, "validation error"),
        ({"cpuCount": 3}, 400, "Name is required"),
        ({"name": "a b", "tags": ["a:b"]}, 400, "Invalid name: invalid template ID: a b"),
        ({"name": "nobody/x", "tags": ["a:b"]}, 400, "namespace 'nobody' must match your team"),
        ({"name": "x", "tags": ["a:b"], "cpuCount": 3}, 400, "Invalid tag: invalid tag 'a:b': invalid tag: a:b"),
        ({"name": "x", "tags": [str(uuid.UUID(int=7))]}, 400, "tag cannot be a UUID"),
        ({"name": "x", "cpuCount": 3, "memoryMB": 129}, 400, "CPU count must be 1 or an even number"),
        ({"name": "x", "cpuCount": 34}, 400, "CPU count must be at most 32"),
        ({"name": "x", "memoryMB": 129}, 400, "Memory must be divisible by 2"),
    ],
)
def test_request_refused(body, status, message):
    refused(api("POST", "/v3/templates", body), status, message)


def test_request_answer(requested):
    name = f"wire-{uuid.uuid4().hex[:12]}"
    body = requested(name=f"{name}:V1", tags=["v2", "v1"])
    assert sorted(body["tags"]) == ["v1", "v2"] and body["aliases"] == [name] and body["public"] is False
    assert [one.split("/")[1] for one in body["names"]] == [name]
    again = requested(name=name)
    assert again["templateID"] == body["templateID"] and again["tags"] == ["default"]
    refused(api("POST", "/v3/templates", {"name": body["templateID"]}), 409, "is already used")


def test_start_refused(requested):
    body = requested()
    template, build = body["templateID"], body["buildID"]
    path = f"/v2/templates/{template}/builds/{build}"
    refused(api("POST", path, {"fromTemplate": "base", "steps": 1}), 400, "validation error")
    refused(api("POST", f"/v2/templates/{template}/builds/x", {}), 400, "Invalid build ID: x")
    refused(api("POST", f"/v2/templates/{template}/builds/{uuid.uuid4()}", {}), 404, "Error when getting template")
    refused(api("POST", path, {}, headers={"User-Agent": "e2b-js-sdk/new"}), 400, "Error when parsing user agent")
    refused(api("POST", path, {}), 400, "must specify either fromImage or fromTemplate")
    both = {"fromImage": "a", "fromTemplate": "b"}
    refused(api("POST", path, both), 400, "cannot specify both fromImage and fromTemplate")
    status = api("GET", f"/templates/{template}/builds/{build}/status")
    assert status.json["status"] == "waiting" and status.json["logEntries"] == [] and status.json["logs"] == []
    refused(api("GET", f"/templates/{template}/builds/{uuid.uuid4()}/status"), 400, "not found")


def test_uploads(requested):
    template = requested()["templateID"]
    refused(api("GET", f"/templates/{template}/files/XYZ"), 400, "Invalid files hash")
    refused(api("GET", f"/templates/nothing/files/{HASH}"), 404, "Error when getting template")
    files = os.urandom(32).hex()
    link = api("GET", f"/templates/{template}/files/{files}")
    assert link.status == 201 and link.json["present"] is False, link
    url = urllib.parse.urlsplit(link.json["url"])
    target = f"{url.path}?{url.query}"
    archive = gzip.compress(bytes(10240))
    refused(raw.request("POST", target, body=archive), 405)
    refused(raw.request("PUT", target.replace(files, HASH), body=archive), 403, "signature")
    refused(raw.request("PUT", url.path, body=archive), 400, "expires")
    refused(raw.request("PUT", target, body=b"no archive"), 400, "tar archive")
    assert raw.request("PUT", target, body=archive).status == 200
    assert api("GET", f"/templates/{template}/files/{files}").json["present"] is True
