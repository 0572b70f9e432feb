"""The whole server, driven by the document that it serves.

Requests are made from the document: ones that follow it, ones that break it, and chains of them. Answers are held
against it: a documented status, a documented body, no failure of the server's own, no way in without a key, and
nothing accepted that the document forbids. The server is one of its own, because the operator's operations kill
every sandbox and end keys.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest

import server as servers

HERE = Path(__file__).parent
# Of the whole run; the tool spends it on more requests, not on waiting.
BUDGET_SECONDS = 60
# A tool that makes fewer requests than this has not understood the document.
LEAST_REQUESTS = 300


@pytest.fixture(scope="module")
def server():
    # Real sandboxes are created; the limit keeps them few, and is met.
    one = servers.from_environment("schema", "--max-sandboxes-per-team", "20")
    try:
        yield one.start()
        servers.kill_every_sandbox(one.env)
    finally:
        code = one.stop()
        one.remove()
    assert code == 0


def run(server, directory: Path, document: str, *arguments: str) -> tuple[subprocess.CompletedProcess, dict]:
    """Runs the tool on a document and returns its outcome and its own report."""
    report = directory / "report.json"
    environment = os.environ | {
        "SCHEMA_API_KEY": server.env["E2B_API_KEY"],
        "SCHEMA_ADMIN_TOKEN": (server.data_dir / "admin.token").read_text().strip(),
    }
    tool = [str(Path(os.environ["CONFORMANCE_TOOLS"]) / "schema/bin/schemathesis"), "--config-file"]
    command = [*tool, str(HERE / "schemathesis.toml"), "run", document, "--url", server.url, "--no-color"]
    command += ["--report-json-path", str(report), *arguments]
    done = subprocess.run(command, env=environment, cwd=directory, text=True, capture_output=True, timeout=240)
    return done, json.loads(report.read_text()) if report.exists() else {}


@pytest.mark.seconds(300)
def test_server_keeps_to_its_document(server, tmp_path):
    document = server.url + "/openapi.json"
    done, report = run(server, tmp_path, document, "--continue-on-failure", "--max-time", str(BUDGET_SECONDS))
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    assert report["failures"] == [] and report["errors"] == []
    assert report["operations"]["tested"] == report["operations"]["total"] > 60
    assert report["test_cases"]["generated"] > LEAST_REQUESTS
    # The runner shows lines that begin so.
    print(f"FIGURES {report['test_cases']['generated']} requests to {report['operations']['tested']} operations")
    assert server.alive(), server.log_tail()


@pytest.mark.parametrize("lie", ["status", "body", "strictness"])
def test_a_document_that_lies_is_found_out(server, tmp_path, lie):
    with urllib.request.urlopen(server.url + "/openapi.json", timeout=30) as answer:
        document = json.load(answer)
    if lie == "status":
        path, method = "/v2/templates", "get"
        document["paths"][path]["get"]["responses"] = {"418": {"description": "never"}}
    elif lie == "body":
        path, method = "/default-templates", "get"
        document["components"]["schemas"]["Template"]["properties"]["public"] = {"type": "integer"}
    else:
        path, method = "/v2/sandboxes/{sandboxID}/connect", "post"
        document["components"]["schemas"]["ConnectSandbox"]["properties"]["unknown"] = {"type": "integer"}
        document["paths"][path][method]["parameters"] = [
            {"name": "unknown", "in": "query", "required": True, "schema": {"type": "integer"}}
        ]
        # Whoever is unknown is told so before the rest is looked at: a sandbox that is there is needed.
        request = urllib.request.Request(
            server.url + "/v2/sandboxes",
            method="POST",
            data=b'{"templateID": "base", "timeout": 60}',
            headers={"X-API-Key": server.env["E2B_API_KEY"], "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            sandbox = json.load(answer)["sandboxID"]
        document["paths"][path]["parameters"][0]["schema"] = {"type": "string", "enum": [sandbox]}
    path_of_lie = tmp_path / "document.json"
    path_of_lie.write_text(json.dumps(document))
    only = ("--include-path", path, "--include-method", method.upper(), "--phases", "coverage,fuzzing")
    done, report = run(server, tmp_path, str(path_of_lie), *only)
    assert done.returncode == 1 and report["failures"], done.stdout[-3000:] + done.stderr[-1000:]
