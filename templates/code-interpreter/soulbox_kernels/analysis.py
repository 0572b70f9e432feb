"""What `analyze` and `visualize` of the clients run: datasets become variables, numbers become metrics, a description becomes a plot."""

import base64
import io
import json
import math
import numbers

from IPython.display import display

METRICS = "application/vnd.soulbox.metrics+json"
PLOT = "application/vnd.soulbox.plot+json"
FORMATS = ("png", "svg", "html")
READERS = {
    "csv": lambda pandas, path: pandas.read_csv(path),
    "tsv": lambda pandas, path: pandas.read_csv(path, sep="\t"),
    "json": lambda pandas, path: pandas.read_json(path),
    "jsonl": lambda pandas, path: pandas.read_json(path, lines=True),
    "parquet": lambda pandas, path: pandas.read_parquet(path),
    "xlsx": lambda pandas, path: pandas.read_excel(path),
}


def load(variables, datasets):
    """Reads files into data frames: `datasets` has a path for each variable."""
    import pandas

    for name, path in datasets.items():
        kind = path.rsplit(".", 1)[-1].lower()
        if kind not in READERS:
            raise ValueError(f"dataset {name!r}: no reader for .{kind} files. FIX: one of {', '.join(READERS)}")
        variables[name] = READERS[kind](pandas, path)
    variables["metric"] = metric


def metric(**values):
    """Notes numbers of an analysis: `metric(accuracy=0.93)`."""
    for name, value in values.items():
        if not isinstance(value, numbers.Real):
            raise TypeError(f"metric {name!r} is {type(value).__name__}. FIX: a number")
    plain = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
    display({METRICS: plain, "text/plain": ", ".join(f"{name} = {value}" for name, value in plain.items())}, raw=True)


def visualize(description):
    """Draws one plot and shows it in the format that was asked for, with what it is made of."""
    wanted = json.loads(description)
    if wanted["format"] not in FORMATS:
        raise ValueError(f"no format {wanted['format']!r}. FIX: one of {', '.join(FORMATS)}")
    if wanted["kind"] not in KINDS:
        raise ValueError(f"no kind of plot {wanted['kind']!r}. FIX: one of {', '.join(KINDS)}")
    bundle = html(wanted) if wanted["format"] == "html" else picture(wanted)
    about = {name: wanted[name] for name in ("kind", "format", "width", "height")}
    display({**bundle, PLOT: about, "text/plain": wanted.get("title") or wanted["kind"]}, raw=True)


def columns(data):
    """The columns for the two axes, and their names: the first is x, the others are drawn over it."""
    names = list(data)
    if not names:
        raise ValueError("there is no data. FIX: at least one column")
    if len({len(column) for column in data.values()}) > 1:
        raise ValueError("the columns have different lengths. FIX: as many values in each")
    if len(names) == 1:
        return list(range(len(data[names[0]]))), names
    return data[names[0]], names[1:]


def over_x(method):
    def draw(axes, data):
        x, names = columns(data)
        for name in names:
            getattr(axes, method)(x, data[name], label=name)

    return draw


def bars(axes, data):
    x, names = columns(data)
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        axes.bar([at + index * width for at in range(len(x))], data[name], width, label=name)
    axes.set_xticks([at + 0.4 - width / 2 for at in range(len(x))], [str(label) for label in x])


def histograms(axes, data):
    for name, values in data.items():
        axes.hist(values, bins="auto", alpha=0.7, label=name)


def boxes(axes, data):
    axes.boxplot(list(data.values()), patch_artist=True)
    axes.set_xticks(range(1, len(data) + 1), list(data))


def slices(axes, data):
    labels, names = columns(data)
    axes.pie(data[names[0]], labels=[str(label) for label in labels])


def cells(axes, data):
    shown = axes.imshow(list(data.values()), aspect="auto")
    axes.set_yticks(range(len(data)), list(data))
    axes.figure.colorbar(shown)


KINDS = {
    "line": over_x("plot"),
    "scatter": over_x("scatter"),
    "area": over_x("fill_between"),
    "bar": bars,
    "histogram": histograms,
    "box": boxes,
    "pie": slices,
    "heatmap": cells,
}


def picture(wanted):
    """PNG or SVG by matplotlib, and the chart's values as `run_code` tells them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from soulbox_kernels.shown import chart_of

    # A figure of nobody: it is shown once, here.
    figure = Figure(figsize=(wanted["width"] / 100, wanted["height"] / 100), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    KINDS[wanted["kind"]](axes, wanted["data"])
    for name, put in (("title", axes.set_title), ("x_label", axes.set_xlabel), ("y_label", axes.set_ylabel)):
        if wanted.get(name):
            put(wanted[name])
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format=wanted["format"])
    chart = chart_of(figure)
    shown = {"e2b/chart": chart} if chart else {}
    if wanted["format"] == "svg":
        return {**shown, "image/svg+xml": file.getvalue().decode()}
    return {**shown, "image/png": base64.b64encode(file.getvalue()).decode()}


def html(wanted):
    """A page that can be looked around in, by plotly."""
    try:
        import plotly.graph_objects as objects
    except ImportError:
        raise ImportError("plotly is not in this template, and HTML needs it. FIX: the full template, or png or svg") from None
    data, kind = wanted["data"], wanted["kind"]
    figure = objects.Figure(layout={"title": wanted.get("title"), "width": wanted["width"], "height": wanted["height"]})
    figure.update_xaxes(title=wanted.get("x_label"))
    figure.update_yaxes(title=wanted.get("y_label"))
    if kind == "heatmap":
        figure.add_heatmap(z=list(data.values()), y=list(data))
    elif kind in ("histogram", "box"):
        for name, values in data.items():
            figure.add_trace(objects.Histogram(x=values, name=name) if kind == "histogram" else objects.Box(y=values, name=name))
    else:
        x, names = columns(data)
        for name in names:
            figure.add_trace(over_x_html(objects, kind, x, data[name], name))
    return {"text/html": figure.to_html(include_plotlyjs=True)}


def over_x_html(objects, kind, x, y, name):
    if kind == "bar":
        return objects.Bar(x=x, y=y, name=name)
    if kind == "pie":
        return objects.Pie(labels=x, values=y, name=name)
    if kind == "scatter":
        return objects.Scatter(x=x, y=y, name=name, mode="markers")
    return objects.Scatter(x=x, y=y, name=name, fill="tozeroy" if kind == "area" else None)
