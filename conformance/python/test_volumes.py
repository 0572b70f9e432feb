"""Volumes: made and removed, their content from outside, and live in several sandboxes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import urllib.error
import urllib.request
import uuid

import pytest
from e2b import (
    AsyncVolume,
    AuthenticationException,
    InvalidArgumentException,
    SandboxException,
    Volume,
    VolumeException,
    VolumeFileType,
    VolumeNotFoundException,
    VolumePathNotFoundException,
)

from flavours import Loop, Waiting
from server import from_environment, kill_every_sandbox

KINDS = {"sync": Volume, "async": Waiting(Loop(), AsyncVolume)}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


def awaited(kind, flavour):
    """An `AsyncVolume` behind something that awaits; the wrapper of sandboxes does not know the class by its module."""
    return kind if flavour == "sync" else Waiting(KINDS["async"]._loop, getattr(kind, "_target", kind))


@pytest.fixture(scope="module")
def volumes(flavour):
    """The entry point: `Volume`, or `AsyncVolume` behind something that awaits."""
    return KINDS[flavour]


@pytest.fixture
def make(volumes, flavour):
    """Makes volumes that belong to one test and are removed after it."""
    made = []

    def make(name: str = ""):
        volume = awaited(volumes.create(name or f"t-{uuid.uuid4()}"), flavour)
        made.append(volume.volume_id)
        return volume

    yield make
    for volume in made:
        volumes.destroy(volume)


def content(volume, method: str, path: str, token: str = "", body: bytes | None = None):
    """A request on content with a token of choice."""
    headers = {"Authorization": f"Bearer {token or volume.token}", "Content-Type": "application/octet-stream"}
    url = f"{os.environ['E2B_VOLUME_API_URL']}/volumecontent/{volume.volume_id}/{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_make_connect_list_look_destroy(volumes, flavour, make):
    volume = make()
    assert uuid.UUID(volume.volume_id) and volume.token
    assert volumes.get_info(volume.volume_id).name == volume.name
    again = awaited(volumes.connect(volume.volume_id), flavour)
    assert again.name == volume.name and again.token != volume.token
    assert volume.volume_id in [info.volume_id for info in volumes.list()]
    assert volumes.destroy(volume.volume_id) is True
    assert volumes.destroy(volume.volume_id) is False
    with pytest.raises(VolumeNotFoundException):
        volumes.get_info(volume.volume_id)
    assert volume.volume_id not in [info.volume_id for info in volumes.list()]
    with pytest.raises(VolumePathNotFoundException):
        again.get_info("/")
    # The name is free again at once.
    assert make(volume.name).volume_id != volume.volume_id


def test_names(volumes, make):
    name = make().name
    with pytest.raises(VolumeException) as refused:
        volumes.create(name)
    assert f"Volume with name '{name}' already exists" in str(refused.value)
    for bad in ("", "a b", "a/b", "..", "ä", "a" * 256):
        with pytest.raises(VolumeException):
            volumes.create(bad)
    with pytest.raises(VolumeException, match="Invalid volume ID"):
        volumes.get_info("x")


def test_files(make):
    volume = make()
    stat = volume.write_file("/a.txt", "text ä")
    assert (stat.name, stat.path, stat.type, stat.size) == ("a.txt", "/a.txt", VolumeFileType.FILE, 7)
    assert (stat.uid, stat.gid, stat.mode) == (0, 0, 0o644)
    assert volume.read_file("a.txt") == "text ä"
    assert volume.exists("/a.txt") and not volume.exists("/b.txt")
    with pytest.raises(VolumeException):
        volume.write_file("/a.txt", "other")
    stat = volume.write_file("/a.txt", b"\x00\xff", uid=1000, gid=1001, mode=0o600, force=True)
    assert (stat.uid, stat.gid, stat.mode, stat.size) == (1000, 1001, 0o600, 2)
    assert volume.read_file("/a.txt", format="bytes") == b"\x00\xff"
    volume.write_file("/empty", b"")
    assert volume.read_file("/empty", format="bytes") == b""
    volume.remove("/a.txt")
    for missing in (lambda: volume.read_file("/a.txt"), lambda: volume.remove("/a.txt"), lambda: volume.write_file("/no/such", "x")):
        with pytest.raises(VolumePathNotFoundException):
            missing()
    assert [entry.name for entry in volume.list("/")] == ["empty"]


def test_large_files_are_streamed(flavour, make):
    volume = make()
    data = os.urandom(48 << 20)
    stat = volume.write_file("/large", io.BytesIO(data))
    assert stat.size == len(data)
    # A refusal is told also to a client that first sends everything.
    with pytest.raises(VolumeException, match="already exists"):
        volume.write_file("/large", data)
    assert hashlib.sha256(volume.read_file("/large", format="bytes")).digest() == hashlib.sha256(data).digest()
    if flavour == "sync":
        assert hashlib.sha256(b"".join(volume.read_file("/large", format="stream"))).digest() == hashlib.sha256(data).digest()


def test_directories(make):
    volume = make()
    root = volume.get_info("/")
    assert (root.path, root.type, root.uid, root.gid, root.mode) == ("/", VolumeFileType.DIRECTORY, 1000, 1000, 0o775)
    made = volume.make_dir("/a")
    assert (made.type, made.uid, made.mode) == (VolumeFileType.DIRECTORY, 0, 0o755)
    with pytest.raises(VolumeException):
        volume.make_dir("/a")
    with pytest.raises(VolumePathNotFoundException):
        volume.make_dir("/b/c")
    deep = volume.make_dir("/b/c/d", uid=1000, gid=1000, mode=0o700, force=True)
    assert (deep.path, deep.uid, deep.mode) == ("/b/c/d", 1000, 0o700)
    assert volume.make_dir("/b/c/d", force=True).mode == 0o700
    volume.write_file("/b/c/f", "x")
    with pytest.raises(VolumeException):
        volume.make_dir("/b/c/f", force=True)
    with pytest.raises(VolumeException):
        volume.write_file("/b/c", "x", force=True)
    with pytest.raises(VolumePathNotFoundException):
        volume.read_file("/b/c")
    assert [entry.path for entry in volume.list("/")] == ["/a", "/b"]
    assert [entry.path for entry in volume.list("/b", depth=2)] == ["/b/c", "/b/c/d", "/b/c/f"]
    assert [entry.path for entry in volume.list("/", depth=9)] == ["/a", "/b", "/b/c", "/b/c/d", "/b/c/f"]
    for missing in ("/none", "/b/c/f"):
        with pytest.raises(VolumePathNotFoundException):
            volume.list(missing)
    volume.remove("/b")
    assert [entry.path for entry in volume.list("/")] == ["/a"]
    with pytest.raises(VolumePathNotFoundException):
        volume.remove("/")


def test_metadata(make):
    volume = make()
    volume.write_file("/f", "x")
    assert volume.update_metadata("/f", mode=0o4711).mode == 0o4711
    changed = volume.update_metadata("/f", uid=5)
    assert (changed.uid, changed.gid) == (5, 0)
    assert volume.update_metadata("/f", gid=6).gid == 6
    with pytest.raises(VolumePathNotFoundException):
        volume.update_metadata("/none", uid=1)
    for wrong in ({"uid": 65536}, {"mode": 0o10000}):
        with pytest.raises(VolumeException):
            volume.update_metadata("/f", **wrong)


def test_paths_never_lead_out(make):
    volume = make()
    volume.write_file("../../x", "inside")
    assert [entry.path for entry in volume.list("/../..")] == ["/x"]
    assert volume.read_file("/a/../../x") == "inside"
    with pytest.raises(VolumePathNotFoundException):
        volume.get_info("/etc/passwd")


def test_tokens_open_one_volume(make):
    one, other = make(), make()
    assert content(one, "GET", "path?path=/")[0] == 200
    status, body = content(one, "GET", "path?path=/", token=other.token)
    assert status == 403 and json.loads(body)["code"] == "permission_denied"
    for token in ("x", "a.b.c", one.token[:-2], os.environ["E2B_API_KEY"]):
        status, body = content(one, "GET", "dir?path=/", token=token)
        assert status == 401 and json.loads(body)["code"] == "unauthenticated", (status, body)
    for wrong in ("path", "path?path=", "dir?path=/&depth=x", "path?path=%00"):
        status, body = content(one, "GET", wrong)
        assert status == 400 and json.loads(body)["code"] == "invalid_argument", (wrong, status, body)


def test_sandboxes_share_live_and_what_is_written_stays(create, make):
    volume = make()
    first = create(volume_mounts={"/data": volume.name})
    second = create(volume_mounts={"/mnt/deep/shared": volume.name})
    # Writable by the user that commands run as, and no less.
    assert first.commands.run("id -un; stat -c '%u %g %a' /data; echo one > /data/f").stdout == "user\n1000 1000 775\n"
    assert second.commands.run("cat /mnt/deep/shared/f; stat -c %U /mnt/deep/shared/f").stdout == "one\nuser\n"
    second.commands.run("echo two >> /mnt/deep/shared/f")
    second.commands.run("install -o 7 -g 8 -m 640 /dev/null /mnt/deep/shared/g", user="root")
    assert first.commands.run("cat /data/f; stat -c '%u %g %a' /data/g").stdout == "one\ntwo\n7 8 640\n"
    assert volume.read_file("/f") == "one\ntwo\n"
    assert (volume.get_info("/g").uid, volume.get_info("/f").uid) == (7, 1000)
    volume.write_file("/from-outside", "x", uid=1000, gid=1000)
    assert first.commands.run("cat /data/from-outside && rm /data/from-outside").stdout == "x"
    assert [mount for mount in first.get_info().volume_mounts] == [{"name": volume.name, "path": "/data"}]
    first.kill()
    second.kill()
    assert create(volume_mounts={"/data": volume.name}).commands.run("cat /data/f").stdout == "one\ntwo\n"


def test_several_volumes_and_what_a_mount_allows(create, make):
    one, other = make(), make()
    sandbox = create(volume_mounts={"/one": one.name, "/srv/other/": other.name, "/again": one.name})
    assert sandbox.commands.run("echo 1 > /one/f; cat /again/f; ls /srv/other").stdout == "1\n"
    mounts = sandbox.commands.run("grep -E ' (/one|/srv/other) ' /proc/self/mountinfo").stdout.splitlines()
    assert len(mounts) == 2 and all("nosuid" in line and "nodev" in line and " rw" in line for line in mounts), mounts
    # Nothing of the host's path, and nothing beside the directory that is shown.
    assert "soulbox" not in "".join(mounts).split(" - ")[0], mounts
    assert sandbox.commands.run("ls -A /one/..; ls -A /one").stdout.split()[-1] == "f"
    sandbox.commands.run("cp /bin/sh /one/sh && chmod 4755 /one/sh", user="root")
    assert sandbox.commands.run("/one/sh -p -c 'id -u'").stdout == "1000\n"
    with pytest.raises(Exception):
        sandbox.commands.run("mknod /one/null c 1 3 && echo > /one/null", user="root")


def test_mounts_that_cannot_be(create, make):
    name = make().name
    for mounts, reasons in (
        ({"/x": "no-such"}, ["#0: volume 'no-such' not found"]),
        ({"": name, "x": name, "/a/../b": name}, ["#0: path cannot be empty", "#1: path must be absolute", "#2: path must not contain any '.' or '..' components"]),
        ({"/x": name, "/x/": name}, ["#1: path '/x/' is already used"]),
        ({"/": name, "/proc/x": name}, ["#0: path '/' belongs to the sandbox itself", "#1: path '/proc/x' belongs to the sandbox itself"]),
        ({"/x": name, "/x/y": name}, ["#1: path '/x/y' and path '/x' lie in each other"]),
    ):
        with pytest.raises((SandboxException, InvalidArgumentException)) as refused:
            create(volume_mounts=mounts)
        wanted = "invalid mounts:" + "".join(f"\n\t- volume mount {reason}" for reason in reasons)
        assert wanted in str(refused.value), str(refused.value)
    with pytest.raises((SandboxException, InvalidArgumentException)) as refused:
        create(volume_mounts={"/etc/passwd": name})
    assert "a volume cannot be mounted: etc/passwd" in str(refused.value)
    assert create(volume_mounts={"/var/run/x": name}).commands.run("echo x > /run/x/y; cat /var/run/x/y").stdout == "x\n"


def test_what_a_sandbox_puts_there_harms_nobody(create, make):
    volume = make()
    sandbox = create(volume_mounts={"/v": volume.name})
    sandbox.commands.run(
        "cd /v && ln -s /etc/passwd absolute && ln -s ../../../../etc/passwd up && ln -s /proc/self/root proc && "
        "mkfifo pipe && ln -s loop loop && mkdir -p d/e && echo inside > d/e/f && ln -s /d dir && ln -s pipe to-pipe && "
        "python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('/v/socket')\""
    )
    for link in ("/absolute", "/up", "/proc/etc/passwd", "/loop"):
        with pytest.raises(VolumePathNotFoundException):
            volume.read_file(link)
    stat = volume.get_info("/absolute")
    assert (stat.type, stat.target) == (VolumeFileType.SYMLINK, "/etc/passwd")
    assert volume.read_file("/dir/e/f") == "inside\n"
    for waits in ("/pipe", "/to-pipe", "/socket"):
        with pytest.raises(VolumeException):
            volume.read_file(waits)
    assert volume.get_info("/pipe").type == VolumeFileType.UNKNOWN
    with pytest.raises(VolumePathNotFoundException):
        volume.write_file("/proc/tmp/x", "x")
    volume.write_file("/absolute", "in its place", force=True)
    assert volume.read_file("/absolute") == "in its place"
    assert "in its place" not in sandbox.commands.run("cat /etc/passwd").stdout
    with pytest.raises(VolumeException):
        volume.update_metadata("/up", mode=0o777)
    # Deep trees, and ones that are in use.
    sandbox.commands.run("cd /v/d/e && python3 -c \"import os\nfor _ in range(2000): os.mkdir('x'); os.chdir('x')\"")
    handle = sandbox.commands.run("cd /v/d/e && exec sleep 60", background=True)
    volume.remove("/d")
    assert "d" not in [entry.name for entry in volume.list("/", depth=5)]
    handle.kill()
    assert sandbox.commands.run("ls /v | wc -l").stdout.strip() == str(len(volume.list("/")))


def test_a_lease_of_a_sandbox_makes_nobody_wait(create, make):
    volume = make()
    sandbox = create(volume_mounts={"/v": volume.name})
    lease = "import fcntl,os,time\nf=os.open('/v/f',os.O_RDWR|os.O_CREAT)\nfcntl.fcntl(f,fcntl.F_SETLEASE,fcntl.F_WRLCK)\nprint('held',flush=True)\ntime.sleep(60)"
    sandbox.files.write("/tmp/lease.py", "import signal; signal.signal(signal.SIGIO, signal.SIG_IGN)\n" + lease)
    handle = sandbox.commands.run("python3 /tmp/lease.py > /tmp/out", background=True)
    sandbox.commands.run("until grep -q held /tmp/out; do sleep 0.05; done")
    with pytest.raises(Exception):
        volume.read_file("/f", request_timeout=20)
    assert volume.get_info("/f").size == 0
    handle.kill()


def test_a_volume_in_use_can_be_removed(volumes, create, make):
    volume = make()
    sandbox = create(volume_mounts={"/v": volume.name})
    sandbox.commands.run("echo x > /v/f")
    assert volumes.destroy(volume.volume_id) is True
    assert sandbox.commands.run("cat /v/f; echo y > /v/g; cat /v/g").stdout == "x\ny\n"
    with pytest.raises((SandboxException, InvalidArgumentException), match="not found"):
        create(volume_mounts={"/v": volume.name})
    with pytest.raises(VolumePathNotFoundException):
        volume.list("/")


@pytest.mark.seconds(300)
def test_limits_restarts_and_crashes():
    """A server of its own: with small volumes, and to be killed."""
    import host
    from crashing import moved, options
    from e2b import Sandbox

    server = from_environment("volumes", "--volume-size-mib", "32")
    before = host.snapshot(str(server.data_dir))
    server.start()
    opts = options(server)
    at = lambda: {"api_url": server.env["E2B_VOLUME_API_URL"]}  # noqa: E731
    api = {name: opts[name] for name in ("api_url", "api_key")}
    try:
        volume = Volume.create("small", **api)
        sandbox = Sandbox.create(volume_mounts={"/v": "small"}, **opts)
        volume.write_file("/kept", "kept", **at())
        with pytest.raises(VolumeException, match="the volume is full"):
            volume.write_file("/too-large", b"x" * (40 << 20), **at())
        assert [entry.name for entry in volume.list("/", **at())] == ["kept"]
        full = sandbox.commands.run("df -m --output=size /v | tail -1; dd if=/dev/zero of=/v/full bs=1M 2>&1 | grep -o 'No space left'; stat -c %s /v/full")
        size, said, held = full.stdout.split("\n")[:3]
        assert int(size) <= 32 and said == "No space left" and int(held) <= 32 << 20, full.stdout
        with pytest.raises(VolumeException, match="the volume is full"):
            volume.write_file("/more", b"x" * (1 << 20), **at())
        sandbox.commands.run("rm /v/full; echo before > /v/log; sync /v/log")
        server.kill()
        server.start()
        # The sandbox and its volume live on; the new server finds the one device that the volume has.
        sandbox = moved(sandbox, server)
        opts, api = options(server), {"api_url": server.env["E2B_API_URL"], "api_key": server.env["E2B_API_KEY"]}
        assert sandbox.commands.run("echo after >> /v/log; cat /v/log").stdout == "before\nafter\n"
        volume = Volume.connect(volume.volume_id, **api)
        assert volume.read_file("/log", **at()) == "before\nafter\n"
        other = Sandbox.create(volume_mounts={"/w": "small"}, **opts)
        assert other.commands.run("cat /w/log; echo other > /w/other").stdout == "before\nafter\n"
        assert sandbox.commands.run("cat /v/other").stdout == "other\n"
        assert Sandbox.get_info(sandbox.sandbox_id, **opts).volume_mounts == [{"name": "small", "path": "/v"}]
        kill_every_sandbox(server.env)
        assert server.stop() == 0
        server.start()
        api = {"api_url": server.env["E2B_API_URL"], "api_key": server.env["E2B_API_KEY"]}
        volume = Volume.connect(volume.volume_id, **api)
        assert volume.read_file("/other", **at()) == "other\n"
        assert Volume.destroy(volume.volume_id, **api) is True
        kill_every_sandbox(server.env)
    finally:
        if not server.alive():
            server.start()
        kill_every_sandbox(server.env)
        server.stop()
        left = host.leaks(before, str(server.data_dir))
        images = list((server.data_dir / "volumes").iterdir())
        server.remove()
    assert left == {} and images == []
