"""Objects that are never freed, and whose pages are therefore never written to by whoever only uses them.

Every use of an object counts references in the object. In a process that was forked, or woken from memory that others
share, the first use of each page would copy it.
"""

import ctypes
import gc
import sys
import types

# What only interpreters with such objects count; `None` is one.
IMMORTAL = 0xFFFFFFFF


def everything():
    """Every object that can be reached from those that the collector knows, once."""
    found = {}
    waiting = gc.get_objects()
    while waiting:
        one = waiting.pop()
        if id(one) in found:
            continue
        found[id(one)] = one
        waiting.extend(gc.get_referents(one))
        if isinstance(one, types.CodeType):
            # These the collector does not ask.
            waiting.extend((one.co_consts, one.co_names, one.co_name, one.co_qualname, one.co_filename))
            waiting.extend((one.co_code, one.co_linetable, one.co_exceptiontable, one.co_varnames, one.co_freevars))
    return found


def settle():
    """What is here now stays, and neither its use nor the collector writes to it."""
    gc.collect()
    make_all()
    gc.freeze()


def make_all():
    """Makes all objects there are immortal, where the interpreter has such objects. Returns how many."""
    if sys.implementation.name != "cpython" or sys.getrefcount(None) != IMMORTAL or sys.maxsize < 1 << 32:
        return 0
    count = ctypes.c_ssize_t
    found = everything()
    # The first word of every object is its count.
    for address in found:
        count.from_address(address).value = IMMORTAL
    return len(found)
