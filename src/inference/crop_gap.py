# SPDX-License-Identifier: Apache-2.0
"""The crop-gap command: what a network that was trained on crops is worth on whole targets.

    crop_gap.py --checkpoint RUN --truth STORE --out OUT

Every target larger than a crop is predicted in three ways: as overlapping crops of the training size, each
for itself; as these stitched together; and whole. LDDT on a crop counts pairs within it alone, so the whole
prediction is scored on the crops' atoms too: that difference is the gap, and a token's distance to the cut
tells where it comes from. OUT/targets.* has a row a target and sample, OUT/edges.* one a target and distance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from foldwright.batch import Batch
from foldwright.data.ccd import DEFAULT_CACHE
from foldwright.data.query_example import Target
from foldwright.data.structure import Floats
from foldwright.data.tables import read_table
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.evaluation.bootstrap import compare, mean_interval
from foldwright.evaluation.lddt import lddt_of_atoms
from foldwright.evaluation.scores import permuted_truth
from foldwright.evaluation.tm_score import aligned_rmsd
from foldwright.inference.assessment import per_target, write_examples
from foldwright.inference.evaluate import Truths, chosen_entries, stored_target
from foldwright.inference.network import device_of, load_network
from foldwright.inference.report_figures import gap_picture
from foldwright.inference.sampling import SamplingConfig, target_batch
from foldwright.inference.stitching import Window, atoms_of, cut_distance, stitch, windows
from foldwright.kernels import KernelConfig
from foldwright.model import AlphaFold3
from foldwright.training.curriculum import Curriculum

TARGETS, EDGES, PICTURE = "targets", "edges", "crop_gap.svg"
MODES = ("crops", "stitched", "whole_on_crops", "whole")
_SEED = 0
Predict = Callable[[NDArray[np.int64]], tuple[Batch, Floats]]
"""From the tokens kept to their batch (on any device) and structures [samples, A, 3] Å, A their atoms."""


class Gap(NamedTuple):
    """Rows of a target's samples, and rows of its tokens by their distance to a cut."""

    samples: list[dict[str, Any]]
    edges: list[dict[str, Any]]


class Scored(NamedTuple):
    """A structure x [L, 3] Å, the truth as it fits best, and which of its atoms are resolved."""

    x: Floats
    truth: NDArray[np.floating]
    resolved: NDArray[np.bool_]
    residue: NDArray[np.int32]
    is_centre: NDArray[np.bool_]

    def part(self, rows: slice) -> Scored:
        """Of the atoms `rows` alone."""
        truth, resolved, residue = self.truth[rows], self.resolved[rows], self.residue[rows]
        return Scored(self.x[rows], truth, resolved, residue, self.is_centre[rows])

    def lddt(self) -> NDArray[np.float64]:
        """[L] of every atom, NaN for those without a score."""
        x, truth, resolved, residue = (torch.from_numpy(part.copy()) for part in self[:4])
        scores: NDArray[np.float64] = lddt_of_atoms(x, truth, resolved, residue).numpy()
        return scores

    def rmsd(self) -> float:
        """Å of the token centres, superposed; NaN of less than three."""
        rows = np.flatnonzero(self.is_centre & self.resolved)
        return aligned_rmsd(self.x[rows], self.truth[rows]) if len(rows) > 2 else float("nan")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 1 if anything could not be measured."""
    arguments = _parser().parse_args(argv)
    console = Console()
    try:
        failed = _run(arguments, console)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


def _run(arguments: argparse.Namespace, console: Console) -> int:
    truths = Truths(arguments.truth, arguments.dictionary_cache)
    if truths.store is None:
        raise ValueError("--truth: got a folder of files, expected a store, whose alignments are used")
    device = device_of(arguments.device)
    loaded = load_network(arguments.checkpoint, device, KernelConfig(arguments.kernels))
    trained = max(phase.crop_tokens for phase in Curriculum(loaded.config.curriculum).sizes())
    size = arguments.crop_tokens or trained
    overlap = arguments.overlap or max(3, size // 3)
    sampling = SamplingConfig(
        arguments.samples, arguments.cycles, arguments.msa_rows, arguments.templates,
        sampler=SamplerConfig(steps=arguments.steps),
    )  # fmt: skip
    samples: list[dict[str, Any]] = []
    edges: list[dict[str, Any]] = []
    failed = 0
    for name in track(chosen_entries(arguments.entries, truths), "targets", console=console):
        target = stored_target(truths.store, name)
        if len(target.entry.tokens.token_residue) <= size:
            continue
        try:
            predict = predictor(loaded.network, target, sampling, arguments.seed, device)
            found = measure(target, predict, size, overlap)
        except (ValueError, torch.cuda.OutOfMemoryError) as error:
            failed += 1
            console.print(f"[red]not measured:[/] {name}: {error}", highlight=False, soft_wrap=True)
            continue
        samples += found.samples
        edges += found.edges
    if not samples:
        raise ValueError(f"got no target of more than {size} tokens ({failed} failed); lower --crop-tokens")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_examples(samples, arguments.out, TARGETS)
    write_examples(edges, arguments.out, EDGES)
    (arguments.out / PICTURE).write_bytes(_picture(arguments.out))
    console.print(gap_table(read_table(arguments.out / f"{TARGETS}.parquet"), size))
    return failed


def predictor(
    network: AlphaFold3, target: Target, sampling: SamplingConfig, seed: int, device: torch.device
) -> Predict:
    """Samples of a target's tokens from noise, without confidence."""

    @torch.no_grad()
    def predict(kept: NDArray[np.int64]) -> tuple[Batch, Floats]:
        batch = target_batch(target, sampling, seed, kept)
        moved, seeds = batch.to(device), torch.tensor([seed], dtype=torch.int64, device=device)
        trunk = network.represent(moved, seeds)
        numbers = torch.arange(sampling.samples).split(sampling.at_once)
        x = [network.sample_numbers(moved, trunk, part, sampling.sampler, seeds).cpu() for part in numbers]
        n_atoms = int(np.diff(target.entry.tokens.token_first_atom)[kept].sum())
        return batch, torch.cat(x)[:, :n_atoms].float().numpy()

    return predict


def measure(target: Target, predict: Predict, size: int, overlap: int) -> Gap:
    """A target as crops of `size` tokens sharing `overlap`, stitched, and whole.

    Raises ValueError for coordinates that are not finite.
    """
    tokens = target.entry.tokens
    n_tokens = len(tokens.token_residue)
    crops = windows(tokens.token_residue, size, overlap)
    pieces = [predict(np.arange(*window)) for window in crops]
    full_batch, full = predict(np.arange(n_tokens))
    if not all(np.isfinite(x).all() for x in (full, *(x for _, x in pieces))):
        raise ValueError("coordinates are not finite")
    everything = slice(0, len(tokens.atom_token))
    samples, edges = [], []
    for number, x in enumerate(full):
        whole = _scored(target, full_batch, x, everything)
        together = stitch(crops, [own[number] for _, own in pieces], tokens)
        stitched = _scored(target, full_batch, together, everything)
        parts = [
            (
                _scored(target, batch, own[number], atoms_of(window, tokens)),
                whole.part(atoms_of(window, tokens)),
            )
            for window, (batch, own) in zip(crops, pieces, strict=True)
        ]
        scored = dict(
            zip(MODES, ([p for p, _ in parts], [stitched], [w for _, w in parts], [whole]), strict=True)
        )
        row = {
            "target": target.structure.entry_id,
            "sample": number,
            "n_tokens": n_tokens,
            "crops": len(crops),
        }
        samples.append(row | _figures(scored))
        edges += list(_by_token(target, crops, parts))
    return Gap(samples, _by_distance(target.structure.entry_id, edges))


def _scored(target: Target, batch: Batch, x: Floats, rows: slice) -> Scored:
    truth, resolved = permuted_truth(batch, x)
    is_centre = np.zeros(len(target.entry.tokens.atom_token), np.bool_)
    is_centre[target.entry.tokens.token_centre] = True
    return Scored(x, truth, resolved, target.structure.atom_residue[rows], is_centre[rows])


def _figures(scored: Mapping[str, Sequence[Scored]]) -> dict[str, float]:
    """LDDT and RMSD of every way of predicting, means over its structures."""
    figures = {}
    for mode, structures in scored.items():
        lddts = [_mean(each.lddt()) for each in structures]
        figures[f"lddt_{mode}"] = _mean(np.array(lddts))
        figures[f"rmsd_{mode}"] = _mean(np.array([each.rmsd() for each in structures]))
    return figures


def _by_token(
    target: Target, crops: Sequence[Window], parts: Sequence[tuple[Scored, Scored]]
) -> Iterator[tuple[int, float, float]]:
    """Of every token of every crop: distance to the cut, LDDT in the crop, and in the whole prediction."""
    tokens = target.entry.tokens
    for window, pair in zip(crops, parts, strict=True):
        of_token = tokens.atom_token[atoms_of(window, tokens)] - window.start
        values = [_token_means(each.lddt(), of_token, window.stop - window.start) for each in pair]
        distances = cut_distance(window, len(tokens.token_residue)).tolist()
        yield from zip(distances, *(v.tolist() for v in values), strict=True)


def _token_means(values: NDArray[np.float64], token: NDArray[np.integer], n: int) -> NDArray[np.float64]:
    known = np.isfinite(values)
    counts = np.bincount(token[known], minlength=n)
    return np.where(counts > 0, np.bincount(token[known], values[known], n) / np.maximum(counts, 1), np.nan)


def _by_distance(target: str, found: Sequence[tuple[int, float, float]]) -> list[dict[str, Any]]:
    table = np.array(found, np.float64)
    table = table[np.isfinite(table).all(axis=1)]
    rows = []
    for distance in np.unique(table[:, 0]):
        own = table[table[:, 0] == distance]
        rows.append(
            {"target": target, "distance": int(distance), "tokens": len(own),
             "lddt_crops": float(own[:, 1].mean()), "lddt_whole_on_crops": float(own[:, 2].mean())}
        )  # fmt: skip
    return rows


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _picture(out: Path) -> bytes:
    targets, edges = (read_table(out / f"{name}.parquet") for name in (TARGETS, EDGES))
    means = {mode: per_target(targets, f"lddt_{mode}", "mean") for mode in MODES}
    sizes = np.array(list(per_target(targets, "n_tokens", "mean").values()))
    by_size = {mode: np.array(list(values.values())) for mode, values in means.items()}
    names = ("distance", "tokens", "lddt_crops", "lddt_whole_on_crops")
    return gap_picture(sizes, by_size, {name: edges[name].to_numpy().astype(np.float64) for name in names})


def gap_table(targets: pa.Table, size: int) -> Table:
    """Means over targets with intervals, and the paired differences that are the gap."""
    rng = np.random.default_rng(_SEED)
    values = {
        mode: np.array(list(per_target(targets, f"lddt_{mode}", "mean").values()), np.float64)
        for mode in MODES
    }
    shown = Table(title=f"LDDT of {len(values['whole'])} targets larger than {size} tokens [95 % interval]")
    for column in ("prediction", "LDDT"):
        shown.add_column(column, justify="left" if column == "prediction" else "right")
    for mode, own in values.items():
        shown.add_row(mode.replace("_", " "), mean_interval(own, rng).text())
    for first, second in (("crops", "whole_on_crops"), ("stitched", "whole")):
        difference = compare(values[first], values[second], rng).difference
        shown.add_row(f"{second} - {first}".replace("_", " "), difference.text())
    return shown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crop_gap.py",
        description="Compare crops of the training size, these stitched together, and whole targets.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    defaults = SamplingConfig()
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="a run directory, or a checkpoint in one")
    add("--truth", type=Path, required=True, help="a store")
    add("--out", type=Path, required=True, help="folder of the tables and the picture")
    add("--crop-tokens", type=int, default=0, help="0: the largest crop of the checkpoint's curriculum")
    add("--overlap", type=int, default=0, help="tokens that neighbouring crops share; 0: a third of a crop")
    add("--entries", nargs="*", default=[], help="of the store; all by default; smaller ones are left out")
    add("--samples", type=int, default=1, help="of each way of predicting; means are shown")
    add("--cycles", type=int, default=defaults.cycles, help="recycling cycles")
    add("--steps", type=int, default=defaults.sampler.steps, help="of the sampler")
    add("--msa-rows", type=int, default=defaults.msa_rows, help="alignment rows of a cycle")
    add("--templates", type=int, default=defaults.templates, help="template slots")
    add("--seed", type=int, default=1, help="of the samples")
    add("--device", default="auto", help="cpu, cuda or cuda:N")
    add("--kernels", default=KernelConfig().default, help="auto, reference or triton")
    add("--dictionary-cache", type=Path, default=DEFAULT_CACHE, help="where the parsed dictionary is kept")
    return parser
