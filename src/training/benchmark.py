# SPDX-License-Identifier: Apache-2.0
"""Time, memory and MFU of a whole structure step (forward, losses, backward, clip, Adam, EMA) on one device.

The batch is synthetic, of exactly the sizes of the first curriculum phase. Times are medians over repeats
after warm-up, by CUDA events on a GPU, of captured graphs where the configuration says so. The breakdown
comes from module hooks, so from a step that runs kernel by kernel. Kernels are counted by the profiler in a
step of their own.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from foldwright.batch import Batch, collate
from foldwright.data.synthetic import synthetic_example
from foldwright.flops import StepSizes, step_flops
from foldwright.kernels import Ops, select
from foldwright.kernels.casts import WeightCopies
from foldwright.kernels.gpu_time import KernelTime, kernel_times
from foldwright.kernels.registry import choices
from foldwright.layers.stack import set_recomputation
from foldwright.model import AlphaFold3
from foldwright.training.checkpoint import code_version
from foldwright.training.config import TrainConfig, compose_config
from foldwright.training.curriculum import Curriculum, PhaseConfig
from foldwright.training.ema import averaged_copy, update_average
from foldwright.training.figures import step_sizes
from foldwright.training.gpus import peak_flops
from foldwright.training.gradients import FlatGradients
from foldwright.training.graphs import Eager, Execution, Graphed
from foldwright.training.optim import build_adam, set_learning_rate
from foldwright.training.step import Apart, step_losses

SHOWN_KERNELS = 20
TIMED_MODULES = ("trunk.embedder", "trunk.template", "trunk.msa", "trunk.pairformer", "diffusion")


@dataclass
class StepReport:
    """Measured figures of one configuration; seconds, GiB, FLOPs."""

    sizes: StepSizes
    parameters: int
    seconds: float
    seconds_all: list[float]
    peak_gib: float | None  # None without a GPU, as for what follows of it
    model_flops: float
    mfu: float | None
    launches: int | None
    gpu_busy_seconds: float | None
    cpu_bound: float | None  # share of the step in which the GPU waits
    breakdown: dict[str, float]
    kernels: dict[str, str]
    machine: dict[str, str] = field(default_factory=dict)
    profile: list[KernelTime] = field(default_factory=list)  # every kernel of a step, the costliest first


class Clock:
    """Seconds spent in named regions, by CUDA events where there is a GPU, else by the host's clock."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        self._open: dict[str, Any] = {}

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def start(self, name: str) -> None:
        self._open[name] = self._now()

    def stop(self, name: str) -> None:
        self.spans[name].append((self._open.pop(name), self._now()))

    @contextmanager
    def region(self, name: str):  # type: ignore[no-untyped-def]
        self.start(name)
        yield
        self.stop(name)

    def watch(self, network: nn.Module, names: Sequence[str]) -> None:
        """Time the forwards of named submodules, those of a backward's recomputation excluded."""
        for name in names:
            module = network.get_submodule(name)
            module.register_forward_pre_hook(lambda _m, _i, name=name: self.start(name))
            module.register_forward_hook(lambda _m, _i, _o, name=name: self.stop(name))

    def seconds(self) -> dict[str, float]:
        """Total of each region so far."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return {n: sum(a.elapsed_time(b) for a, b in s) / 1e3 for n, s in self.spans.items()}
        return {n: sum(b - a for a, b in s) for n, s in self.spans.items()}


class StepBenchmark:
    """A network, its average and optimiser, and a synthetic batch of the configured sizes."""

    def __init__(self, config: TrainConfig, device: torch.device, console: Console) -> None:
        phase = Curriculum(config.curriculum).at(0)
        self.config, self.device, self.phase = config, device, phase
        self.ops: Ops = select(config.kernels, device, console)
        torch.manual_seed(config.seed)
        with device:
            self.network = AlphaFold3(config.model, self.ops).train()
        set_recomputation(self.network, config.trainer.recompute, config.trainer.recompute_ops)
        self.average = averaged_copy(self.network)
        self.gradients = FlatGradients(self.network.parameters())
        self.optimizer = build_adam(self.network.parameters(), config.optimizer)
        set_learning_rate(self.optimizer, 1e-5)
        self.sizes = step_sizes(config, phase, config.max_cycles)
        self.batch: Batch = collate([self._example(config.max_cycles)], {}).to(device)

    def _example(self, n_cycles: int) -> Batch:
        s = self.sizes
        return synthetic_example(
            s.tokens, s.atoms, n_rows=s.msa_rows, n_cycles=n_cycles, n_templates=s.templates
        )

    def losses(self, batch: Batch, phase: PhaseConfig, apart: Apart) -> dict[str, torch.Tensor]:
        c = self.config
        return step_losses(
            self.network,
            batch,
            phase.diffusion_samples,
            c.seed,
            c.noise,
            c.losses,
            c.rollout,
            self.ops,
            apart,
        )

    def step(self, clock: Clock, execution: Execution) -> None:
        """One whole training step, timed by region."""
        config = self.config
        with clock.region("step"):
            with clock.region("forward and losses"):
                terms = execution.forward(self.batch, self.phase)
            with clock.region("backward"):
                self.gradients.zero()
                execution.backward(terms["loss"])
            with clock.region("optimiser"):
                self.gradients.clip(config.optimizer.clip_norm)
                self.optimizer.step()
                update_average(self.average, self.network, config.ema.decay)

    def run(self, repeats: int, warmup: int = 3) -> StepReport:
        """Time `repeats` steps one by one after `warmup` others; a step is captured in the second of them."""
        return self._report(*self._timed(repeats, warmup))

    def breakdown(self) -> dict[str, float]:
        """Seconds of the parts of one step that runs kernel by kernel."""
        if self.device.type == "cuda":  # the graphs are gone; beside them the next step would not always fit
            gc.collect()
            torch.cuda.empty_cache()
        watched = Clock(self.device)
        watched.watch(self.network, TIMED_MODULES)
        self.step(watched, Eager(self.losses, self.gradients, WeightCopies()))
        return watched.seconds()

    def _timed(self, repeats: int, warmup: int) -> tuple[list[float], float | None, list[KernelTime]]:
        """Seconds of each step; of a GPU the peak memory in GiB, and the kernels of one more step."""
        on_gpu = self.device.type == "cuda"
        captures = on_gpu and self.config.trainer.captures()
        execution: Execution = Eager(self.losses, self.gradients, WeightCopies())
        if captures:
            execution = Graphed(self.losses, self.gradients, 1.0)
        for _ in range(warmup):
            self.step(Clock(self.device), execution)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        clocks = [Clock(self.device) for _ in range(repeats)]
        for clock in clocks:
            self.step(clock, execution)
        seconds = [clock.seconds()["step"] for clock in clocks]
        if not on_gpu:
            return seconds, None, []
        peak = torch.cuda.max_memory_reserved() / 2**30  # graphs' pool included
        return seconds, peak, kernel_times(lambda: self.step(Clock(self.device), execution))

    def _report(
        self,
        seconds: list[float],
        peak: float | None,
        profile: list[KernelTime],
    ) -> StepReport:
        median = statistics.median(seconds)
        launches = sum(kernel.calls for kernel in profile) or None
        busy = sum(kernel.seconds for kernel in profile) or None
        flops = step_flops(self.config.model, self.sizes)["total"]
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else platform.processor()
        attainable = peak_flops(name)
        package, commit = code_version()
        return StepReport(
            self.sizes,
            sum(p.numel() for p in self.network.parameters()),
            median,
            seconds,
            peak,
            flops,
            flops / median / attainable if attainable else None,
            launches,
            busy,
            None if busy is None else max(0.0, 1 - busy / median),
            {},
            dict(choices(self.ops)),
            {"device": name, "torch": str(torch.__version__), "foldwright": package, "commit": commit},
            profile,
        )


def measured(config: TrainConfig, device: torch.device, repeats: int) -> StepReport:
    """The report of a configuration that has the GPU to itself, without breakdown."""
    gc.collect()
    if device.type == "cuda":  # what came before it
        torch.cuda.empty_cache()
    warmup = 3 if config.trainer.captures() else 1
    return StepBenchmark(config, device, Console(quiet=True)).run(repeats, warmup)


def print_report(report: StepReport, console: Console) -> None:
    s = report.sizes
    title = f"{s.tokens} tokens, D {s.diffusion_samples}, {s.cycles:g} cycles, {s.msa_rows} MSA rows"
    table = Table("figure", "value", title=f"{title}, {s.templates} templates", title_justify="left")
    table.add_row("s/step (median)", f"{report.seconds:.3f}")
    table.add_row("s/step (range)", f"{min(report.seconds_all):.3f} - {max(report.seconds_all):.3f}")
    if report.peak_gib is not None:
        table.add_row("peak memory, GiB", f"{report.peak_gib:.1f}")
    table.add_row("model TFLOP", f"{report.model_flops / 1e12:.1f}")
    table.add_row("MFU", "unknown peak" if report.mfu is None else f"{100 * report.mfu:.2f} %")
    if report.launches is not None:
        table.add_row("kernels", f"{report.launches:,}")
        table.add_row("GPU busy, s", f"{report.gpu_busy_seconds:.3f}")
        table.add_row("CPU-bound share", f"{100 * (report.cpu_bound or 0):.0f} %")
    for name, seconds in report.breakdown.items():
        table.add_row(f"  {name}, s", f"{seconds:.3f}")
    console.print(table)
    if report.profile:
        costs = Table("kernel", "calls", "ms", title="The costliest kernels of a step", title_justify="left")
        for kernel in report.profile[:SHOWN_KERNELS]:
            costs.add_row(kernel.name[:90], f"{kernel.calls:,}", f"{1e3 * kernel.seconds:.1f}")
        console.print(costs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Hydra overrides as for train.py (model=base curriculum.initial.crop_tokens=640 ...) beside the
    flags.
    """
    from foldwright.training.ablation import ablate, ablation_table  # they run this module's benchmark
    from foldwright.training.sweep import axis, longest, sweep, sweep_table

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="timed steps (default 5)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--ablation", action="store_true", help="plain PyTorch first, then one group of kernels more a line"
    )
    kinds.add_argument(
        "--sweep", nargs="+", type=axis, help="every combination of crop=384,640 D=48,16 cycles=1,4"
    )
    kinds.add_argument("--longest", action="store_true", help="the longest crop that trains: D 4, one cycle")
    flags, overrides = parser.parse_known_args(arguments)
    console = Console()
    config = compose_config(["data=pdb", "data.n_templates=4", *overrides])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if flags.longest and device.type != "cuda":
        parser.error("--longest searches for what a GPU's memory holds, and this machine has none")
    command = ["scripts/benchmark_step.py", *(arguments or sys.argv[1:])]
    found: list[Any] = []
    if flags.ablation:
        found = ablate(config, device, console, flags.repeats)
        console.print(ablation_table(found))
    elif flags.sweep or flags.longest:
        search = partial(sweep, axes=dict(flags.sweep)) if flags.sweep else longest
        found = search(config, device=device, console=console, repeats=flags.repeats)
        console.print(sweep_table(found))
    else:
        benchmark = StepBenchmark(config, device, console)
        report = benchmark.run(flags.repeats)
        report.breakdown = benchmark.breakdown()
        print_report(report, console)
    record: dict[str, Any] = {"lines": [asdict(line) for line in found]} if found else asdict(report)
    if flags.json:
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        flags.json.write_text(json.dumps({**record, "command": command}, indent=1) + "\n")
    return 0
