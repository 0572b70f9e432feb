"""The client of the network bench: it runs in a sandbox, and in a plain network namespace beside it.

usage: WHAT NAME ADDRESS PORT AMOUNT TIMES; prints nanoseconds, one line for each time.
"""

import socket
import ssl
import struct
import sys
import time

what, name, address = sys.argv[1:4]
port, amount, times = (int(number) for number in sys.argv[4:])
buffer = memoryview(bytearray(1 << 20))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# Who answers is not what is measured.
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
if address == "-":
    address = socket.gethostbyname(name)


def connection():
    stream = socket.create_connection((address, port))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def secured():
    return context.wrap_socket(connection(), server_hostname=name)


def receive(stream, count):
    while count:
        got = stream.recv_into(buffer, min(count, len(buffer)))
        if not got:
            sys.exit("the other side has closed the connection")
        count -= got


def send(stream, count):
    while count:
        piece = min(count, len(buffer))
        stream.sendall(buffer[:piece])
        count -= piece


def ask(stream, count):
    stream.sendall(f"GET /{count} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        more = stream.recv(1 << 16)
        if not more:
            sys.exit("no answer")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"refused: {data[:300]!r}")
    receive(stream, count - len(body))


def greeting():
    """What a TLS client says first. After it nothing is TLS: the ciphers of the two ends are not measured."""
    arriving, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(arriving, leaving, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return leaving.read()


def timed(work):
    begun = time.perf_counter_ns()
    work()
    print(time.perf_counter_ns() - begun)


def connect():
    stream = socket.socket()
    timed(lambda: stream.connect((address, port)))
    # A reset: the kernel's table is not to fill with connections that wait for their end.
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


def bulk(stream, way):
    def work():
        stream.sendall(struct.pack("!cQ", way, amount))
        if way == b"D":
            receive(stream, amount)
        else:
            send(stream, amount)
            receive(stream, 1)

    timed(work)


def fresh(opened):
    def work():
        stream = opened()
        ask(stream, amount)
        stream.close()

    timed(work)


def kept(opened):
    stream = opened()
    ask(stream, 0)
    for _ in range(times):
        timed(lambda: ask(stream, amount))


def streamed():
    stream = connection()
    stream.sendall(greeting())
    bulk(stream, b"D")


def repeated(work):
    for _ in range(times):
        work()


{
    "connect": lambda: repeated(connect),
    "down": lambda: repeated(lambda: bulk(connection(), b"D")),
    "up": lambda: repeated(lambda: bulk(connection(), b"U")),
    "streamed": lambda: repeated(streamed),
    "http": lambda: kept(connection),
    "https": lambda: kept(secured),
    "fresh-http": lambda: repeated(lambda: fresh(connection)),
    "fresh-https": lambda: repeated(lambda: fresh(secured)),
}[what]()
