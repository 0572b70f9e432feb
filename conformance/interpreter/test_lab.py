"""The template `data-science`: JupyterLab through the edge, with a token that is the sandbox's own."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from pathlib import Path

import pytest

import raw

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "templates/data-science/build"
PORT = 8888


def run_build(*layers: str) -> subprocess.CompletedProcess:
    env = os.environ | {
        "SOULBOX": os.environ["CONFORMANCE_BINARY"],
        "INTERPRETER_CACHE": str(Path(os.environ["CONFORMANCE_TOOLS"]) / "interpreter"),
    }
    return subprocess.run([BUILD, *layers], env=env, capture_output=True, text=True, timeout=360)


class Lab:
    """A sandbox's JupyterLab, as a browser that has the address reaches it."""

    def __init__(self, sandbox):
        self.sandbox = sandbox
        self.token = sandbox.commands.run("jupyter-token").stdout

    def headers(self, token: str | None = None) -> dict[str, str]:
        shown = {} if token is None else {"Authorization": f"token {token}"}
        return {"Host": f"{PORT}-{self.sandbox.sandbox_id}.sandboxes.example", **shown}

    def get(self, path: str, token: str | None = None) -> raw.Answer:
        return raw.request("GET", path, self.headers(token), timeout=60)

    def post(self, path: str, body: dict, token: str) -> raw.Answer:
        fields = self.headers(token) | {"Content-Type": "application/json"}
        return raw.request("POST", path, fields, json.dumps(body).encode(), timeout=60)


@pytest.fixture(scope="module")
def labs():
    built = run_build()
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    from e2b_code_interpreter import Sandbox

    with Sandbox.create("data-science", timeout=300) as one, Sandbox.create("data-science", timeout=300) as other:
        yield Lab(one), Lab(other)


def test_a_layer_that_is_not_there():
    built = run_build("jupyter")
    assert built.returncode == 69 and "FIX: layers are pytorch, tensorflow and transformers" in built.stderr


def test_code_runs_as_in_the_code_interpreter(labs):
    for lab in labs:
        assert lab.sandbox.run_code("import pandas; int(pandas.Series([1, 2]).sum())").text == "3"


def test_nothing_of_it_runs_until_somebody_connects(labs):
    from e2b_code_interpreter import Sandbox

    with Sandbox.create("data-science", timeout=60) as sandbox:
        assert "serve.py" not in sandbox.commands.run("ps -eo args").stdout
        assert Lab(sandbox).get("/lab").status == 302
        assert "serve.py" in sandbox.commands.run("ps -eo args").stdout


def test_the_token_opens_it(labs):
    lab = labs[0]
    page = lab.get(f"/lab?token={lab.token}")
    assert page.status == 200 and "<title>JupyterLab</title>" in page.text
    # What the page asks for next comes with its cookie.
    cookie = page.headers["set-cookie"].split(";")[0]
    assert raw.request("GET", "/api/kernelspecs", lab.headers() | {"Cookie": cookie}).status == 200


def test_no_other_token_does(labs):
    one, other = labs
    assert len(one.token) == 48 and one.token != other.token
    page = other.get(f"/lab?token={other.token}")
    cookie = page.headers["set-cookie"].split(";")[0]
    for token in (None, "", "0" * 48, other.token):
        answer = one.get("/api/kernelspecs", token)
        assert answer.status == 403, (token, answer)
    assert raw.request("GET", "/api/kernelspecs", one.headers() | {"Cookie": cookie}).status == 403


def test_whoever_asks_first_makes_the_token(labs):
    lab = labs[0]
    again = [lab.sandbox.commands.run("jupyter-token", user=user).stdout for user in ("root", "user")]
    assert again == [lab.token] * 2
    lab.sandbox.commands.run("rm /var/lib/soulbox-lab/token", user="root")
    together = "for i in 1 2 3 4 5 6 7 8; do jupyter-token & done; wait"
    said = lab.sandbox.commands.run(together, user="root").stdout
    assert said == said[:48] * 8
    # Who runs JupyterLab can read it; it is the old one that counts until it is started again.
    assert lab.sandbox.commands.run("jupyter-token").stdout == said[:48]
    assert lab.sandbox.commands.run("stat -c '%U %a' /var/lib/soulbox-lab/token").stdout == "user 600\n"


def run_in_kernel(lab: Lab, kernel: str, code: str) -> list[dict]:
    """What a kernel publishes about a piece of code, over the socket that pages use."""
    made = lab.post("/api/kernels", {"name": kernel}, lab.token)
    assert made.status == 201, made
    socket = raw.WebSocket(f"/api/kernels/{made.json['id']}/channels", lab.headers(lab.token), timeout=60)
    assert socket.accepted, socket.status
    asked = str(uuid.uuid4())
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
    header = {"msg_id": asked, "msg_type": "execute_request", "username": "", "session": str(uuid.uuid4()), "version": "5.3"}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": []}
    socket.send(json.dumps(message).encode(), opcode=1)
    published = []
    while True:
        opcode, data = socket.receive()
        if opcode != 1:
            continue
        seen = json.loads(data)
        if seen["parent_header"].get("msg_id") != asked or seen["channel"] != "iopub":
            continue
        published.append(seen)
        if seen["msg_type"] == "status" and seen["content"]["execution_state"] == "idle":
            socket.close()
            return published


@pytest.mark.parametrize("kernel, code, text", [("python3", "6 * 7", "42"), ("bash", "echo $((6 * 7))", "42\n")])
def test_cells_run_in_its_kernels(labs, kernel, code, text):
    lab = labs[1]
    lab.get("/lab")
    contents = [message["content"] for message in run_in_kernel(lab, kernel, code)]
    said = [one["data"]["text/plain"] for one in contents if "data" in one] + [one["text"] for one in contents if "text" in one]
    assert said == [text]


def test_figures_are_shown_in_cells(labs):
    lab = labs[1]
    published = run_in_kernel(lab, "python3", "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()")
    shown = [message["content"]["data"] for message in published if message["msg_type"] == "display_data"]
    assert shown and "image/png" in shown[0]


def test_it_comes_again_after_it_was_shut_down(labs):
    lab = labs[1]
    assert lab.post("/api/shutdown", {}, lab.token).status == 200
    assert lab.get("/api/kernelspecs", lab.token).status == 200
