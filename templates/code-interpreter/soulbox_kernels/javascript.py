"""The JavaScript kernel."""

import os
from pathlib import Path

from soulbox_kernels import app
from soulbox_kernels.lines import LinesKernel

PROGRAM = Path(__file__).parent / "javascript"


class Kernel(LinesKernel):
    language = "javascript"
    argv = ("node", "--no-warnings", "--experimental-import-meta-resolve", str(PROGRAM / "main.mjs"))
    env = {"NODE_PATH": os.environ.get("NODE_PATH", "/usr/local/lib/node_modules:/usr/lib/node_modules"), "NO_COLOR": "1"}


def run(connection, ready):
    app.run(Kernel, connection, ready)
