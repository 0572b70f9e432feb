"""Notebooks: opened, run as a whole or by the cell, with outputs in the file. The routes are ours; the official packages have none."""

from __future__ import annotations

import json
import os

import httpx
import pytest

PATH = "/home/user/work/report.ipynb"
CELLS = [
    {"type": "markdown", "source": "# Report"},
    {"type": "code", "source": "total = 40 + 2\nprint('counting')\ntotal"},
    {"type": "code", "source": "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()"},
]


class Notebooks:
    """What a program does that speaks HTTP to port 49999 of a sandbox."""

    def __init__(self, sandbox):
        headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49999"}
        self.http = httpx.Client(base_url=os.environ.get("E2B_SANDBOX_URL") or os.environ["E2B_API_URL"], headers=headers, timeout=60)
        self.sandbox = sandbox

    def open(self, path=PATH, **more):
        return self.http.post("/notebooks", json={"path": path, **more})

    def run(self, path=PATH, **more):
        answer = self.http.post("/notebooks/run", json={"path": path, **more})
        return [json.loads(line) for line in answer.text.splitlines()] if answer.status_code == 200 else answer

    def file(self, path=PATH):
        return json.loads(self.sandbox.files.read(path))


@pytest.fixture
def notebooks(sandbox):
    sandbox.commands.run("rm -rf work && mkdir work")
    found = Notebooks(sandbox)
    yield found
    found.http.delete("/notebooks", params={"path": PATH})
    found.http.close()


def test_a_notebook_is_made_run_and_saved(notebooks):
    opened = notebooks.open(cells=CELLS).json()
    assert (opened["path"], opened["language"]) == (PATH, "python")
    lines = notebooks.run()
    assert [line["index"] for line in lines if line["type"] == "cell"] == [1, 2]
    assert [line["text"] for line in lines if line["type"] == "stdout"] == ["counting\n"]
    assert [line["text"] for line in lines if line["type"] == "result" and line["is_main_result"]] == ["42"]
    assert lines[-1] == {"type": "end_of_execution"}
    text, plot = notebooks.file()["cells"][1:]
    assert [output["output_type"] for output in text["outputs"]] == ["stream", "execute_result"]
    assert text["outputs"][1]["data"]["text/plain"] == "42" and text["execution_count"] == 1
    assert plot["outputs"][0]["data"]["image/png"]
    # Whoever owns the directory can go on with the file.
    assert notebooks.sandbox.commands.run(f"stat -c %U {PATH}").stdout == "user\n"
    # Its context is one like any other, in the directory of the file.
    context = next(one for one in notebooks.sandbox.list_code_contexts() if one.id == opened["context_id"])
    assert notebooks.sandbox.run_code("import os; total, os.getcwd()", context=context).text == "(42, '/home/user/work')"


def test_one_cell(notebooks):
    notebooks.open(cells=CELLS)
    notebooks.run()
    lines = notebooks.run(cell=1)
    assert [line["index"] for line in lines if line["type"] == "cell"] == [1]
    assert notebooks.file()["cells"][1]["execution_count"] == 3


def test_a_cell_that_fails_is_the_last(notebooks):
    notebooks.open(cells=[{"type": "code", "source": "1/0"}, {"type": "code", "source": "print('never')"}])
    lines = notebooks.run()
    assert [line["name"] for line in lines if line["type"] == "error"] == ["ZeroDivisionError"]
    failed, never = notebooks.file()["cells"]
    assert failed["outputs"][0]["ename"] == "ZeroDivisionError" and never["outputs"] == []
    # Cells that are changed lose what they had; the kernel goes on.
    notebooks.open(cells=[{"type": "code", "source": "import os; os._exit(3)"}])
    assert [line["name"] for line in notebooks.run() if line["type"] == "error"] == ["ContextRestarting"]
    notebooks.open(cells=[{"type": "code", "source": "2 + 2"}])
    assert [line["text"] for line in notebooks.run() if line["type"] == "result"] == ["4"]


def test_a_notebook_of_others(notebooks):
    """What is not known here stays as it was."""
    kernel = {"name": "bash", "language": "bash", "display_name": "Bash"}
    cell = {"cell_type": "code", "metadata": {"tags": ["x"]}, "source": ["echo one\n", "echo two"], "outputs": [], "execution_count": None}
    theirs = {"nbformat": 4, "nbformat_minor": 2, "metadata": {"kernelspec": kernel, "own": {"a": 1}}, "cells": [cell]}
    notebooks.sandbox.files.write(PATH, json.dumps(theirs))
    assert notebooks.open().json()["language"] == "bash"
    notebooks.run()
    found = notebooks.file()
    assert found["metadata"] == theirs["metadata"] and found["nbformat_minor"] == 2
    assert found["cells"][0]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "one\ntwo\n"}]
    assert found["cells"][0]["metadata"] == {"tags": ["x"]}


def test_what_is_no_notebook(notebooks):
    sandbox = notebooks.sandbox
    missing = notebooks.run("work/none.ipynb")
    assert missing.status_code == 404 and "none.ipynb" in missing.text
    sandbox.files.write("/home/user/work/bad.ipynb", "no json")
    assert notebooks.open("work/bad.ipynb").status_code == 400
    sandbox.files.write("/home/user/work/old.ipynb", json.dumps({"nbformat": 3, "worksheets": []}))
    old = notebooks.open("work/old.ipynb")
    assert old.status_code == 400 and "format 4" in old.text
    notebooks.open(cells=CELLS)
    for cell, said in ((0, "cell 0 is no code"), (7, "there is no cell 7; it has 3")):
        refused = notebooks.run(cell=cell)
        assert refused.status_code == 400 and said in refused.text
    assert notebooks.open(cells=[{"type": "cake", "source": ""}]).status_code == 422
    assert notebooks.http.delete("/notebooks", params={"path": "/tmp/never"}).status_code == 404
