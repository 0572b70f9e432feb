"""A program of somebody who has been given a domain and a key. Prints what it saw, as JSON."""

import json
import ssl
import sys
import urllib.error
import urllib.request

from e2b import Sandbox, Template

SERVER = "cd /tmp && echo reached > index.html && python3 -m http.server 8000"


def fetch(url: str, headers: dict[str, str] | None = None) -> list:
    """Over TLS with the certificates that the environment names."""
    request = urllib.request.Request(url, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20, context=ssl.create_default_context()) as response:
            return [response.status, response.read().decode().strip()]
    except urllib.error.HTTPError as error:
        return [error.code, error.read().decode()]


def main() -> None:
    with Sandbox.create(timeout=120) as sandbox:
        seen = {"command": sandbox.commands.run("echo hello").stdout, "id": sandbox.sandbox_id}
        sandbox.files.write("/tmp/file", "written")
        seen["file"] = sandbox.files.read("/tmp/file")
        sandbox.commands.run(SERVER, background=True, timeout=0)
        sandbox.commands.run("until curl -s localhost:8000 > /dev/null; do sleep 0.05; done")
        seen["host"] = sandbox.get_host(8000)
        seen["page"] = fetch(f"https://{sandbox.get_host(8000)}/")
        seen["download"] = fetch(sandbox.download_url("/tmp/file"))
        terminal = sandbox.commands.run("cat", background=True, stdin=True)
        terminal.send_stdin("typed\n")
        terminal.close_stdin()
        seen["stdin"] = terminal.wait().stdout
    if "build" in sys.argv:
        # With files, which are uploaded to an address that the server says.
        template = Template(file_context_path=sys.argv[-1]).from_template("base").copy("hello.txt", "/hello.txt")
        Template.build(template, alias="domain-files", skip_cache=True)
        with Sandbox.create("domain-files", timeout=60) as sandbox:
            seen["built"] = sandbox.files.read("/hello.txt")
    print(json.dumps(seen))


main()
