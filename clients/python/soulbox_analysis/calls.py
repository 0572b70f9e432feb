"""The calls, for both of the official package's sandboxes: what is asked in which order, and nothing else."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from . import shapes
from .shapes import Findings, Plot, Source


def analyze(sandbox, code: str, datasets: Mapping[str, Source] | None = None, timeout: float | None = 300) -> Findings:
    """Runs Python that finds each dataset as a data frame, in a context of its own, and sorts what it shows.

    The code has `metric(name=number)` for its numbers. Raises AnalysisError when a dataset cannot be read; code that
    fails is told in the findings.
    """
    placed = shapes.files(datasets or {})
    for path, content in placed.values():
        sandbox.files.write(path, content)
    context = sandbox.create_code_context(language="python")
    try:
        shapes.refused(sandbox.run_code(shapes.loading(placed), context=context, timeout=timeout))
        return shapes.findings(sandbox.run_code(code, context=context, timeout=timeout))
    finally:
        sandbox.remove_code_context(context)


async def analyze_async(sandbox, code: str, datasets: Mapping[str, Source] | None = None, timeout: float | None = 300) -> Findings:
    """`analyze` for an `AsyncSandbox`."""
    placed = shapes.files(datasets or {})
    for path, content in placed.values():
        await sandbox.files.write(path, content)
    context = await sandbox.create_code_context(language="python")
    try:
        shapes.refused(await sandbox.run_code(shapes.loading(placed), context=context, timeout=timeout))
        return shapes.findings(await sandbox.run_code(code, context=context, timeout=timeout))
    finally:
        await sandbox.remove_code_context(context)


def visualize(
    sandbox,
    kind: str,
    data: Mapping[str, Sequence[Any]],
    *,
    format: str = "png",
    title: str | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    width: int = 800,
    height: int = 500,
) -> Plot:
    """Draws a plot: line, scatter, area, bar, histogram, box, pie or heatmap; as png, svg, or html where plotly is there.

    The first column is x where the kind has one, and the others are drawn over it. Raises AnalysisError with the reason.
    """
    code = shapes.drawing(kind, data, format, title, x_label, y_label, width, height)
    return shapes.drawn(sandbox.run_code(code))


async def visualize_async(
    sandbox,
    kind: str,
    data: Mapping[str, Sequence[Any]],
    *,
    format: str = "png",
    title: str | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    width: int = 800,
    height: int = 500,
) -> Plot:
    """`visualize` for an `AsyncSandbox`."""
    code = shapes.drawing(kind, data, format, title, x_label, y_label, width, height)
    return shapes.drawn(await sandbox.run_code(code))
