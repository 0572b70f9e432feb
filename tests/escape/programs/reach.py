"""Connects to addresses, in whatever notation, and tells which of them led to the one that says the word.

usage: reach.py WORD: reads lines `NOTATION PORT [udp]` from its input; many at a time.
"""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

WORD = sys.argv[1].encode()
SECONDS = 1.5


def hears_word(one):
    """A port that merely opens is a success, too; the word tells that it was the right one."""
    try:
        one.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return WORD in one.recv(4096)
    except OSError:
        return False


def tcp(host, port):
    last = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as one:
            one.settimeout(SECONDS)
            try:
                one.connect(address)
                return f"{address[0]} open" + (" and it is the one" if hears_word(one) else "")
            except OSError as error:
                last = error
    raise last


def udp(host, port):
    last = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        with socket.socket(family, kind, protocol) as one:
            one.settimeout(SECONDS)
            try:
                one.connect(address)
                one.send(b"hello")
                return WORD in one.recv(4096) and f"{address[0]} answers"
            except OSError as error:
                last = error
    raise last


def attempt(line):
    host, port, *how = line.split()
    try:
        found = (udp if how else tcp)(host, int(port))
        return {"did": bool(found), "says": str(found), "errno": None}
    except OSError as error:
        return {"did": False, "says": str(error), "errno": error.errno if error.errno and error.errno > 0 else None}
    except UnicodeError as error:
        return {"did": False, "says": str(error), "errno": None}


lines = [line.strip() for line in sys.stdin if line.strip()]
with ThreadPoolExecutor(64) as pool:
    print(json.dumps(dict(zip(lines, pool.map(attempt, lines)))))
