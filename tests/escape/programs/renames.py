"""Without any mount: renaming and replacing what the runtime relies on by name."""

import os

from attack import add, main


def rename(path):
    os.rename(path, f"{path}-moved")
    os.rename(f"{path}-moved", path)
    return "renamed"


for path in ("/proc", "/proc/sys", "/dev", "/dev/pts", "/dev/shm", "/sys", "/proc/kcore", "/proc/keys"):
    add(f"rename {path}", rename, path)
    add(f"remove {path}", lambda path=path: os.rmdir(path) or "removed")
main()
