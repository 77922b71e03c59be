# SPDX-License-Identifier: Apache-2.0
"""What each group of kernels gives: the same step from plain PyTorch on, one group more a line.

Every line is a benchmark of its own (`training.benchmark`), in one process and on the same batch: reference
ops kernel by kernel; then groups of ops as `kernels=auto` chooses them; last, where they are wanted, CUDA
graphs. Groups without an implementation of their own here are left out. Kernel by kernel a step takes as
long as Python needs to launch it: what a group gives is seen in the time that the GPU works, and in the last
line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.table import Table

from foldwright.kernels import KernelConfig, select
from foldwright.kernels.registry import choices
from foldwright.training.benchmark import StepReport, measured
from foldwright.training.config import TrainConfig

GROUPS: dict[str, tuple[str, ...]] = {
    "attention with shared bias": ("triangle_attention", "attention_pair_bias"),
    "triangle multiplication": ("triangle_multiplication",),
    "transition": ("transition",),
    "LayerNorm": ("layer_norm", "pair_bias", "norm_and_pair_bias"),
    "dropout + residual": ("dropout_residual", "projected_residual"),
    "adaptive LayerNorm": ("adaptive_layer_norm",),
    "gates": ("gated_residual", "swiglu"),
    "atom windows": ("window_attention", "gather_pairs"),
    "MSA": ("outer_product_mean", "pair_weighted_average"),
    "structure losses": ("smooth_lddt", "weighted_rigid_align"),
}


@dataclass(frozen=True)
class Line:
    """One line: how many times faster than the first it is, and how many times less memory it takes."""

    name: str
    report: StepReport
    faster: float
    leaner: float | None  # None without a GPU


def variants(config: TrainConfig, device: torch.device) -> Iterator[tuple[str, TrainConfig]]:
    """Name and configuration of every line; each adds to the one before."""
    trainer, ops = replace(config.trainer, graphs=False), dict[str, str]()
    plain = replace(config, trainer=trainer, kernels=KernelConfig("reference"))
    yield "plain PyTorch", plain
    before = choices(select(plain.kernels, device))
    for name, group in GROUPS.items():
        ops |= dict.fromkeys(group, "auto")
        kernels = KernelConfig("reference", dict(ops))
        chosen = choices(select(kernels, device))
        if chosen != before:
            yield f"+ {name}", replace(plain, kernels=kernels)
        before = chosen
    if device.type == "cuda" and config.trainer.captures():
        yield "+ CUDA graphs", replace(config, kernels=KernelConfig("reference", dict(ops)))


def ablate(config: TrainConfig, device: torch.device, console: Console, repeats: int) -> list[Line]:
    """Measure every line in turn, each with the GPU to itself."""
    lines: list[Line] = []
    for name, variant in variants(config, device):
        report = measured(variant, device, repeats)
        first = lines[0].report if lines else report
        leaner = first.peak_gib / report.peak_gib if first.peak_gib and report.peak_gib else None
        lines.append(Line(name, report, first.seconds / report.seconds, leaner))
        busy = f", of which the GPU works {_busy(report)} s" * (report.gpu_busy_seconds is not None)
        console.print(f"{name}: {report.seconds:.3f} s{busy}", highlight=False)
    return lines


def _busy(report: StepReport) -> str:
    return "" if report.gpu_busy_seconds is None else f"{report.gpu_busy_seconds:.3f}"


def ablation_table(lines: list[Line]) -> Table:
    s = lines[0].report.sizes
    title = f"{s.tokens} tokens, D {s.diffusion_samples}, {s.cycles:g} cycles: one group more a line"
    table = Table(title=title, title_justify="left")
    for column in ("step", "s/step", "faster", "GPU works, s", "peak GiB", "leaner", "kernels launched"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for line in lines:
        report = line.report
        peak = "" if report.peak_gib is None else f"{report.peak_gib:.1f}"
        leaner = "" if line.leaner is None else f"{line.leaner:.2f} x"
        launches = "" if report.launches is None else f"{report.launches:,}"
        faster = f"{line.faster:.2f} x"
        table.add_row(line.name, f"{report.seconds:.3f}", faster, _busy(report), peak, leaner, launches)
    return table
