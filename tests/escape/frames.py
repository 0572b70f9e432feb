"""HTTP/2 by hand, as far as an attacker needs it: frames, and header blocks without any compression (RFC 9113, RFC 7541)."""

from __future__ import annotations

import socket
import struct
import threading

from raw import Wire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 3, 4, 7, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def text(value: bytes) -> bytes:
    """A string literal; lengths of 127 and more take several bytes."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, out = len(value) - 127, [127]
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    return bytes([*out, rest]) + value


def block(fields: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"\0" + text(name) + text(value) for name, value in fields)


def request(fields: list[tuple[bytes, bytes]], body: bytes | None = None, trailers: list[tuple[bytes, bytes]] | None = None, port: int | None = None) -> int | None:
    """Sends one request on a connection of its own; its status, or None when it or the connection was refused."""
    with Wire(5) as wire:
        if port is not None:
            wire.socket.close()
            wire.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        last = body is None and trailers is None
        data = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS | (END_STREAM if last else 0), 1, block(fields))
        if body is not None:
            data += frame(DATA, 0 if trailers else END_STREAM, 1, body)
        if trailers:
            data += frame(HEADERS, END_HEADERS | END_STREAM, 1, block(trailers))
        try:
            wire.send(data)
            while True:
                head = wire.exactly(9)
                kind, flags, stream = head[3], head[4], struct.unpack("!I", head[5:])[0]
                payload = wire.exactly(int.from_bytes(head[:3], "big"))
                if kind == HEADERS and stream == 1:
                    return status(payload)
                if kind == GOAWAY or (kind == RESET and stream == 1):
                    return None
                if kind == SETTINGS and not flags & ACK:
                    wire.send(frame(SETTINGS, ACK, 0))
        except (ConnectionError, TimeoutError):
            return None


# Static table of RFC 7541: the statuses that have an index of their own.
_INDEXED = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
_DIGITS = {0b00000: "0", 0b00001: "1", 0b00010: "2", 0b011001: "3", 0b011010: "4", 0b011011: "5", 0b011100: "6", 0b011101: "7", 0b011110: "8", 0b011111: "9"}


def status(payload: bytes) -> int:
    """The status of a response, which is its first field: indexed, or a literal with the name's index."""
    # A change of the table's size may stand before it.
    while payload[0] & 0xE0 == 0x20:
        payload = payload[1:]
    if payload[0] & 0x80:
        return _INDEXED[payload[0] & 0x7F]
    length = payload[1]
    value = payload[2 : 2 + (length & 0x7F)]
    return int(_huffman(value) if length & 0x80 else value)


def _huffman(data: bytes) -> str:
    """Digits only, which have five or six bits each."""
    bits, out, at = "".join(f"{byte:08b}" for byte in data), "", 0
    while len(out) < 3:
        for width in (5, 6):
            digit = _DIGITS.get(int(bits[at : at + width], 2))
            if digit is not None and (width == 5) == (digit in "012"):
                out, at = out + digit, at + width
                break
        else:
            raise ValueError(f"not digits: {data!r}")
    return out


class NaiveFront:
    """A proxy as it should not be: it pastes the fields of HTTP/2 into the lines of HTTP/1.1 as they are. Understands what
    `request` sends, and answers by closing."""

    def __init__(self, backend: int):
        self.backend = backend
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _serve(self) -> None:
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            with one, one.makefile("rb") as file, socket.create_connection(("127.0.0.1", self.backend)) as behind:
                behind.sendall(translated(file))
                behind.settimeout(0.1)
                try:
                    while behind.recv(4096):
                        pass
                except OSError:
                    pass


def translated(file) -> bytes:
    """One HTTP/2 request as the text of HTTP/1.1, nothing checked."""
    file.read(len(PREFACE))
    fields, body = [], b""
    while True:
        head = file.read(9)
        payload = file.read(int.from_bytes(head[:3], "big"))
        if head[3] == HEADERS:
            fields += unblock(payload)
        elif head[3] == DATA:
            body += payload
        if head[3] in (HEADERS, DATA) and head[4] & END_STREAM:
            break
    last = dict(fields)
    lines = [last.get(b":method", b"GET") + b" " + last.get(b":path", b"/") + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in fields if not name.startswith(b":")]
    if body and b"content-length" not in last and b"transfer-encoding" not in last:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def unblock(payload: bytes) -> list[tuple[bytes, bytes]]:
    """The inverse of `block`."""
    fields, at = [], 0

    def take() -> bytes:
        nonlocal at
        length, shift = payload[at], 0
        at += 1
        if length == 127:
            while True:
                byte = payload[at]
                at += 1
                length += (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
        at += length
        return payload[at - length : at]

    while at < len(payload):
        at += 1
        fields.append((take(), take()))
    return fields
