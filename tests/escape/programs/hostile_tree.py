"""A tree that is unpleasant to walk, to measure and to remove. usage: hostile_tree.py DIRECTORY_OF_THE_HOST"""

import os
import socket
import sys

LOOT = sys.argv[1]
ROOT = "/srv/hostile"
os.makedirs(ROOT)
os.chdir(ROOT)
for n in range(3):
    os.mkdir(f"door{n}")
    os.symlink(LOOT, f"gate{n}")
for n, target in enumerate((LOOT, f"{LOOT}/secret", "/", "..", ".", "/proc/self/root", "/proc/1/cwd", "nowhere", "loop", "x" * 4000)):
    os.symlink(target, f"link{n}")
os.symlink("loop", "loop")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
for n in range(3000):
    with open(f"file{n}", "w") as file:
        file.write("x")
for name in (b"new\nline", b"\xff\xfe", b"-rf", b"--", b"a b", b"*", b"$(id)", b"\x1b[2J", b"x" * 255, "\u202e".encode(), b" "):
    with open(name, "w"):
        pass
for name in ("none", "readonly"):
    os.makedirs(f"{name}/inner")
    os.chmod(name, 0 if name == "none" else 0o555)
with open("huge", "wb") as file:
    file.truncate(1 << 40)
for n in range(200):
    os.link("file0", f"hard{n}")
os.chmod("file1", 0o6755)
# Deeper than any path may be long, and than a stack may be deep.
for _ in range(2500):
    os.mkdir("d" * 60)
    os.chdir("d" * 60)
os.symlink(LOOT, "way-out")
