# SPDX-License-Identifier: Apache-2.0
"""The predict command: inputs and a checkpoint in, structures with confidence out.

What is complete under the same digest (input, weights, settings) is not made again. A bad input is told with
file and field, and the rest goes on; the exit code then is 1. `--devices N` gives every device a process and
each process every N-th target; `--part I/N` does the same for processes started by hand or by a scheduler.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.filters import Rejection
from foldwright.data.query import Query
from foldwright.data.query_example import Components, query_target
from foldwright.data.query_files import find_files, read_queries
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.inference.network import Loaded, device_of, load_network
from foldwright.inference.output import collect_rankings, folder_name, is_done, query_digest, write_prediction
from foldwright.inference.sampling import Sample, SamplingConfig, predict_target
from foldwright.kernels import KernelConfig

Tell = Callable[[str, str, str], None]  # name, outcome (done, unchanged, failed), the error or a warning


@dataclass(frozen=True)
class Job:
    """Everything a process needs. `seeds` replace those of the inputs where there are any."""

    checkpoint: Path
    inputs: tuple[Path, ...]
    out: Path
    sampling: SamplingConfig
    kernels: KernelConfig
    seeds: tuple[int, ...] = ()
    raw: bool = False
    device: str = "auto"
    dictionary_cache: Path = DEFAULT_CACHE
    part: int = 0
    n_parts: int = 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 1 if any input failed."""
    arguments = _parser().parse_args(argv)
    console = Console()
    try:
        job = _job(arguments)
        failed = run(job, arguments.devices, console)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


def run(job: Job, devices: int, console: Console) -> int:
    """Predict all inputs; how many failed. Raises ValueError for inputs or weights that are not there."""
    job.out.mkdir(parents=True, exist_ok=True)
    find_files(job.inputs)
    Dictionary.open(job.dictionary_cache)  # parsed once, before several processes want it
    counts = {"done": 0, "unchanged": 0, "failed": 0}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        bar = progress.add_task("predictions", total=None, note="")

        def tell(name: str, outcome: str, detail: str) -> None:
            if outcome == "total":
                progress.update(bar, total=int(detail))
                return
            counts[outcome] += 1
            if outcome == "failed":
                console.print(f"[red]failed:[/] {name}: {detail}", highlight=False, soft_wrap=True)
            elif detail:
                console.print(f"[yellow]warning:[/] {name}: {detail}", highlight=False, soft_wrap=True)
            progress.update(bar, advance=1, note=name)

        if devices > 1:
            _on_devices(job, devices, tell)
        else:
            work(job, tell)
    total = collect_rankings(job.out)
    console.print(
        f"{counts['done']} predicted, {counts['unchanged']} already there, {counts['failed']} failed; "
        f"{total} in {job.out / 'ranking.csv'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return counts["failed"]


def _on_devices(job: Job, devices: int, tell: Tell) -> None:
    """One process a device, each with its share of the targets."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    parts = [(job.part * devices + n, job.n_parts * devices) for n in range(devices)]
    processes = [
        context.Process(target=_work_and_send, args=(_replace(job, *part, n), queue))
        for n, part in enumerate(parts)
    ]
    for process in processes:
        process.start()
    running = len(processes)
    while running:
        while queue.empty() and any(process.is_alive() for process in processes):
            processes[0].join(0.05)
        if queue.empty():
            break
        message = queue.get()
        if message is None:
            running -= 1
        else:
            tell(*message)
    for number, process in enumerate(processes):
        process.join()
        if process.exitcode:
            tell(f"process {number}", "failed", f"ended with exit code {process.exitcode}")


def _replace(job: Job, part: int, n_parts: int, number: int) -> Job:
    device = f"cuda:{number}" if job.device == "auto" and torch.cuda.is_available() else job.device
    return Job(**{**vars(job), "part": part, "n_parts": n_parts, "device": device})


def _work_and_send(job: Job, queue: Any) -> None:
    torch.set_num_threads(1 if not torch.cuda.is_available() else torch.get_num_threads())
    total = [0]

    def tell(name: str, outcome: str, detail: str) -> None:
        if outcome != "total" or job.part % job.n_parts == 0:
            queue.put((name, outcome, detail))
        total[0] += 1

    work(job, tell)
    queue.put(None)


def work(job: Job, tell: Tell) -> None:
    """Predict this process's share of the targets, in order; `tell` hears of each."""
    device = device_of(job.device)
    dictionary = Dictionary.open(job.dictionary_cache)
    components = Components(dictionary)
    queries = list(_share(job, dictionary, tell))
    loaded = load_network(job.checkpoint, device, job.kernels, job.raw)
    for query in queries:
        try:
            outcome, warning = _predict(query, job, loaded, components, device)
        except (ValueError, KeyError, Rejection, torch.cuda.OutOfMemoryError) as error:
            tell(query.name, "failed", f"{error}" if not isinstance(error, KeyError) else f"unknown {error}")
            continue
        tell(query.name, outcome, warning)


def _share(job: Job, dictionary: Dictionary, tell: Tell) -> Iterator[Query]:
    """The queries of this part; bad files, and names that came before, are told of by the first part."""
    number, total = 0, 0
    names: set[str] = set()
    own: list[Query] = []
    for found in read_queries(find_files(job.inputs), dictionary):
        total += len(found.queries) + bool(found.error)
        problems = [(found.path.name, found.error)] if found.error else []
        for query in found.queries:
            name = folder_name(query.name)
            if name in names:
                problems.append((query.name, f"{found.path}: got a second input of this name; rename one"))
                continue
            names.add(name)
            if number % job.n_parts == job.part:
                own.append(query)
            number += 1
        if job.part == 0:
            for problem in problems:
                tell(problem[0], "failed", problem[1])
    tell("", "total", str(total))
    yield from own


def _predict(
    query: Query, job: Job, loaded: Loaded, components: Components, device: torch.device
) -> tuple[str, str]:
    """The outcome, and what to warn of."""
    folder = job.out / folder_name(query.name)
    seeds = job.seeds or query.seeds
    sampling = replace(job.sampling, pocket=loaded.config.affinity.pose.pocket)
    settings = {**asdict(sampling), "at_once": None}  # portions change nothing
    digest = query_digest(query, loaded.digest, settings, seeds)
    if is_done(folder, digest):
        return "unchanged", ""
    target = query_target(query, components)

    left_out: dict[str, str] = {}

    def samples() -> Iterator[Sample]:
        for seed in seeds:
            for sample in predict_target(loaded.network, target, sampling, seed, device):
                left_out.update(sample.affinity.left_out)
                yield sample

    record = {
        "digest": digest, "name": query.name, "seeds": list(seeds), "sampling": asdict(sampling),
        "checkpoint": str(job.checkpoint), "weights": loaded.digest, "step": loaded.step,
        "stage": loaded.config.stage,
    }  # fmt: skip
    write_prediction(folder, target, samples(), components.with_own(query).dictionary, record)
    return "done", "; ".join(f"chain {chain} has no affinity: {why}" for chain, why in left_out.items())


def _job(arguments: argparse.Namespace) -> Job:
    part, _, n_parts = arguments.part.partition("/")
    if not (part.isdigit() and n_parts.isdigit() and int(part) < int(n_parts)):
        raise ValueError(f"--part: got {arguments.part!r}, expected I/N with I from 0 to N - 1")
    for name in ("samples", "cycles", "msa_rows", "at_once", "steps", "devices"):
        if getattr(arguments, name) < 1:
            raise ValueError(
                f"--{name.replace('_', '-')}: got {getattr(arguments, name)}, expected 1 or more"
            )
    sampling = SamplingConfig(
        arguments.samples, arguments.cycles, arguments.msa_rows, arguments.templates, arguments.at_once,
        SamplerConfig(steps=arguments.steps),
    )  # fmt: skip
    return Job(
        arguments.checkpoint, tuple(arguments.inputs), arguments.out, sampling,
        KernelConfig(arguments.kernels), tuple(arguments.seeds), arguments.raw, arguments.device,
        arguments.dictionary_cache, int(part), int(n_parts),
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="predict.py",
        description="Predict structures with a trained checkpoint.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    defaults = SamplingConfig()
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, help="files (.json, .fasta, .cif, .sdf, .smi) or folders of them")
    add("--checkpoint", type=Path, required=True, help="a run directory, or a checkpoint in one")
    add("--out", type=Path, required=True, help="folder of the predictions")
    add("--raw", action="store_true", help="the trained weights instead of their average")
    add("--seeds", type=int, nargs="*", default=[], help="instead of those of the inputs")
    add("--samples", type=int, default=defaults.samples, help="of each seed")
    add("--cycles", type=int, default=defaults.cycles, help="recycling cycles")
    add("--steps", type=int, default=defaults.sampler.steps, help="of the sampler")
    add("--msa-rows", type=int, default=defaults.msa_rows, help="alignment rows of a cycle")
    add("--templates", type=int, default=defaults.templates, help="template slots")
    add("--at-once", type=int, default=defaults.at_once, help="samples that go through the network together")
    add("--device", default="auto", help="cpu, cuda or cuda:N")
    add("--devices", type=int, default=1, help="processes, one a device")
    add("--part", default="0/1", help="I/N: every N-th target from the I-th on")
    add("--kernels", default=KernelConfig().default, help="auto, reference or triton")
    add("--dictionary-cache", type=Path, default=DEFAULT_CACHE, help="where the parsed dictionary is kept")
    return parser
