"""Programs that suites run inside a sandbox. Python's standard library only."""

# Answers every GET with what it saw; /stream sends events without end; /slow waits; /big sends bytes by request.
HTTP_SERVER = r"""
import http.server, json, sys, time
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path.startswith("/stream"):
            return self.stream()
        if self.path.startswith("/big"):
            return self.big(int(self.path.split("=")[1]))
        body = json.dumps({"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        length = self.headers.get("Content-Length")
        if length is not None:
            body = self.rfile.read(int(length))
        else:
            body = b""
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                body += self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    break
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for n in range(100000):
            self.wfile.write(f"data: {n}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.1)
    def big(self, size):
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        block = bytes(range(256)) * 256
        while size > 0:
            self.wfile.write(block[:size])
            size -= len(block)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Answer)
print("up", flush=True)
server.serve_forever()
"""

# Echoes every WebSocket message with its opcode.
WEBSOCKET_SERVER = r"""
import base64, hashlib, socket, struct, sys, threading
def exactly(f, n):
    data = f.read(n)
    if len(data) < n: raise EOFError
    return data
def serve(c):
    f = c.makefile("rb")
    key = None
    while (line := f.readline().strip()):
        if line.lower().startswith(b"sec-websocket-key:"): key = line.split(b":", 1)[1].strip()
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    while True:
        first, second = exactly(f, 2)
        n = second & 127
        if n == 126: n = struct.unpack("!H", exactly(f, 2))[0]
        elif n == 127: n = struct.unpack("!Q", exactly(f, 8))[0]
        mask = exactly(f, 4); data = exactly(f, n)
        rep = (mask * (n // 4 + 1))[:n]
        data = (int.from_bytes(data, "big") ^ int.from_bytes(rep, "big")).to_bytes(n, "big")
        head = bytes([first]) + (bytes([n]) if n < 126 else struct.pack("!BH", 126, n) if n < 65536 else struct.pack("!BQ", 127, n))
        c.sendall(head + data)
        if first & 15 == 8: return c.close()
s = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("up", flush=True)
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""
