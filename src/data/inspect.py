# SPDX-License-Identifier: Apache-2.0
"""Looking at an entry of a store: its chains, a crop of it, its alignments and the shapes of its features.

Prints tables and writes pictures: the token centres of the assembly with one crop's marked, and how many rows
of each chain's alignment cover each residue. The crop is the one that a training sample of the same seed and
number makes, centred on the chosen chain.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from foldwright.batch import SCHEMA, Batch
from foldwright.data.crop import Budget, CropMixture, crop, crop_input
from foldwright.data.dataset import build_full
from foldwright.data.records import Entry
from foldwright.data.store import Store
from foldwright.data.structure import Ints
from foldwright.randomness import generator
from foldwright.vocabulary import GAP, MoleculeType

_SHOWN_CYCLES = 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="inspect_data.py",
        description="Show an entry of a store: chains, tokens, a crop, alignments, features.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("entry", help="its name in the store")
    parser.add_argument("--store", type=Path, required=True, help="a store made by prepare_data.py")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the pictures")
    parser.add_argument("--tokens", type=int, default=384, help="of the crop")
    parser.add_argument("--atoms", type=int, default=3456, help="of the crop")
    parser.add_argument("--msa-rows", type=int, default=1024, help="of the alignment")
    parser.add_argument("--chain", default="", help="name of the chain to centre the crop on; any, if empty")
    parser.add_argument("--seed", type=int, default=0, help="of the crop")
    arguments = parser.parse_args(argv)
    try:
        store, entry = open_entry(arguments.store, arguments.entry)
        preferred = _chain_numbers(entry, arguments.chain)
        budget = Budget(arguments.tokens, arguments.atoms)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    kept = draw_crop(entry, budget, preferred, arguments.seed)
    batch = build_full(entry, store, _SHOWN_CYCLES, arguments.msa_rows, 0, arguments.seed, 0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    crop_picture, msa_picture = (arguments.out / f"{arguments.entry}_{name}.png" for name in ("crop", "msa"))
    draw_structure(entry, kept, crop_picture)
    draw_coverage(entry, batch, msa_picture)
    console = Console()
    console.print(_heading(entry, kept))
    console.print(chain_table(entry, kept))
    console.print(feature_table(batch))
    console.print(f"wrote {crop_picture} and {msa_picture}")
    return 0


def open_entry(path: Path, name: str) -> tuple[Store, Entry]:
    """The store and one of its entries; ValueError for an entry that it lacks, with why where it is known."""
    store = Store(path)
    if name not in store.manifest()["entry"].to_pylist():
        examples = ", ".join(store.manifest()["entry"].to_pylist()[:5])
        raise ValueError(
            f"got entry {name!r}, expected one of the store {path}, such as {examples}; "
            "its report.json says which entries were rejected, and why"
        )
    return store, store.entry(name)


def _chain_numbers(entry: Entry, name: str) -> Ints:
    names = entry.structure.chain_name.tolist()
    if name and name not in names:
        raise ValueError(f"--chain: got {name!r}, expected one of {', '.join(names)}")
    return np.array([names.index(name)] if name else [], np.int32)


def draw_crop(entry: Entry, budget: Budget, preferred: Ints, seed: int) -> NDArray[np.int64]:
    """The tokens that training's croppers keep, in the paper's mixture."""
    inputs = crop_input(entry.structure, entry.tokens)
    return crop(inputs, budget, CropMixture(), preferred, generator(seed, 0, "crop 0"))


def _heading(entry: Entry, kept: NDArray[np.int64]) -> str:
    structure = entry.structure
    resolution = f"{structure.resolution:.2f} Å" if structure.resolution else "no resolution"
    return (
        f"{structure.entry_id}: {structure.method or 'method unknown'}, {resolution}, released "
        f"{structure.release_date or 'at an unknown date'}; {len(structure.chain_name)} chains, "
        f"{len(structure.residue_chain)} residues, {len(entry.tokens.token_residue)} tokens, "
        f"{len(structure.atom_name)} atoms ({int(structure.atom_resolved.sum())} resolved); "
        f"crop: {len(kept)} tokens"
    )


def chain_table(entry: Entry, kept: NDArray[np.int64]) -> Table:
    """One row a chain: what it is, how much of it is resolved, aligned, and in the crop."""
    structure, tokens = entry.structure, entry.tokens
    columns = "chain entity copy type residues tokens resolved atoms in_crop sequence".split()
    table = Table(*columns, title="chains", title_justify="left")
    residue_of = structure.residue_chain[structure.atom_residue]
    for chain, name in enumerate(structure.chain_name.tolist()):
        sequence = structure.sequence(chain)
        mine = tokens.token_chain == chain
        atoms = residue_of == chain
        seen = structure.atom_resolved[tokens.token_centre[mine]]
        table.add_row(
            name,
            str(structure.chain_entity[chain]),
            str(structure.chain_sym[chain]),
            MoleculeType(int(structure.chain_type[chain])).name,
            str(len(sequence)),
            str(int(mine.sum())),
            f"{seen.mean():.0%}",
            str(int(atoms.sum())),
            str(int(mine[kept].sum())),
            " ".join(sequence[:6]) + (" ..." if len(sequence) > 6 else ""),
        )
    return table


def feature_table(batch: Batch) -> Table:
    """Axes, shape, dtype and kilobytes of every feature of the whole entry."""
    table = Table(
        "feature", "axes", "shape", "dtype", "kB", title="features, uncropped", title_justify="left"
    )
    for name, feature in SCHEMA.items():
        tensor = getattr(batch, name)
        size = tensor.numel() * tensor.element_size() / 1000
        axes = " ".join(map(str, feature.axes))
        table.add_row(
            name, axes, str(tuple(tensor.shape)), str(tensor.dtype).removeprefix("torch."), f"{size:.1f}"
        )
    return table


def draw_structure(entry: Entry, kept: NDArray[np.int64], path: Path) -> None:
    """Token centres along the two longest axes of the assembly; the crop in colour, a colour a chain."""
    tokens, structure = entry.tokens, entry.structure
    seen = structure.atom_resolved[tokens.token_centre]
    centres = structure.atom_coords[tokens.token_centre]
    offset = centres - centres[seen].mean(axis=0)
    _, _, axes = np.linalg.svd(offset[seen], full_matrices=False)
    flat = offset @ axes[:2].T
    inside = np.zeros(len(seen), np.bool_)
    inside[kept] = True
    figure = Figure(figsize=(8, 8), layout="constrained")
    plot = figure.subplots()
    rest = seen & ~inside
    plot.scatter(flat[rest, 0], flat[rest, 1], s=6, color="0.8", label=f"left out ({int((~inside).sum())})")
    palette = colormaps["tab20"]
    for number, chain in enumerate(np.unique(tokens.token_chain[kept]).tolist()):
        mine = seen & inside & (tokens.token_chain == chain)
        label = f"{structure.chain_name[chain]} ({int((inside & (tokens.token_chain == chain)).sum())})"
        plot.scatter(flat[mine, 0], flat[mine, 1], s=12, color=palette(number % 20), label=label)
    plot.set_aspect("equal")
    plot.set_xlabel("Å")
    plot.set_ylabel("Å")
    plot.set_title(f"{structure.entry_id}: {len(kept)} of {len(seen)} tokens in the crop")
    plot.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)


def coverage(batch: Batch) -> NDArray[np.int64]:
    """[N] rows of the first cycle's alignment that have a residue, not a gap, in each column."""
    rows = batch.msa[0].numpy()[batch.msa_mask[0].numpy()]
    return (rows != GAP).sum(axis=0)


def draw_coverage(entry: Entry, batch: Batch, path: Path) -> None:
    """Rows that cover each token, chain after chain."""
    depth = coverage(batch)
    figure = Figure(figsize=(10, 4), layout="constrained")
    plot = figure.subplots()
    plot.fill_between(np.arange(len(depth)), depth, step="mid", color="tab:blue", alpha=0.6)
    starts = np.flatnonzero(np.diff(entry.tokens.token_chain, prepend=-1))
    for start in starts.tolist():
        plot.axvline(start - 0.5, color="0.5", linewidth=0.5)
        plot.annotate(
            str(entry.structure.chain_name[entry.tokens.token_chain[start]]),
            (start, 1.0), xycoords=("data", "axes fraction"), fontsize="x-small", va="bottom",
        )  # fmt: skip
    plot.set_xlim(-0.5, len(depth) - 0.5)
    plot.set_ylim(bottom=0)
    plot.set_xlabel("token")
    plot.set_ylabel(f"rows of {int(batch.msa_mask[0].sum())} without a gap")
    figure.suptitle(f"{entry.structure.entry_id}: alignment coverage")
    figure.savefig(path, dpi=120)
