"""Secrets: made, listed, changed and removed by the official package; what they hold is nowhere to be read."""

from __future__ import annotations

import os
import subprocess
import uuid

import pytest
from e2b import AsyncSecret, Secret, SecretException, SecretNotFoundException

from flavours import Loop, Waiting
from server import ServerError, from_environment

KINDS = {"sync": Secret, "async": Waiting(Loop(), AsyncSecret)}
HIDDEN = "hidden-value-of-the-test"


@pytest.fixture(scope="module")
def secrets(flavour):
    """The entry point: `Secret`, or `AsyncSecret` behind something that awaits."""
    return KINDS[flavour]


@pytest.fixture
def name(secrets):
    """A name that is free, before the test and after it."""
    name = f"t-{uuid.uuid4().hex}"
    yield name
    secrets.destroy(name)


def test_a_secrets_life(secrets, name):
    made = secrets.create(name.upper(), HIDDEN, metadata={"a": "b"})
    assert made.secret_id.startswith("sec_") and made.name == name and made.version == 1
    assert made.metadata == {"a": "b"} and HIDDEN not in repr(made)
    assert secrets.get_info(name).secret_id == secrets.get_info(made.secret_id).secret_id == made.secret_id
    with pytest.raises(SecretException, match="Secret cannot be modified in its current state"):
        secrets.create(name, HIDDEN)
    changed = secrets.update(name, HIDDEN + "2")
    assert changed.version == 2 and changed.metadata == {"a": "b"} and changed.updated_at > made.updated_at
    changed = secrets.update(made.secret_id, HIDDEN, metadata={})
    assert changed.version == 3 and changed.metadata == {} and changed.created_at == made.created_at
    assert secrets.exists(name) is True
    assert secrets.destroy(made.secret_id) is True
    assert secrets.destroy(name) is False and secrets.exists(name) is False
    with pytest.raises(SecretNotFoundException):
        secrets.get_info(name)
    with pytest.raises(SecretNotFoundException):
        secrets.update(name, HIDDEN)


def test_pages(secrets):
    names = [f"t-{uuid.uuid4().hex}" for _ in range(3)]
    for name in names:
        secrets.create(name, HIDDEN)
    try:
        pages, seen = secrets.list(limit=2), []
        while pages.has_next:
            items = pages.next_items()
            assert len(items) <= 2
            seen += [secret.name for secret in items]
        assert [name for name in seen if name in names] == names and len(seen) == len(set(seen))
    finally:
        for name in names:
            secrets.destroy(name)


@pytest.mark.parametrize("wrong, value", [("a b", "v"), ("sec_x", "v"), ("x" * 129, "v"), ("empty", "")])
def test_what_is_refused_is_not_repeated(secrets, wrong, value):
    with pytest.raises(SecretException, match="Invalid secrets request") as refused:
        secrets.create(wrong, value)
    assert wrong not in str(refused.value)


def soulbox(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
    command = [os.environ["CONFORMANCE_BINARY"], "secret", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)


def test_on_the_command_line(flavour):
    if flavour != "sync":
        return
    name = f"t-{uuid.uuid4().hex}"
    made = soulbox("create", name, "--metadata", "for=test", stdin=HIDDEN + "\n")
    assert made.returncode == 0 and made.stdout.startswith("sec_"), made.stderr
    try:
        assert soulbox("update", name, stdin=HIDDEN).returncode == 0
        shown = soulbox("show", made.stdout.strip())
        assert name in shown.stdout and "for=test" in shown.stdout and HIDDEN not in shown.stdout
        assert name in soulbox("list").stdout
    finally:
        assert soulbox("delete", name).returncode == 0
    assert soulbox("show", name).returncode == 1


def test_values_are_sealed_on_disk_and_in_no_log(flavour):
    """Over a restart, with the key in its file; and with the key from an operator's command."""
    if flavour != "sync":
        return
    server = from_environment("secrets")

    def call(method, *arguments, **options):
        return method(*arguments, **options, api_url=server.env["E2B_API_URL"], api_key=server.env["E2B_API_KEY"])

    try:
        server.start()
        call(Secret.create, "kept", HIDDEN)
        server.stop()
        key = server.data_dir / "secrets.key"
        assert key.stat().st_mode & 0o777 == 0o600
        written = [path for path in (*server.data_dir.glob("soulbox.db*"), server.log_path) if HIDDEN.encode() in path.read_bytes()]
        assert not written, "the value can be read"
        text = key.read_text()
        key.unlink()
        with pytest.raises(ServerError, match="secrets.key is missing"):
            server.start()
        elsewhere = server.data_dir / "elsewhere"
        elsewhere.write_text(text)
        elsewhere.chmod(0o400)
        server.arguments = ("--secrets-key-command", f"cat {elsewhere}")
        server.start()
        assert call(Secret.get_info, "kept").version == 1
        assert not key.exists()
    finally:
        server.stop()
        server.remove()
