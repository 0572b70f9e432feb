"""A server of its own that may pull from registries on this machine, the registries, and images in them."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import pytest
from e2b import Sandbox, Template

import host
from registry import Images, Proxy, Registry, small_system
from server import from_environment, kill_every_sandbox


@pytest.fixture(scope="session")
def images():
    made = Images()
    yield made
    made.close()


@pytest.fixture(scope="session")
def registries(images):
    """An open one, a protected one, and a proxy before each; the small image is in both."""
    world = SimpleNamespace(open=Registry(), protected=Registry(protected=True))
    world.proxy = Proxy(world.open)
    world.gate = Proxy(world.protected)
    world.elsewhere = Proxy(world.open)
    world.mirror = Proxy(world.open)
    layout = images.layout("small").tree(small_system)
    layout.config("--config.env", "PATH=/opt/bin:/bin:/usr/bin", "--config.env", "OF_IMAGE=yes", "--config.user", "nobody")
    world.open.push(layout.path, "latest", "team/small:1")
    world.protected.push(layout.path, "latest", "team/small:1")
    yield world
    for part in (world.proxy, world.gate, world.elsewhere, world.mirror, world.open, world.protected):
        part.close()


@pytest.fixture(scope="session")
def server(registries):
    plain = [f"http://{part.address}" for part in (registries.open, registries.protected, registries.proxy, registries.gate, registries.elsewhere)]
    server = from_environment(
        "images",
        *("--private-registries", ",".join(plain)),
        *("--ecr-endpoint", f"http://{registries.gate.address}/{{region}}"),
        *("--mirrors-registries", f"docker.io=http://{registries.mirror.address}"),
        *("--mirrors-apt", "http://apt.mirror.test", "--mirrors-pip", "http://pip.mirror.test/simple", "--mirrors-npm", "http://npm.mirror.test"),
    )
    before = host.snapshot(str(server.data_dir))
    server.start()
    yield server
    kill_every_sandbox(server.env)
    assert server.stop() == 0
    assert not list((server.data_dir / "pulls").glob("*[!t]")), "whole layers stay"
    left = host.leaks(before, str(server.data_dir))
    assert left == {}, left
    server.remove()


@pytest.fixture
def options(server) -> dict:
    return {"api_key": server.env["E2B_API_KEY"], "api_url": server.env["E2B_API_URL"], "sandbox_url": server.env.get("E2B_SANDBOX_URL"), "domain": server.env.get("E2B_DOMAIN", "localhost")}


@pytest.fixture
def name() -> str:
    return f"i-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def build(options, name):
    """Builds a template with the official package; returns the messages of its log."""

    def build(template, **more) -> list[str]:
        messages: list[str] = []
        Template.build(template, more.pop("name", name), cpu_count=1, memory_mb=512, on_build_logs=lambda entry: messages.append(entry.message), **options, **more)
        return messages

    return build


@pytest.fixture
def create(options):
    made: list[Sandbox] = []

    def create(template: str) -> Sandbox:
        made.append(Sandbox.create(template, timeout=120, **options))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.kill()


@pytest.fixture(autouse=True)
def nothing_spoiled(registries):
    yield
    for proxy in (registries.proxy, registries.gate, registries.elsewhere, registries.mirror):
        proxy.spoil = None
        proxy.seen.clear()
        proxy.attempts.clear()
