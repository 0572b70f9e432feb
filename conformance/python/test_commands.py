"""Running commands: output, input, exit, users, directories, timeouts and reconnection."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    SandboxException,
    TimeoutException,
)

from server import patience, wait_until


@pytest.fixture
def run(sandbox):
    return sandbox.commands.run


def alive(sandbox, pid: int) -> bool:
    """Whether a process exists, asked of the kernel inside."""
    return sandbox.commands.run(f"kill -0 {pid} 2>/dev/null && echo yes || echo no", user="root").stdout == "yes\n"


def test_output_and_exit(run):
    result = run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code, result.error) == ("out\n", "err\n", 0, None)


@pytest.mark.parametrize("code", [1, 2, 126, 255])
def test_exit_codes(run, code):
    with pytest.raises(CommandExitException) as error:
        run(f"echo before; echo why >&2; exit {code}")
    assert error.value.exit_code == code
    assert (error.value.stdout, error.value.stderr) == ("before\n", "why\n")
    assert error.value.error == f"exit status {code}"


def test_command_that_does_not_exist(run):
    with pytest.raises(CommandExitException) as error:
        run("no-such-command-at-all")
    assert error.value.exit_code == 127 and "not found" in error.value.stderr


def test_command_that_is_not_executable(run, sandbox):
    sandbox.files.write("/tmp/plain", "text")
    with pytest.raises(CommandExitException) as error:
        run("/tmp/plain")
    assert error.value.exit_code == 126


@pytest.mark.parametrize("name, text", [("KILL", "signal: killed"), ("TERM", "signal: terminated"), ("SEGV", "signal: segmentation fault")])
def test_death_by_signal(run, name, text):
    with pytest.raises(CommandExitException) as error:
        run(f"kill -{name} $$")
    assert error.value.exit_code == -1
    assert error.value.error.startswith(text)


def test_callbacks_get_every_piece(run):
    out, err = [], []
    result = run("for n in $(seq 200); do echo out$n; echo err$n >&2; done", on_stdout=out.append, on_stderr=err.append)
    assert "".join(out) == result.stdout == "".join(f"out{n}\n" for n in range(1, 201))
    assert "".join(err) == result.stderr == "".join(f"err{n}\n" for n in range(1, 201))


def test_callbacks_come_while_it_runs(run):
    times = []
    run("echo a; sleep 1; echo b", on_stdout=lambda _: times.append(time.monotonic()))
    assert len(times) == 2 and times[1] - times[0] > 0.7


def test_three_megabytes(run):
    result = run("head -c 3145728 /dev/zero | tr '\\0' x; head -c 3145728 /dev/zero | tr '\\0' y >&2")
    assert result.stdout == "x" * 3145728
    assert result.stderr == "y" * 3145728


def test_many_lines_in_order(run):
    assert run("seq 100000").stdout == "".join(f"{n}\n" for n in range(1, 100001))


def test_output_need_not_be_kept(run):
    pieces = []
    result = run("seq 1000", retain_output=False, on_stdout=pieces.append)
    assert result.stdout is None and "".join(pieces).endswith("1000\n")


def test_unicode_split_across_chunks(run):
    text = "ä€😀" * 30000
    result = run("python3 -c \"import sys; sys.stdout.write('\\u00e4\\u20ac\\U0001f600' * 30000)\"", envs={"PYTHONIOENCODING": "utf-8"})
    assert result.stdout == text


def test_bytes_that_are_not_unicode_are_replaced(run):
    result = run("head -c 8191 /dev/zero | tr '\\0' a; printf '\\xe2'")
    assert result.stdout == "a" * 8191 + "\ufffd"


def test_long_command(run):
    assert run(f"printf %s {'z' * 100_000} | wc -c").stdout.strip() == "100000"


def test_quotes_and_odd_characters(run):
    assert run("printf '%s' \"it's \\\"quoted\\\" \\$HOME ä\"").stdout == "it's \"quoted\" $HOME ä"


def test_default_user_and_directory(run):
    assert run("whoami; pwd; echo $HOME $USER $LOGNAME").stdout == "user\n/home/user\n/home/user user user\n"


def test_root(run):
    assert run("id -u; whoami; pwd; echo $HOME", user="root").stdout == "0\nroot\n/root\n/root\n"


def test_sudo_needs_no_password(run):
    assert run("sudo -n id -u").stdout == "0\n"


def test_unknown_user(run):
    with pytest.raises(AuthenticationException) as error:
        run("true", user="nobody-knows-me")
    assert "nobody-knows-me" in str(error.value)


def test_directory(run, sandbox):
    sandbox.files.make_dir("/home/user/spaced dir/ünder")
    assert run("pwd", cwd="/home/user/spaced dir/ünder").stdout == "/home/user/spaced dir/ünder\n"
    assert run("pwd", cwd="~").stdout == "/home/user\n"
    assert run("pwd", cwd="spaced dir").stdout == "/home/user/spaced dir\n"


def test_unknown_directory(run):
    with pytest.raises(InvalidArgumentException) as error:
        run("true", cwd="/no/such/place")
    assert "cwd '/no/such/place' does not exist" in str(error.value)


def test_environment(run):
    result = run("env", envs={"ONE": "1", "QUOTED": "a b'c\"d", "HOME": "/elsewhere"})
    lines = result.stdout.splitlines()
    assert "ONE=1" in lines and "QUOTED=a b'c\"d" in lines and "HOME=/elsewhere" in lines
    assert not any(line.startswith(("E2B_API_KEY", "SOULBOX_", "CARGO")) for line in lines)


def test_path_finds_the_usual_places(run):
    assert "/usr/local/bin" in run("echo $PATH").stdout
    assert run("command -v python3 bash sudo curl git").exit_code == 0


def test_background(sandbox, run):
    handle = run("sleep 0.3; echo done; exit 4", background=True)
    assert handle.pid > 0
    with pytest.raises(CommandExitException) as error:
        handle.wait()
    assert error.value.exit_code == 4 and error.value.stdout == "done\n"


def test_input(sandbox, run):
    handle = run("cat; echo end", background=True, stdin=True)
    sandbox.commands.send_stdin(handle.pid, "häl")
    handle.send_stdin("lo\n")
    handle.send_stdin(b"\xe2\x82")
    handle.send_stdin(b"\xac\n")
    handle.send_stdin("")
    handle.close_stdin()
    assert handle.wait().stdout == "hällo\n€\nend\n"


def test_input_is_exact(sandbox, run):
    handle = run("sha256sum", background=True, stdin=True)
    import hashlib

    digest = hashlib.sha256()
    for n in range(16):
        block = bytes([n]) * 65537
        digest.update(block)
        handle.send_stdin(block)
    handle.close_stdin()
    assert handle.wait().stdout.split()[0] == digest.hexdigest()


def test_without_input_there_is_none(sandbox, run):
    assert run("cat | wc -c").stdout.strip() == "0"
    handle = run("sleep 30", background=True)
    with pytest.raises(SandboxException) as error:
        handle.send_stdin("x")
    assert "stdin not enabled or closed" in str(error.value)
    handle.close_stdin()
    handle.kill()


def test_close_input_twice(run):
    """The command must still be there for the second time, so it does not end with its input."""
    handle = run("cat; exec sleep 300", background=True, stdin=True)
    handle.close_stdin()
    handle.close_stdin()
    assert handle.kill() is True


def test_input_of_unknown_process(sandbox):
    for call in (lambda: sandbox.commands.send_stdin(999_999, "x"), lambda: sandbox.commands.close_stdin(999_999)):
        with pytest.raises(NotFoundException):
            call()


def test_kill(sandbox, run):
    handle = run("exec sleep 300", background=True)
    assert sandbox.commands.kill(handle.pid) is True
    assert not alive(sandbox, handle.pid)
    with pytest.raises(CommandExitException) as error:
        handle.wait()
    assert error.value.exit_code == -1 and error.value.error == "signal: killed"
    assert sandbox.commands.kill(handle.pid) is False


def test_kill_by_handle_ends_a_shell_with_children(sandbox, run):
    handle = run("sleep 300 | cat", background=True)
    assert handle.kill() is True
    with pytest.raises(CommandExitException):
        handle.wait()


def test_list(sandbox, run):
    wait_until("no process of another test", 5, lambda: sandbox.commands.list() == [])
    handle = run("sleep 300", background=True, envs={"TAGGED": "yes"}, cwd="/tmp")
    (process,) = sandbox.commands.list()
    assert process.pid == handle.pid
    assert (process.cmd, process.args) == ("/bin/bash", ["-l", "-c", "sleep 300"])
    assert process.envs == {"TAGGED": "yes"} and process.cwd == "/tmp" and process.tag is None
    handle.kill()
    with pytest.raises(CommandExitException):
        handle.wait()
    assert sandbox.commands.list() == []


def test_connect_sees_what_comes(sandbox, run):
    handle = run("for n in $(seq 100); do echo $n; read -r line; done", background=True, stdin=True)
    other = sandbox.commands.connect(handle.pid)
    assert other.pid == handle.pid
    sandbox.commands.send_stdin(handle.pid, "\n" * 100)
    assert other.wait().stdout.endswith("99\n100\n")
    assert handle.wait().stdout.endswith("99\n100\n")


def test_connect_after_the_end(sandbox, run):
    handle = run("sleep 0.2; exit 7", background=True)
    with pytest.raises(CommandExitException):
        handle.wait()
    with pytest.raises(CommandExitException) as error:
        sandbox.commands.connect(handle.pid).wait()
    assert error.value.exit_code == 7


def test_connect_to_unknown(sandbox):
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(999_999)


def test_disconnect_leaves_it_running(sandbox, run):
    handle = run("for n in $(seq 5); do echo $n; sleep 0.2; done; echo finished > /tmp/finished; sleep 300", background=True)
    handle.disconnect()
    wait_until("the command went on", 10, lambda: sandbox.files.exists("/tmp/finished"))
    assert alive(sandbox, handle.pid)
    assert sandbox.commands.kill(handle.pid)


def test_timeout_ends_the_command(sandbox, run):
    started = time.monotonic()
    with pytest.raises(TimeoutException):
        run("echo $$ > /tmp/timed; exec sleep 300", timeout=1)
    assert time.monotonic() - started < patience(3)
    pid = int(sandbox.files.read("/tmp/timed"))
    wait_until("the process is dead", 2, lambda: not alive(sandbox, pid))


def test_no_timeout(run):
    assert run("sleep 1.5; echo ok", timeout=0).stdout == "ok\n"


def test_daemon_outlives_its_shell(sandbox, run):
    started = time.monotonic()
    pid = int(run("nohup sleep 300 >/dev/null 2>&1 & echo $!").stdout)
    assert time.monotonic() - started < patience(2)
    assert alive(sandbox, pid)
    run(f"kill {pid}")


def test_background_child_that_holds_output_keeps_the_command(run):
    started = time.monotonic()
    run("sleep 1.5 &")
    assert time.monotonic() - started > 1.2


def test_orphans_are_reaped(sandbox, run):
    run("for n in $(seq 50); do (sh -c 'exit 0' &) >/dev/null 2>&1; done")
    wait_until("no zombie is left", 5, lambda: run("ps -eo stat= | grep -c '^Z' || true").stdout.strip() == "0")


def test_many_commands_at_once(run):
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: run(f"sleep 0.$((RANDOM % 5)); echo {n}").stdout, range(60)))
    assert answers == [f"{n}\n" for n in range(60)]


def test_hundred_in_a_row_leave_nothing(sandbox, run):
    before = run("ls /proc/1/fd | wc -l", user="root").stdout
    for n in range(100):
        assert run(f"echo {n}").stdout == f"{n}\n"
    after = run("ls /proc/1/fd | wc -l", user="root").stdout
    assert int(after) <= int(before) + 5
    assert sandbox.commands.list() == []
