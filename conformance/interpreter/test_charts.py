"""Charts: what is told of a figure is what matplotlib holds."""

from __future__ import annotations

import pytest

BEGIN = "import matplotlib.pyplot as plt\nimport numpy as np\nfig, ax = plt.subplots()\n"


def chart(sandbox, code: str):
    execution = sandbox.run_code(BEGIN + code + "\nplt.show()")
    assert execution.error is None, execution.error
    (result,) = [one for one in execution.results if one.chart]
    assert result.png
    return result.chart


def held(sandbox, expression: str):
    """A value as the kernel has it."""
    return sandbox.run_code(expression).results[0].json


def test_lines(sandbox):
    made = chart(sandbox, "x = np.linspace(0, 3, 7)\nax.plot(x, x**2, label='square')\nax.plot(x, -x, label='down')\nax.set(xlabel='Time (s)', ylabel='Way [m]', title='Lines')")
    assert (made.type.value, made.title) == ("line", "Lines")
    assert (made.x_label, made.x_unit, made.y_label, made.y_unit) == ("Time (s)", "s", "Way [m]", "m")
    assert made.x_scale.value == made.y_scale.value == "linear"
    lines = held(sandbox, "[[line.get_label(), [list(map(float, p)) for p in line.get_xydata()]] for line in ax.lines]")
    assert [[line.label, [list(point) for point in line.points]] for line in made.elements] == lines
    assert made.x_ticks == held(sandbox, "[float(t) for t in ax.get_xticks()]")
    assert made.y_tick_labels == held(sandbox, "[t.get_text() for t in ax.get_yticklabels()]")


def test_scatter_on_a_logarithmic_scale(sandbox):
    made = chart(sandbox, "ax.scatter([1, 10, 100], [3, 2, 1], label='dots')\nax.set_xscale('log')")
    assert (made.type.value, made.x_scale.value) == ("scatter", "log")
    assert [(dots.label, dots.points) for dots in made.elements] == [("dots", [(1, 3), (10, 2), (100, 1)])]


def test_lines_over_time(sandbox):
    made = chart(sandbox, "import pandas as pd\nt = pd.date_range('2024-01-01', periods=3)\nax.plot(t, [1, 2, 3])")
    assert made.x_scale.value == "datetime"
    assert [point[0][:10] for point in made.elements[0].points] == ["2024-01-01", "2024-01-02", "2024-01-03"]


@pytest.mark.parametrize("call, lies", [("bar", False), ("barh", True)])
def test_bars(sandbox, call, lies):
    made = chart(sandbox, f"ax.{call}(['a', 'b', 'c'], [3, 1, 2], label='first')\nax.set(xlabel='X', ylabel='Y')")
    assert made.type.value == "bar"
    assert [(bar.label, bar.group, float(bar.value)) for bar in made.elements] == [("a", "first", 3), ("b", "first", 1), ("c", "first", 2)]
    assert (made.x_label, made.y_label) == (("Y", "X") if lies else ("X", "Y"))


def test_a_pie(sandbox):
    made = chart(sandbox, "ax.pie([1, 3], labels=['one', 'three'])")
    assert made.type.value == "pie"
    assert [(slice.label, round(slice.angle, 3), slice.radius) for slice in made.elements] == [("one", 90, 1), ("three", 270, 1)]


def test_boxes(sandbox):
    made = chart(sandbox, "values = np.r_[np.arange(1, 101), 1000]\nax.boxplot([values], tick_labels=['v'], patch_artist=True)")
    assert made.type.value == "box_and_whisker"
    (box,) = made.elements
    quartiles = held(sandbox, "[float(q) for q in np.percentile(values, [25, 50, 75])]")
    assert [box.first_quartile, box.median, box.third_quartile] == quartiles
    assert (box.label, box.min, box.max, box.outliers) == ("v", 1, 100, [1000])


def test_several_axes(sandbox):
    made = chart(sandbox, "plt.close(fig)\nfig, axes = plt.subplots(1, 2)\naxes[0].plot([1, 2])\naxes[1].bar(['a'], [1])\nfig.suptitle('Both')")
    assert (made.type.value, made.title) == ("superchart", "Both")
    assert [one.type.value for one in made.elements] == ["line", "bar"]


def test_a_million_points(sandbox):
    execution = sandbox.run_code(BEGIN + "ax.plot(np.random.rand(1_000_000))\nplt.show()", timeout=120)
    assert execution.error is None
    (result,) = execution.results
    assert result.png and result.chart.type.value == "unknown" and result.chart.elements == []
