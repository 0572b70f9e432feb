"""Versions of templates, the catalogue, comparing and exporting: SoulBox's own part of the API, by hand."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import urllib.request
import uuid

import pytest

from counter import HAS_CRIU
from raw import api, refused
from server import wait_until

# Every file of the base template is read, and on a busy machine that takes its time.
SLOW_SECONDS = 170


def build(name: str, *commands: str, tags: list[str] | None = None, **start) -> dict:
    """Builds from `base` and returns what the request answered."""
    asked = api("POST", "/v3/templates", {"name": name, "cpuCount": 1, "memoryMB": 512} | ({"tags": tags} if tags else {}))
    assert asked.status == 202, asked
    template, one = asked.json["templateID"], asked.json["buildID"]
    steps = [{"type": "RUN", "args": [command, "root"]} for command in commands]
    started = api("POST", f"/v2/templates/{template}/builds/{one}", {"fromTemplate": "base", "steps": steps} | start)
    assert started.status == 202, started

    def ended():
        status = api("GET", f"/templates/{template}/builds/{one}/status").json
        return status if status["status"] in ("ready", "error") else None

    status = wait_until(f"the build of {name}", 60, ended)
    assert status["status"] == "ready", status
    return asked.json


@pytest.fixture(scope="module")
def template():
    """One with three versions: 1.0.0, 1.1.0 and, by its tag, 3.0.0, which is not in use."""
    name = f"versions-{uuid.uuid4().hex[:12]}"
    first = build(name, f"echo first > /srv/what; echo {name} > /srv/same; dd if=/dev/zero of=/srv/gone bs=1024 count=300 2>/dev/null")
    second = build(
        name,
        f"echo second > /srv/what; echo {name} > /srv/same; mkdir /srv/new; ln -s ../what /srv/new/link; chmod 4755 /srv/same",
        startCmd="echo started > /tmp/started",
        readyCmd="test -e /tmp/started",
    )
    third = build(name, f"echo third > /srv/what; : {name}", tags=["v3.0.0", "candidate"])
    yield {"name": name, "id": first["templateID"], "builds": [one["buildID"] for one in (first, second, third)]}
    api("DELETE", f"/templates/{name}")


def meant(reference: str) -> str:
    """What a sandbox of this reference has in its file."""
    made = api("POST", "/v2/sandboxes", {"templateID": reference, "timeout": 60})
    assert made.status == 201, made
    try:
        request = urllib.request.Request(
            f"{os.environ['E2B_SANDBOX_URL']}/files?path=/srv/what&username=root",
            headers={"E2b-Sandbox-Id": made.json["sandboxID"], "E2b-Sandbox-Port": "49983", "X-Access-Token": made.json["envdAccessToken"]},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode().strip()
    finally:
        api("DELETE", f"/sandboxes/{made.json['sandboxID']}")


def test_every_build_is_a_version(template):
    detail = api("GET", f"/templates/{template['id']}").json
    versions = [(one["version"], one["buildID"]) for one in detail["builds"]]
    assert versions == list(zip(["3.0.0", "1.1.0", "1.0.0"], reversed(template["builds"])))
    assert all(one["sizeBytes"] > 0 for one in detail["builds"])
    assert detail["buildID"] == template["builds"][1]


def test_a_version_stands_where_a_tag_does(template):
    name = template["name"]
    assert [meant(f"{name}{tag}") for tag in ("", ":1.0.0", ":v1.0.0", ":3.0.0", ":v3.0.0", ":candidate")] == ["second", "first", "first", "third", "third", "third"]
    refused(api("POST", "/v2/sandboxes", {"templateID": f"{name}:2.0.0"}), 404, "tag '2.0.0' does not exist")
    # A tag comes first.
    assert api("POST", "/templates/tags", {"target": f"{name}:3.0.0", "tags": ["1.0.0"]}).status == 201
    try:
        assert meant(f"{name}:1.0.0") == "third" and meant(f"{name}:v1.0.0") == "first"
    finally:
        assert api("DELETE", "/templates/tags", {"name": name, "tags": ["1.0.0"]}).status == 204


def test_going_back_and_forth(template):
    name = template["name"]
    for version, want in (("1.0.0", "first"), ("v1.1.0", "second")):
        assigned = api("POST", "/templates/tags", {"target": f"{name}:{version}", "tags": ["default"]})
        assert assigned.status == 201, assigned
        assert meant(name) == want


def test_a_version_that_is_taken_gets_a_number():
    name = f"versions-{uuid.uuid4().hex[:12]}"
    try:
        one = build(name, f": {name}", tags=["1.2.0"])
        build(name, f": {name} again", tags=["v1.2.0"])
        build(name, f": {name} counted")
        detail = api("GET", f"/templates/{one['templateID']}").json
        assert [build["version"] for build in detail["builds"]] == ["1.3.0", "1.2.0+2", "1.2.0"]
    finally:
        api("DELETE", f"/templates/{name}")


def test_the_catalogue(template):
    name, word = template["name"], uuid.uuid4().hex
    too_long = api("PATCH", f"/v2/templates/{name}", {"description": "x" * 1001})
    refused(too_long, 400, "validation error")
    assert api("PATCH", f"/v2/templates/{name}", {"description": f"For {word} people"}).status == 200
    for query in (word.upper(), f"{name[:14]} people", name):
        found = api("GET", f"/template-catalogue?query={query.replace(' ', '%20')}").json
        assert [one["templateID"] for one in found] == [template["id"]], (query, found)
    entry = found[0]
    assert entry["description"] == f"For {word} people" and entry["names"] == [f"default/{name}"] and entry["author"] == "default"
    assert entry["public"] is False and entry["version"] == "1.1.0" and entry["sizeBytes"] > 0
    assert {"candidate", "default", "v3.0.0"} <= set(entry["tags"])
    seen, token = [], ""
    while True:
        page = api("GET", f"/template-catalogue?limit=1&nextToken={token}")
        assert page.status == 200 and len(page.json) == 1, page
        seen.append(page.json[0]["templateID"])
        token = page.headers.get("x-next-token", "")
        if not token:
            break
    assert template["id"] in seen
    assert api("GET", f"/template-catalogue?query=nothing-{word}").json == []
    refused(api("GET", "/template-catalogue?nextToken=x"), 400, "Invalid next token")


def slow(target: str):
    """A request whose answer may take longer to begin than others."""
    request = urllib.request.Request(os.environ["E2B_API_URL"] + target, headers={"X-API-Key": os.environ["E2B_API_KEY"]})
    return urllib.request.urlopen(request, timeout=SLOW_SECONDS)


@pytest.mark.seconds(240)
def test_what_differs(template):
    with slow(f"/templates/{template['name']}/diff?from=1.0.0&limit=10000") as answer:
        found = json.load(answer)
    assert found["sameLayers"] is False and found["truncated"] is False
    assert [found[side]["version"] for side in ("from", "to")] == ["1.0.0", "1.1.0"]
    files = {one["path"]: one for one in found["files"]}
    assert files["/srv/gone"]["from"]["sizeBytes"] == 300 * 1024 and "to" not in files["/srv/gone"]
    assert files["/srv/new"]["to"]["type"] == "directory" and "from" not in files["/srv/new"]
    assert files["/srv/new/link"]["to"]["target"] == "../what"
    what = files["/srv/what"]
    assert [what[side]["sha256"] for side in ("from", "to")] == [hashlib.sha256(f"{text}\n".encode()).hexdigest() for text in ("first", "second")]
    same = files["/srv/same"]
    assert [same[side]["mode"] for side in ("from", "to")] == ["0644", "4755"] and same["from"]["sha256"] == same["to"]["sha256"]
    # Nothing of what both have from `base`.
    assert "/usr/bin/python3" not in files and found["packages"] == []
    counts = {name: found[name]["count"] for name in ("added", "removed", "changed")}
    assert sum(counts.values()) == len(files) and counts["removed"] >= 1
    assert found["from"]["sizeBytes"] - found["to"]["sizeBytes"] > 290 * 1024
    with slow(f"/templates/{template['id']}/diff?from=1.0.0&to=1.1.0&limit=1") as answer:
        cut = json.load(answer)
    assert cut["truncated"] is True and [one["path"] for one in cut["files"]] == ["/srv/gone"] and cut["removed"] == found["removed"]


def test_nothing_differs_at_once(template):
    found = api("GET", f"/templates/{template['name']}/diff?from=1.1.0&to={template['builds'][1]}").json
    assert found["sameLayers"] is True and found["files"] == [] and found["added"] == {"count": 0, "sizeBytes": 0}


def test_comparing_refused(template):
    name = template["name"]
    refused(api("GET", f"/templates/{name}/diff"), 400, "validation error")
    refused(api("GET", f"/templates/{name}/diff?from=9.0.0"), 404, "no ready build '9.0.0'")
    refused(api("GET", f"/templates/{name}/export?build=9.0.0"), 404, "no ready build '9.0.0'")
    refused(api("GET", "/templates/no-such-template/diff?from=1.0.0"), 404, "not found")


@pytest.mark.seconds(240)
def test_an_export_is_an_oci_image(template, tmp_path):
    target = tmp_path / "image.tar"
    with slow(f"/templates/{template['name']}/export?build=1.1.0") as answer, target.open("wb") as file:
        length = int(answer.headers["Content-Length"])
        shutil.copyfileobj(answer, file)
    assert target.stat().st_size == length
    with tarfile.open(target) as layout:

        def read(name: str) -> bytes:
            return layout.extractfile(name).read()

        def blob(descriptor: dict) -> bytes:
            content = read(f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}")
            assert len(content) == descriptor["size"] and f"sha256:{hashlib.sha256(content).hexdigest()}" == descriptor["digest"]
            return content

        assert json.loads(read("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
        [described] = json.loads(read("index.json"))["manifests"]
        manifest = json.loads(blob(described))
        config = json.loads(blob(manifest["config"]))
        [layer] = manifest["layers"]
        content = blob(layer)
    labels = config["config"]["Labels"]
    assert labels["dev.soulbox.template"] == f"default/{template['name']}" and labels["dev.soulbox.version"] == "1.1.0"
    assert labels["dev.soulbox.start-command"] == "echo started > /tmp/started" and manifest["annotations"] == labels
    assert config["os"] == "linux" and config["architecture"] in ("amd64", "arm64")
    with tarfile.open(fileobj=io.BytesIO(content)) as files:
        members = {member.name.removeprefix("./"): member for member in files}
        assert files.extractfile("./srv/what").read() == b"second\n"
    assert members["srv/same"].mode == 0o4755 and members["srv/new/link"].linkname == "../what"
    assert {"proc", "sys", "dev", "tmp", "usr/bin/bash"} <= set(members)
    assert not [name for name in members if name.startswith(("proc/", "sys/", "dev/", "run/e2b"))]
    # Nothing runs for the export. What the start command had written at the build is in it where its memory is kept.
    assert ("tmp/started" in members) == HAS_CRIU
    if shutil.which("skopeo"):
        done = subprocess.run(["skopeo", "inspect", f"oci-archive:{target}"], capture_output=True, timeout=60)
        assert done.returncode == 0, done
        assert json.loads(done.stdout)["Labels"] == labels
