# SPDX-License-Identifier: Apache-2.0
"""What a stage will cost on GPUs that are not here: parameters, FLOPs, step time, peak memory, days.

**Time** of an example's step is products at a share of the GPU's peak, plus activations read and written at
its memory bandwidth, plus the mini-rollout, whose steps follow each other and wait on launches more than on
work. Products are those of `foldwright.flops` and what is recomputed. A block's activations count once an
evaluation: forward one, backward two.

**Memory** is five float32 numbers a parameter (weight, gradient, average, two moments), what the forward pass
keeps (`training.kept`), the block that the backward pass is in, as pair tensors, and the runtime.

The five constants are solved from steps measured on one H200 (`base`, captured graphs, Triton kernels, blocks
recomputed): docs/benchmarks/plan.md has prediction beside measurement, and what was not used to solve them.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from foldwright.flops import StepSizes, step_flops
from foldwright.kernels import KernelConfig, select
from foldwright.layers.stack import Recompute
from foldwright.model import AlphaFold3, ModelConfig
from foldwright.training.config import ConfigError, TrainConfig, compose_config
from foldwright.training.curriculum import Curriculum, PhaseConfig, crop_shares
from foldwright.training.figures import model_flops, step_sizes
from foldwright.training.gpus import GPUS, Gpu
from foldwright.training.kept import kept_bytes

PRODUCTS = 0.3265  # share of a GPU's peak that the products of all ops reach together
TRAVERSALS = 80.64  # of a block's activations, in bytes moved over their bytes
SAMPLER_STEP = 1.827e-3  # seconds of one step of the mini-rollout
BLOCK = 27.6  # pair tensors, of the block that the backward pass is in
RUNTIME = 2.41  # GiB: unused parts of the allocator's segments, the rollout's conditioning; not the context
STATE = 5 * 4  # bytes a parameter
SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Cost:
    """What one size of step asks for: seconds and FLOPs an example at the mean number of cycles, and GiB of
    the step alone, None where they cannot be counted without a GPU.
    """

    phase: str
    sizes: StepSizes
    steps: float
    flops: float
    seconds: float
    activations_gib: float | None


def executed_flops(model: ModelConfig, sizes: StepSizes, recompute: Recompute) -> float:
    """Model FLOPs of an example's step, and those of the blocks computed anew in its backward pass."""
    parts = step_flops(model, sizes)
    if recompute is Recompute.nothing:
        return parts["total"]
    trunk = sum(parts[name] for name in ("template", "msa", "pairformer")) / (sizes.cycles + 2)
    return parts["total"] + trunk + (parts["diffusion"] + parts.get("confidence", 0.0)) / 3


def activation_bytes(model: ModelConfig, sizes: StepSizes, recompute: Recompute) -> float:
    """Bytes of every block's activations, once an evaluation of the block: pairs, and noised copies."""
    widths, trunk, width = model.widths, model.trunk, model.products_dtype.itemsize
    trained = 3 if recompute is Recompute.nothing else 4  # forward, backward twice, recomputed
    blocks = (trunk.pairformer.blocks + trunk.msa.blocks) * widths.pair
    blocks += sizes.templates * trunk.template.blocks * trunk.template.channels
    channels = (sizes.cycles - 1 + trained) * blocks
    if sizes.rollout_steps:
        channels += trained * model.confidence.pairformer.blocks * widths.pair
    copies = model.diffusion.blocks * sizes.tokens * widths.token
    copies += 2 * model.diffusion.atom.blocks * sizes.atoms * widths.atom
    return width * (channels * sizes.tokens**2 + trained * sizes.diffusion_samples * copies)


def step_seconds(model: ModelConfig, sizes: StepSizes, recompute: Recompute, gpu: Gpu) -> float:
    """Predicted seconds of one example's step."""
    products = executed_flops(model, sizes, recompute) / (PRODUCTS * 1e12 * gpu.tflops)
    traffic = TRAVERSALS * activation_bytes(model, sizes, recompute) / (1e12 * gpu.bandwidth)
    return products + traffic + SAMPLER_STEP * sizes.rollout_steps


def n_parameters(model: ModelConfig) -> int:
    with torch.device("meta"):
        network = AlphaFold3(model, select(KernelConfig("reference"), "cpu"))
    return sum(parameter.numel() for parameter in network.parameters())


def fixed_gib(model: ModelConfig) -> float:
    """What a device holds all the time, with all weights on it."""
    return STATE * n_parameters(model) / 2**30 + RUNTIME


def activations_gib(config: TrainConfig, phase: PhaseConfig) -> float | None:
    """Predicted peak of what a step adds; None for policies of recomputation that cannot be counted."""
    if config.trainer.recompute not in (Recompute.nothing, Recompute.block):
        return None
    kept = sum(kept_bytes(config, phase).values())
    pairs = config.trainer.batch_per_device * phase.crop_tokens**2 * config.model.widths.pair
    return (kept + BLOCK * pairs * config.model.products_dtype.itemsize) / 2**30


def costs(config: TrainConfig, gpu: Gpu) -> list[Cost]:
    """Every phase and crop of a stage. Raises ConfigError for stages that do not train the structure."""
    curriculum = Curriculum(config.curriculum)
    cycles, recompute = (1 + config.max_cycles) / 2, config.trainer.recompute
    found: list[Cost] = []
    first = 0
    for name, phase in curriculum.phases.items():
        for sized in Curriculum({name: phase}).sizes():
            if model_flops(config, sized, cycles) is None:
                raise ConfigError(
                    f"plan: got stage={config.stage}, expected one that trains the structure (structure, "
                    "finetune1, finetune2): the steps of the others are neither counted nor measured"
                )
            sizes = step_sizes(config, sized, cycles)
            steps = (phase.until - first) * crop_shares(phase)[sized.crop_tokens]
            flops = step_flops(config.model, sizes)["total"]
            seconds = step_seconds(config.model, sizes, recompute, gpu)
            found.append(Cost(name, sizes, steps, flops, seconds, activations_gib(config, sized)))
        first = phase.until
    return found


def days(costs: Sequence[Cost], global_batch: int, n_gpus: int) -> float:
    """A stage's days; examples are shared out over the GPUs, each of which does its share in turn."""
    each = math.ceil(global_batch / n_gpus)
    return sum(cost.steps * cost.seconds for cost in costs) * each / SECONDS_A_DAY


def table(config: TrainConfig, found: Sequence[Cost], name: str, n_gpus: int) -> Table:
    """A line a phase and crop, the whole stage below."""
    gpu = GPUS[name]
    title = f"stage {config.stage}, {n_parameters(config.model):,} parameters, {n_gpus} x {name}: predicted"
    table = Table(title=title, title_justify="left", show_footer=True)
    total = days(found, config.global_batch, n_gpus)
    footers = {"phase": "all", "steps": f"{sum(cost.steps for cost in found):,.0f}", "days": f"{total:.2f}"}
    for column in (
        "phase",
        "crop",
        "D",
        "cycles",
        "steps",
        "TFLOP",
        "s",
        "MFU",
        "peak GiB",
        "days",
    ):
        table.add_column(column, footers.get(column, ""), justify="left" if column == "phase" else "right")
    fixed = fixed_gib(config.model)
    for cost in found:
        s = cost.sizes
        table.add_row(
            cost.phase, str(s.tokens), str(s.diffusion_samples), f"{s.cycles:g}", f"{cost.steps:,.0f}",
            f"{cost.flops / 1e12:.1f}", f"{cost.seconds:.3f}",
            f"{cost.flops / cost.seconds / gpu.tflops / 1e10:.1f} %",
            _memory(fixed, cost.activations_gib, gpu),
            f"{days([cost], config.global_batch, n_gpus):.2f}",
        )  # fmt: skip
    table.caption = (
        f"TFLOP, s and MFU of one example at the mean number of cycles; global batch {config.global_batch}. "
        "Weights whole on every GPU, steps captured, nothing for communication and loading."
    )
    return table


def _memory(fixed: float, activations: float | None, gpu: Gpu) -> str:
    if activations is None:
        return "not counted"
    total = fixed + activations
    return f"{total:.1f}" + " too much" * (total > gpu.memory)


def main(arguments: Sequence[str] | None = None) -> int:
    """What a stage will cost. Hydra overrides as for train.py (stage=finetune1 model=base ...) beside the
    flags.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--gpu", default="H200", help=f"one of {', '.join(GPUS)} (default H200)")
    parser.add_argument("--gpus", type=int, default=1, help="how many of them (default 1)")
    flags, overrides = parser.parse_known_args(arguments)
    if flags.gpu not in GPUS:
        parser.error(f"--gpu: got {flags.gpu!r}, expected one of {', '.join(GPUS)}")
    if flags.gpus < 1:
        parser.error(f"--gpus: got {flags.gpus}, expected at least 1")
    try:
        config = compose_config(["data=pdb", "data.n_templates=4", *overrides])
        found = costs(config, GPUS[flags.gpu])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    Console(width=120).print(table(config, found, flags.gpu, flags.gpus))
    return 0
