# SPDX-License-Identifier: Apache-2.0
"""The whole step at many sizes: every combination of some crops, diffusion samples and cycles, or the longest
crop that trains.

Every line is a benchmark of its own (`training.benchmark`) in one process. One that runs out of memory says
so, and the next is measured.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.table import Table

from foldwright.flops import StepSizes
from foldwright.training.benchmark import StepReport, measured
from foldwright.training.config import TrainConfig
from foldwright.training.curriculum import Curriculum
from foldwright.training.figures import step_sizes

AXES = ("crop", "D", "cycles")
_STEP = 128  # tokens between the crops that the search for the longest tries
_LONGEST = {"D": 4, "cycles": 1}  # where memory is the trunk's


@dataclass(frozen=True)
class Line:
    """One combination; no report where memory ran out."""

    sizes: StepSizes
    report: StepReport | None


def axis(text: str) -> tuple[str, list[int]]:
    """`crop=384,640` -> its name and sizes; argparse's error for another name or sizes below one."""
    name, _, values = text.partition("=")
    sizes = [int(value) if value.isdecimal() else 0 for value in values.split(",")]
    if name not in AXES or min(sizes) < 1:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected {', '.join(AXES)} with sizes, like crop=384,640; "
            "overrides of the configuration go before --sweep"
        )
    return name, sizes


def resized(config: TrainConfig, sizes: Mapping[str, int]) -> TrainConfig:
    """The configuration whose first phase has these sizes; with a crop its atoms follow, nine a token."""
    curriculum = Curriculum(config.curriculum)
    phase = curriculum.at(0)
    if "crop" in sizes:
        phase = replace(phase, crop_tokens=sizes["crop"], crop_atoms=0)
    phase = replace(phase, diffusion_samples=sizes.get("D", phase.diffusion_samples))
    cycles = sizes.get("cycles", config.max_cycles)
    return replace(config, curriculum={curriculum.name_at(0): phase}, max_cycles=cycles)


def sweep(
    config: TrainConfig,
    axes: Mapping[str, Sequence[int]],
    device: torch.device,
    console: Console,
    repeats: int,
) -> list[Line]:
    """Measure every combination of the axes' sizes, the last axis fastest."""
    combinations = itertools.product(*axes.values())
    return [
        _line(resized(config, dict(zip(axes, sizes, strict=True))), device, console, repeats)
        for sizes in combinations
    ]


def longest(config: TrainConfig, device: torch.device, console: Console, repeats: int) -> list[Line]:
    """Search for the longest crop that trains: every crop tried, ascending."""
    lines: dict[int, Line] = {}

    def trains(crop: int) -> bool:
        sizes = {"crop": crop, **_LONGEST}
        lines[crop] = _line(resized(config, sizes), device, console, repeats)
        return lines[crop].report is not None

    crop = bisection(trains, _STEP)
    console.print(f"the longest crop that trains: {crop} tokens", highlight=False)
    return [lines[tried] for tried in sorted(lines)]


def bisection(trains: Callable[[int], bool], step: int) -> int:
    """The largest multiple of `step` that trains, where no larger one does; 0 if none. Few are tried."""
    good, bad = 0, step
    while trains(bad):
        good, bad = bad, 2 * bad
    while bad - good > step:
        middle = (good + bad) // 2 // step * step
        good, bad = (middle, bad) if trains(middle) else (good, middle)
    return good


def _line(config: TrainConfig, device: torch.device, console: Console, repeats: int) -> Line:
    sizes = step_sizes(config, Curriculum(config.curriculum).at(0), config.max_cycles)
    line = Line(sizes, _report(config, device, repeats))
    outcome = "out of memory" if line.report is None else f"{line.report.seconds:.3f} s"
    name = f"{sizes.tokens} tokens, D {sizes.diffusion_samples}, {sizes.cycles:g} cycles"
    console.print(f"{name}: {outcome}", highlight=False)
    return line


def _report(config: TrainConfig, device: torch.device, repeats: int) -> StepReport | None:
    try:
        return measured(config, device, repeats)
    except torch.OutOfMemoryError:
        return None


def sweep_table(lines: Sequence[Line]) -> Table:
    table = Table()
    for column in ("tokens", "atoms", "D", "cycles", "s/step", "MFU", "peak GiB", "kernels", "CPU-bound"):
        table.add_column(column, justify="right")
    for line in lines:
        table.add_row(*_cells(line))
    return table


def _cells(line: Line) -> Iterator[str]:
    s, report = line.sizes, line.report
    yield from (f"{s.tokens:,}", f"{s.atoms:,}", str(s.diffusion_samples), f"{s.cycles:g}")
    if report is None:
        yield "out of memory"
        return
    yield f"{report.seconds:.3f}"
    yield "" if report.mfu is None else f"{100 * report.mfu:.2f} %"
    yield "" if report.peak_gib is None else f"{report.peak_gib:.1f}"
    yield "" if report.launches is None else f"{report.launches:,}"
    yield "" if report.cpu_bound is None else f"{100 * report.cpu_bound:.0f} %"
