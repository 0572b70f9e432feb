"""The far side of the network bench: servers and a name server, in a network namespace of the bench's own.

usage: PREFIX PEM; the addresses are PREFIX.2 and on, see `ground.rs`. Prints `up`, and runs until it is killed.
"""

import socket
import ssl
import struct
import sys
import threading

prefix, pem = sys.argv[1:]
DIRECT, STREAMED, MIDDLE, RESOLVER = (f"{prefix}.{last}" for last in (2, 3, 4, 5))
NAMES = {"direct.bench.test": DIRECT, "streamed.bench.test": STREAMED, "ruled.bench.test": DIRECT}
zeros = memoryview(bytes(1 << 20))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(pem)


def exactly(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def send(stream, count):
    while count:
        piece = min(count, len(zeros))
        stream.sendall(zeros[:piece])
        count -= piece


def bulk(stream):
    way, count = struct.unpack("!cQ", exactly(stream, 9))
    if way == b"D":
        return send(stream, count)
    buffer = memoryview(bytearray(1 << 20))
    while count:
        got = stream.recv_into(buffer, min(count, len(buffer)))
        if not got:
            raise ConnectionError
        count -= got
    stream.sendall(b".")


def streamed(stream):
    head = exactly(stream, 5)
    exactly(stream, struct.unpack("!H", head[3:])[0])
    bulk(stream)


def http(stream):
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = stream.recv(1 << 16)
            if not more:
                return
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        if b"host: ruled.bench.test" in lines and not any(line.startswith(b"x-bench: ") for line in lines):
            stream.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            continue
        count = int(lines[0].split(b" ")[1].lstrip(b"/"))
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % count)
        send(stream, count)


def https(stream):
    http(context.wrap_socket(stream, server_side=True))


def closed(stream):
    stream.recv(1)


def serve(address, port, work):
    listener = socket.create_server((address, port), backlog=1024)

    def connected(stream):
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            work(stream)
        except OSError:
            # The client went away: it is the one that says whether it has got what it wanted.
            pass
        finally:
            stream.close()

    def accept():
        while True:
            threading.Thread(target=connected, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def resolve():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((RESOLVER, 53))
    while True:
        query, peer = server.recvfrom(4096)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode("latin1").lower())
            at += 1 + query[at]
        kind, question = query[at + 1 : at + 3], query[12 : at + 5]
        address = NAMES.get(".".join(labels)) if kind == b"\0\1" else None
        answers = b""
        if address:
            answers = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 300, 4) + socket.inet_aton(address)
        head = query[:2] + struct.pack("!5H", 0x8180, 1, 1 if address else 0, 0, 0)
        server.sendto(head + question + answers, peer)


serve(DIRECT, 5001, bulk)
serve(DIRECT, 5002, closed)
serve(STREAMED, 443, streamed)
for address in (DIRECT, MIDDLE):
    serve(address, 80, http)
    serve(address, 443, https)
print("up", flush=True)
resolve()
