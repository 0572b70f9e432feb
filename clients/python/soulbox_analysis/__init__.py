"""Typed analyses and plots, on top of the official `e2b_code_interpreter`.

    from e2b_code_interpreter import Sandbox
    from soulbox_analysis import analyze, visualize

    sandbox = Sandbox.create()
    findings = analyze(sandbox, "metric(total=sales.amount.sum())\nsales.groupby('region').sum()", {"sales": "sales.csv"})
    plot = visualize(sandbox, "bar", {"region": ["north", "south"], "amount": [3, 4]}, title="Sales")

`analyze_async` and `visualize_async` take an `AsyncSandbox`.
"""

from .calls import analyze, analyze_async, visualize, visualize_async
from .shapes import AnalysisError, Dataset, Findings, Logs, Plot

__all__ = ["AnalysisError", "Dataset", "Findings", "Logs", "Plot", "analyze", "analyze_async", "visualize", "visualize_async"]
