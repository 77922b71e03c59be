# SPDX-License-Identifier: Apache-2.0
"""What a report shows of one target: the best-ranked sample, the truth laid on it, and the maps of both."""

from __future__ import annotations

import base64
import gzip
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldwright.batch import collate
from foldwright.data.query_example import structure_target
from foldwright.data.structure import Floats
from foldwright.data.superpose import superpose
from foldwright.data.write_mmcif import write_structure
from foldwright.evaluation.scores import permuted_truth
from foldwright.inference.evaluate import Truths
from foldwright.inference.ligand_names import named_as, read_predicted
from foldwright.inference.match import match
from foldwright.inference.report_figures import maps


@dataclass
class Shown:
    """A target on its page: mmCIF texts, packed for the page; `truth` is empty where there is none."""

    name: str
    figures: dict[str, float]
    predicted: str
    truth: str
    maps: str


def show_target(name: str, path: Path, truths: Truths, figures: Mapping[str, Any]) -> Shown:
    """The page of a prediction's file with its JSON beside it, against the truth of its name.

    Raises ValueError, KeyError or Rejection for what cannot be read or matched.
    """
    structure = truths.structure(name)
    matched = match(
        structure, named_as(structure, truths.components, read_predicted(path, truths.dictionary))
    )
    target = structure_target(matched.truth, truths.components)
    x = matched.coords
    truth, resolved = permuted_truth(collate([target.example(0, 1, 1, 0)], {}), x)
    predicted_atoms = np.asarray(np.abs(x).any(axis=1))
    there = resolved & predicted_atoms
    centres = target.entry.tokens.token_centre
    laid_on = np.flatnonzero(there & np.isin(np.arange(len(x)), centres))
    moved = superpose(truth[laid_on], x[laid_on])(truth) if len(laid_on) > 2 else truth
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "truth.cif"
        coords = np.asarray(moved, np.float32)
        write_structure(matched.truth, coords, file, truths.dictionary, mask=resolved)
        true_text = file.read_text()
    pictures = {
        "predicted distance": np.where(_pairs(predicted_atoms[centres]), _distances(x[centres]), np.nan),
        "true distance": np.where(_pairs(resolved[centres]), _distances(truth[centres]), np.nan),
    }
    if (pae := _pae(path)) is not None:
        pictures["predicted aligned error"] = pae
    shown = {k: float(v) for k, v in figures.items() if isinstance(v, int | float) and np.isfinite(v)}
    return Shown(name, shown, packed(path.read_text()), packed(true_text), maps(pictures))


def packed(text: str) -> str:
    """gzip and base64, which browsers unpack by themselves; the same bytes for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _pae(path: Path) -> Floats | None:
    """[N, N] of the prediction's own tokens, of its JSON; None without one."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return None
    scores = json.loads(beside.read_text())
    return np.asarray(scores["pae"], np.float32) if "pae" in scores else None


def _distances(x: Floats) -> Floats:
    difference = x[:, None].astype(np.float32) - x[None].astype(np.float32)
    return np.asarray(np.linalg.norm(difference, axis=-1), np.float32)


def _pairs(known: np.ndarray) -> np.ndarray:
    return np.asarray(known[:, None] & known[None])
