"""What a figure of matplotlib holds, as plain data."""

import datetime
import math
import re

import matplotlib.dates
import numpy
from matplotlib.category import StrCategoryConverter
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle, Wedge
from matplotlib.ticker import FixedLocator

# A chart is for reading; a figure with more points than this is told without them.
POINTS_MAX = 200_000
UNIT = re.compile(r"\(([^()]+)\)\s*$|\[([^\[\]]+)\]\s*$")
DIGITS = 8


def of_figure(figure):
    """The chart of a figure; empty for one without axes."""
    charts = [of_axes(axes) for axes in figure.axes]
    if not charts:
        return {}
    if len(charts) == 1:
        return charts[0]
    return {"type": "superchart", "title": figure.get_suptitle() or None, "elements": charts}


def of_axes(axes):
    kind = kind_of(axes)
    chart = {"type": kind, "title": axes.get_title() or None, "elements": []}
    if kind in ("line", "scatter", "bar", "box_and_whisker"):
        chart |= labels(axes)
    if too_many_points(axes):
        return {"type": "unknown", "title": chart["title"], "elements": []}
    return chart | READERS[kind](axes, chart)


def kind_of(axes):
    artists = [child for child in axes.get_children() if is_data(axes, child)]
    kinds = {type(artist) for artist in artists}
    if all(issubclass(kind, Line2D) for kind in kinds):
        return "line"
    if any(issubclass(kind, PathPatch) for kind in kinds) and all(issubclass(kind, (PathPatch, Line2D)) for kind in kinds):
        return "box_and_whisker"
    kinds = {type(artist) for artist in artists if not is_rule(artist)}
    for kind, name in ((PathCollection, "scatter"), (Wedge, "pie"), (Rectangle, "bar")):
        if kinds and all(issubclass(each, kind) for each in kinds):
            return name
    return "unknown"


def is_data(axes, artist):
    """Whether an artist was drawn, and does not belong to the frame or to what is written on it."""
    return artist in axes.lines or artist in axes.collections or artist in axes.patches or artist in axes.images


def is_rule(artist):
    """A line along an axis from one end to the other, to guide the eye."""
    if not isinstance(artist, Line2D):
        return False
    x, y = artist.get_xdata(), artist.get_ydata()
    return len(x) == 2 and (x[0] == x[1] or y[0] == y[1])


def too_many_points(axes):
    count = sum(len(line.get_xdata(orig=False)) for line in axes.lines)
    count += sum(len(each.get_offsets()) for each in axes.collections)
    return count + len(axes.patches) > POINTS_MAX


def labels(axes):
    x, y = axes.get_xlabel(), axes.get_ylabel()
    return {"x_label": x or None, "y_label": y or None, "x_unit": unit(x), "y_unit": unit(y)}


def swapped(chart):
    """The same labels for a chart that lies on its side."""
    pairs = ("x_label", "y_label"), ("y_label", "x_label"), ("x_unit", "y_unit"), ("y_unit", "x_unit")
    return {to: chart[source] for to, source in pairs}


def unit(label):
    found = UNIT.search(label or "")
    return (found.group(1) or found.group(2)).strip() if found else None


def plain(value):
    """A value as JSON has it."""
    if isinstance(value, numpy.datetime64):
        return str(value.astype("datetime64[s]"))
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, (numpy.bool_, bool)):
        return bool(value)
    if isinstance(value, (numpy.integer, int)):
        return int(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    # JSON has no infinity, and nothing that is not a number.
    return number if math.isfinite(number) else None


def is_date(axis):
    return isinstance(axis.get_major_locator(), matplotlib.dates.DateLocator)


def scale(axis, ticks, names):
    if is_date(axis):
        return "datetime"
    if isinstance(axis.get_converter(), StrCategoryConverter):
        return "categorical"
    counted = [float(index) for index in range(len(ticks))]
    if names and ticks == counted and all(name and not is_number_of(name, tick) for name, tick in zip(names, ticks)):
        return "categorical"
    return axis.get_scale()


def is_number_of(name, tick):
    try:
        return float(name.replace("\N{MINUS SIGN}", "-")) == tick
    except ValueError:
        return False


def ticks_of(axis, name):
    ticks = [float(tick) for tick in axis.get_ticklocs()]
    names = [text.get_text() for text in axis.get_ticklabels()]
    kind = scale(axis, ticks, names)
    shown = [date.isoformat() for date in matplotlib.dates.num2date(ticks)] if is_date(axis) else ticks
    return {f"{name}_ticks": shown, f"{name}_tick_labels": names, f"{name}_scale": kind}


def both_ticks(axes):
    return ticks_of(axes.xaxis, "x") | ticks_of(axes.yaxis, "y")


def points(x, y):
    return [[plain(one), plain(other)] for one, other in zip(x, y)]


def line(axes, _chart):
    elements = []
    for each in axes.lines:
        label = str(each.get_label())
        number = label.removeprefix("_child")
        name = f"Line {number}" if number != label else label
        elements.append({"label": name, "points": points(each.get_xdata(), each.get_ydata())})
    return both_ticks(axes) | {"elements": elements}


def scatter(axes, _chart):
    as_given = (back(axes.xaxis), back(axes.yaxis))
    elements = []
    for each in axes.collections:
        x, y = numpy.asarray(each.get_offsets().filled(numpy.nan)).T.reshape(2, -1)
        elements.append({"label": str(each.get_label()), "points": points(as_given[0](x), as_given[1](y))})
    return both_ticks(axes) | {"elements": elements}


def back(axis):
    """How numbers on an axis become what was plotted."""
    if is_date(axis):
        return lambda values: [date.replace(tzinfo=None) for date in matplotlib.dates.num2date(values)]
    if isinstance(axis.get_converter(), StrCategoryConverter):
        names = {position: name for name, position in axis.units._mapping.items()}
        return lambda values: [names.get(int(value), value) for value in values]
    return lambda values: values


def bar(axes, chart):
    elements = []
    lies = False
    for container in axes.containers:
        bars = [each for each in container if isinstance(each, Rectangle)]
        is_flat = getattr(container, "orientation", None) == "horizontal"
        lies = lies or is_flat
        axis = axes.yaxis if is_flat else axes.xaxis
        centers = [each.get_y() + each.get_height() / 2 if is_flat else each.get_x() + each.get_width() / 2 for each in bars]
        values = [each.get_width() if is_flat else each.get_height() for each in bars]
        label = str(container.get_label())
        number = label.removeprefix("_container")
        group = f"Group {number}" if number != label else label
        names = names_at(axis, centers)
        elements += [{"label": name, "group": group, "value": plain(value)} for name, value in zip(names, values)]
    return (swapped(chart) if lies else {}) | {"elements": elements}


def names_at(axis, positions):
    """How the places on an axis are called."""
    ticks = [float(tick) for tick in axis.get_ticklocs()]
    texts = [text.get_text() for text in axis.get_ticklabels()]
    if is_date(axis):
        return [plain(date.replace(tzinfo=None)) for date in matplotlib.dates.num2date(positions)]
    is_named = isinstance(axis.get_converter(), StrCategoryConverter) or isinstance(axis.get_major_locator(), FixedLocator)
    if not is_named or not ticks:
        return [f"{round(position, DIGITS):g}" for position in positions]
    return [texts[min(range(len(ticks)), key=lambda index: abs(ticks[index] - position))] for position in positions]


def pie(axes, _chart):
    wedges = [each for each in axes.patches if isinstance(each, Wedge)]
    return {
        "elements": [
            {"label": str(each.get_label()), "angle": plain(abs(each.theta2 - each.theta1)), "radius": plain(each.r)}
            for each in wedges
        ]
    }


def box_and_whisker(axes, chart):
    boxes = [each.get_path().get_extents() for each in axes.patches if isinstance(each, PathPatch)]
    lines = [(numpy.asarray(each.get_xdata(orig=False), float), numpy.asarray(each.get_ydata(orig=False), float), each) for each in axes.lines]
    stands = any(is_whisker(box.x0, box.x1, box.y0, box.y1, x, y) for box in boxes for x, y, _ in lines)
    lies = not stands and any(is_whisker(box.y0, box.y1, box.x0, box.x1, y, x) for box in boxes for x, y, _ in lines)
    if lies:
        boxes = [(box.y0, box.y1, box.x0, box.x1) for box in boxes]
        lines = [(y, x, each) for x, y, each in lines]
    else:
        boxes = [(box.x0, box.x1, box.y0, box.y1) for box in boxes]
    names = names_at(axes.yaxis if lies else axes.xaxis, [(box[0] + box[1]) / 2 for box in boxes])
    elements = [one_box(name, box, lines) for name, box in zip(names, boxes)]
    return (swapped(chart) if lies else {}) | {"elements": elements}


def is_whisker(left, right, low, high, x, y):
    """Whether a line goes from the middle of a box's edge straight away from it."""
    if len(x) != 2 or x[0] != x[1] or not math.isclose(x[0], (left + right) / 2):
        return False
    # The median of a symmetric box that lies looks the same, but for being inside.
    touches = any(math.isclose(end, edge) for end in y for edge in (low, high))
    return touches and not all(low <= end <= high for end in y)


def one_box(name, box, lines):
    left, right, low, high = box
    middle = (left + right) / 2
    ends, median, outliers = [low, high], None, []
    for x, y, drawn in lines:
        if is_whisker(left, right, low, high, x, y):
            ends += list(y)
        elif len(x) == 2 and y[0] == y[1] and low <= y[0] <= high and math.isclose(abs(x[1] - x[0]), right - left) and left <= x[0] <= right:
            median = y[0]
        elif len(x) and drawn.get_linestyle() == "None" and all(math.isclose(each, middle) for each in x):
            outliers += list(y)
    rounded = lambda value: None if value is None else round(plain(value), DIGITS)  # noqa: E731
    return {
        "label": name,
        "min": rounded(min(ends)),
        "first_quartile": rounded(low),
        "median": rounded(median),
        "third_quartile": rounded(high),
        "max": rounded(max(ends)),
        "outliers": [rounded(value) for value in outliers],
    }


READERS = {
    "line": line,
    "scatter": scatter,
    "bar": bar,
    "pie": pie,
    "box_and_whisker": box_and_whisker,
    "unknown": lambda _axes, _chart: {},
}
