"""JupyterLab on a socket that listens already: `serve.py DESCRIPTOR`."""

import socket
import subprocess
import sys

from jupyter_server.serverapp import ServerApp
from jupyterlab.labapp import LabApp
from traitlets.config import Config

listener = socket.socket(fileno=int(sys.argv[1]))


class Server(ServerApp):
    def _find_http_port(self):
        self.port = listener.getsockname()[1]

    def _bind_http_server_tcp(self):
        listener.setblocking(False)
        self.http_server.add_socket(listener)
        return True


def configuration():
    config = Config()
    config.IdentityProvider.token = subprocess.run(["jupyter-token"], check=True, capture_output=True, text=True).stdout
    config.ServerApp.ip = "0.0.0.0"
    config.ServerApp.root_dir = "/home/user"
    config.ServerApp.open_browser = False
    # Whoever is let through by the edge may come under any name; the token decides.
    config.ServerApp.allow_remote_access = True
    # Nothing here reaches the place where news and updates are asked for.
    config.LabApp.news_url = None
    config.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
    return config


class Lab(LabApp):
    @classmethod
    def make_serverapp(cls, **more):
        return Server.instance(config=configuration(), **more)


if __name__ == "__main__":
    Lab.launch_instance(argv=[])
