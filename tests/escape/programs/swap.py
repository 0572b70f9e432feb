"""Exchanges two names as fast as it can. usage: swap.py A B"""

import ctypes
import os
import sys

LIBC = ctypes.CDLL(None)
A, B = (name.encode() for name in sys.argv[1:3])
AT_FDCWD, EXCHANGE = -100, 2
print("up", flush=True)
while True:
    for _ in range(1000):
        LIBC.renameat2(AT_FDCWD, A, AT_FDCWD, B, EXCHANGE)
