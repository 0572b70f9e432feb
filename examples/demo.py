"""A tour of a sandbox with the official package, unmodified: `pip install e2b`.

Run by `make demo`. Against a server of your own: load its client.env, then `python examples/demo.py`.
"""

import os
import time
from urllib.request import Request, urlopen

from e2b import CommandExitException, Sandbox


def show(what: str, value: object) -> None:
    print(f"{what:<22} {value}", flush=True)


started = time.perf_counter()
sandbox = Sandbox.create(timeout=120, metadata={"purpose": "demo"}, envs={"GREETING": "hello from outside"})
show("create", f"{sandbox.sandbox_id} in {(time.perf_counter() - started) * 1000:.0f} ms")

try:
    # --- commands ---
    show("who and where", sandbox.commands.run("echo $(whoami) on $(uname -sr), in $(pwd)").stdout.strip())
    show("environment", sandbox.commands.run('echo "$GREETING, $MOOD"', envs={"MOOD": "cheerfully"}).stdout.strip())
    show("as root", sandbox.commands.run("sudo id -un").stdout.strip())
    try:
        sandbox.commands.run("echo gone wrong >&2; exit 3")
    except CommandExitException as error:
        show("a failing command", f"exit code {error.exit_code}, stderr {error.stderr.strip()!r}")
    lines: list[str] = []
    sandbox.commands.run("for i in 1 2 3; do echo line $i; done", on_stdout=lines.append)
    show("streamed output", "".join(lines).split("\n")[:3])

    # --- files ---
    sandbox.files.write("/home/user/project/primes.py", "print([n for n in range(2, 40) if all(n % d for d in range(2, n))])\n")
    show("file written", sandbox.files.get_info("/home/user/project/primes.py").path)
    show("Python inside", sandbox.commands.run("python3 project/primes.py").stdout.strip())
    show("Node.js inside", sandbox.commands.run("node -e 'console.log(process.version, [3, 1, 2].sort())'").stdout.strip())
    sandbox.files.write("/home/user/project/notes.txt", "written from outside\n")
    sandbox.commands.run("echo 'and from inside' >> project/notes.txt")
    show("file read", sandbox.files.read("/home/user/project/notes.txt").split("\n")[:2])
    show("directory", [entry.name for entry in sandbox.files.list("/home/user/project")])

    # --- a server that keeps running in the background ---
    server = sandbox.commands.run("python3 -m http.server 8000 --directory /home/user/project", background=True)
    page = sandbox.commands.run("curl -sS --retry 20 --retry-connrefused --retry-delay 0 --retry-max-time 10 localhost:8000/notes.txt")
    show("background server", f"process {server.pid} answers {page.stdout.splitlines()[0]!r}")
    request = Request(f"{os.environ['E2B_SANDBOX_URL']}/notes.txt", headers={"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"})
    with urlopen(request, timeout=10) as response:
        show("from outside", f"port 8000 answers {response.status}, {len(response.read())} bytes")
    show("processes", [" ".join(process.args[-1:]) for process in sandbox.commands.list()])
    server.kill()

    # --- looking at it ---
    info = sandbox.get_info()
    show("info", f"template {info.name or info.template_id}, {info.cpu_count} CPUs, {info.memory_mb} MiB, until {info.end_at:%H:%M:%S}")
    for sample in sandbox.get_metrics()[-1:]:
        show("metrics", f"{sample.cpu_used_pct:.1f} % CPU, {sample.mem_used / 2**20:.1f} MiB of {sample.mem_total / 2**20:.0f} MiB")
finally:
    sandbox.kill()

show("killed", f"running: {sandbox.is_running()}")
print("demo finished")
