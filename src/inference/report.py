# SPDX-License-Identifier: Apache-2.0
"""The report command: a run, an evaluation and its predictions as one HTML file that needs no network.

    report.py --out report.html [--run RUN] [--evaluation EVALUATION]
              [--predictions PREDICTIONS --truth TRUTH] [--crop-gap FOLDER]

What is given is shown: curves over training, tables and distributions of metrics, error against size, the gap
between crops and whole targets, and of every target the best-ranked sample beside the truth, in 3D.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from foldwright.data.ccd import DEFAULT_CACHE
from foldwright.data.filters import Rejection
from foldwright.data.report_html import Histogram, histogram_figure
from foldwright.data.tables import read_table
from foldwright.evaluation.bootstrap import Interval
from foldwright.inference import report_page
from foldwright.inference.assessment import EXAMPLES, SUMMARY, metrics_of, per_target
from foldwright.inference.crop_gap import PICTURE
from foldwright.inference.evaluate import Truths, first_ranked
from foldwright.inference.report_figures import against_size, curves, data_uri
from foldwright.inference.report_targets import Shown, show_target
from foldwright.inference.viewer import viewer_script

_SIZE = "n_tokens"
_ERRORS = ("lddt", "rmsd", "tm_score", "dockq", "ligand_rmsd", "plddt_calibration_error")
_LOGARITHMIC = ("loss", "mse", "weighted_mse")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 1 if nothing, or not all, could be shown."""
    arguments = _parser().parse_args(argv)
    console = Console()
    try:
        failed = write_report(arguments, console)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print(f"wrote {arguments.out}", highlight=False, soft_wrap=True)
    return 1 if failed else 0


def write_report(arguments: argparse.Namespace, console: Console) -> int:
    """Write the page; how many targets could not be shown. ValueError for what is asked for and not there."""
    if not (arguments.run or arguments.evaluation or arguments.crop_gap or arguments.predictions):
        raise ValueError("got nothing to report; expected --run, --evaluation, --predictions or --crop-gap")
    if bool(arguments.predictions) != bool(arguments.truth):
        raise ValueError("--predictions: got it without --truth, or --truth alone; expected both or none")
    script = viewer_script(arguments.cache) if arguments.predictions else ""
    examples = _examples(arguments.evaluation) if arguments.evaluation else None
    shown, failed = _targets(arguments, examples, console) if arguments.predictions else ([], 0)
    sections = [
        *(_training(arguments.run) if arguments.run else ()),
        *(_metrics(arguments.evaluation, examples) if examples is not None else ()),
        _gap(arguments.crop_gap) if arguments.crop_gap else "",
        report_page.section("Targets", report_page.targets(shown)),
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(report_page.page(arguments.title, sections, shown, script))
    return failed


# --- training ---


def read_columns(path: Path) -> dict[str, NDArray[np.float64]]:
    """Columns of a CSV of numbers; what is none is NaN. ValueError where there is no row."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path}: got no row, expected a table that training wrote")
    return {name: np.array([_number(row[name]) for row in rows]) for name in rows[0] if name}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _training(run: Path) -> list[str]:
    if not (run / "metrics.csv").is_file():
        raise ValueError(f"--run: got {run}, expected a run directory with metrics.csv")
    parts = [_curves(run / "metrics.csv", "Training")]
    if (run / "validation.csv").is_file():
        parts.append(_curves(run / "validation.csv", "Validation"))
    return parts


def _curves(path: Path, title: str) -> str:
    columns = read_columns(path)
    steps = columns.pop("step")
    known = {name: y for name, y in columns.items() if np.unique(y[np.isfinite(y)]).size > 1}
    return report_page.section(title, report_page.picture(curves(steps, known, _LOGARITHMIC), title))


# --- metrics ---


def _examples(evaluation: Path) -> pa.Table:
    path = evaluation / f"{EXAMPLES}.parquet"
    if not path.is_file():
        raise ValueError(f"--evaluation: got {evaluation}, expected a folder that evaluate.py wrote")
    return read_table(path)


def _metrics(evaluation: Path, examples: pa.Table) -> list[str]:
    summary = json.loads((evaluation / SUMMARY).read_text())
    rows = [
        [
            metric,
            *(Interval(**choices[choice]).text() for choice in ("ranked", "best")),
            str(choices["ranked"]["n"]),
        ]
        for metric, choices in summary["metrics"].items()
    ]
    selection = summary["model_selection"]
    rows.append(["model selection", f"{selection['score']:.3f}", "", f"{selection['coverage']:.0%}"])
    title = f"{summary['targets']} targets, {summary['samples']} samples: mean [95 % interval]"
    by_metric = {m: _of_targets(examples, m) for m in metrics_of(examples)}
    histograms = [
        histogram_figure(Histogram(metric, values[np.isfinite(values)].tolist(), logarithmic=False))
        for metric, values in by_metric.items()
        if np.isfinite(values).sum() > 1
    ]
    errors = {name: by_metric[name] for name in _ERRORS if name in by_metric}
    sizes = against_size(by_metric[_SIZE], errors) if _SIZE in by_metric else ""
    header = ("metric", "ranked first", "best of samples", "targets")
    return [
        report_page.section("Metrics", f"<p>{title}</p>", report_page.table(header, rows)),
        report_page.section("Distributions over targets, ranked first", *histograms),
        report_page.section("Error against size", report_page.picture(sizes, "error against size")),
    ]


def _of_targets(examples: pa.Table, metric: str) -> NDArray[np.float64]:
    return np.array(list(per_target(examples, metric, "ranked").values()), np.float64)


def _gap(folder: Path) -> str:
    if not (folder / PICTURE).is_file():
        raise ValueError(f"--crop-gap: got {folder}, expected a folder that crop_gap.py wrote")
    uri = data_uri((folder / PICTURE).read_bytes(), "svg+xml")
    return report_page.section("Crops and whole targets", report_page.picture(uri, "crops and whole targets"))


# --- targets ---


def _targets(
    arguments: argparse.Namespace, examples: pa.Table | None, console: Console
) -> tuple[list[Shown], int]:
    truths = Truths(arguments.truth, arguments.cache)
    figures = {(r["target"], r["seed"], r["sample"]): r for r in examples.to_pylist()} if examples else {}
    shown, failed = [], 0
    for name, seed, sample, path in track(first_ranked(arguments.predictions), "targets", console=console):
        try:
            shown.append(show_target(name, path, truths, figures.get((name, seed, sample), {})))
        except (ValueError, KeyError, Rejection) as error:
            failed += 1
            console.print(f"[red]not shown:[/] {name}: {error}", highlight=False, soft_wrap=True)
    return shown, failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="Write one HTML file of a run, an evaluation and its predictions; it needs no network.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the HTML file")
    add("--run", type=Path, help="a run directory: curves over training and validation")
    add("--evaluation", type=Path, help="what evaluate.py wrote: tables and distributions")
    add("--predictions", type=Path, help="what predict.py left: a page a target, its best-ranked sample")
    add("--truth", type=Path, help="folder of mmCIF files, or a store: the true structures beside them")
    add("--crop-gap", type=Path, help="what crop_gap.py wrote")
    add("--title", default="What the model is worth", help="of the page")
    add("--cache", type=Path, default=DEFAULT_CACHE, help="where the viewer and the parsed dictionary are")
    return parser
