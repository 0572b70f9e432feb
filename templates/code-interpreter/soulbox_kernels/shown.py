"""What the Python kernel shows of a value besides what IPython shows: data, charts, JSON, images that are saved."""

import math
import sys

from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

# What has more cells is shown as text and HTML alone.
CELLS_MAX = 1_000_000
# What has more items is shown as text alone.
ITEMS_MAX = 1_000_000


class DataFormatter(BaseFormatter):
    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict


class ChartFormatter(BaseFormatter):
    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict

    def __call__(self, shown):
        # Not registered: whenever formats of images are chosen, IPython takes figures out of all formatters.
        if any((kind.__module__, kind.__name__) == ("matplotlib.figure", "Figure") for kind in type(shown).__mro__):
            return chart_of(shown)
        return super().__call__(shown)


class NotJson(Exception):
    """A value that JSON does not have."""


def install(shell):
    formatters = shell.display_formatter.formatters
    for formatter in (DataFormatter, ChartFormatter):
        made = formatter(parent=shell.display_formatter)
        formatters[made.format_type] = made
    # Types are named, not imported: what is not used here is not loaded for it.
    formatters["e2b/data"].for_type_by_name("pandas", "DataFrame", data_of)
    # Older versions say where the class really is.
    formatters["e2b/data"].for_type_by_name("pandas.core.frame", "DataFrame", data_of)
    for kind in (list, dict):
        formatters["application/json"].for_type(kind, json_of)
    show_saved_images(shell)
    figures_at_the_end(shell)


def figures_at_the_end(shell):
    """Shows figures when a cell ends, as notebooks do."""
    backend = "module://matplotlib_inline.backend_inline"
    try:
        from IPython.core.pylabtools import activate_matplotlib
        from matplotlib_inline.backend_inline import configure_inline_support

        activate_matplotlib(backend)
        configure_inline_support(shell, backend)
    except ImportError:
        # A template without matplotlib draws nothing.
        return


def chart_of(figure):
    from soulbox_kernels import charts

    try:
        return charts.of_figure(figure)
    except Exception:
        # Drawn in a way that nobody has thought of: the image is there all the same.
        return {"type": "unknown", "title": None, "elements": []}


def data_of(frame):
    if frame.size > CELLS_MAX:
        return None
    columns = {str(name): frame.iloc[:, index].tolist() for index, name in enumerate(frame.columns)}
    return {name: [cell(value) for value in values] for name, values in columns.items()}


def cell(value):
    try:
        return plain(value)
    except NotJson:
        return str(value)


def json_of(value):
    try:
        return plain(value, [ITEMS_MAX])
    except (NotJson, RecursionError):
        return None


def plain(value, left=None):
    """A value as JSON has it. Numbers that are none are null, as everywhere in the web."""
    if left is not None:
        left[0] -= 1
        if left[0] < 0:
            raise NotJson
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key_of(key): plain(each, left) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each, left) for each in value]
    if hasattr(value, "isoformat"):
        # `NaT` has it, too, and is not a time.
        return None if value != value else value.isoformat()
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return plain(value.tolist(), left)
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise NotJson


def key_of(key):
    if isinstance(key, (str, int, float, bool)) or key is None:
        return str(key)
    raise NotJson


def show_saved_images(shell):
    """An image that is saved to a file is shown as well; there is no screen to show one on."""
    try:
        from PIL import Image
    except ImportError:
        return
    save = Image.Image.save

    def saved(self, fp, *arguments, **settings):
        outcome = save(self, fp, *arguments, **settings)
        # What matplotlib saves is a figure, which is shown by itself.
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if isinstance(fp, str) and shell.kernel is not None and not caller.startswith("matplotlib."):
            shell.display_pub.publish(*shell.display_formatter.format(self))
        return outcome

    Image.Image.save = saved
    Image.Image.show = lambda self, *arguments, **settings: None
