"""Templates built from Dockerfiles with `soulbox template build`, and what is in sandboxes of them.

What is one thing of the language is one case. Cases that can stand in one Dockerfile do, as each build and each sandbox
takes its time: `GROUPS` are the files, `SEEN` what a command prints in a sandbox of one of them.
`FROM e2bdev/base` is the server's base template: nothing is pulled from anywhere.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from e2b import Sandbox

BINARY = os.environ.get("CONFORMANCE_BINARY", "")
SECONDS = 170
pytestmark = pytest.mark.skipif(not BINARY, reason="the program is not known: CONFORMANCE_BINARY")


@dataclass
class Group:
    """A Dockerfile, the files beside it (bytes, text, or `-> target` for a link) and more arguments."""

    dockerfile: str
    files: dict[str, str | bytes] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


@dataclass
class Built:
    """What a build has printed, and how it ended."""

    name: str
    code: int
    stdout: str
    stderr: str


def environment(**more: str) -> dict[str, str]:
    """The server of the suites, and nothing that names another one."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SOULBOX_")} | more


def write(directory: Path, group: Group) -> None:
    (directory / "Dockerfile").write_text(group.dockerfile)
    for path, content in group.files.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("-> "):
            file.symlink_to(content.removeprefix("-> "))
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
            file.chmod(0o755 if path.endswith(".sh") else 0o644)


def run_build(name: str, *arguments: str, stdin: str | None = None, good: bool = True, **env: str) -> Built:
    """Builds; `good` says how it must end."""
    command = [BINARY, "template", "build", name, *arguments]
    feed = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    done = subprocess.run(command, env=environment(**env), capture_output=True, text=True, timeout=SECONDS, **feed)
    built = Built(name, done.returncode, done.stdout, done.stderr)
    assert (built.code == 0) == good, built
    return built


def new_name() -> str:
    return f"d-{uuid.uuid4().hex[:12]}"


def build(directory: Path, group: Group, *arguments: str, name: str = "", good: bool = True, **env: str) -> Built:
    write(directory, group)
    sizes = ("--cpu", "1", "--memory", "512")
    return run_build(name or new_name(), str(directory), *sizes, *group.arguments, *arguments, good=good, **env)


def archive(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


RUN = r"""# syntax=docker/dockerfile:1
# a comment before everything
FROM e2bdev/base
RUN mkdir /out && whoami > /out/first && pwd >> /out/first
RUN echo shell form > /out/shell; echo "$0" > /out/interpreter
RUN ["touch", "/out/exec $form"]
run echo one \
    # a comment between
    && echo two \

    && echo three > /out/continued
SHELL ["/bin/bash", "-c"]
RUN [[ abc == a* ]] && echo "$0" > /out/bash
SHELL ["/bin/sh", "-c"]
RUN <<EOF
echo first > /out/script
value=second
echo $value >> /out/script
EOF
RUN cat <<EOF > /out/document && cat <<'RAW' > /out/raw
home of $(whoami)
EOF
of $(whoami)
RAW
RUN python3 <<PYTHON
open("/out/python", "w").write("from python\n")
PYTHON
RUN <<EOF
#!/usr/bin/env python3
import sys
open("/out/shebang", "w").write(sys.executable.rsplit("/", 1)[1][:6] + "\n")
EOF
RUN --mount=type=cache,target=/var/cache/none echo cached > /out/mount
"""

VARIABLES = r"""ARG BASE=base
ARG UNUSED=before
FROM e2bdev/${BASE} AS one
ARG ONLY_HERE=yes
RUN mkdir /out && echo "$ONLY_HERE" > /out/in-first

FROM one
ENV OLD form with  spaces
ENV NEW=value QUOTED="two words" SINGLE='$NEW' ESCAPED=a\ b
ENV TWICE=$NEW-${NEW} DEFAULTED=${NOTHING:-other} CUT="${QUOTED#two }"
ENV SAME=old
ENV SAME=new AFTER=$SAME
RUN echo "$OLD|$NEW|$QUOTED|$SINGLE|$ESCAPED|$TWICE|$DEFAULTED|$CUT|$AFTER" > /out/env
RUN mkdir -p /opt/tools/bin && printf '#!/bin/sh\necho my tool\n' > /opt/tools/bin/mytool && chmod 755 /opt/tools/bin/mytool
ENV PATH=/opt/tools/bin:$PATH
RUN mytool > /out/path && ls / > /dev/null
RUN echo "leaked:${ONLY_HERE}${UNUSED}" > /out/leak
ARG UNUSED
ARG GIVEN=default WITH_DEFAULT=default FROM_HERE
RUN echo "$UNUSED $GIVEN $WITH_DEFAULT $FROM_HERE" > /out/args
ENV KEPT=$GIVEN
RUN echo "$KEPT" > /out/kept
"""

PLACES = r"""FROM e2bdev/base
RUN useradd --create-home newbie && mkdir /out && chmod 777 /out
WORKDIR /srv
WORKDIR app
ENV PART=deep
WORKDIR $PART/er
RUN pwd > /out/directory
USER newbie
RUN whoami > /out/name && pwd >> /out/name
USER 0
RUN id -u > /out/number
USER newbie
WORKDIR /srv/last
"""

NUMBERS = """FROM e2bdev/base
RUN mkdir -m 777 /out
USER 1234:4321
RUN echo "$(id -u):$(id -g)" > /out/pair
USER root
"""

FILES = r"""FROM e2bdev/base
ENV GREETING=hello
COPY a.txt /c/renamed.txt
COPY a.txt /c/into/
COPY a.txt b.txt /c/several/
COPY tree /c/tree
COPY tree/ /c/tree-again
COPY *.txt optional.lock* /c/glob/
COPY --chown=user:user a.txt /c/owned
COPY --chown=12:34 --chmod=640 tree /c/numbers
COPY ["with space.md", "/c/json.md"]
WORKDIR /c/work
COPY b.txt .
COPY b.txt sub/
COPY <<EOF /c/here
$GREETING from here
EOF
COPY <<'ONE' <<"TWO" /c/documents/
$GREETING
ONE
two
TWO
COPY . /all
ADD packed.tar.gz /c/unpacked/
ADD a.txt /c/added
COPY packed.tar.gz /c/kept/
"""

CONTEXT = {
    ".dockerignore": "# what is not for the template\n*.log\nsecret\n**/cache\n!important.log\nDockerfile\n.dockerignore\n",
    "a.txt": "a",
    "b.txt": "b",
    "with space.md": "space",
    "tree/run.sh": "#!/bin/sh\necho runs\n",
    "tree/sub/deep.txt": "deep",
    "tree/link": "-> sub/deep.txt",
    "tree/cache/left-out": "x",
    "noise.log": "x",
    "important.log": "x",
    "secret/key": "x",
    "packed.tar.gz": archive(inner="unpacked"),
}

STAGES = r"""FROM e2bdev/base AS Builder
RUN mkdir /made && echo by name > /made/named && echo by number > /made/numbered

FROM e2bdev/base AS broken
RUN echo this stage is not needed && exit 1

FROM e2bdev/base AS second
COPY --from=builder /made/named /made/

FROM second
COPY --from=BUILDER /made/named /out/named
COPY --from=0 --chown=user /made/numbered /out/
COPY --from=second /made /out/directory
"""

SERVICE = r"""FROM e2bdev/base
LABEL maintainer="somebody" version=1
MAINTAINER somebody
EXPOSE 8321
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD curl -f localhost:8321
ONBUILD RUN echo never
RUN mkdir -p /srv/site && echo served > /srv/site/index.html
WORKDIR /srv/site
ENTRYPOINT ["python3", "-m"]
CMD ["http.server", "8321"]
"""

ESCAPED = """# escape=`
FROM e2bdev/base
RUN mkdir /out && `
    echo 'back\\slash' > /out/continued
ENV PLACE=/out/a` b
COPY <<EOF /out/document
text
EOF
WORKDIR $PLACE
RUN pwd > /out/place
"""

GROUPS = {
    "run": Group(RUN),
    "variables": Group(VARIABLES, arguments=("--build-arg", "GIVEN=given=1", "--build-arg", "FROM_HERE")),
    "places": Group(PLACES),
    "numbers": Group(NUMBERS),
    "files": Group(FILES, CONTEXT),
    "stages": Group(STAGES),
    "service": Group(SERVICE, arguments=("--ready-cmd", "curl -sf localhost:8321")),
    "escaped": Group(ESCAPED),
}


class Groups:
    """Builds a group when it is first asked for, and keeps one sandbox of it."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.built: dict[str, Built | Exception] = {}
        self.sandboxes: dict[str, Sandbox] = {}

    def build(self, name: str) -> Built:
        if name not in self.built:
            directory = self.directory / name
            directory.mkdir()
            try:
                self.built[name] = build(directory, GROUPS[name], FROM_HERE="from here")
            except Exception as error:
                self.built[name] = error
        built = self.built[name]
        if isinstance(built, Exception):
            # Once is enough to know.
            raise AssertionError(f"group {name} was not built: {built}")
        return built

    def sandbox(self, name: str) -> Sandbox:
        built = self.build(name)
        if name not in self.sandboxes:
            self.sandboxes[name] = Sandbox.create(built.name, timeout=170)
        return self.sandboxes[name]


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    groups = Groups(tmp_path_factory.mktemp("groups"))
    yield groups
    for sandbox in groups.sandboxes.values():
        sandbox.kill()


@pytest.fixture
def create():
    """Sandboxes of one test."""
    made = []

    def create(name: str) -> Sandbox:
        made.append(Sandbox.create(name, timeout=120))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.kill()


def read(sandbox: Sandbox, command: str) -> str:
    return sandbox.commands.run(command, user="root", cwd="/").stdout


SEEN = [
    # RUN
    ("a build begins as root in /", "run", "cat /out/first", "root\n/\n"),
    ("RUN in shell form", "run", "cat /out/shell", "shell form\n"),
    ("the shell is /bin/sh", "run", "cat /out/interpreter", "/bin/sh\n"),
    ("RUN in exec form expands nothing", "run", "ls /out | grep exec", "exec $form\n"),
    ("continuations with comments and empty lines", "run", "cat /out/continued", "three\n"),
    ("SHELL", "run", "cat /out/bash", "/bin/bash\n"),
    ("RUN with a here-document as its script", "run", "cat /out/script", "first\nsecond\n"),
    ("RUN with two here-documents", "run", "cat /out/document /out/raw", "home of root\nof $(whoami)\n"),
    ("RUN with a here-document for another program", "run", "cat /out/python", "from python\n"),
    ("RUN with a here-document that names its interpreter", "run", "cat /out/shebang", "python\n"),
    ("a cache mount does no harm", "run", "cat /out/mount", "cached\n"),
    # ENV and ARG
    (
        "ENV in all its forms",
        "variables",
        "cat /out/env",
        "form with  spaces|value|two words|$NEW|a b|value-value|other|words|old\n",
    ),
    ("ENV goes on from the base's PATH", "variables", "cat /out/path", "my tool\n"),
    ("ARG before FROM", "variables", "cat /out/in-first", "yes\n"),
    ("ARG does not leak into the next stage", "variables", "cat /out/leak", "leaked:\n"),
    ("ARG with defaults, arguments and the value from before FROM", "variables", "cat /out/args", "before given=1 default from here\n"),
    ("ENV takes the value of an ARG", "variables", "cat /out/kept", "given=1\n"),
    # WORKDIR and USER
    ("WORKDIR relative and with variables", "places", "cat /out/directory", "/srv/app/deep/er\n"),
    ("USER by name", "places", "cat /out/name", "newbie\n/srv/app/deep/er\n"),
    ("USER by number", "places", "cat /out/number", "0\n"),
    ("USER with a group, both unknown to the system", "numbers", "cat /out/pair", "1234:4321\n"),
    # COPY and ADD
    ("COPY renames", "files", "cat /c/renamed.txt", "a"),
    ("COPY into a directory", "files", "cat /c/into/a.txt", "a"),
    ("COPY of several files", "files", "ls /c/several", "a.txt\nb.txt\n"),
    ("COPY of a directory is of its content", "files", "cd /c/tree && find . | sort", ".\n./link\n./run.sh\n./sub\n./sub/deep.txt\n"),
    ("COPY of a directory with a slash", "files", "diff -r --no-dereference /c/tree /c/tree-again && echo same", "same\n"),
    ("COPY keeps modes and links", "files", "/c/tree/run.sh; readlink /c/tree/link; stat -c '%a %U:%G' /c/tree/run.sh", "runs\nsub/deep.txt\n755 root:root\n"),
    ("COPY with patterns, one of which matches nothing", "files", "ls /c/glob", "a.txt\nb.txt\n"),
    ("COPY --chown by name", "files", "stat -c %U:%G /c/owned", "user:user\n"),
    (
        "COPY --chown by number and --chmod, all the way down",
        "files",
        "stat -c '%u:%g %a' /c/numbers/run.sh /c/numbers/sub/deep.txt",
        "12:34 640\n12:34 640\n",
    ),
    ("COPY as JSON", "files", "cat /c/json.md", "space"),
    ("COPY to where WORKDIR says", "files", "cd /c/work && find . -type f | sort", "./b.txt\n./sub/b.txt\n"),
    ("COPY of a here-document expands", "files", "cat /c/here", "hello from here\n"),
    ("COPY of quoted here-documents, by their names", "files", "cat /c/documents/ONE /c/documents/TWO", "$GREETING\ntwo\n"),
    (
        ".dockerignore with exceptions",
        "files",
        "cd /all && find . -type f -o -type l | sort",
        "./a.txt\n./b.txt\n./important.log\n./packed.tar.gz\n./tree/link\n./tree/run.sh\n./tree/sub/deep.txt\n./with space.md\n",
    ),
    ("ADD unpacks an archive", "files", "cat /c/unpacked/inner", "unpacked"),
    ("ADD of any other file copies it", "files", "cat /c/added", "a"),
    ("COPY unpacks nothing", "files", "ls /c/kept", "packed.tar.gz\n"),
    # stages
    ("COPY --from by name, in any case", "stages", "cat /out/named", "by name\n"),
    ("COPY --from by number", "stages", "cat /out/numbered; stat -c %U:%G /out/numbered", "by number\nuser:user\n"),
    ("COPY --from of a directory", "stages", "ls /out/directory", "named\n"),
    ("FROM an earlier stage", "stages", "ls /made", "named\n"),
    # start command
    ("ENTRYPOINT and CMD are the start command", "service", "curl -s localhost:8321", "served\n"),
    # another escape character
    ("continuations with a backtick", "escaped", "cat /out/continued", "back\\slash\n"),
    ("escapes with a backtick", "escaped", "cat /out/place", "/out/a b\n"),
]


@pytest.mark.parametrize("group, command, expected", [pytest.param(*case[1:], id=case[0]) for case in SEEN])
def test_seen_in_a_sandbox(groups, group, command, expected):
    assert read(groups.sandbox(group), command) == expected


def test_sandboxes_start_as_the_last_user_in_the_last_directory(groups):
    assert groups.sandbox("places").commands.run("whoami; pwd").stdout == "newbie\n/srv/last\n"


def test_a_stage_that_nobody_needs_is_not_built(groups):
    assert "this stage is not needed" not in groups.build("stages").stderr


@pytest.mark.parametrize("instruction", ["LABEL", "MAINTAINER", "EXPOSE", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "ONBUILD"])
def test_what_has_no_effect_is_said(groups, instruction):
    assert f"{instruction} has no effect here: " in groups.build("service").stderr


def test_a_cache_mount_is_said_to_be_none(groups):
    assert "--mount=type=cache is ignored: " in groups.build("run").stderr


def test_target(tmp_path, create):
    dockerfile = "FROM e2bdev/base AS first\nRUN echo 1 > /first\nFROM first AS second\nRUN exit 1\nFROM second\nRUN exit 2\n"
    built = build(tmp_path, Group(dockerfile), "--target", "First")
    assert read(create(built.name), "cat /first") == "1\n"


def test_a_dockerfile_from_standard_input(create):
    name = new_name()
    built = run_build(name, "-f", "-", "--cpu", "1", "--memory", "512", "--json", stdin="FROM e2bdev/base\nRUN echo in > /in\n")
    document = json.loads(built.stdout)
    assert document["status"] == "ready" and document["buildID"] and document["tags"] == ["default"], document
    sandbox = create(name)
    assert read(sandbox, "cat /in") == "in\n"
    refused = run_build(new_name(), "-f", "-", stdin="FROM e2bdev/base\nCOPY a b\n", good=False)
    assert "line 2 copies files, and there is no directory" in refused.stderr and "FIX: " in refused.stderr, refused


def test_a_dockerfile_of_another_name_and_tags(tmp_path, create):
    (tmp_path / "other").write_text("FROM e2bdev/base\nCOPY . /here\n")
    (tmp_path / "other.dockerignore").write_text("*\n!seen\n")
    (tmp_path / ".dockerignore").write_text("seen\n")
    (tmp_path / "seen").write_text("x")
    name = new_name()
    built = run_build(f"{name}:one", str(tmp_path), "-f", str(tmp_path / "other"), "--tag", "two", "--json")
    assert sorted(json.loads(built.stdout)["tags"]) == ["one", "two"]
    assert read(create(f"{name}:two"), "ls /here") == "seen\n"


def test_another_template_as_the_source(groups, create):
    base = groups.build("stages").name
    name = new_name()
    run_build(name, "--from-template", base)
    assert read(create(name), "cat /out/named") == "by name\n"
    dockerfile = "FROM e2bdev/base\nRUN echo 1 > /one\n"
    run_build(name, "-f", "-", stdin=dockerfile)
    assert read(create(name), "cat /one; ls /out 2>/dev/null | wc -l") == "1\n0\n"


def test_templates_of_the_server_among_images(groups, create):
    base = groups.build("stages").name
    name = new_name()
    dockerfile = f"FROM templates.soulbox/{base} AS mine\nFROM e2bdev/base\nCOPY --from=mine /out/named /copied\nCOPY --from=templates.soulbox/{base} /out /out\n"
    run_build(name, "-f", "-", stdin=dockerfile)
    assert read(create(name), "cat /copied /out/named") == "by name\nby name\n"
    run_build(name, "-f", "-", stdin=f"FROM templates.soulbox/{base}\nUSER root\nRUN echo more >> /out/named\n")
    assert read(create(name), "cat /out/named") == "by name\nmore\n"
    run_build(name, "--from-image", f"templates.soulbox/{base}:default")
    assert read(create(name), "cat /out/named") == "by name\n"
    refused = run_build(name, "-f", "-", stdin="FROM templates.soulbox/nobody-made-this\n", good=False)
    assert "template 'nobody-made-this' not found" in refused.stderr


CACHED = """FROM e2bdev/base
RUN date +%s%N > /when-first
COPY one.txt /one.txt
RUN date +%s%N > /when-one
COPY two.txt /two.txt
RUN date +%s%N > /when-two
"""


def test_what_is_done_is_not_done_again(tmp_path, create):
    times = "cat /when-first /when-one /when-two"
    mark = uuid.uuid4().hex
    group = Group(CACHED, {"one.txt": f"1 {mark}", "two.txt": f"2 {mark}"})
    name = build(tmp_path, group).name
    first = read(create(name), times).splitlines()

    # The same once more: other times of the files mean nothing.
    os.utime(tmp_path / "one.txt", (1, 1))
    again = build(tmp_path, Group(CACHED), name=name)
    steps = [line for line in again.stderr.splitlines() if "] RUN " in line or "] COPY " in line]
    assert len(steps) == 5 and all(line.startswith("CACHED ") for line in steps), again.stderr
    assert read(create(name), times).splitlines() == first

    # One file is another: everything from its COPY on is done again, and nothing before it.
    build(tmp_path, Group(CACHED, {"two.txt": f"changed {mark}"}), name=name)
    changed = read(create(name), times).splitlines()
    assert changed[:2] == first[:2] and changed[2] != first[2]

    done = build(tmp_path, Group(CACHED), "--no-cache", name=name)
    assert not any(line.startswith("CACHED ") and "] RUN " in line for line in done.stderr.splitlines()), done.stderr
    assert read(create(name), times).splitlines()[0] != first[0]


REFUSED = [
    ("a word that is no instruction", "FROM e2bdev/base\n\nRUN true\nRNU ls\n", ["Dockerfile: line 4: RNU is no instruction"]),
    ("no FROM", "# nothing\n", ["has no FROM"]),
    ("an instruction before FROM", "RUN ls\nFROM e2bdev/base\n", ["line 1: RUN stands before the first FROM"]),
    ("ADD of an address", "FROM e2bdev/base\nADD https://example.com/x /x\n", ["line 2", "https://example.com/x", "curl"]),
    ("a secret", "FROM e2bdev/base\nRUN --mount=type=secret,id=a ls\n", ["line 2", "--mount=type=secret"]),
    ("a bind mount", "FROM e2bdev/base\nRUN --mount=target=/x ls\n", ["line 2", "--mount=type=bind"]),
    ("no network", "FROM e2bdev/base\nRUN --network=none ls\n", ["line 2", "--network=none"]),
    ("a here-document without end", "FROM e2bdev/base\nRUN <<EOF\nls\n", ["line 2", "EOF does not end"]),
    ("FROM a variable that is empty", "ARG X\nFROM $X\n", ["line 2", "$X names no image"]),
    ("COPY --from a stage that is not there", "FROM e2bdev/base\nCOPY --from=3 /a /b\n", ["line 2", "--from=3"]),
    ("a variable that is needed", "FROM e2bdev/base\nENV A=\"${NEEDED:?say it}\"\n", ["NEEDED", "say it"]),
    ("a file that is not there", "FROM e2bdev/base\nCOPY missing.txt /x\n", ["missing.txt", "is not in the context"]),
    ("a file that is left out", "FROM e2bdev/base\nCOPY ignored /x\n", ["ignored", ".dockerignore"]),
    ("a file outside of the context", "FROM e2bdev/base\nCOPY ../outside /x\n", ["../outside", "outside of the context"]),
    ("a file that is not in the stage", "FROM e2bdev/base AS a\nFROM e2bdev/base\nCOPY --from=a /no/such /x\n", ["/no/such"]),
    ("a command that fails", "FROM e2bdev/base\nRUN true\nRUN echo before; exit 3\n", ["step 2", "RUN echo before; exit 3", "exit status 3", "\n  before"]),
    ("a user that is not there", "FROM e2bdev/base\nUSER nobody-of-that-name\nRUN true\n", ["nobody-of-that-name"]),
]


@pytest.mark.parametrize("dockerfile, said", [pytest.param(*case[1:], id=case[0]) for case in REFUSED])
def test_refused(tmp_path, dockerfile, said):
    (tmp_path / "outside").write_text("x")
    context = tmp_path / "context"
    context.mkdir()
    built = build(context, Group(dockerfile, {"ignored": "x", ".dockerignore": "ignored"}), good=False)
    assert built.code == 1 and built.stdout == "", built
    # The log, which stands before it, may have errors, too.
    error = built.stderr[built.stderr.rindex("error: template" if "error: template" in built.stderr else "error: ") :]
    for text in [*said, "\nFIX: "]:
        assert text in error, built.stderr
    with pytest.raises(Exception, match="not found|does not exist"):
        Sandbox.create(built.name, timeout=60)


def test_a_refusal_for_programs(tmp_path):
    built = build(tmp_path, Group("FROM e2bdev/base\nRUN echo last words; exit 9\n"), "--json", good=False)
    assert built.stdout == ""
    error = json.loads(built.stderr[built.stderr.index("{") :])["error"]
    assert error["exitCode"] == built.code == 1
    assert "exit status 9" in error["message"] and "last words" in error["message"] and error["fix"]
