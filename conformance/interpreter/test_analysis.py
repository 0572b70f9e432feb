"""`analyze` and `visualize` of our Python client, on top of the official package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flavours import Waiting

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "clients/python"))
import soulbox_analysis
from soulbox_analysis import AnalysisError, Dataset

SALES = b"region,amount\nnorth,3\nsouth,4.5\nnorth,2\n"


def call(sandbox, name, *arguments, **options):
    """One of the client's calls, of the flavour that the sandbox is."""
    if isinstance(sandbox, Waiting):
        return sandbox._loop.result(getattr(soulbox_analysis, f"{name}_async")(sandbox._target, *arguments, **options))
    return getattr(soulbox_analysis, name)(sandbox, *arguments, **options)


def test_an_analysis(sandbox):
    code = """
print("looking at", len(sales), "rows")
metric(total=sales.amount.sum(), share=float("nan"))
import matplotlib.pyplot as plt
plt.bar(sales.region, sales.amount); plt.title("Sales"); plt.show()
display(sales.groupby("region", as_index=False).sum())
len(extra)
"""
    datasets = {"sales": Dataset(SALES), "extra": Dataset(b'[{"a": 1}, {"a": 2}]', "json")}
    found = call(sandbox, "analyze", code, datasets)
    assert found.error is None and found.logs.stdout == "looking at 3 rows\n"
    assert found.metrics == {"total": 9.5, "share": None}
    assert found.tables == [{"region": ["north", "south"], "amount": [5.0, 4.5]}]
    assert [(plot.chart.type.value, plot.chart.title) for plot in found.plots] == [("bar", "Sales")]
    assert found.plots[0].content.startswith(b"\x89PNG")
    assert found.values == ["2"]
    # It leaves no context behind, and its variables are nobody else's.
    assert len(sandbox.list_code_contexts()) == 2
    assert sandbox.run_code("sales").error.name == "NameError"


def test_an_analysis_that_fails_has_what_came_before(sandbox):
    found = call(sandbox, "analyze", "metric(a=1)\nraise ValueError('no')")
    assert found.metrics == {"a": 1.0} and (found.error.name, found.error.value) == ("ValueError", "no")


@pytest.mark.parametrize(
    "datasets, said",
    [
        ({"2x": Dataset(SALES)}, "no variable.*FIX"),
        ({"a": Dataset(SALES, "doc")}, "no reader for .doc.*FIX"),
        ({"a": Dataset(b"{", "json")}, "ValueError"),
        ({"a": 3}, "no dataset.*FIX"),
    ],
)
def test_datasets_that_cannot_be_read(sandbox, datasets, said):
    with pytest.raises(AnalysisError, match=said):
        call(sandbox, "analyze", "1", datasets)
    assert len(sandbox.list_code_contexts()) == 2


@pytest.mark.parametrize("kind", ["line", "scatter", "area", "bar", "histogram", "box", "pie", "heatmap"])
def test_every_kind_of_plot(sandbox, kind):
    data = {"x": [1, 2, 3], "first": [4, 5, 6]} if kind == "pie" else {"x": [1, 2, 3], "first": [4, 5, 6], "second": [6, 5, 4]}
    plot = call(sandbox, "visualize", kind, data, title="T", x_label="X", y_label="Y", width=400, height=300)
    assert plot.content.startswith(b"\x89PNG") and (plot.kind, plot.width, plot.height) == (kind, 400, 300)
    width, height = int.from_bytes(plot.content[16:20], "big"), int.from_bytes(plot.content[20:24], "big")
    assert (width, height) == (400, 300)
    svg = call(sandbox, "visualize", kind, data, format="svg")
    assert "<svg" in svg.content and svg.format == "svg"
    if kind in ("line", "scatter", "bar", "pie"):
        assert plot.chart.type.value == kind and plot.chart.title == "T"


def test_values_of_a_plot_are_those_given(sandbox):
    plot = call(sandbox, "visualize", "line", {"x": [1, 2, 3], "up": [4, 5, 6], "down": [6, 5, 4]})
    lines = {line.label: [list(point) for point in line.points] for line in plot.chart.elements}
    assert lines == {"up": [[1, 4], [2, 5], [3, 6]], "down": [[1, 6], [2, 5], [3, 4]]}


@pytest.mark.parametrize(
    "options, said",
    [
        ({"kind": "cake"}, "no kind of plot 'cake'.*line.*"),
        ({"format": "bmp"}, "no format 'bmp'.*png"),
        ({"data": {}}, "no data.*FIX"),
        ({"data": {"x": [1], "y": [1, 2]}}, "different lengths.*FIX"),
        # The small template has no plotly.
        ({"format": "html"}, "plotly.*FIX"),
    ],
)
def test_plots_that_cannot_be_drawn(sandbox, options, said):
    wanted = {"kind": "line", "data": {"x": [1], "y": [2]}} | options
    with pytest.raises(AnalysisError, match=said):
        call(sandbox, "visualize", wanted.pop("kind"), wanted.pop("data"), **wanted)


def test_the_command_line(sandbox, tmp_path):
    """`soulbox sandbox analyze`, which is the Rust client's."""
    (tmp_path / "sales.csv").write_bytes(SALES)
    (tmp_path / "code.py").write_text("metric(total=sales.amount.sum())\nsales.head(1)")
    soulbox = os.environ["CONFORMANCE_BINARY"]
    arguments = ["--json", "sandbox", "analyze", sandbox.sandbox_id, tmp_path / "code.py", "--data", f"sales={tmp_path / 'sales.csv'}"]
    done = subprocess.run([soulbox, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["metrics"] == {"total": 9.5} and found["tables"] == [{"region": ["north"], "amount": [3.0]}]
    (tmp_path / "columns.json").write_text('{"region": ["north", "south"], "amount": [3, 4.5]}')
    plot = ["sandbox", "plot", sandbox.sandbox_id, "bar", tmp_path / "columns.json", "--out", tmp_path / "sales.svg", "--title", "Sales"]
    done = subprocess.run([soulbox, *plot], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "<svg" in (tmp_path / "sales.svg").read_text()
    (tmp_path / "code.py").write_text("1/0")
    failed = subprocess.run([soulbox, *arguments], capture_output=True, text=True, timeout=60)
    assert failed.returncode != 0 and "ZeroDivisionError" in failed.stdout
