"""Random numbers that are nobody else's.

A kernel is forked from a process that has its libraries loaded, or woken from memory that others were woken from, too.
Without this all of them would draw the same numbers.
"""

import os
import random
import sys


def reseed():
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(int.from_bytes(os.urandom(4), "little"))
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.seed()
