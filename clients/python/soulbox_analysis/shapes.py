"""What goes in and what comes out, and the decisions in between. Nothing here asks a sandbox."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Union

METRICS = "application/vnd.soulbox.metrics+json"
PLOT = "application/vnd.soulbox.plot+json"
DIRECTORY = "/tmp/datasets"
MODULE = "__import__('soulbox_kernels.analysis').analysis"


class AnalysisError(Exception):
    """A dataset cannot be read, or a plot not be drawn."""


@dataclass(frozen=True)
class Dataset:
    """A file that the code finds as a data frame. Formats: csv, tsv, json, jsonl, parquet, xlsx."""

    content: bytes
    format: str = "csv"


# A dataset, the path of a local file, or anything that writes itself as CSV: a data frame of pandas.
Source = Union[Dataset, str, Path, Any]


@dataclass(frozen=True)
class Logs:
    """What was printed."""

    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True)
class Plot:
    """A plot: its picture (PNG as bytes, SVG and HTML as text), and its values where they are known."""

    format: str
    content: Union[bytes, str]
    # The official package's chart; none for HTML.
    chart: Any = None
    kind: str | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Findings:
    """What an analysis has found. `error` is the official package's: what came before it is there all the same."""

    # Data frames that were shown: columns by name.
    tables: list[dict[str, list]] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    # What the code has given to `metric(name=number)`; a number that is none is None.
    metrics: dict[str, float | None] = field(default_factory=dict)
    # The text of every other value that was shown.
    values: list[str] = field(default_factory=list)
    logs: Logs = Logs()
    error: Any = None


def dataset(source: Source) -> Dataset:
    """A dataset of whatever stands for one."""
    if isinstance(source, Dataset):
        return source
    if isinstance(source, (str, Path)):
        path = Path(source)
        return Dataset(path.read_bytes(), path.suffix.lstrip(".").lower() or "csv")
    if hasattr(source, "to_csv"):
        return Dataset(source.to_csv(index=False).encode())
    raise AnalysisError(f"{type(source).__name__} is no dataset. FIX: a path, a Dataset or a data frame")


def files(datasets: Mapping[str, Source]) -> dict[str, tuple[str, bytes]]:
    """Where each dataset goes, by the name of its variable."""
    placed = {}
    for name, source in datasets.items():
        if not (name.isascii() and name.isidentifier()):
            raise AnalysisError(f"dataset {name!r} has a name that is no variable of Python. FIX: letters, digits and _, a letter first")
        found = dataset(source)
        if not re.fullmatch("[a-z0-9]+", found.format):
            raise AnalysisError(f"dataset {name!r} has the format {found.format!r}. FIX: csv, tsv, json, jsonl, parquet or xlsx")
        placed[name] = (f"{DIRECTORY}/{name}.{found.format}", found.content)
    return placed


def loading(placed: Mapping[str, tuple[str, bytes]]) -> str:
    """The code that reads them."""
    return f"{MODULE}.load(globals(), {json.dumps({name: path for name, (path, _) in placed.items()})})"


def drawing(kind, data, format, title, x_label, y_label, width, height) -> str:
    """The code that draws a plot."""
    wanted = {"kind": kind, "data": {str(name): list(values) for name, values in data.items()}, "format": format}
    wanted |= {"title": title, "x_label": x_label, "y_label": y_label, "width": width, "height": height}
    return f"{MODULE}.visualize({json.dumps(json.dumps(wanted, default=str))})"


def refused(execution) -> None:
    if execution.error is not None:
        raise AnalysisError(f"{execution.error.name}: {execution.error.value}")


def plot_of(result) -> Plot | None:
    """The picture of a result, in the format that was asked for, or the best one."""
    about = (result.extra or {}).get(PLOT, {})
    for format in [about["format"]] if about else ("png", "svg"):
        content = getattr(result, format)
        if content:
            picture = base64.b64decode(content) if format == "png" else content
            return Plot(format, picture, result.chart, about.get("kind"), about.get("width"), about.get("height"))
    return None


def drawn(execution) -> Plot:
    refused(execution)
    for result in execution.results:
        if plot := plot_of(result):
            return plot
    raise AnalysisError("the sandbox has drawn nothing. FIX: build its template again, so that it is of the same version")


def findings(execution) -> Findings:
    """What was shown, sorted."""
    logs = Logs("".join(execution.logs.stdout), "".join(execution.logs.stderr))
    found = Findings(logs=logs, error=execution.error)
    for result in execution.results:
        metrics = (result.extra or {}).get(METRICS)
        if metrics is not None:
            found.metrics.update(metrics)
        elif plot := plot_of(result):
            found.plots.append(plot)
        elif result.data:
            found.tables.append(result.data)
        elif result.text is not None:
            found.values.append(result.text)
    return found
