"""Makes, links, renames and removes, without end. usage: churn.py DIRECTORY_OF_THE_HOST"""

import os
import sys

LOOT = sys.argv[1]
base = f"/srv/churn-{os.getpid()}"
os.makedirs(base)
os.chdir(base)
number = 0
while True:
    number += 1
    name = f"n{number % 500}"
    try:
        if number % 3 == 0:
            os.mkdir(name)
        elif number % 3 == 1:
            os.symlink(LOOT, name)
        else:
            os.rename(f"n{(number * 7) % 500}", name)
        if number % 5 == 0:
            os.rmdir(f"n{(number * 11) % 500}")
    except OSError:
        pass
