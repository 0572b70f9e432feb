"""A server that takes every request as it comes, as careless servers do: chunks win over lengths, folded headers are joined,
bare line feeds end lines, anything after a body is the next request. Prints the request line of each.

usage: literal_server.py PORT
"""

import socket
import sys
import threading


def line_of(file):
    line = file.readline(1 << 20)
    if not line:
        raise EOFError
    return line.rstrip(b"\r\n")


def serve(one):
    file = one.makefile("rb")
    try:
        while True:
            request = line_of(file)
            if not request:
                continue
            headers = {}
            while header := line_of(file):
                name, _, value = header.partition(b":")
                headers[name.strip().lower()] = value.strip().lower()
            # In one piece: connections are served beside each other.
            sys.stdout.write(request.decode("latin-1") + "\n")
            sys.stdout.flush()
            if b"chunked" in headers.get(b"transfer-encoding", b""):
                while size := int(line_of(file).split(b";")[0] or b"0", 16):
                    file.read(size)
                    line_of(file)
                line_of(file)
            else:
                file.read(int(headers.get(b"content-length", b"0") or b"0"))
            one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except (EOFError, ValueError, OSError, OverflowError, MemoryError):
        one.close()


listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("up", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
