"""Runs a kernel that nobody forks: for other programs that start kernels by their description, such as JupyterLab."""

import importlib
import json
import sys

if __name__ == "__main__":
    name, connection_file = sys.argv[1:]
    with open(connection_file) as described:
        connection = json.load(described)
    importlib.import_module(name).run(connection, lambda: None)
