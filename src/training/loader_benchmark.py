# SPDX-License-Identifier: Apache-2.0
"""Cost of examples and how long a device would wait for them: the loader alone, without a network.

The real loader with its workers, against a consumer that takes a fixed number of examples a second: the share
of its time that it is blocked. Then, in one process with one thread, example by example: milliseconds against
the size of the entry, bytes that go from a worker to the training process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from foldwright.data.dataset import StoreDataset
from foldwright.data.sampler import SampleRequest, StepBatchSampler
from foldwright.training.config import TrainConfig, compose_config
from foldwright.training.curriculum import Curriculum, PhaseConfig
from foldwright.training.datamodule import (
    WatchedLoader,
    collate_packed,
    open_dataset,
    padding_buckets,
    start_worker,
)


@dataclass
class ExampleCosts:
    """One value an example: its entry, the entry's tokens, milliseconds; bytes of the largest batch."""

    entries: list[str]
    tokens: list[int]
    milliseconds: list[float]
    batch_bytes: int

    def quantile(self, q: float) -> float:
        """Of the milliseconds."""
        return float(np.quantile(self.milliseconds, q))


@dataclass
class WaitReport:
    """A consumer of `rate` examples a second beside the loader: examples taken, and its share of waiting."""

    workers: int
    rate: float
    examples: int
    waited_share: float
    worker_rss_mb: float  # the largest worker's, at its highest


def example_costs(
    dataset: StoreDataset, phase: PhaseConfig, n_cycles: int, numbers: Sequence[int]
) -> ExampleCosts:
    """Build the examples of the given sample numbers in this process, one by one, with one thread.

    The first is built twice and not timed: it opens the store.
    """
    torch.set_num_threads(1)
    curriculum = Curriculum({"only": phase})
    phase, buckets = curriculum.at(0), padding_buckets(curriculum, dataset.config.n_templates)
    request = partial(
        SampleRequest,
        n_cycles=n_cycles,
        crop_tokens=phase.crop_tokens,
        crop_atoms=phase.crop_atoms,
        msa_rows=phase.msa_rows,
    )
    dataset[request(numbers[0])]
    part = next(iter(dataset.parts.values()))
    manifest = part.store.manifest()
    size_of = dict(zip(manifest["entry"].to_pylist(), manifest["n_tokens"].to_pylist(), strict=True))
    costs = ExampleCosts([], [], [], 0)
    for number in numbers:
        start = time.perf_counter()
        batch = collate_packed([dataset[request(number)]], buckets)
        costs.milliseconds.append(1e3 * (time.perf_counter() - start))
        costs.entries.append(part.sampler.draw(number).entry)
        costs.tokens.append(size_of[costs.entries[-1]])
        costs.batch_bytes = max(costs.batch_bytes, batch.buffer.numel())
    return costs


def measure_wait(
    dataset: StoreDataset, config: TrainConfig, workers: int, rate: float, n_examples: int
) -> WaitReport:
    """Take examples from the loader at a fixed rate. The first batch of each worker is not counted."""
    curriculum = Curriculum(config.curriculum, config.seed)
    sampler = StepBatchSampler(0, 1, 0, 1, 1, config.seed, config.max_cycles, curriculum.at)
    loader = WatchedLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        prefetch_factor=config.loader.prefetch if workers else None,
        collate_fn=partial(collate_packed, buckets=padding_buckets(curriculum, config.data.n_templates)),
        worker_init_fn=start_worker,
    )
    batches = iter(loader)
    for _ in range(max(workers, 1)):
        next(batches)
    loader.take_wait()
    start = time.perf_counter()
    for _ in range(n_examples):
        next(batches)
        time.sleep(1 / rate)
    seconds = time.perf_counter() - start
    rss = max((_peak_rss_mb(process.pid) for process in multiprocessing.active_children()), default=0.0)
    return WaitReport(workers, rate, n_examples, loader.take_wait() / seconds, rss)


def _peak_rss_mb(pid: int | None) -> float:
    """Highest resident size of a process, shared pages of its parent included (Linux; 0 elsewhere)."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def plot_costs(costs: ExampleCosts, path: Path) -> None:
    """Milliseconds an example against the tokens of its entry, as PNG, with median and p99."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.scatter(costs.tokens, costs.milliseconds, s=8, alpha=0.5)
    for q, label in ((0.5, "median"), (0.99, "p99")):
        value = costs.quantile(q)
        axes.axhline(value, color="black", linewidth=0.7, linestyle="--" if q > 0.5 else "-")
        axes.annotate(f"{label} {value:.0f} ms", (max(costs.tokens), value), ha="right", va="bottom")
    axes.set(xlabel="tokens of the entry", ylabel="ms an example", xscale="log", yscale="log")
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main(arguments: Sequence[str] | None = None) -> int:
    """Hydra overrides as for train.py (data=pdb data.root=STORE ...) beside the flags."""
    parser = argparse.ArgumentParser(prog="benchmark_loader.py", description=main.__doc__)
    parser.add_argument("--examples", type=int, default=300, help="timed one by one, and taken at the rate")
    parser.add_argument("--rate", type=float, default=4.0, help="examples a second that the device takes")
    parser.add_argument("--plot", type=Path, help="write cost against entry size to this PNG")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    flags, overrides = parser.parse_known_args(arguments)
    config = compose_config(["data=pdb", *overrides])
    try:
        dataset = open_dataset(config.data, config.seed, config.loader.stage_to)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    phase = Curriculum(config.curriculum).at(0)
    wait = measure_wait(dataset, config, config.loader.workers, flags.rate, flags.examples)
    costs = example_costs(dataset, phase, config.max_cycles, range(flags.examples))
    _show(costs, wait, phase, config)
    if flags.plot:
        plot_costs(costs, flags.plot)
    if flags.json:
        record = {"costs": asdict(costs), "wait": asdict(wait), "command": list(arguments or sys.argv[1:])}
        flags.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _show(costs: ExampleCosts, wait: WaitReport, phase: PhaseConfig, config: TrainConfig) -> None:
    title = f"{phase.crop_tokens} tokens, {phase.msa_rows} MSA rows, {config.data.n_templates} templates"
    table = Table("figure", "value", title=f"{title}, {config.max_cycles} cycles", title_justify="left")
    table.add_row("examples", f"{len(costs.tokens):,} of {len(set(costs.entries)):,} entries")
    table.add_row("tokens of an entry", f"{min(costs.tokens):,} - {max(costs.tokens):,}")
    table.add_row("ms an example, median", f"{costs.quantile(0.5):.1f}")
    table.add_row("ms an example, p99", f"{costs.quantile(0.99):.1f}")
    table.add_row("ms an example, largest", f"{max(costs.milliseconds):.1f}")
    table.add_row("examples/s of one core", f"{1e3 / np.mean(costs.milliseconds):.1f}")
    table.add_row("MB an example from a worker, at most", f"{costs.batch_bytes / 1e6:.2f}")
    table.add_row("MB of the largest worker, at its highest", f"{wait.worker_rss_mb:.0f}")
    served = f"{wait.rate:g} examples/s, {wait.workers} workers, {wait.examples:,} examples"
    table.add_row(f"waiting at {served}", f"{100 * wait.waited_share:.2f} %")
    Console().print(table)
