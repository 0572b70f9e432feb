"""Takes the place of the sandbox's daemon, wherever the kernel lets it, and writes down what callers show.

usage: fake_envd.py SECONDS: prints which addresses were taken, serves, then prints what was heard.
"""

import json
import socket
import sys
import threading
import time

PORT = 49983
heard = []


def serve(listener):
    while True:
        one, peer = listener.accept()
        one.settimeout(1)
        try:
            heard.append([peer[0], one.recv(4096).decode("latin-1")])
            one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        except OSError:
            heard.append([peer[0], ""])
        one.close()


taken = []
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::"), (socket.AF_INET6, "::ffff:127.0.0.1")):
    for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)):
        listener = socket.socket(family)
        try:
            for option in options:
                listener.setsockopt(socket.SOL_SOCKET, option, 1)
            listener.bind((address, PORT))
            listener.listen()
        except OSError:
            continue
        taken.append(address)
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        break
print(f"up {json.dumps(taken)}", flush=True)
time.sleep(float(sys.argv[1]))
print(json.dumps(heard), flush=True)
