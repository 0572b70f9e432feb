"""The Java kernel: JShell."""

from pathlib import Path

from soulbox_kernels import app
from soulbox_kernels.lines import LinesKernel

PROGRAM = Path(__file__).parent / "java"


class Kernel(LinesKernel):
    language = "java"
    # A sandbox is small and short-lived: what starts soon is worth more than what runs fast after an hour.
    argv = ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", str(PROGRAM), "Kernel")


def run(connection, ready):
    app.run(Kernel, connection, ready)
