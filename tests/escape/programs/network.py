"""Packets that a sandbox must not make: raw and packet sockets, ARP, false sources, interfaces, routes, filters.

usage: network.py ADDRESS: of a neighbour, to be taken.
"""

import fcntl
import os
import socket
import struct
import sys

from attack import add, attempt, main

NEIGHBOUR = sys.argv[1]


def outward():
    """The interface that leads out."""
    with open("/proc/net/route") as file:
        names = [fields[0] for fields in map(str.split, file) if fields[1] == "00000000"]
    return (names or ["lo"])[0].encode()


INTERFACE = outward()
SIOCSIFADDR, SIOCSIFFLAGS, SIOCSIFHWADDR, SIOCSARP, SIOCSIFMTU = 0x8916, 0x8914, 0x8924, 0x8955, 0x8922
TUNSETIFF = 0x400454CA


def udp():
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def sockaddr(address, port=0):
    return struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), socket.inet_aton(address))


def request(number, payload):
    with udp() as one:
        fcntl.ioctl(one, number, payload)
    return "done"


@attempt("an ARP reply by a packet socket")
def arp_reply():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as one:
        one.bind(("lo", 0))
        one.send(b"\xff" * 6 + b"\x02" * 6 + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 2) + b"\x02" * 6 + socket.inet_aton(NEIGHBOUR) + b"\xff" * 6 + bytes(4))
    return "sent"


@attempt("listening to all packets")
def sniff():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)):
        return "open"


@attempt("an IP packet with a false source")
def forged():
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 255) as one:
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 1, 0, 64, 17, 0, socket.inet_aton(NEIGHBOUR), socket.inet_aton("127.0.0.1"))
        one.sendto(header + struct.pack("!HHHH", 1, 9, 8, 0), ("127.0.0.1", 0))
    return "sent"


@attempt("an IPv6 packet with a false source")
def forged6():
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58) as one:
        one.setsockopt(41, 36, 1)
    return "open"


@attempt("a false source by IP_TRANSPARENT")
def transparent():
    with udp() as one:
        one.setsockopt(socket.SOL_IP, 19, 1)
        one.bind((NEIGHBOUR, 0))
    return "bound"


@attempt("a false source by IP_FREEBIND, sent")
def freebind():
    """Binding to a foreign address is allowed to everybody; sending from it is not, unless it is one's own."""
    with udp() as one:
        one.setsockopt(socket.SOL_IP, 15, 1)
        one.bind((NEIGHBOUR, 0))
        one.connect(("11.22.33.44", 9))
        one.send(b"x")
    return "sent"


@attempt("a false source by IP_PKTINFO")
def pktinfo():
    with udp() as one:
        information = struct.pack("=i4s4s", 0, socket.inet_aton(NEIGHBOUR), bytes(4))
        one.sendmsg([b"x"], [(socket.SOL_IP, 8, information)], 0, ("127.0.0.1", 9))
    return "sent"


@attempt("source routing")
def source_route():
    with udp() as one:
        one.setsockopt(socket.SOL_IP, 4, bytes([131, 7, 4]) + socket.inet_aton("127.0.0.1") + b"\0")
    return "set"


add("take an address by ioctl", lambda: request(SIOCSIFADDR, struct.pack("16s16s", INTERFACE + b":9", sockaddr(NEIGHBOUR))))
add("an entry in the ARP table", lambda: request(SIOCSARP, sockaddr(NEIGHBOUR) + struct.pack("=H14s", 1, b"\x02" * 6) + struct.pack("=i16s16s", 4, bytes(16), INTERFACE)))
add("change the hardware address", lambda: request(SIOCSIFHWADDR, struct.pack("16sH14s", b"escape0", 1, b"\x02" * 6)))
add("interface up or down", lambda: request(SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", 1 | 8 | 64)))
add("change the MTU", lambda: request(SIOCSIFMTU, struct.pack("16si12x", b"lo", 65536)))


@attempt("a tunnel device")
def tunnel():
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", b"escape%d", 0x1001))
    return "made"


@attempt("a tunnel device from a node of one's own")
def own_tunnel():
    path = f"/tmp/tun-{os.getpid()}"
    os.mknod(path, 0o20600, os.makedev(10, 200))
    fd = os.open(path, os.O_RDWR)
    os.unlink(path)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", b"escape%d", 0x1001))
    return "made"


def netlink(kind, flags, body, family=0):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as one:
        one.send(struct.pack("=IHHII", 16 + len(body), kind, flags | 5, 1, 0) + body)
        answer = one.recv(4096)
    code = struct.unpack("=i", answer[16:20])[0]
    if code:
        raise OSError(-code, os.strerror(-code))
    return "done"


def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


CREATE = 0x400 | 0x200
IN = socket.inet_aton(NEIGHBOUR)
add("netlink: an address", lambda: netlink(20, CREATE, struct.pack("=BBBBI", 2, 32, 0, 0, 1) + attribute(2, IN) + attribute(1, IN)))
add("netlink: a neighbour", lambda: netlink(28, CREATE, struct.pack("=BBHiHBB", 2, 0, 0, 1, 0x80, 0, 0) + attribute(1, IN) + attribute(2, b"\x02" * 6)))
add("netlink: a route", lambda: netlink(24, CREATE, struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 4, 253, 1, 0) + attribute(1, socket.inet_aton("9.9.9.0")) + attribute(4, struct.pack("=I", 1))))
add("netlink: an interface", lambda: netlink(16, CREATE, struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0) + attribute(3, b"escape2\0") + attribute(18, attribute(1, b"veth"))))
add("netlink: a rule", lambda: netlink(32, CREATE, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0)))
add("netlink: a queue discipline", lambda: netlink(36, CREATE, struct.pack("=BBHiIII", 0, 0, 0, 1, 0x10000, 0xFFFFFFFF, 0) + attribute(1, b"pfifo\0")))
add("nft: the tables", lambda: netlink(0xA01, 0x300, struct.pack("=BBH", 2, 0, 0), 12))


@attempt("end the connections of others")
def destroy():
    """SOCK_DESTROY by the netlink of socket diagnosis."""
    return netlink(21, 0, struct.pack("=BBBBI", 2, 6, 0, 0, 0xFFF) + bytes(48), 4)


@attempt("the other side's interface")
def other_side():
    """Interfaces that are not this namespace's, by their number."""
    with open("/proc/net/dev") as file:
        names = [line.split(":")[0].strip() for line in file if ":" in line]
    return [name for name in names if name.startswith("sb") or name.startswith("cfi")]


main()
