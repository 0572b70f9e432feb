"""The Python kernel: ipykernel, with the shell already made by the process that forks it."""

import os

# Before anything that draws is loaded: figures go to the notebook.
os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
# Its usual one counts on zeros where memory was given back, which memory on a file has not.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from ipykernel.ipkernel import IPythonKernel
from ipykernel.zmqshell import ZMQInteractiveShell
from traitlets.config import Config

from soulbox_kernels import app, fresh, shown

# What analyses begin with. What is not installed is left out.
PRELOADED = (
    "numpy",
    "pandas",
    "pandas.io.formats.format",
    "matplotlib",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "PIL.Image",
    "PIL.PngImagePlugin",
    "scipy.stats",
    "sklearn.linear_model",
    "seaborn",
    "json",
    "asyncio",
    "tornado.platform.asyncio",
    "IPython.core.debugger",
    "IPython.core.completerlib",
    "IPython.extensions.storemagic",
    "encodings.idna",
    "subprocess",
    "urllib.request",
)


def configuration():
    config = Config()
    # The history of a sandbox that nobody types in is a database that nobody reads.
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.cache_size = 1000
    config.InlineBackend.figure_formats = {"png"}
    return config


def preload():
    import importlib

    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError:
            pass


class Kernel(IPythonKernel):
    """Takes the shell that is there instead of making one."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.shell.parent = self
        self.shell.kernel = self


CONFIG = configuration()
preload()
SHELL = ZMQInteractiveShell.instance(config=CONFIG)
shown.install(SHELL)


def run(connection, ready):
    fresh.reseed()
    app.run(Kernel, connection, ready, CONFIG)
