# SPDX-License-Identifier: Apache-2.0
"""The affinity stage's data: the table, which rows are held out, and groups of labelled pockets.

Held out are targets, not measurements: every row of a target goes to one side, so that an assay that is
scored was not seen through another assay of its target.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from foldwright.affinity.head import Pocket
from foldwright.data.affinity_sampler import GroupConfig, GroupSampler
from foldwright.data.affinity_store import PocketCache
from foldwright.data.affinity_table import TABLE
from foldwright.data.sampler import SampleRequest
from foldwright.data.tables import read_table
from foldwright.losses.affinity import AffinityLabels
from foldwright.training.pockets import pad_pockets


@dataclass
class AffinityBatch:
    """G groups of complexes, flat. `pocket` is None where it is to be computed from `names`."""

    names: list[str]
    labels: AffinityLabels
    pocket: Pocket | None
    sample_number: Tensor  # int64, one a complex: keys its dropout

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AffinityBatch:
        pocket = None if self.pocket is None else self.pocket.to(device, non_blocking)
        number = self.sample_number.to(device, non_blocking=non_blocking)
        return AffinityBatch(self.names, self.labels.to(device, non_blocking), pocket, number)


@dataclass(frozen=True)
class AffinitySplit:
    """Rows of the table that have a complex: trained on, or held out, and the targets of the latter."""

    table: pa.Table
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]
    targets: tuple[str, ...]


def table_path(root: Path, table: str) -> Path:
    """Where the table of the configuration is: `affinity.table`, or in the store."""
    return Path(table) if table else root / TABLE


def open_table(root: Path, table: str) -> pa.Table:
    """The table of the configuration; ValueError where there is none."""
    path = table_path(root, table)
    if not path.is_file():
        raise ValueError(
            f"affinity.table: {path} is no file; make it with `prepare_affinity.py --measurements FILE "
            f"--store {root}`"
        )
    return read_table(path)


def split_table(table: pa.Table, held_out: list[str], fraction: float) -> AffinitySplit:
    """Hold out the named assays or targets, or `fraction` of the targets by a keyed hash of their names.

    Raises ValueError for a name that no row has, a fraction outside [0, 1), and a table without complexes.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"affinity.held_out_fraction: got {fraction}, expected 0 <= fraction < 1")
    assays, targets = (np.array(table[name].to_pylist(), object) for name in ("assay", "target"))
    usable = np.array([bool(name) for name in table["complex"].to_pylist()])
    if not usable.any():
        raise ValueError(
            f"affinity.table: none of {len(table)} measurements has a complex in the store, expected some; "
            "see docs/affinity.md, Complexes"
        )
    for name in held_out:
        if not ((assays == name) | (targets == name))[usable].any():
            raise ValueError(
                f"affinity.held_out: got {name!r}, which is neither assay nor target of a row with a "
                f"complex; targets are {', '.join(sorted(set(targets[usable]))[:20])}"
            )
    if held_out:
        held = set(targets[np.isin(assays, held_out) | np.isin(targets, held_out)])
    else:
        held = {target for target in set(targets[usable]) if _position(target) < fraction}
    out = np.array([target in held for target in targets])
    training = np.flatnonzero(usable & ~out)
    if not len(training):
        raise ValueError("affinity.held_out: nothing is left to train on; hold out less")
    return AffinitySplit(table, training, np.flatnonzero(usable & out), tuple(sorted(held)))


def _position(name: str) -> float:
    digest = hashlib.sha256(f"foldwright affinity {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class AffinityDataset(Dataset[AffinityBatch]):
    """Maps a SampleRequest to a group of labelled complexes, with their pockets where there is a cache.

    Give `cache` before the first request.
    """

    def __init__(self, split: AffinitySplit, groups: GroupConfig, seed: int) -> None:
        self.table = split.table.take(split.training)
        self.sampler = GroupSampler(self.table, groups, seed)
        self.size = groups.size
        self.cache: PocketCache | None = None

    def __getitem__(self, request: SampleRequest) -> AffinityBatch:
        rows = self.sampler.draw(request.n)
        names = [self.table["complex"][int(row)].as_py() for row in rows]
        pocket = None if self.cache is None else pad_pockets([self.cache.read(n) for n in names])
        number = request.n * self.size + torch.arange(len(rows))
        return AffinityBatch(names, labels_of(self.table, rows), pocket, number)


def labels_of(table: pa.Table, rows: NDArray[np.int64]) -> AffinityLabels:
    """Labels of some rows, one group; their assays are numbered as they come."""
    taken = table.take(rows)
    low, high = (torch.tensor(taken[name].to_pylist(), dtype=torch.float32) for name in ("low", "high"))
    _, assay = np.unique(np.array(taken["assay"].to_pylist(), np.str_), return_inverse=True)
    binder = torch.tensor(taken["is_binder"].to_pylist())
    has_value = torch.isfinite(low) | torch.isfinite(high)
    assays, group = torch.from_numpy(assay), torch.zeros(len(rows), dtype=torch.int64)
    return AffinityLabels(low, high, assays, has_value, binder == 1, binder >= 0, group)


def collate_groups(groups: list[AffinityBatch]) -> AffinityBatch:
    """Groups one after another, numbered; their pockets are padded to the largest."""
    labels = {}
    for name in AffinityLabels.__dataclass_fields__:
        parts = [getattr(group.labels, name) for group in groups]
        if name == "group":
            parts = [torch.full_like(part, number) for number, part in enumerate(parts)]
        labels[name] = torch.cat(parts)
    pockets = [group.pocket for group in groups if group.pocket is not None]
    return AffinityBatch(
        names=[name for group in groups for name in group.names],
        labels=AffinityLabels(**labels),
        pocket=_joined(pockets) if pockets else None,
        sample_number=torch.cat([group.sample_number for group in groups]),
    )


def _joined(pockets: list[Pocket]) -> Pocket:
    tokens = max(pocket.x.shape[1] for pocket in pockets)
    grow = [tokens - pocket.x.shape[1] for pocket in pockets]
    pad = torch.nn.functional.pad

    def rows(name: str, *shape: int) -> Tensor:
        parts = zip(pockets, grow, strict=True)
        return torch.cat([pad(getattr(pocket, name), (*shape, 0, more)) for pocket, more in parts])

    pairs = [pad(p.z, (0, 0, 0, more, 0, more)) for p, more in zip(pockets, grow, strict=True)]
    return Pocket(
        rows("s_inputs", 0, 0), torch.cat(pairs), rows("x", 0, 0), rows("is_ligand"), rows("token_mask")
    )
