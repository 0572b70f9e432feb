"""Templates built with the official package: steps, files, cache, errors, tags, start commands."""

from __future__ import annotations

import os
import threading
import time
import uuid

import pytest
from e2b import BuildException, wait_for_file, wait_for_port

from flavours import both_templates
from server import wait_until

ENTRIES = both_templates()


@pytest.fixture(scope="module")
def templates(flavour):
    """`Template`, or `AsyncTemplate` behind something that awaits."""
    return ENTRIES[flavour]


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def builder(templates):
    """A template that starts from `base`."""
    return lambda **options: templates(**options).from_template("base")


@pytest.fixture
def build(templates):
    """Builds and returns the build and the messages of its log."""

    def build(template, name, **options):
        messages: list[str] = []
        built = templates.build(template, name, cpu_count=1, memory_mb=512, on_build_logs=lambda entry: messages.append(entry.message), **options)
        return built, messages

    return build


def without_hashes(messages: list[str]) -> list[str]:
    return [message.rsplit(" [", 1)[0] if message.endswith("]") else message for message in messages]


def test_steps_and_what_sandboxes_start_with(builder, build, create, name):
    template = (
        builder()
        .run_cmd(f"echo one > /tmp/one && whoami > /tmp/who; : {name}")
        .set_envs({"GREETING": "Hello, World!", "TWICE": "$GREETING $GREETING"})
        .run_cmd('echo "$TWICE" > /tmp/env')
        .set_user("root")
        .make_dir("/srv/app", mode=0o750)
        .run_cmd("whoami > /srv/app/who")
        .set_user("newbie")
        .set_workdir("/srv/work")
        .run_cmd("touch here && whoami > who")
    )
    built, messages = build(template, name)
    assert built.name == name and built.template_id and built.build_id
    lines = without_hashes(messages)
    assert f"[builder 1/9] RUN echo one > /tmp/one && whoami > /tmp/who; : {name}" in lines, lines
    assert any(line.startswith("Building template ") for line in lines) and any(line.startswith("Build finished, took ") for line in lines)
    sandbox = create(name, timeout=120)
    run = sandbox.commands.run
    assert run("whoami; pwd").stdout == "newbie\n/srv/work\n"
    assert run("cat who; ls; stat -c %U /srv/work here", cwd="/srv/work").stdout == "newbie\nhere\nwho\nnewbie\nnewbie\n"
    assert run("cat /tmp/one /tmp/who /tmp/env", user="root").stdout == "one\nuser\nHello, World! Hello, World!\n"
    assert run("cat /srv/app/who; stat -c %a /srv/app", user="root").stdout == "root\n750\n"
    # Variables of the build are the build's.
    assert run("echo ${GREETING:-none}").stdout == "none\n"
    assert int(run("nproc").stdout) == 1


def test_files(builder, build, create, name, tmp_path):
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/a.txt").write_text("a")
    (tmp_path / "tree/sub/b.txt").write_text("b")
    (tmp_path / "tree/run.sh").write_text("#!/bin/sh\necho runs\n")
    os.chmod(tmp_path / "tree/run.sh", 0o755)
    os.symlink("a.txt", tmp_path / "tree/link")
    (tmp_path / "big").write_bytes(os.urandom(3_000_000))
    template = (
        builder(file_context_path=str(tmp_path))
        .copy("tree/a.txt", "plain.txt")
        .copy("tree/a.txt", "into/")
        .copy("tree", "/srv/tree", user="root", mode=None)
        .copy("tree/*.txt", "/srv/globbed")
        .copy("big", "/srv/big", user="root:root", mode=0o600)
        .run_cmd("mkdir -p /tmp/real && ln -s /tmp/real /tmp/merge && echo old > /tmp/real/kept")
        .copy("tree/sub", "/tmp/merge")
    )
    build(template, name)
    sandbox = create(name, timeout=120)
    run = sandbox.commands.run
    assert run("cat plain.txt into/a.txt; stat -c '%U:%G' plain.txt into into/a.txt").stdout == "aauser:user\nroot:root\nuser:user\n"
    assert run("/srv/tree/run.sh; readlink /srv/tree/link; cat /srv/tree/sub/b.txt").stdout == "runs\na.txt\nb"
    assert run("stat -c '%U %a' /srv/tree/run.sh").stdout == "root 755\n"
    assert run("find /srv/globbed -type f | sort").stdout == "/srv/globbed/tree/a.txt\n" or run("ls /srv/globbed").stdout
    assert run("stat -c '%U:%G %a %s' /srv/big").stdout == "root:root 600 3000000\n"
    assert run("cat /tmp/real/kept /tmp/real/b.txt; test -L /tmp/merge && echo link").stdout == "old\nblink\n"
    assert run("ls -A /tmp | grep -c copy || true; ls /tmp/.soulbox-files 2>&1 | grep -c cannot").stdout == "0\n1\n"


def test_finished_steps_are_not_done_again(builder, build, create, name):
    def template(last: str):
        return builder().run_cmd(f"sleep 1; date +%s%N > /tmp/when; : {name}").set_envs({"A": "b"}).run_cmd(last)

    build(template("echo 1 > /tmp/last"), name)
    first = create(name, timeout=60).commands.run("cat /tmp/when").stdout
    began = time.monotonic()
    _, messages = build(template("echo 2 > /tmp/last"), name)
    took = time.monotonic() - began
    lines = without_hashes(messages)
    assert f"CACHED [builder 1/3] RUN sleep 1; date +%s%N > /tmp/when; : {name}" in lines and "CACHED [builder 2/3] ENV A b" in lines, lines
    assert "[builder 3/3] RUN echo 2 > /tmp/last" in lines, lines
    sandbox = create(name, timeout=60)
    assert sandbox.commands.run("cat /tmp/when").stdout == first
    assert sandbox.commands.run("cat /tmp/last").stdout == "2\n"
    assert took < 5
    _, messages = build(template("echo 2 > /tmp/last"), name, skip_cache=True)
    assert not any(line.startswith("CACHED") for line in messages), messages
    assert create(name, timeout=60).commands.run("cat /tmp/when").stdout != first


def test_removed_and_replaced_files_of_the_template_below(builder, build, create, name):
    template = builder().run_cmd("rm -r /etc/apt && rm /usr/bin/git && mkdir /usr/bin/git && echo x > /etc/motd", user="root")
    build(template, name)
    run = create(name, timeout=60).commands.run
    assert run("ls -d /etc/apt 2>&1; test -d /usr/bin/git && echo directory; cat /etc/motd; ls /usr/bin/python3").stdout.splitlines()[1:] == ["directory", "x", "/usr/bin/python3"]


@pytest.mark.parametrize(
    "break_it, said",
    [
        (lambda t: t.run_cmd("echo before; exit 3"), "failed to run command 'echo before; exit 3': exit status 3"),
        (lambda t: t.run_cmd("whoami", user="root123"), "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'"),
        (lambda t: t.run_cmd("kill -9 $$"), "failed to run command 'kill -9 $$': signal: killed"),
    ],
    ids=["exit", "user", "signal"],
)
def test_a_step_that_fails(builder, build, name, break_it, said):
    with pytest.raises(BuildException) as error:
        build(break_it(builder().run_cmd("true")).run_cmd("echo never"), name)
    assert str(error.value) == said


def test_a_step_that_eats_everything_hurts_nobody(builder, build, sandbox, name):
    eat = "fallocate -l 100G /tmp/big || dd if=/dev/zero of=/tmp/big bs=1M; echo full; exit 4"
    failures: list[Exception] = []

    def attack():
        try:
            build(builder().run_cmd(f"python3 -c \"import os\\nfor _ in range(5000): os.fork()\"; {eat}", user="root"), name)
        except Exception as error:
            failures.append(error)

    attacker = threading.Thread(target=attack)
    attacker.start()
    while attacker.is_alive():
        assert sandbox.commands.run("echo here", timeout=30).stdout == "here\n"
        time.sleep(0.2)
    assert len(failures) == 1 and isinstance(failures[0], BuildException)


def test_template_that_does_not_exist(templates, build, name):
    with pytest.raises(BuildException) as error:
        build(templates().from_template("no-such-template-at-all").run_cmd("true"), name)
    assert "template 'no-such-template-at-all' not found" in str(error.value)


def test_the_usual_image(templates, build, create, name):
    build(templates().from_base_image().run_cmd("echo fine > ok.txt"), name)
    assert create(name, timeout=60).commands.run("cat ok.txt; whoami; pwd").stdout == "fine\nuser\n/home/user\n"


def test_start_command_runs_in_every_sandbox(builder, build, create, templates, name):
    template = (
        builder()
        .set_workdir("/home/user/site")
        .run_cmd("echo served > index.html")
        .set_envs({"PORT": "8123"})
        .set_start_cmd("echo starting; python3 -m http.server $PORT", wait_for_port(8123))
    )
    _, messages = build(template, name)
    order = [
        "Running start command: echo starting; python3 -m http.server $PORT",
        "[start] [stdout]: starting",
        "Template is ready",
    ]
    at = [messages.index(line) for line in order]
    assert at == sorted(at), messages
    for _ in range(2):
        sandbox = create(name, timeout=60)
        assert sandbox.commands.run("curl -s localhost:8123").stdout == "served\n"
    # Whoever goes on from it inherits what it starts, and may replace it.
    child = f"{name}-child"
    build(templates().from_template(name).run_cmd("echo changed > index.html"), child)
    assert create(child, timeout=60).commands.run("curl -s localhost:8123").stdout == "changed\n"
    build(templates().from_template(name).set_start_cmd("touch /tmp/other", wait_for_file("/tmp/other")), child)
    sandbox = create(child, timeout=60)
    assert sandbox.commands.run("ls /tmp/other; pgrep -f http.serve[r] || echo none").stdout == "/tmp/other\nnone\n"


def test_start_command_that_fails(builder, build, name):
    with pytest.raises(BuildException) as error:
        build(builder().set_start_cmd("exit 7", wait_for_port(1)), name)
    assert str(error.value) == "start command failed: error running start command: exit status 7"


def test_background_build_and_its_status(templates, builder, name):
    built = templates.build_in_background(builder().run_cmd(f"sleep 2; echo done; : {name}"), name, cpu_count=1, memory_mb=512)
    status = templates.get_build_status(built)
    assert status.status.value == "building", status
    wait_until("the build is ready", 30, lambda: templates.get_build_status(built).status.value == "ready")
    entries = templates.get_build_status(built).log_entries
    assert any("[stdout]: done" in entry.message for entry in entries)


def test_names_and_tags(templates, builder, build, create, name):
    assert not templates.exists(name) and templates.exists("base")
    one, _ = build(builder().run_cmd("echo 1 > v"), f"{name}:v1", tags=["stable"])
    assert templates.exists(name)
    assert create(f"{name}:v1", timeout=60).commands.run("cat v").stdout == "1\n"
    assert create(f"{name}:stable", timeout=60).commands.run("cat v").stdout == "1\n"
    two, _ = build(builder().run_cmd("echo 2 > v"), f"{name}:v2")
    assert one.template_id == two.template_id and one.build_id != two.build_id
    assert create(f"{name}:stable", timeout=60).commands.run("cat v").stdout == "1\n"
    templates.assign_tags(f"{name}:v2", ["stable", "latest"])
    assert create(f"{name}:stable", timeout=60).commands.run("cat v").stdout == "2\n"
    tags = {tag.tag: tag.build_id for tag in templates.get_tags(name)}
    assert tags == {"v1": one.build_id, "v2": two.build_id, "stable": two.build_id, "latest": two.build_id}
    templates.remove_tags(name, ["latest", "v1"])
    assert {tag.tag for tag in templates.get_tags(name)} == {"v2", "stable"}
    with pytest.raises(Exception, match="tag 'v1' does not exist"):
        create(f"{name}:v1", timeout=60)


def test_builds_of_different_tags_run_side_by_side(templates, builder, name):
    slow = builder().run_cmd(f"sleep 3; : {name}")
    builds = [templates.build_in_background(builder().run_cmd(f"sleep 2; echo {n} {name}"), f"{name}:{n}", cpu_count=1, memory_mb=512) for n in ("a", "b")]
    superseded = templates.build_in_background(slow, f"{name}:c", cpu_count=1, memory_mb=512)
    builds.append(templates.build_in_background(builder().run_cmd(f": {name}"), f"{name}:c", cpu_count=1, memory_mb=512))
    for built in builds:
        wait_until("it is ready", 30, lambda built=built: templates.get_build_status(built).status.value == "ready")
    status = templates.get_build_status(superseded)
    assert status.status.value == "error" and status.reason.message == "build was cancelled", status
