"""Runs a kernel of ipykernel in a process that was forked for it: nothing is looked for, nothing is written to files."""

import gc
import logging
import sys

from ipykernel.kernelapp import IPKernelApp


class App(IPKernelApp):
    connection = {}

    def load_config_file(self, *args, **kwargs):
        pass

    def init_connection_file(self):
        self.load_connection_info(self.connection)

    def write_connection_file(self):
        pass

    def log_connection_info(self):
        pass

    def init_crash_handler(self):
        pass

    def init_pdb(self):
        pass

    def init_poller(self):
        # The process that forks kernels sees to it that they end with it.
        pass


def run(kernel_class, connection, ready, config=None):
    app = App.instance(kernel_class=kernel_class, log_level=logging.ERROR, **({"config": config} if config else {}))
    app.connection = connection
    app.initialize([])
    # What is slow to be read waits in memory; it is never dropped.
    app.iopub_socket.sndhwm = 0
    # What the kernel itself is made of is never collected: to look at it would copy pages that are shared.
    gc.freeze()
    ready()
    app.start()
    sys.exit(0)
