"""The TypeScript kernel: JavaScript whose types are taken off first."""

from soulbox_kernels import app, javascript


class Kernel(javascript.Kernel):
    language = "typescript"
    argv = (*javascript.Kernel.argv, "--typescript")


def run(connection, ready):
    app.run(Kernel, connection, ready)
