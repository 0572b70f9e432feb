"""`run_code` with the official package: state, output, results, errors, variables, contexts, languages."""

from __future__ import annotations

import base64
import json
import math
import os

import httpx
import pytest
from e2b import InvalidArgumentException, NotFoundException, SandboxException, TimeoutException


def test_a_value_and_state(sandbox):
    assert sandbox.run_code("x = 20 + 1").text is None
    execution = sandbox.run_code("x * 2")
    assert (execution.text, execution.error, execution.results[0].is_main_result) == ("42", None, True)
    assert sandbox.run_code("x").execution_count > execution.execution_count


def test_strings_have_no_quotes(sandbox):
    assert sandbox.run_code("'it is \"so\"'").text == 'it is "so"'


def test_output_comes_as_it_is_printed(sandbox):
    out, err, results = [], [], []
    code = "import sys\nfor n in range(3):\n    print('line', n, flush=True)\nprint('wrong', file=sys.stderr)\ndisplay('shown')\n7"
    execution = sandbox.run_code(code, on_stdout=lambda m: out.append(m.line), on_stderr=lambda m: err.append(m.line), on_result=results.append)
    assert "".join(execution.logs.stdout) == "".join(out) == "line 0\nline 1\nline 2\n"
    assert "".join(execution.logs.stderr) == "".join(err) == "wrong\n"
    assert [(result.text, result.is_main_result) for result in results] == [("shown", False), ("7", True)]


@pytest.mark.parametrize(
    "code, name, said",
    [
        ("1/0", "ZeroDivisionError", "division by zero"),
        ("def f(:", "SyntaxError", "invalid syntax"),
        ("undefined_name", "NameError", "name 'undefined_name' is not defined"),
        ("input('?')", "StdinNotImplementedError", "input"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
    ],
)
def test_errors(sandbox, code, name, said):
    errors = []
    error = sandbox.run_code(code, on_error=errors.append).error
    assert error.name == name and said in error.value and name in error.traceback
    assert [one.name for one in errors] == [name]
    assert sandbox.run_code("1 + 1").text == "2"


def test_every_kind_of_result(sandbox):
    code = """
class Everything:
    def _repr_html_(self): return '<b>h</b>'
    def _repr_markdown_(self): return '# m'
    def _repr_svg_(self): return '<svg/>'
    def _repr_png_(self): return b'png'
    def _repr_jpeg_(self): return b'jpeg'
    def _repr_pdf_(self): return b'pdf'
    def _repr_latex_(self): return '$l$'
    def _repr_json_(self): return {'j': 1}
    def _repr_javascript_(self): return 'js()'
    def _repr_mimebundle_(self, include=None, exclude=None): return {'x/y': 'other'}
    def __repr__(self): return 'everything'
Everything()
"""
    (result,) = sandbox.run_code(code).results
    assert (result.text, result.html, result.markdown, result.svg, result.latex) == ("everything", "<b>h</b>", "# m", "<svg/>", "$l$")
    assert (result.png.strip(), result.jpeg.strip(), result.pdf.strip()) == ("cG5n", "anBlZw==", "cGRm")
    assert (result.json, result.javascript, result.extra) == ({"j": 1}, "js()", {"x/y": "other"})


def test_data_frames(sandbox):
    code = "import pandas as pd\npd.DataFrame({'a': [1, None], 't': pd.to_datetime(['2020-01-01', '2021-06-01'])})"
    (result,) = sandbox.run_code(code).results
    assert result.data["a"][0] == 1 and result.data["a"][1] is None
    assert [time[:10] for time in result.data["t"]] == ["2020-01-01", "2021-06-01"]
    assert "<table" in result.html


def test_numbers_that_are_none(sandbox):
    execution = sandbox.run_code("[1.5, float('nan'), {'inf': float('inf')}]")
    assert execution.error is None
    assert execution.results[0].json == [1.5, None, {"inf": None}]
    assert math.isnan(float(sandbox.run_code("float('nan')").text))


def test_variables_of_the_sandbox_and_of_a_run(create):
    sandbox = create(envs={"GLOBAL": "g", "BOTH": "sandbox"})
    look = "import os; [os.environ.get(name) for name in ('GLOBAL', 'BOTH', 'OWN')]"
    assert sandbox.run_code(look).results[0].json == ["g", "sandbox", None]
    assert sandbox.run_code(look, envs={"BOTH": "run", "OWN": "o"}).results[0].json == ["g", "run", "o"]
    assert sandbox.run_code(look).results[0].json == ["g", "sandbox", None]
    assert sandbox.run_code("echo $GLOBAL", language="bash").logs.stdout == ["g\n"]


def test_two_sandboxes_are_two(create):
    """They go on from the same memory, and have their own names, random numbers and files."""
    first, second = create(), create()
    draw = "import random, numpy, uuid; [random.random(), numpy.random.random(), str(uuid.uuid4())]"
    drawn = [sandbox.run_code(draw).results[0].json for sandbox in (first, second)]
    assert all(a != b for a, b in zip(*drawn)), drawn
    for sandbox in (first, second):
        assert sandbox.run_code("import os; os.environ['E2B_SANDBOX_ID']").text == sandbox.sandbox_id
    first.run_code("mine = 1")
    assert second.run_code("mine").error.name == "NameError"


def test_what_is_shared_cannot_be_changed(create):
    """Sandboxes of the template share pages of their kernels. Whoever writes to what they come from changes his own."""
    first = create()
    first.run_code("kept = [1]")
    spoil = "cd /var/lib/soulbox-interpreter && ls && for file in *; do sudo dd if=/dev/zero of=$file bs=1M count=4 conv=notrunc status=none; done"
    assert "zygote" in first.commands.run(spoil).stdout
    assert first.run_code("kept.append(2); kept").text == "[1, 2]"
    second = create()
    assert second.run_code("import pandas; 40 + 2").text == "42"
    assert second.run_code("2 + 2", context=second.create_code_context()).text == "4"


def test_contexts(sandbox):
    context = sandbox.create_code_context(cwd="/tmp", language="python")
    assert (context.cwd, context.language) == ("/tmp", "python")
    assert sandbox.run_code("import os; os.getcwd()", context=context).text == "/tmp"
    assert sandbox.run_code("import os; os.getcwd()").text == "/home/user"
    sandbox.run_code("own = 1", context=context)
    assert sandbox.run_code("own").error.name == "NameError"
    assert context.id in [one.id for one in sandbox.list_code_contexts()]
    sandbox.restart_code_context(context)
    assert sandbox.run_code("own", context=context).error.name == "NameError"
    sandbox.remove_code_context(context)
    assert context.id not in [one.id for one in sandbox.list_code_contexts()]
    with pytest.raises(NotFoundException):
        sandbox.run_code("1", context=context)


def test_a_context_that_dies_takes_no_other_with_it(sandbox):
    context = sandbox.create_code_context()
    sandbox.run_code("kept = 1")
    error = sandbox.run_code("import os; os._exit(3)", context=context).error
    assert error.name == "ContextRestarting", error
    assert sandbox.run_code("kept").text == "1"
    again = sandbox.run_code("2 + 2", context=context)
    assert again.text == "4", again


def test_memory_without_end(create):
    """The kernel dies for it, and the next run has another."""
    sandbox = create()
    error = sandbox.run_code("b = []\nwhile True: b.append(bytearray(64 << 20))").error
    assert error is not None and error.name in ("ContextRestarting", "MemoryError"), error
    assert sandbox.run_code("1 + 1").text == "2"


def test_a_run_that_takes_too_long(sandbox):
    with pytest.raises(TimeoutException):
        sandbox.run_code("import time\nwhile True: time.sleep(0.1)", timeout=1)
    assert sandbox.run_code("'usable'", timeout=20).text == "usable"


def test_much_output(create):
    sandbox = create()
    code = "for _ in range(100): print('x' * 999_999)"
    total = 0

    def count(message) -> None:
        nonlocal total
        total += len(message.line)

    sandbox.run_code(code, on_stdout=count, timeout=120)
    assert total == 100_000_000
    assert sandbox.run_code("import os; os.write(1, bytes(range(256))); 5").text == "5"


def test_a_long_silence_is_filled(sandbox):
    # The package shows nothing of it: it keeps whatever is between from closing the connection.
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49999"}
    url = os.environ.get("E2B_SANDBOX_URL") or os.environ["E2B_API_URL"]
    with httpx.stream("POST", f"{url}/execute", json={"code": "import time; time.sleep(6); 1"}, headers=headers, timeout=30) as answer:
        lines = [json.loads(line)["type"] for line in answer.iter_lines()]
    assert lines == ["number_of_executions", "keepalive", "result", "end_of_execution"]
    assert sandbox.run_code("import time; time.sleep(6); 1").text == "1"


def test_a_huge_frame(sandbox):
    (result,) = sandbox.run_code("import numpy, pandas\npandas.DataFrame({'a': numpy.arange(300_000)})", timeout=120).results
    assert len(result.data["a"]) == 300_000 and result.data["a"][-1] == 299_999
    assert len(result.html) < 100_000


def test_many_contexts_or_a_clear_limit(create):
    sandbox = create()
    contexts = [sandbox.create_code_context() for _ in range(50)]
    for number in (0, 25, 49):
        assert sandbox.run_code(f"{number}", context=contexts[number]).text == str(number)
    with pytest.raises(SandboxException, match="64 contexts.*FIX"):
        for _ in range(64):
            sandbox.create_code_context()


@pytest.mark.parametrize(
    "language, code, printed, text",
    [
        ("javascript", "const x = [1, 2]; console.log('js', x.length); x.map(n => n * 2)", "js 2\n", "[ 2, 4 ]"),
        ("typescript", "const n: number = 4; console.log(`ts ${n}`); n", "ts 4\n", "4"),
        ("bash", "cd /tmp; echo sh $PWD", "sh /tmp\n", None),
        ("java", 'int x = 20 + 1; System.out.println("java " + x); x * 2', "java 21\n", "42"),
        ("java", "int square(int n) { return n * n; }\nvar squares = java.util.List.of(square(2), square(3));\nsquares", "", "[4, 9]"),
        # Its kernel shows values and returns none.
        ("r", "x <- c(1, 2, 3); cat('r', mean(x), '\\n'); invisible(x)", "r 2 \n", None),
    ],
)
def test_languages(sandbox, language, code, printed, text):
    execution = sandbox.run_code(code, language=language)
    assert execution.error is None, execution.error
    assert ("".join(execution.logs.stdout), execution.text) == (printed, text)
    wrong, name = WRONG[language]
    error = sandbox.run_code(wrong, language=language).error
    assert error is not None and error.name == name, error


# Code that fails, and what the failure is called.
WRONG = {
    "bash": ("exit_nothing_like_it", "ExitStatus"),
    "javascript": ("throw new TypeError('t')", "TypeError"),
    "typescript": ("throw new TypeError('t')", "TypeError"),
    "java": ('throw new IllegalStateException("t")', "IllegalStateException"),
    "r": ("stop('t')", "ERROR"),
}


@pytest.mark.parametrize(
    "language, show",
    [
        ("bash", "echo $OWN"),
        ("javascript", "console.log(process.env.OWN)"),
        ("java", 'System.out.println(System.getProperty("OWN"))'),
        ("r", "cat(Sys.getenv('OWN'), '\\n')"),
    ],
)
def test_variables_in_other_languages(sandbox, language, show):
    value = "it's \"so\" é"
    run = sandbox.run_code(show, language=language, envs={"OWN": value})
    assert "".join(run.logs.stdout).strip() == value, run
    assert value not in "".join(sandbox.run_code(show, language=language).logs.stdout)


@pytest.mark.parametrize(
    "language, end, loop, one",
    [
        ("java", "System.exit(3)", "while (true) Thread.sleep(50);", "System.out.println(1)"),
        ("r", "tools::pskill(Sys.getpid(), 9); Sys.sleep(5)", "while (TRUE) Sys.sleep(0.05)", "cat(1, '\\n')"),
    ],
)
def test_processes_of_other_languages(sandbox, language, end, loop, one):
    """One that ends is told of and replaced, one that loops is stopped."""
    ended = sandbox.run_code(end, language=language)
    after = sandbox.run_code(one, language=language)
    assert "".join(after.logs.stdout).strip() == "1"
    assert ended.error is not None or "had ended" in "".join(after.logs.stderr), (ended, after)
    with pytest.raises(TimeoutException):
        sandbox.run_code(loop, language=language, timeout=2)
    assert "".join(sandbox.run_code(one, language=language, timeout=20).logs.stdout).strip() == "1"


def test_plots_and_tables_of_r(sandbox):
    (plot,) = sandbox.run_code("plot(1:10)", language="r").results
    assert base64.b64decode(plot.png).startswith(b"\x89PNG")
    (table,) = sandbox.run_code("data.frame(a = 1:2, b = c('x', 'y'))", language="r").results
    assert "<table" in table.html and "x" in table.text


def test_a_language_that_is_not_there(sandbox):
    with pytest.raises(SandboxException, match="no kernel for 'cobol'.*python3.*FIX"):
        sandbox.run_code("1", language="cobol")
    with pytest.raises((InvalidArgumentException, SandboxException, Exception)):
        sandbox.run_code("1", language="python", context=sandbox.create_code_context())


def test_the_other_name(create):
    assert create("code-interpreter").run_code("1").text == "1"
