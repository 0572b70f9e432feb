"""Names that are not files: abstract sockets, System V and POSIX objects, keyrings.

usage: shared_names.py offer NAME: keeps things under a name until its input ends; prints `up` first.
       shared_names.py take NAME: tries to reach them.
"""

import ctypes
import os
import socket
import sys

from attack import X86, attempt, check, main, syscall

LIBC = ctypes.CDLL(None, use_errno=True)
LIBRT = LIBC
ROLE, NAME = sys.argv[1:3]
KEY = int.from_bytes(NAME.encode()[-3:], "big")
ADD_KEY, KEYCTL = (248, 250) if X86 else (217, 219)


def offer():
    stream = socket.socket(socket.AF_UNIX)
    stream.bind("\0" + NAME)
    stream.listen()
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagram.bind("\0" + NAME + "-datagram")
    shared = check(LIBC.shmget(KEY, 4096, 0o1666))
    queue = check(LIBC.msgget(KEY, 0o1666))
    semaphores = check(LIBC.semget(KEY, 1, 0o1666))
    attributes = (ctypes.c_long * 8)(0, 1, 16)
    posix = LIBC.mq_open(f"/{NAME}".encode(), os.O_CREAT | os.O_RDWR, 0o666, attributes)
    try:
        syscall(ADD_KEY, b"user", NAME.encode(), b"secret", 6, -4)
    except OSError:
        pass
    print("up", flush=True)
    sys.stdin.read()
    LIBC.shmctl(shared, 0, None)
    LIBC.msgctl(queue, 0, None)
    LIBC.semctl(semaphores, 0, 0)
    if posix >= 0:
        LIBC.mq_unlink(f"/{NAME}".encode())
    try:
        key = syscall(KEYCTL, 10, -4, b"user", NAME.encode(), 0)
        syscall(KEYCTL, 9, key, -4)
    except OSError:
        pass


@attempt("an abstract socket")
def abstract():
    with socket.socket(socket.AF_UNIX) as one:
        one.connect("\0" + NAME)
    return "connected"


@attempt("an abstract datagram socket")
def abstract_datagram():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.connect("\0" + NAME + "-datagram")
        one.send(b"x")
    return "sent"


@attempt("names of abstract sockets")
def names():
    with open("/proc/net/unix") as file:
        return NAME in file.read() and "listed"


@attempt("System V shared memory")
def shared_memory():
    return check(LIBC.shmget(KEY, 0, 0)) >= 0 and "found"


@attempt("System V messages")
def messages():
    return check(LIBC.msgget(KEY, 0)) >= 0 and "found"


@attempt("System V semaphores")
def semaphores():
    return check(LIBC.semget(KEY, 0, 0)) >= 0 and "found"


@attempt("a POSIX message queue")
def posix_queue():
    return check(LIBC.mq_open(f"/{NAME}".encode(), os.O_RDWR)) >= 0 and "opened"


@attempt("a key of the user's keyring")
def key():
    return syscall(KEYCTL, 10, -4, b"user", NAME.encode(), 0) > 0


if ROLE == "offer":
    offer()
else:
    main()
