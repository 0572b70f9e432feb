"""Listens on JupyterLab's port, and starts it when somebody connects.

A server that ran in the template would be woken in every sandbox: with its memory, and with secrets that all of them
share. So only this waits there. It is started with as little of Python as possible.
"""

import os
import select
import socket
import sys
import time

PORT = 8888

listener = socket.create_server(("0.0.0.0", PORT), backlog=128)
os.set_inheritable(listener.fileno(), True)
while True:
    select.select([listener], [], [])
    # The connection waits until the server takes it. When the server is shut down, the next one starts another.
    lab = os.posix_spawn(
        "/usr/bin/env", ["env", "python3", f"{os.path.dirname(__file__)}/serve.py", str(listener.fileno())], os.environ
    )
    _, status = os.waitpid(lab, 0)
    if status != 0:
        print(f"JupyterLab has ended with {os.waitstatus_to_exitcode(status)}", file=sys.stderr, flush=True)
        time.sleep(1)
