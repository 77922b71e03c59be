# SPDX-License-Identifier: Apache-2.0
"""The comparison command: the curves of several runs in the same axes, and where they ended.

compare_runs.py RUN... --out comparison.png [--columns loss grad_norm] [--validation lddt]
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One column of one run's table; rows in which it is not a number are left out."""

    run: str
    column: str
    steps: Values
    values: Values

    def smoothed(self, window: int) -> tuple[Values, Values]:
        """Means of `window` successive values, at the last step of each window."""
        window = max(1, min(window, len(self.values)))
        return self.steps[window - 1 :], np.convolve(self.values, np.ones(window) / window, "valid")


def read_curves(path: Path, run: str, columns: Sequence[str]) -> Iterator[Curve]:
    """Columns of a CSV with a `step`. ValueError for a file or column that is not there, or has no number."""
    if not path.is_file():
        raise ValueError(f"{path}: not there; expected a run directory that training wrote")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for column in columns:
        if not rows or column not in rows[0]:
            known = ", ".join(rows[0]) if rows else "no row"
            raise ValueError(f"{path}: has no column {column!r}; it has {known}")
        pairs = np.array([(float(row["step"]), float(row[column] or "nan")) for row in rows])
        pairs = pairs[np.isfinite(pairs[:, 1])]
        if not len(pairs):
            raise ValueError(f"{path}: column {column!r} has no number")
        yield Curve(run, column, pairs[:, 0], pairs[:, 1])


def labels(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of their paths that tell the runs apart."""
    paths = [run.resolve() for run in runs]
    ends = (["/".join(path.parts[-depth:]) for path in paths] for depth in count(1))
    return next(names for names in ends if len(set(names)) == len(set(paths)))


def plot(curves: Sequence[Curve], window: int, path: Path) -> None:
    """A panel a column, a line a run: means of `window` steps over the steps themselves, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(curve.column for curve in curves))
    figure = Figure(figsize=(5.0 * len(columns), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[Any] = figure.subplots(1, len(columns), squeeze=False)[0].tolist()
    for panel, column in zip(panels, columns, strict=True):
        for curve in (c for c in curves if c.column == column):
            steps, means = curve.smoothed(window if len(curve.values) > 10 * window else 1)
            panel.plot(steps, means, label=curve.run, linewidth=1.0)
        panel.set(xlabel="step", title=column)
        panel.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def table(curves: Sequence[Curve], window: int) -> Table:
    """First and last value, and the mean of the last `window`, of every curve."""
    shown = Table("column", "run", "values", "first", "last", f"mean of the last {window}")
    for curve in curves:
        figures = (curve.values[0], curve.values[-1], curve.values[-window:].mean())
        shown.add_row(curve.column, curve.run, str(len(curve.values)), *(f"{x:.4g}" for x in figures))
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="compare_runs.py", description="Curves of runs in the same axes.")
    parser.add_argument("runs", nargs="+", type=Path, help="run directories")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--columns", nargs="*", default=["loss"], help="of metrics.csv (default: loss)")
    parser.add_argument("--validation", nargs="*", default=[], help="of validation.csv")
    parser.add_argument("--window", type=int, default=20, help="steps that are averaged (default: 20)")
    flags = parser.parse_args(argv)
    try:
        if flags.window < 1:
            raise ValueError(f"--window: got {flags.window}, expected at least 1")
        curves = [
            curve
            for run, label in zip(flags.runs, labels(flags.runs), strict=True)
            for name, columns in (("metrics.csv", flags.columns), ("validation.csv", flags.validation))
            if columns
            for curve in read_curves(run / name, label, columns)
        ]
        if not curves:
            raise ValueError("got no column; expected --columns or --validation")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    plot(curves, flags.window, flags.out)
    console = Console()
    console.print(table(curves, flags.window))
    console.print(f"wrote {flags.out}", highlight=False, soft_wrap=True)
    return 0
