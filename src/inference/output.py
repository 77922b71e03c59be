# SPDX-License-Identifier: Apache-2.0
"""What a prediction leaves: a folder a target, complete or not there, and one ranked table of all.

OUT/<name>/seed-<s>_sample-<k>.cif    structure, pLDDT in the B-factor column
OUT/<name>/seed-<s>_sample-<k>.json   all confidence scores; affinities where the network has the head
OUT/<name>/ranking.csv                the samples, best first
OUT/<name>/done.json                  what it was made from: settings, weights, input
OUT/ranking.csv                       the same of all targets
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldwright.data.ccd import Dictionary
from foldwright.data.query import Query
from foldwright.data.query_example import Target
from foldwright.data.write_mmcif import write_structure
from foldwright.inference.sampling import Sample

DONE, RANKING = "done.json", "ranking.csv"
_COLUMNS = (
    "name", "seed", "sample", "ranking_score", "ptm", "iptm", "plddt", "gpde", "has_clash",
    "fraction_disordered", "file",
)  # fmt: skip


def folder_name(name: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".") or "unnamed"


def query_digest(query: Query, *settings: Any) -> str:
    """SHA-256 of all that decides a prediction: the query's content, and whatever else is given."""
    state = hashlib.sha256()
    _absorb(state, (query, settings))
    return state.hexdigest()


def _absorb(state: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        state.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value):
        _absorb(state, {field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, dict):
        _absorb(state, sorted(value.items()))
    elif isinstance(value, list | tuple):
        state.update(f"[{len(value)}".encode())
        for item in value:
            _absorb(state, item)
    else:
        state.update(f"{type(value).__name__}:{value!r};".encode())


def is_done(folder: Path, digest: str) -> bool:
    """Whether a complete prediction of this digest is there."""
    try:
        return bool(json.loads((folder / DONE).read_text())["digest"] == digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_prediction(
    folder: Path, target: Target, samples: Iterable[Sample], dictionary: Dictionary, record: dict[str, Any]
) -> None:
    """Write all samples of a target as they come, beside `folder`, then put them in its place at once."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rows = []
    for sample in samples:
        stem = f"seed-{sample.seed}_sample-{sample.number}"
        write_structure(
            target.structure, sample.coords, partial / f"{stem}.cif", dictionary, sample.confidence.plddt
        )
        (partial / f"{stem}.json").write_text(json.dumps(_scores(target, sample)))
        rows.append(_row(folder.name, sample, f"{folder.name}/{stem}.cif"))
    write_ranking(rows, partial / RANKING)
    (partial / DONE).write_text(json.dumps(record, indent=1, default=str) + "\n")
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old)
    else:
        partial.rename(folder)


def _scores(target: Target, sample: Sample) -> dict[str, Any]:
    """JSON-ready: scores by name, arrays rounded to hundredths, and what tokens and atoms are."""
    structure, tokens = target.structure, target.entry.tokens
    scores = asdict(sample.confidence)
    arrays = {
        name: np.round(scores.pop(name).astype(np.float64), 2).tolist() for name in ("plddt", "pae", "pde")
    }
    names = structure.chain_name
    return {
        "seed": sample.seed,
        "sample": sample.number,
        **scores,
        "affinity": {chain: asdict(affinity) for chain, affinity in sample.affinity.found.items()},
        "affinity_left_out": sample.affinity.left_out,
        "chains": names.tolist(),
        "token_chain": names[tokens.token_chain].tolist(),
        "token_residue": structure.residue_index[tokens.token_residue].tolist(),
        "atom_chain": names[structure.residue_chain[structure.atom_residue]].tolist(),
        **arrays,
    }


def _row(name: str, sample: Sample, file: str) -> dict[str, Any]:
    scores = sample.confidence
    numbers = {
        "ranking_score": scores.ranking_score, "ptm": scores.ptm, "iptm": scores.iptm,
        "plddt": float(scores.plddt.mean()), "gpde": scores.gpde,
        "fraction_disordered": scores.fraction_disordered,
    }  # fmt: skip
    shown = {key: "" if value is None else f"{value:.4f}" for key, value in numbers.items()}
    return {
        "name": name, "seed": sample.seed, "sample": sample.number, "has_clash": int(scores.has_clash),
        "file": file, **shown,
    }  # fmt: skip


def write_ranking(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Rows by name, then by falling ranking score."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["name"], -float(row["ranking_score"]))))


def collect_rankings(out: Path) -> int:
    """Write OUT/ranking.csv of all complete predictions below; how many there are."""
    rows: list[dict[str, Any]] = []
    complete = sorted(path.parent for path in out.glob(f"*/{DONE}") if not path.parent.name.startswith("."))
    for folder in complete:
        with (folder / RANKING).open(newline="") as file:
            rows += csv.DictReader(file)
    write_ranking(rows, out / RANKING)
    return len(complete)
