"""Times a kernel of jupyter_client on this host: started from nothing to its first value, and values of a warm one."""

import json
import sys
import time

from jupyter_client.manager import start_new_kernel


def value(client):
    values = []

    def take(message):
        if message["msg_type"] == "execute_result":
            values.append(message["content"]["data"]["text/plain"])

    client.execute_interactive("1+1", output_hook=take, timeout=60)
    assert values == ["2"], values


def timed(work):
    begun = time.perf_counter()
    made = work()
    return (time.perf_counter() - begun) * 1000, made


def started():
    manager, client = start_new_kernel(kernel_name="python3")
    value(client)
    return manager, client


first, warm = [], []
for _ in range(int(sys.argv[1])):
    took, (manager, client) = timed(started)
    first.append(took)
    warm += [timed(lambda: value(client))[0] for _ in range(10)]
    client.stop_channels()
    manager.shutdown_kernel(now=True)
json.dump({"first": first, "warm": warm}, sys.stdout)
