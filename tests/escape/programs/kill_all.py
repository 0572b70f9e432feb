"""Ends every process that it is allowed to end."""

import os
import signal

os.kill(-1, signal.SIGKILL)
