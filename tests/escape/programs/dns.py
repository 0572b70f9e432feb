"""Names as a way in (rebinding) and as a way out (tunnels).

usage: dns.py PUBLIC_PORT [SERVER PORT]: without a server, the one of /etc/resolv.conf is asked.
"""

import os
import re
import socket
import struct
import sys
import time

from attack import attempt, main

PORT = int(sys.argv[1])
if len(sys.argv) > 2:
    SERVER = (sys.argv[2], int(sys.argv[3]))
else:
    with open("/etc/resolv.conf") as file:
        SERVER = (re.search(r"^nameserver\s+(\S+)", file.read(), re.M).group(1), 53)
A, NULL, TXT, PRIVATE = 1, 10, 16, 65399
QUERIES = 3000
SECONDS = 3
# What may come through: the resolver's allowance for so much time, twice over.
BOUND = 1400


def query(name, kind, identity=1):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", identity, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, 1)


def ask(name, kind):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(3)
        one.connect(SERVER)
        one.send(query(name, kind))
        answer = one.recv(65535)
    return answer[3] & 15, struct.unpack("!H", answer[6:8])[0], answer


@attempt("rebinding: a name that was public leads to a private address")
def rebinding():
    last = None
    for _ in range(6):
        _, count, answer = ask("rebind.conformance.test", A)
        address = socket.inet_ntoa(answer[-4:]) if count else ""
        if not address.startswith("192.168."):
            continue
        try:
            socket.create_connection((address, PORT), 1.5).close()
            return f"connected to {address}"
        except OSError as error:
            last = error
    if last:
        raise last
    return None


def record(kind):
    code, count, _ = ask(f"{'x' * 60}.tunnel.conformance.test", kind)
    return code == 0 and count and f"{count} records of type {kind}"


@attempt("a tunnel of NULL records")
def null_records():
    return record(NULL)


@attempt("a tunnel of records of a private type")
def private_records():
    return record(PRIVATE)


@attempt(f"a tunnel with more than {BOUND} queries in {SECONDS} s")
def rate():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        one.connect(SERVER)
        one.setblocking(False)
        answered, sent, deadline = 0, 0, time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            # As many as the other side can take: a few beyond what has come back.
            for _ in range(20):
                if sent < QUERIES:
                    try:
                        one.send(query(f"{sent:05}{'y' * 50}.{'z' * 60}.tunnel.conformance.test", A, sent & 0xFFFF))
                        sent += 1
                    except OSError:
                        break
            try:
                while True:
                    answered += one.recv(4096)[3] & 15 == 0
            except OSError:
                time.sleep(0.001)
    print(answered, "answers", file=sys.stderr)
    return answered > BOUND and f"{answered} answers"


@attempt("another server than the given one")
def other_server():
    """Names of the metadata service's and of private networks' own servers."""
    last = None
    for address in ("192.168.177.2", "169.254.169.253", "10.177.0.2"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(0.7)
            try:
                one.connect((address, 53))
                one.send(query("public.conformance.test", A))
                return one.recv(512) and address
            except OSError as error:
                last = error
    raise last


@attempt("a zone transfer")
def transfer():
    code, count, _ = ask("conformance.test", 252)
    return code == 0 and count


main()
