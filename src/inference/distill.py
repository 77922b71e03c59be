# SPDX-License-Identifier: Apache-2.0
"""The distill command: the predictions that are worth learning from, as a store that training mixes in.

    predict.py INPUTS --checkpoint RUN --out PREDICTIONS
    distill.py PREDICTIONS --out OUT [--msas MSAS]

and OUT/store is the root of a data set (docs/evaluation.md).
Of every target the sample that ranks first is taken or refused as a whole; OUT/selection.csv says why.
Sources of the limits: PDE at most 2 Å from AF3 SI Table 3 (its RNA set), pLDDT of 70 from AF2's practice, as
in `data=af3`; ipTM and clashes are ours, SI has no predicted complexes.
Ligands that the dictionary lacks but the prediction describes come along under codes of their own
(`own_ligands`); those that it does not are dropped, named and counted.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from foldwright.data.ccd import DEFAULT_CACHE, Definition, Dictionary
from foldwright.data.filters import FilterConfig, Rejection, clash_fractions
from foldwright.data.mmcif import read_structure
from foldwright.data.preparation import PrepareConfig
from foldwright.data.prepare import pool_of, prepare
from foldwright.data.sources import find_sources
from foldwright.inference.evaluate import first_ranked
from foldwright.inference.output import folder_name
from foldwright.inference.own_ligands import code_of, copy_renamed, own_ligands, write_components

STRUCTURES, STORE, SELECTION = "structures", "store", "selection.csv"
COMPONENTS = "components.cif"  # the ligands that the dictionary lacks
TAKEN = "taken"


@dataclass(frozen=True)
class DistillationConfig:
    """Limits on a prediction. Single chains have no ipTM, and pass that one."""

    min_plddt: float = 70.0  # mean over atoms, 0 to 100
    max_pde: float = 2.0  # Å, mean over pairs of tokens
    min_iptm: float = 0.6
    max_clash_fraction: float = 0.05  # of a chain's atoms within 1.7 Å of another's
    max_ca_gap: float = FilterConfig.max_ca_gap  # Å between neighbours


_HELP = {
    "min_plddt": "mean over atoms, 0 to 100",
    "max_pde": "in Å, mean over pairs of tokens",
    "min_iptm": "of what has several chains",
    "max_clash_fraction": "of a chain's atoms within 1.7 Å of another's",
    "max_ca_gap": "in Å between neighbours; protein chains with a larger one are dropped",
}


class Verdict(NamedTuple):
    """Why a prediction was refused, or `taken`, and the figures that decided it.

    `own`: the ligands that only its file describes, by their code there; `dropped`: chains of ligands that
    nothing describes.
    """

    reason: str
    figures: dict[str, float]
    own: dict[str, Definition]
    dropped: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 if nothing was worth taking."""
    arguments = _parser().parse_args(argv)
    limits = {field.name: getattr(arguments, field.name) for field in fields(DistillationConfig)}
    console = Console()
    try:
        distill(arguments, DistillationConfig(**limits), console)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def distill(arguments: argparse.Namespace, config: DistillationConfig, console: Console) -> None:
    """Select, copy and prepare. Raises ValueError where there is no prediction, or none is taken."""
    out, cache = arguments.out, arguments.dictionary_cache
    rows = select(arguments.predictions, out, config, Dictionary.open(cache), console)
    console.print(_table(rows))
    _tell_ligands(rows, console)
    if not any(row["outcome"] == TAKEN for row in rows):
        raise ValueError(f"not one of {len(rows)} predictions is within the limits; see {out / SELECTION}")
    filters = FilterConfig(max_ca_gap=config.max_ca_gap)
    own = out / COMPONENTS if (out / COMPONENTS).is_file() else None
    settings = PrepareConfig(filters=filters, predicted=True, dictionary_cache=cache, components=own)
    sources = find_sources(out / STRUCTURES, arguments.msas)
    prepare(sources, out / STORE, settings, pool_of(arguments.workers)).show(console)


def select(
    predictions: Path, out: Path, config: DistillationConfig, dictionary: Dictionary, console: Console
) -> list[dict[str, Any]]:
    """Copy what is within the limits to OUT/structures; the rows of OUT/selection.csv, one a target.

    Raises ValueError where there is no prediction, or one without its confidence.
    """
    partial = out / f".{STRUCTURES}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rows, components = [], dict[str, Definition]()
    for name, seed, sample, path in track(first_ranked(predictions), "selecting", console=console):
        verdict = judge(path, config, dictionary)
        row = {"target": name, "seed": seed, "sample": sample, "outcome": verdict.reason}
        codes = {code: code_of(definition) for code, definition in verdict.own.items()}
        row |= {"own_ligands": " ".join(codes.values()), "dropped_ligands": " ".join(verdict.dropped)}
        rows.append(row | verdict.figures)
        if verdict.reason == TAKEN:
            copy_renamed(path, partial / f"{folder_name(name)}.cif", codes)
            components |= {codes[code]: definition for code, definition in verdict.own.items()}
    shutil.rmtree(out / STRUCTURES, ignore_errors=True)
    os.replace(partial, out / STRUCTURES)
    (out / COMPONENTS).unlink(missing_ok=True)
    if components:
        write_components(components, out / COMPONENTS)
    with (out / SELECTION).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    (out / "limits.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
    return rows


def judge(path: Path, config: DistillationConfig, dictionary: Dictionary) -> Verdict:
    """Whether a prediction, its JSON beside it, is within the limits; the first that it fails counts."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise ValueError(f"{path}: got no {beside.name} beside it, expected predict.py's confidence")
    scores = json.loads(beside.read_text())
    figures = {"plddt": float(np.mean(scores["plddt"])), "pde": float(np.mean(scores["pde"]))}
    if scores["iptm"] is not None:
        figures["iptm"] = float(scores["iptm"])
    own = own_ligands(path, dictionary)
    known = Dictionary(dictionary.folder, dictionary.own | own) if own else dictionary
    try:
        structure = read_structure(path, known)
    except Rejection as rejection:
        return Verdict(rejection.reason, figures, own, [])
    dropped = sorted(set(scores.get("chains", ())) - set(structure.chain_name.tolist()))
    fractions, _ = clash_fractions(structure, FilterConfig.clash_distance)
    figures["clash_fraction"] = max(fractions.values(), default=0.0)
    failed = {
        "low_plddt": figures["plddt"] < config.min_plddt,
        "high_pde": figures["pde"] > config.max_pde,
        "low_iptm": figures.get("iptm", 1.0) < config.min_iptm,
        "clash": bool(scores["has_clash"]) or figures["clash_fraction"] > config.max_clash_fraction,
    }
    reason = next((reason for reason, fails in failed.items() if fails), TAKEN)
    return Verdict(reason, figures, own, dropped)


def _tell_ligands(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """How many ligands the dictionary lacks among what was taken, and which are lost."""
    taken = [row for row in rows if row["outcome"] == TAKEN]
    kept = {code for row in taken for code in row["own_ligands"].split()}
    lost = [f"{row['target']} {row['dropped_ligands']}" for row in taken if row["dropped_ligands"]]
    if kept:
        console.print(f"ligands outside the dictionary: {len(kept)} kept, in {COMPONENTS}", highlight=False)
    if lost:
        named = f"ligands that nothing describes, in {len(lost)} predictions, by chain: {'; '.join(lost)}"
        console.print(f"[yellow]dropped:[/] {named}", highlight=False, soft_wrap=True)


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    shown = Table("outcome", "predictions", "example", title="selection", title_justify="left")
    for reason, count in Counter(row["outcome"] for row in rows).most_common():
        example = next(row for row in rows if row["outcome"] == reason)
        figures = [f"{name} {value:.2f}" for name, value in example.items() if isinstance(value, float)]
        shown.add_row(reason, str(count), f"{example['target']}: {', '.join(figures)}")
    return shown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distill.py",
        description="Turn the predictions that are worth learning from into a store: OUT/store.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("predictions", type=Path, help="what predict.py left")
    add("--out", type=Path, required=True, help="folder of the structures taken, the reasons and the store")
    add("--msas", type=Path, help="alignments named <target>_<chain>.a3m, as prepare_data.py takes them")
    for name, default in asdict(DistillationConfig()).items():
        add("--" + name.replace("_", "-"), type=float, default=default, help=_HELP[name])
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    add("--dictionary-cache", type=Path, default=DEFAULT_CACHE, help="where the parsed dictionary is kept")
    return parser
