# SPDX-License-Identifier: Apache-2.0
"""A named data set: a store, what is drawn from it and how often, and which losses its examples supervise.

Source: AF3 SI Table 3 and 2.5 (spec 2.3). Readings: listed weights exceed one, so they are renormalised;
"uniform" is uniform over entries, and over the chains and interfaces of the entry drawn. Residues of
predicted structures that are below `min_residue_plddt` count as unresolved, so that no loss reads where they
are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from foldwright.data.crop import CropMixture
from foldwright.data.records import Entry
from foldwright.data.splits import TRAIN, split_entries
from foldwright.data.store import Store
from foldwright.data.weights import WeightConfig, item_weights


class Sampling(Enum):
    """How items are drawn: by the weights of equation 1, or every entry equally often."""

    weighted = "weighted"
    uniform = "uniform"


class Scope(Enum):
    """Atoms that the diffusion loss of an example counts."""

    all = "all"
    protein = "protein"  # AF3's disorder set in its initial training: the rest is masked
    none = "none"


@dataclass
class Supervision:
    """Losses that an example of the data set supervises.

    `confidence` is for experimental structures alone (SI 4.3).
    """

    diffusion: Scope = Scope.all
    distogram: bool = True
    confidence: bool = True


@dataclass
class Limits:
    """Which entries are fit, by the store's manifest; null is no limit. Å, ISO dates, pLDDT 0 to 100.

    `min_plddt` is of the mean over an entry, which rejects what is not predicted.
    """

    max_resolution: float | None = None  # entries without a resolution pass
    released_before: str | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    min_plddt: float | None = None


@dataclass
class DatasetConfig:
    """One set of the mixture. Weights are relative; a phase may override them by name."""

    root: str = ""  # folder of its prepared store; that of `data.root` if empty
    weight: float = 1.0
    sampling: Sampling = Sampling.weighted
    entries: list[str] = field(default_factory=list)  # draw from these alone; all of the store if empty
    split: str = ""  # draw from the training set of this split of the store alone
    limits: Limits = field(default_factory=Limits)
    min_residue_plddt: float = 0.0  # residues below it are not supervised
    crop: CropMixture = field(default_factory=CropMixture)
    items: WeightConfig = field(default_factory=WeightConfig)  # constants of equation 1
    losses: Supervision = field(default_factory=Supervision)


def select_items(store: Store, name: str, config: DatasetConfig, allow_overlap: bool) -> pa.Table:
    """The items that a data set draws from; ValueError, naming the key, for what the store lacks."""
    items, key = store.items(), f"data.datasets.{name}"
    if missing := sorted(set(config.entries) - set(items["entry"].to_pylist())):
        raise ValueError(f"{key}.entries: got {missing[0]!r}, which is not in the store {store.path}; "
                         "its manifest.parquet lists what is")  # fmt: skip
    if config.split:
        training = split_entries(store, config.split, allow_overlap, f"{key}.split")[TRAIN]
        items = items.filter(pc.field("entry").isin(training))
    if config.entries:
        items = items.filter(pc.field("entry").isin(config.entries))
    if config.limits == Limits():
        return items
    fit = fitting_entries(store.manifest(), config.limits)
    kept = items.filter(pc.field("entry").isin(pa.array(fit, pa.string())))
    if not len(kept):
        raise ValueError(f"{key}.limits: got {config.limits}, which none of the entries drawn from "
                         f"{store.path} meets; widen them")  # fmt: skip
    return kept


def fitting_entries(manifest: pa.Table, limits: Limits) -> list[str]:
    """The entries that meet all limits; a limit on what is unknown, resolution aside, rejects an entry."""
    keep = np.ones(len(manifest), np.bool_)
    size = manifest["n_tokens"].to_numpy()
    if limits.max_resolution is not None:
        keep &= manifest["resolution"].to_numpy() <= limits.max_resolution
    if limits.released_before is not None:
        date = np.array(manifest["release_date"].to_pylist(), np.str_)
        keep &= (date != "") & (date < limits.released_before)
    if limits.min_tokens is not None:
        keep &= size >= limits.min_tokens
    if limits.max_tokens is not None:
        keep &= size <= limits.max_tokens
    if limits.min_plddt is not None:
        keep &= mean_plddts(manifest) >= limits.min_plddt
    return [str(entry) for entry in np.array(manifest["entry"].to_pylist(), np.str_)[keep]]


def mean_plddts(manifest: pa.Table) -> NDArray[np.float64]:
    """[n] mean pLDDT of every entry, NaN for those that are not predicted."""
    if "mean_plddt" not in manifest.column_names:
        return np.full(len(manifest), np.nan)
    return np.array([np.nan if v is None else v for v in manifest["mean_plddt"].to_pylist()], np.float64)


def drawing_weights(items: pa.Table, config: DatasetConfig) -> NDArray[np.float64]:
    """[n] weights of a data set's items, not normalised."""
    if config.sampling is Sampling.weighted:
        return item_weights(items, config.items)
    if not len(items):
        return np.zeros(0)
    _, inverse, counts = np.unique(
        np.array(items["entry"].to_pylist(), np.str_), return_inverse=True, return_counts=True
    )
    return np.asarray(1.0 / counts[inverse], np.float64)


def shares(datasets: Mapping[str, DatasetConfig], overrides: Mapping[str, float]) -> dict[str, float]:
    """Probability of every data set: weights, overridden by name, over their sum.

    Raises ValueError for an override of a data set that is not there, a weight below zero, or a sum of zero.
    """
    if unknown := sorted(set(overrides) - set(datasets)):
        raise ValueError(
            f"dataset_weights: got {unknown[0]!r}, expected names of data.datasets: {', '.join(datasets)}"
        )
    weights = {name: overrides.get(name, config.weight) for name, config in datasets.items()}
    total = sum(weights.values())
    if min(weights.values()) < 0 or not 0 < total < float("inf"):
        raise ValueError(
            f"data.datasets: got weights {weights}, expected none below zero and a positive sum; "
            "set data.datasets.NAME.weight"
        )
    return {name: weight / total for name, weight in weights.items()}


def without_doubtful(entry: Entry, plddt: NDArray[np.floating] | None, least: float) -> Entry:
    """The entry with every residue of a pLDDT below `least` unresolved. plddt: [S], None: experimental."""
    if plddt is None or least <= 0:
        return entry
    structure = entry.structure
    resolved = structure.atom_resolved & (plddt >= least)[structure.atom_residue]
    coords = np.where(resolved[:, None], structure.atom_coords, 0).astype(np.float32)
    return replace(entry, structure=replace(structure, atom_resolved=resolved, atom_coords=coords))


def described(parts: Mapping[str, float]) -> str:
    """Shares in words: "pdb 50.0 %, monomers 50.0 %"."""
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in parts.items())
