"""What is paused for long goes to disk and comes back, whatever happens to the server, the machine and the disk meanwhile."""

from __future__ import annotations

import json
import shutil
import sqlite3

import pytest
from e2b import Sandbox, Template, Volume, wait_for_url

from counter import COUNTER, counter, needs_criu, same_process, told
from crashing import call, options
from machine import reboot
from server import Server, from_environment, kill_every_sandbox, wait_until

AT_ONCE = ("--save-paused-after-seconds", "0", "--hibernate-after-seconds", "0")

pytestmark = needs_criu


@pytest.fixture
def quick():
    """A server on which what is paused goes to disk at once."""
    server = from_environment("memory", *AT_ONCE)
    server.start()
    yield server
    if not server.alive():
        server.start()
    kill_every_sandbox(server.env)
    assert server.stop() == 0
    server.remove()


def is_away(server, sandbox) -> bool:
    """Its memory is on disk, and nothing of it runs."""
    with sqlite3.connect(f"file:{server.data_dir}/soulbox.db?mode=ro", uri=True) as database:
        found = database.execute("SELECT memory FROM sandboxes WHERE id = ?", [sandbox.sandbox_id]).fetchone()
    return bool(found and found[0]) and not (server.data_dir / "sandboxes" / sandbox.sandbox_id).exists()


def test_what_is_paused_for_long_takes_no_memory_and_comes_back(quick):
    sandbox = Sandbox.create(timeout=300, **options(quick))
    before = counter(sandbox)
    for round in range(3):
        sandbox.files.write("/home/user/round", str(round))
        sandbox.pause()
        wait_until("it on disk", 30, lambda: is_away(quick, sandbox))
        if round == 1:
            quick.kill()
            quick.start()
        sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=300, **options(quick))
        assert same_process(before, told(sandbox))
        assert sandbox.files.read("/home/user/round") == str(round)
        # What brings it back leaves nothing inside.
        assert sandbox.commands.run("ls -A /dev/shm").stdout == ""
        assert list((quick.data_dir / "memory").iterdir()) == []


def test_traffic_brings_it_back_from_disk(quick):
    sandbox = Sandbox.create(timeout=300, lifecycle={"on_timeout": "pause", "auto_resume": True}, **options(quick))
    before = counter(sandbox)
    sandbox.pause()
    wait_until("it on disk", 30, lambda: is_away(quick, sandbox))
    assert same_process(before, told(sandbox))


def test_it_may_be_started_anew_or_killed_instead(quick):
    sandbox = Sandbox.create(timeout=300, **options(quick))
    counter(sandbox)
    sandbox.files.write("/home/user/kept.txt", "kept")
    sandbox.pause()
    wait_until("it on disk", 30, lambda: is_away(quick, sandbox))
    status, answer = call(quick, "POST", f"/v2/sandboxes/{sandbox.sandbox_id}/connect", {"timeout": 60, "memory": False})
    assert status in (200, 201), answer
    sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=300, **options(quick))
    assert sandbox.files.read("/home/user/kept.txt") == "kept"
    assert sandbox.commands.run("pgrep -f counter.p[y] || echo none").stdout == "none\n"
    assert list((quick.data_dir / "memory").iterdir()) == []
    sandbox.pause()
    wait_until("it on disk", 30, lambda: is_away(quick, sandbox))
    assert sandbox.kill()
    assert list((quick.data_dir / "memory").iterdir()) == []


def paused(server: Server) -> tuple[Sandbox, list]:
    sandbox = Sandbox.create(timeout=300, **options(server))
    before = counter(sandbox)
    sandbox.files.write("/home/user/kept.txt", "kept")
    sandbox.pause()
    return sandbox, before


def messages(server: Server, sandbox: Sandbox) -> list[str]:
    logs = call(server, "GET", f"/v2/sandboxes/{sandbox.sandbox_id}/logs")[1]
    return [entry["message"] for entry in json.loads(logs)["logs"]]


def test_it_survives_a_restart_of_the_machine(quick):
    sandbox, before = paused(quick)
    wait_until("it on disk", 30, lambda: is_away(quick, sandbox))
    quick.kill()
    reboot(quick)
    quick.start()
    again = Sandbox.connect(sandbox.sandbox_id, timeout=300, **options(quick))
    assert same_process(before, told(again))
    assert again.files.read("/home/user/kept.txt") == "kept"


def test_a_stop_waits_until_it_is_on_disk(quick):
    assert quick.stop() == 0
    quick.arguments = ("--hibernate-on-stop-seconds", "60")
    quick.start()
    sandbox, before = paused(quick)
    assert not is_away(quick, sandbox)
    assert quick.stop() == 0
    assert is_away(quick, sandbox)
    quick.start()
    again = Sandbox.connect(sandbox.sandbox_id, timeout=300, **options(quick))
    assert same_process(before, told(again))


def test_what_stays_says_why(quick):
    sandbox = Sandbox.create(timeout=300, **options(quick))
    before = counter(sandbox)
    sandbox.commands.run("echo x > /dev/shm/x")
    sandbox.pause()
    wait_until("the log says so", 30, lambda: any("stays in memory" in one and "/dev/shm" in one for one in messages(quick, sandbox)))
    again = Sandbox.connect(sandbox.sandbox_id, timeout=300, **options(quick))
    assert same_process(before, told(again))
    assert list((quick.data_dir / "memory").iterdir()) == []


def test_memory_that_is_damaged_is_named_and_the_files_are_there(quick):
    sandbox, _ = paused(quick)
    wait_until("it on disk", 30, lambda: is_away(quick, sandbox))
    (memory,) = (quick.data_dir / "memory").iterdir()
    shutil.rmtree(memory / "images")
    path = f"/v2/sandboxes/{sandbox.sandbox_id}/connect"
    status, answer = call(quick, "POST", path, {"timeout": 60})
    assert status == 409 and "memory: false" in json.loads(answer)["message"], answer
    status, answer = call(quick, "POST", path, {"timeout": 60, "memory": False})
    assert status == 201, answer
    again = Sandbox.connect(sandbox.sandbox_id, timeout=300, **options(quick))
    assert again.files.read("/home/user/kept.txt") == "kept"
    again.pause()
    wait_until("it on disk", 30, lambda: is_away(quick, again))
    # And where nothing is left of it, the next server says so.
    quick.kill()
    shutil.rmtree(quick.data_dir / "memory")
    quick.start()
    assert any("was lost, its files are kept" in one for one in messages(quick, sandbox))
    again = Sandbox.connect(sandbox.sandbox_id, timeout=300, **options(quick))
    assert again.files.read("/home/user/kept.txt") == "kept"


# Appends to a file on a volume that it has opened once, and has it mapped, too.
WRITER = """
import mmap, time
file = open("/data/log", "w+b", buffering=0)
file.write(bytes(4096))
mapped = mmap.mmap(file.fileno(), 4096)
for n in range(1 << 30):
    mapped[:8] = n.to_bytes(8)
    file.write(b"x")
    time.sleep(0.01)
"""


def test_what_it_has_open_on_a_volume_goes_on(quick):
    volume = Volume.create("open", **options(quick))
    sandbox = Sandbox.create(timeout=300, volume_mounts={"/data": volume}, **options(quick))
    sandbox.files.write("/home/user/writer.py", WRITER)
    sandbox.commands.run("python3 writer.py", background=True, timeout=0)
    written = "head -c 8 /data/log | od -An -tx8 --endian=big; stat -c %s /data/log"
    wait_until("it has begun", 10, lambda: sandbox.files.exists("/data/log"))

    def grows(one: Sandbox) -> bool:
        before = one.commands.run(written).stdout.split()
        return wait_until("it goes on", 10, lambda: all(a < b for a, b in zip(before, one.commands.run(written).stdout.split())))

    assert grows(sandbox)
    sandbox.pause()
    wait_until("it on disk", 30, lambda: is_away(quick, sandbox))
    quick.kill()
    quick.start()
    again = Sandbox.connect(sandbox.sandbox_id, timeout=300, **options(quick))
    assert grows(again)
    # Nothing was done twice: a step after its memory was written would be in the file and not in its count.
    counted = "head -c 8 /data/log | od -An -tu8 --endian=big"
    before, size, after = (int(line) for line in again.commands.run(f"{counted}; stat -c %s /data/log; {counted}").stdout.split())
    assert before <= size - 4096 <= after + 1, (before, size, after)
    [fork] = again.fork(timeout=60)
    assert grows(fork)
    again.kill()
    assert grows(fork)


def test_a_template_whose_memory_is_gone_starts_anew(quick, tmp_path):
    (tmp_path / "counter.py").write_text(COUNTER)
    start = ("python3 counter.py", wait_for_url("http://localhost:8000"))
    template = Template(file_context_path=str(tmp_path)).from_template("base").copy("counter.py", "counter.py").set_start_cmd(*start)
    Template.build(template, "warm", cpu_count=1, memory_mb=512, **options(quick))
    first, second = (told(Sandbox.create("warm", timeout=60, **options(quick))) for _ in range(2))
    assert first[2] == second[2]
    for memory in (quick.data_dir / "memory").iterdir():
        shutil.rmtree(memory)
    anew = told(Sandbox.create("warm", timeout=60, **options(quick)))
    assert anew[2] != first[2]
