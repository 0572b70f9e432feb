"""Files: reading, writing, directories, names, links, owners, attributes."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from datetime import datetime, timezone

import pytest
from e2b import FileNotFoundException, FileType, InvalidArgumentException, SandboxException

NAMES = ["plain", "with space", "quote'\"", "ünïcödé-漢字-😀", "-dash", "a&b=c%20#?+", "new\nline", ".hidden", "x" * 255, "semi;colon", "back\\slash"]


@pytest.fixture
def files(sandbox):
    return sandbox.files


@pytest.fixture
def place(sandbox):
    """A directory that is one test's."""
    path = f"/home/user/test-{uuid.uuid4().hex[:12]}"
    sandbox.files.make_dir(path)
    yield path
    sandbox.files.remove(path)


def test_text(files, place):
    info = files.write(f"{place}/a.txt", "grüße\n")
    assert (info.path, info.name, info.type) == (f"{place}/a.txt", "a.txt", FileType.FILE)
    assert files.read(f"{place}/a.txt") == "grüße\n"
    assert files.read(f"{place}/a.txt", format="bytes") == "grüße\n".encode()


def test_every_byte(files, place):
    data = bytes(range(256)) * 100
    files.write(f"{place}/bytes", data)
    assert bytes(files.read(f"{place}/bytes", format="bytes")) == data
    assert b"".join(files.read(f"{place}/bytes", format="stream")) == data


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_001])
def test_sizes_with_and_without_compression(files, place, size, gzip):
    data = os.urandom(size)
    files.write(f"{place}/data", data, gzip=gzip)
    assert files.get_info(f"{place}/data").size == size
    assert bytes(files.read(f"{place}/data", format="bytes", gzip=gzip)) == data


@pytest.mark.parametrize("octets", [False, True])
def test_file_objects(files, place, octets):
    data = os.urandom(500_000)
    files.write(f"{place}/io", io.BytesIO(data), use_octet_stream=octets)
    assert bytes(files.read(f"{place}/io", format="bytes")) == data
    files.write(f"{place}/text", io.StringIO("tëxt"), use_octet_stream=octets)
    assert files.read(f"{place}/text") == "tëxt"


def test_iterables_are_streamed(files, place, flavour):
    blocks = [os.urandom(70_000) for _ in range(20)]

    async def later():
        for block in blocks:
            yield block

    files.write(f"{place}/blocks", later() if flavour == "async" else iter(blocks))
    assert bytes(files.read(f"{place}/blocks", format="bytes")) == b"".join(blocks)


def test_sixty_four_mebibytes(sandbox, files, place):
    block = os.urandom(1 << 20)
    files.write(f"{place}/big", io.BytesIO(block * 64), request_timeout=60)
    digest = hashlib.sha256(block * 64).hexdigest()
    assert sandbox.commands.run(f"sha256sum {place}/big").stdout.split()[0] == digest
    back = hashlib.sha256()
    for piece in files.read(f"{place}/big", format="stream"):
        back.update(piece)
    assert back.hexdigest() == digest


def test_stream_may_be_left_early(files, place):
    files.write(f"{place}/long", b"z" * 20_000_000)
    with files.read(f"{place}/long", format="stream") as stream:
        assert next(iter(stream))
    assert files.exists(f"{place}/long")


def test_overwrite_is_shorter(files, place):
    files.write(f"{place}/a", "a long first text")
    files.write(f"{place}/a", "short")
    assert files.read(f"{place}/a") == "short"


def test_parents_are_made(sandbox, files, place):
    files.write(f"{place}/one/two/three.txt", "deep")
    assert files.read(f"{place}/one/two/three.txt") == "deep"
    assert sandbox.commands.run(f"stat -c '%U %a' {place}/one {place}/one/two").stdout == "user 755\nuser 755\n"


def test_many_in_one_request(files, place):
    entries = [{"path": f"{place}/dir {n}/file ü{n}", "data": f"content {n}"} for n in range(20)]
    written = files.write_files(entries)
    assert [info.path for info in written] == [entry["path"] for entry in entries]
    for n in (0, 7, 19):
        assert files.read(f"{place}/dir {n}/file ü{n}") == f"content {n}"
    assert files.write_files([]) == []


def test_many_streamed(files, place):
    entries = [{"path": f"{place}/s{n}", "data": io.BytesIO(bytes([n]) * 1000)} for n in range(5)]
    assert len(files.write_files(entries)) == 5
    assert bytes(files.read(f"{place}/s3", format="bytes")) == b"\x03" * 1000


@pytest.mark.parametrize("name", NAMES)
def test_odd_names(files, place, name):
    path = f"{place}/{name}"
    assert files.write(path, "content").path == path
    assert files.read(path) == "content"
    assert files.exists(path) and files.get_info(path).name == name
    assert name in [entry.name for entry in files.list(place)]
    files.remove(path)
    assert not files.exists(path)


def test_paths_are_resolved(files, place):
    relative = place.removeprefix("/home/user/")
    assert files.write(f"{relative}/r", "relative").path == f"{place}/r"
    assert files.read(f"~/{relative}/r") == "relative"
    assert files.read(f"{place}/r") == "relative"
    with pytest.raises(InvalidArgumentException):
        files.read("~other/file")


def test_missing_file(files, place):
    for call in (
        lambda: files.read(f"{place}/missing"),
        lambda: files.read(f"{place}/missing", format="stream"),
        lambda: files.get_info(f"{place}/missing"),
        lambda: files.list(f"{place}/missing"),
        lambda: files.rename(f"{place}/missing", f"{place}/other"),
    ):
        with pytest.raises(FileNotFoundException):
            call()
    assert files.exists(f"{place}/missing") is False


def test_directory_is_not_a_file(files, place):
    with pytest.raises(InvalidArgumentException):
        files.read(place)
    with pytest.raises(InvalidArgumentException):
        files.write(place, "x")
    files.write(f"{place}/file", "x")
    with pytest.raises(InvalidArgumentException):
        files.list(f"{place}/file")
    with pytest.raises(SandboxException):
        files.write(f"{place}/file/below", "x")


def test_remove(files, place):
    files.write(f"{place}/tree/a/b", "x")
    files.remove(f"{place}/tree")
    assert not files.exists(f"{place}/tree")
    files.remove(f"{place}/tree")


def test_remove_does_not_follow_links(sandbox, files, place):
    files.write(f"{place}/target/kept", "x")
    sandbox.commands.run(f"ln -s {place}/target {place}/link")
    files.remove(f"{place}/link")
    assert files.exists(f"{place}/target/kept")


def test_rename(files, place):
    files.write(f"{place}/old", "content")
    entry = files.rename(f"{place}/old", f"{place}/sub/new")
    assert (entry.path, entry.name, entry.type) == (f"{place}/sub/new", "new", FileType.FILE)
    assert not files.exists(f"{place}/old") and files.read(f"{place}/sub/new") == "content"
    files.write(f"{place}/other", "other")
    files.rename(f"{place}/other", f"{place}/sub/new")
    assert files.read(f"{place}/sub/new") == "other"
    files.make_dir(f"{place}/dir")
    assert files.rename(f"{place}/dir", f"{place}/moved").type == FileType.DIR


def test_make_dir(sandbox, files, place):
    assert files.make_dir(f"{place}/a/b/c") is True
    assert files.make_dir(f"{place}/a/b/c") is False
    assert sandbox.commands.run(f"stat -c '%U:%G %a' {place}/a/b/c").stdout == "user:user 755\n"
    files.write(f"{place}/file", "x")
    with pytest.raises(InvalidArgumentException):
        files.make_dir(f"{place}/file")


def test_list_depth(files, place):
    for path in ("b/inner/deep/file", "a", "c/file"):
        files.write(f"{place}/{path}", "x")
    def relative(depth):
        return [entry.path.removeprefix(f"{place}/") for entry in files.list(place, depth=depth)]

    assert relative(1) == ["a", "b", "c"]
    assert relative(2) == ["a", "b", "b/inner", "c", "c/file"]
    assert relative(9) == ["a", "b", "b/inner", "b/inner/deep", "b/inner/deep/file", "c", "c/file"]
    with pytest.raises(InvalidArgumentException):
        files.list(place, depth=0)
    kinds = {entry.name: entry.type for entry in files.list(place)}
    assert kinds == {"a": FileType.FILE, "b": FileType.DIR, "c": FileType.DIR}


def test_list_of_a_big_directory(sandbox, files, place):
    sandbox.commands.run(f"cd {place} && seq -f 'f%g' 3000 | xargs touch")
    assert len(files.list(place)) == 3000


def test_info(sandbox, files, place):
    files.write(f"{place}/info", "12345")
    sandbox.commands.run(f"chmod 640 {place}/info && touch -d 2024-05-06T07:08:09.123456Z {place}/info")
    info = files.get_info(f"{place}/info")
    assert (info.name, info.path, info.type, info.size) == ("info", f"{place}/info", FileType.FILE, 5)
    assert (info.mode, info.permissions) == (0o640, "-rw-r-----")
    assert (info.owner, info.group) == ("user", "user")
    assert info.modified_time == datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=timezone.utc)
    assert info.symlink_target is None and info.metadata is None
    directory = files.get_info(place)
    assert directory.type == FileType.DIR and directory.permissions == "drwxr-xr-x"


def test_special_permissions(sandbox, files, place):
    sandbox.commands.run(f"cd {place} && touch s && chmod 4755 s && mkdir t && chmod 1777 t && mkfifo p")
    assert files.get_info(f"{place}/s").permissions == "urwxr-xr-x"
    assert files.get_info(f"{place}/t").permissions == "dtrwxrwxrwx"
    assert [entry.name for entry in files.list(place)] == ["s", "t"]
    assert files.exists(f"{place}/p")


def test_links(sandbox, files, place):
    files.write(f"{place}/target", "content")
    files.make_dir(f"{place}/dir")
    sandbox.commands.run(f"cd {place} && ln -s target link && ln -s dir dirlink && ln -s nowhere broken && ln -s loop loop")
    link = files.get_info(f"{place}/link")
    assert link.type == FileType.FILE
    assert link.symlink_target == f"{place}/target"
    assert link.permissions == "Lrwxrwxrwx" and link.size == len("target") and link.mode == 0o644
    assert files.read(f"{place}/link") == "content"
    assert files.get_info(f"{place}/dirlink").type == FileType.DIR
    assert files.get_info(f"{place}/broken").symlink_target == f"{place}/broken"
    assert [entry.name for entry in files.list(place)] == ["dir", "dirlink", "link", "target"]
    files.write(f"{place}/dir/inside", "x")
    assert [entry.path for entry in files.list(f"{place}/dirlink")] == [f"{place}/dirlink/inside"]


def test_owner_and_mode_of_what_is_written(sandbox, files, place):
    files.write(f"{place}/mine", "x")
    files.write(f"{place}/roots", "x", user="root")
    files.make_dir(f"{place}/rootdir", user="root")
    out = sandbox.commands.run(f"cd {place} && stat -c '%n %U:%G %a' mine roots rootdir").stdout
    assert out == "mine user:user 644\nroots root:root 644\nrootdir root:root 755\n"
    assert files.write("relative-to-root", "x", user="root").path == "/root/relative-to-root"
    sandbox.commands.run(f"chmod 750 {place}/mine")
    files.write(f"{place}/mine", "changed")
    assert files.get_info(f"{place}/mine").mode == 0o750


def test_root_may_write_anywhere(files):
    files.write("/etc/conformance.conf", "setting", user="root")
    assert files.read("/etc/conformance.conf") == "setting"
    files.remove("/etc/conformance.conf", user="root")


def test_proc_files_have_content(files):
    assert len(files.read("/proc/sys/kernel/random/boot_id")) == 37
    assert "root:" in files.read("/etc/passwd")


def test_metadata(sandbox, files, place):
    info = files.write(f"{place}/meta", "x", metadata={"Purpose": "test", "n": "1 2"})
    assert info.metadata == {"purpose": "test", "n": "1 2"}
    assert files.get_info(f"{place}/meta").metadata == {"purpose": "test", "n": "1 2"}
    assert files.list(place)[0].metadata == {"purpose": "test", "n": "1 2"}
    assert files.rename(f"{place}/meta", f"{place}/meta2").metadata == {"purpose": "test", "n": "1 2"}
    files.write(f"{place}/meta2", "y", metadata={"other": "v"})
    assert files.get_info(f"{place}/meta2").metadata == {"other": "v"}
    files.write(f"{place}/meta2", "z")
    assert files.get_info(f"{place}/meta2").metadata is None
    with pytest.raises(InvalidArgumentException):
        files.write(f"{place}/meta2", "z", metadata={"key": "ü"})


def test_metadata_with_octets(files, place):
    files.write(f"{place}/meta", io.BytesIO(b"x"), metadata={"a": "b"})
    assert files.get_info(f"{place}/meta").metadata == {"a": "b"}


def test_unknown_user(files, place):
    for call in (lambda: files.read(f"{place}/x", user="nobody-knows"), lambda: files.write(f"{place}/x", "", user="nobody-knows"), lambda: files.list(place, user="nobody-knows")):
        with pytest.raises(Exception) as error:
            call()
        assert type(error.value).__name__ == "AuthenticationException"
