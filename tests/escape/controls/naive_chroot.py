"""A container as it should not be: a chroot with the host's processes, an open directory and the host's rights.

usage: naive_chroot.py ROOT PROGRAM ARGUMENTS...; ROOT is an empty directory, in a mount namespace of the caller.
"""

import os
import subprocess
import sys

root, program, *arguments = sys.argv[1:]
for name in ("proc", "tmp"):
    os.mkdir(f"{root}/{name}")
subprocess.run(["mount", "-t", "proc", "proc", f"{root}/proc"], check=True)
# The defence that is missing: this one should have been closed.
os.dup2(os.open("/", os.O_RDONLY | os.O_DIRECTORY), 7)
sys.path.insert(0, os.path.dirname(program))
code = compile(open(program).read(), program, "exec")
# Loaded before its file is out of sight.
import attack  # noqa: E402,F401

os.chroot(root)
# And this should have been a directory of the new root.
os.chdir("/proc/self/fd/7")
sys.argv = [program, *arguments]
exec(code, {"__name__": "__main__"})
