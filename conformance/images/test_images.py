"""Templates from images of registries, with the official package."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time

import pytest
from e2b import BuildException, Template

from registry import PASSWORD, USER, answer, basic, cut_off, run, small_system


def refused(build, template, **more) -> str:
    with pytest.raises(BuildException) as caught:
        build(template, **more)
    return str(caught.value)


def test_an_image_becomes_a_template(registries, build, create, name):
    image = f"{registries.open.address}/team/small:1"
    template = Template().from_image(image).run_cmd('echo "$OF_IMAGE $PATH" > /tmp/env').run_cmd("whoami > /tmp/who")
    messages = build(template)
    assert any(message.startswith(f"[base] FROM {image} [") for message in messages), messages
    assert any(message.startswith("[base] DEFAULT USER user [") for message in messages), messages
    sandbox = create(name)
    run = sandbox.commands.run
    assert run("whoami; pwd").stdout == "user\n/home/user\n"
    assert run("cat /tmp/who").stdout == "user\n"
    assert run("cat /tmp/env").stdout.startswith("yes ")
    # The user that the image names is not the sandbox's, nor are its variables.
    assert run("echo ${OF_IMAGE:-none}").stdout == "none\n"
    assert run("ls -d /.soulbox /run/e2b/archive || true").stdout == ""
    assert run("echo x > /home/user/f && cat /home/user/f", user="user").stdout == "x\n"
    again = build(Template().from_image(image).run_cmd('echo "$OF_IMAGE $PATH" > /tmp/env').run_cmd("whoami > /tmp/who"))
    assert any(message.startswith(f"CACHED [base] FROM {image} [") for message in again), again
    assert any(message.startswith("CACHED [builder 2/2] RUN whoami") for message in again), again


def test_layers_lie_on_each_other(registries, images, build, create, name):
    """Whiteouts, replaced kinds, links of all sorts, modes, owners and times."""

    def first(root):
        small_system(root)
        (root / "srv/gone").mkdir(parents=True)
        (root / "srv/gone/in").write_text("in")
        (root / "srv/kept").write_text("kept")
        (root / "srv/hollow").mkdir()
        (root / "srv/hollow/old").write_text("old")
        (root / "srv/real").mkdir()
        (root / "srv/link").symlink_to("/srv/real")
        (root / "srv/twin").hardlink_to(root / "srv/kept")
        os.chown(root / "srv/kept", 12, 34)
        (root / "srv/kept").chmod(0o4750)
        os.utime(root / "srv/kept", (1_000_000_000, 1_000_000_000))
        os.mknod(root / "srv/device", 0o20666, os.makedev(1, 3))
        os.mkfifo(root / "srv/pipe")

    layout = images.layout("layers").tree(first)
    layout.whiteout("/srv/gone")
    layout.insert(images.directory / "layers-0/etc", "/srv/hollow", "--opaque")
    layout.add("/srv/link/through", "through")
    layout.add("/srv/last", "last")
    registries.open.push(layout.path, "latest", "layers:1")
    build(Template().from_image(f"{registries.open.address}/layers:1"))
    run = create(name).commands.run
    assert run("ls /srv", user="root").stdout.split() == ["hollow", "kept", "last", "link", "pipe", "real", "twin"]
    assert run("ls /srv/hollow", user="root").stdout.split() == ["group", "passwd", "shadow"]
    # chown(2) would have taken the set-id bit away, so it was given after it.
    assert run("stat -c '%u %g %a %Y %h' /srv/kept", user="root").stdout == "12 34 4750 1000000000 2\n"
    assert run("cat /srv/real/through; readlink /srv/link").stdout == "through/srv/real\n"


def test_several_layers_come_at_once_and_a_digest_names_an_image(registries, images, build, create, name):
    layout = images.layout("many").tree(small_system)
    for number in range(8):
        layout.add(f"/srv/{number}", str(number) * 100_000)
    registries.open.push(layout.path, "latest", "many:1")
    digest = run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{registries.open.address}/many:1").strip()
    build(Template().from_image(f"{registries.open.address}/many@{digest}"))
    assert create(name).commands.run("cat /srv/? | wc -c").stdout.strip() == "800000"


def test_an_image_without_bash_is_told_of(registries, images, build):
    layout = images.layout("bare").tree(lambda root: small_system(root, bash=False))
    registries.open.push(layout.path, "latest", "bare:1")
    text = refused(build, Template().from_image(f"{registries.open.address}/bare:1"))
    assert "the image cannot be made usable" in text and "FIX: " in text, text


def test_an_image_of_another_machine_is_refused(registries, images, build):
    layout = images.layout("foreign").tree(small_system).config("--architecture", "riscv64")
    registries.open.push(layout.path, "latest", "foreign:1")
    text = refused(build, Template().from_image(f"{registries.open.address}/foreign:1"))
    assert 'image architecture "riscv64" does not match expected "amd64"' in text or 'expected "arm64"' in text, text


def test_what_is_not_there(registries, build):
    address = registries.open.address
    image = f"{address}/team/small:none"
    assert f"image '{image}' not found: the image or tag does not exist in the registry" in refused(build, Template().from_image(image))
    image = f"{address}/nobody/nothing:1"
    assert "not found" in refused(build, Template().from_image(image))
    assert "is no name of an image" in refused(build, Template().from_image("Not An Image"))


def test_registries_of_the_host_are_closed_unless_listed(build, server):
    """A tenant cannot make the server ask its own neighbours."""
    for image in ("127.0.0.1:1/x", "localhost:22/x", "169.254.169.254/latest", "10.0.0.1/x", "[::1]:5000/x".replace("[", "").replace("]", "")):
        text = refused(build, Template().from_image(image))
        assert "is at an address that is not public" in text or "is no name of an image" in text, (image, text)


def test_credentials(registries, build, create, name):
    image = f"{registries.protected.address}/team/small:1"
    denied = f"access denied to '{image}': authentication required or insufficient permissions"
    assert denied in refused(build, Template().from_image(image))
    assert denied in refused(build, Template().from_image(image, username=USER, password="wrong"))
    build(Template().from_image(image, username=USER, password=PASSWORD))
    assert create(name).commands.run("whoami").stdout == "user\n"


def test_a_token_service(registries, build):
    """The challenge that public registries answer with: a token for the one repository."""
    gate = registries.gate
    image = f"{gate.address}/team/small:1"
    asked: list[str] = []

    def spoil(path, _attempt):
        def token(handler):
            asked.append(path)
            if handler.headers.get("Authorization") != basic(USER, PASSWORD):
                return answer(handler, 401)
            answer(handler, 200, b'{"token": "tok"}')

        def guarded(handler):
            if handler.headers.get("Authorization") != "Bearer tok":
                challenge = f'Bearer realm="http://{gate.address}/token",service="tests",scope="repository:team/small:pull"'
                return answer(handler, 401, headers={"WWW-Authenticate": challenge})
            handler.headers.replace_header("Authorization", basic(USER, PASSWORD))
            gate.forward(handler)

        return token if path.startswith("/token") else guarded

    gate.spoil = spoil
    assert "access denied" in refused(build, Template().from_image(image, username=USER, password="wrong"))
    build(Template().from_image(image, username=USER, password=PASSWORD), skip_cache=True)
    assert all("service=tests" in path and "scope=repository%3Ateam%2Fsmall%3Apull" in path for path in asked), asked


def test_google_and_amazon(registries, build):
    gate = registries.gate
    image = f"{gate.address}/team/small:1"
    seen: list[str] = []

    def spoil(path, _attempt):
        def ecr(handler):
            signed = handler.headers.get("Authorization", "")
            seen.append(signed)
            if "Credential=AKID/" not in signed:
                return answer(handler, 400, b'{"__type":"UnrecognizedClientException"}')
            token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            answer(handler, 200, f'{{"authorizationData":[{{"authorizationToken":"{token}"}}]}}'.encode())

        def google(handler):
            kind, _, secret = handler.headers.get("Authorization", "").partition(" ")
            user, _, document = base64.b64decode(secret).decode().partition(":")
            if (kind, user) == ("Basic", "_json_key") and json.loads(document) == {"type": "service_account"}:
                seen.append("google")
                handler.headers.replace_header("Authorization", basic(USER, PASSWORD))
            gate.forward(handler)

        return google if path.startswith("/v2/") else ecr

    gate.spoil = spoil
    build(Template().from_aws_registry(image, access_key_id="AKID", secret_access_key="secret", region="eu-west-1"))
    assert seen[-1].startswith("AWS4-HMAC-SHA256 Credential=AKID/") and "/eu-west-1/ecr/aws4_request" in seen[-1], seen
    assert "access denied" in refused(build, Template().from_aws_registry(image, access_key_id="OTHER", secret_access_key="secret", region="eu-west-1"))
    build(Template().from_gcp_registry(image, service_account_json={"type": "service_account"}), skip_cache=True)
    assert "google" in seen


def test_layers_elsewhere_do_not_learn_the_password(registries, build):
    """Registries send their clients to stores of others for layers."""
    gate, elsewhere = registries.gate, registries.elsewhere

    def spoil(path, _attempt):
        if "/blobs/" not in path:
            return None
        return lambda handler: answer(handler, 307, headers={"Location": f"http://{elsewhere.address}{handler.path}"})

    gate.spoil = spoil
    build(Template().from_image(f"{gate.address}/team/small:1", username=USER, password=PASSWORD), skip_cache=True)
    assert elsewhere.seen and not any("Authorization" in headers for _, headers in elsewhere.seen), elsewhere.seen
    assert any("Authorization" in headers for _, headers in gate.seen)


def test_mirrors_of_registries_and_packages(registries, build, create, name):
    """What the operator sets once, every build uses."""
    build(Template().from_image("team/small:1"))
    assert registries.mirror.seen and not any("Authorization" in headers for _, headers in registries.mirror.seen)
    run = create(name).commands.run
    assert "index-url = http://pip.mirror.test/simple" in run("cat /etc/pip.conf").stdout
    messages = build(Template().from_template("base").run_cmd("pip config list; npm config get registry"), name=f"{name}-base")
    said = "\n".join(messages)
    assert "http://pip.mirror.test/simple" in said and "http://npm.mirror.test/" in said, said
    sources = create(f"{name}-base").commands.run("cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null; true", user="root").stdout
    assert "http://apt.mirror.test/debian" in sources and "deb.debian.org" not in sources, sources
    # A mirror that fails is no reason to fail: the registry itself is asked, here with its own words.
    registries.mirror.spoil = lambda path, attempt: lambda handler: answer(handler, 500)
    assert "status code 500" not in refused(build, Template().from_image("team/small:1"), skip_cache=True)


def test_a_bad_day_of_a_registry(registries, build, create, name):
    """Too many requests, errors, layers that break off, again and again: the build goes on where it was."""
    proxy = registries.proxy

    def spoil(path, attempt):
        if "/manifests/" in path and attempt == 1:
            return lambda handler: answer(handler, 429, headers={"Retry-After": "1"})
        if "/manifests/" in path and attempt == 2:
            return lambda handler: answer(handler, 503)
        if "/blobs/" in path and attempt == 1:
            return lambda handler: answer(handler, 500)

        def half(handler):
            def cut(body):
                cut_off(handler, body[: len(body) // 2], len(body), {"Content-Type": "application/octet-stream"})
                raise ConnectionAbortedError

            try:
                proxy.forward(handler, change=cut)
            except ConnectionAbortedError:
                pass

        if "/blobs/" in path and attempt == 2:
            return half
        return None

    proxy.spoil = spoil
    began = time.monotonic()
    build(Template().from_image(f"{proxy.address}/team/small:1"), skip_cache=True)
    assert time.monotonic() - began >= 1, "it was asked to wait a second"
    ranges = [headers["Range"] for path, headers in proxy.seen if "/blobs/" in path and "Range" in headers]
    assert ranges and all(text.startswith("bytes=") and text != "bytes=0-" for text in ranges), proxy.seen
    assert create(name).commands.run("whoami").stdout == "user\n"


def test_a_registry_that_stays_bad(registries, build):
    proxy = registries.proxy
    image = f"{proxy.address}/team/small:1"
    for status in (500, 429, 418):
        proxy.spoil = lambda path, attempt, status=status: lambda handler: answer(handler, status, headers={"Retry-After": "0"})
        text = refused(build, Template().from_image(image))
        assert f"failed to pull image '{image}': registry returned status code {status}" in text, text
    proxy.spoil = lambda path, attempt: lambda handler: answer(handler, 403)
    assert f"access denied to '{image}': you don't have permission to pull this image" in refused(build, Template().from_image(image))
    proxy.spoil = lambda path, attempt: lambda handler: answer(handler, 200, b"{}")
    assert "the manifest cannot be read" in refused(build, Template().from_image(image))
    # A circle of redirections.
    proxy.spoil = lambda path, attempt: lambda handler: answer(handler, 302, headers={"Location": path})
    assert "leads on and on" in refused(build, Template().from_image(image))
    # A redirection to where nobody may go.
    proxy.spoil = lambda path, attempt: lambda handler: answer(handler, 302, headers={"Location": "http://169.254.169.254/latest"})
    assert "FIX: " in refused(build, Template().from_image(image))


def test_content_that_was_not_promised(registries, build, create, name):
    """Wrong layers are never used, and the next try is not spoiled by them."""
    proxy = registries.proxy
    image = f"{proxy.address}/team/small:1"

    def wrong(handler):
        proxy.forward(handler, change=lambda body: bytes([body[0] ^ 1]) + body[1:] if len(body) > 100_000 else body)

    proxy.spoil = lambda path, attempt: wrong if "/blobs/" in path else None
    text = refused(build, Template().from_image(image), skip_cache=True)
    assert "does not have the content that its digest promises" in text, text
    longer = lambda handler: proxy.forward(handler, change=lambda body: body + b"x" if len(body) > 100_000 else body)
    proxy.spoil = lambda path, attempt: longer if "/blobs/" in path else None
    assert "does not have the content" in refused(build, Template().from_image(image), skip_cache=True)
    proxy.spoil = None
    build(Template().from_image(image), skip_cache=True)
    assert create(name).commands.run("whoami").stdout == "user\n"


def test_bombs_are_stopped(registries, images, build):
    """Much out of little, and more than the disk of a template holds."""

    def zeros(root):
        with (root / "bomb").open("wb") as bomb:
            # Not sparse: the archive must really hold it.
            for _ in range(300):
                bomb.write(b"\0" * (1 << 20))

    layout = images.layout("bomb").tree(small_system).tree(zeros)
    registries.open.push(layout.path, "latest", "bomb:1")
    text = refused(build, Template().from_image(f"{registries.open.address}/bomb:1"))
    assert "the layer unpacks to more than" in text, text


def command(server, *arguments: str) -> str:
    """Runs the command line against the server of these tests."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("E2B_", "SOULBOX_"))} | server.env
    done = subprocess.run([os.environ["CONFORMANCE_BINARY"], *map(str, arguments)], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_a_root_file_system_becomes_a_template(server, create, name, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    small_system(root)
    (root / "marker").write_text("from a file")
    for compress, suffix in (("", "tar"), ("z", "tgz")):
        archive = tmp_path / f"root.{suffix}"
        run("tar", "-C", root, f"-c{compress}f", archive, ".")
        command(server, "template", "build", name, "--rootfs", archive, "--cpu", "1", "--memory", "512")
        assert create(name).commands.run("cat /marker; whoami").stdout == "from a fileuser\n"


def test_layouts_and_exports_are_imported(server, images, build, create, name, tmp_path):
    """A layout of another tool, and a template that was carried away and back."""
    layout = images.layout("carried").tree(small_system).add("/marker", "carried")
    archive = tmp_path / "layout.tar"
    run("skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout.path}:latest", f"oci-archive:{archive}")
    command(server, "template", "import", archive, name)
    assert create(name).commands.run("cat /marker; whoami").stdout == "carrieduser\n"

    made = f"{name}-made"
    template = Template().from_template("base").run_cmd("echo kept > /home/user/kept").set_user("root").set_workdir("/srv")
    build(template.set_start_cmd("sleep 987", "true"), name=made)
    exported = tmp_path / "exported.tar"
    command(server, "template", "export", made, exported)
    assert "linux" in run("skopeo", "inspect", f"oci-archive:{exported}")
    back = f"{name}-back"
    command(server, "template", "import", exported, back)
    sandbox = create(back)
    assert sandbox.commands.run("whoami; pwd; cat /home/user/kept").stdout == "root\n/srv\nkept\n"
    assert sandbox.commands.run("pgrep -f 'sleep 987'").stdout


def test_a_spoiled_archive_is_refused(server, images, name, tmp_path):
    layout = images.layout("spoiled").tree(small_system)
    blob = max((layout.path / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[100] ^= 1
    blob.write_bytes(content)
    archive = tmp_path / "spoiled.tar"
    run("tar", "-C", layout.path, "-cf", archive, ".")
    with pytest.raises(AssertionError, match="has other content"):
        command(server, "template", "import", archive, name)
    (tmp_path / "text").write_text("no archive at all")
    with pytest.raises(AssertionError, match="FIX: "):
        command(server, "template", "import", tmp_path / "text", name)
