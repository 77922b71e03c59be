# SPDX-License-Identifier: Apache-2.0
"""What a prediction costs against its size: seconds of trunk, sampling and confidence, and memory.

A synthetic target of every size goes through the calls of `sampling.predict_target`, in their order and
portions: `represent` and contacts, `sample_numbers`, `judge` and the scores of pairs. Weights are random.
What the host does (features, accessible surface, files) and the affinity head are not measured. Every size
is warmed up, with one block of each stack, one cycle and one step: kernels are compiled and products chosen
then, and the pass that is timed comes once.

Without gradient depth takes no memory but for the weights cast beside it: the search for the longest target
tries sizes with one block a stack, then measures the longest of them whole.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from foldwright.batch import Batch, collate
from foldwright.data.synthetic import synthetic_example
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.inference.confidence import contact_probability, judged_pairs
from foldwright.kernels import select
from foldwright.kernels.registry import choices
from foldwright.layers.stack import Stack
from foldwright.model import AlphaFold3
from foldwright.training.benchmark import Clock
from foldwright.training.checkpoint import code_version
from foldwright.training.config import TrainConfig, compose_config
from foldwright.training.sweep import bisection

PHASES = ("trunk", "sampling", "confidence")
FULL_STEPS, FULL_CYCLES = SamplerConfig.steps, 10  # AF3's inference
_ATOMS_PER_TOKEN = 9
_STEP = 256  # tokens between the sizes that the search for the longest tries


@dataclass(frozen=True)
class Request:
    """What is predicted of a target: its tokens, and as the options of predict.py."""

    tokens: int
    samples: int = 5
    cycles: int = 10
    steps: int = FULL_STEPS
    msa_rows: int = 1024
    templates: int = 4
    at_once: int = 5

    @property
    def atoms(self) -> int:
        """Nine a token, as crops have, in whole query windows of atom attention."""
        return -(-_ATOMS_PER_TOKEN * self.tokens // 32) * 32


@dataclass(frozen=True)
class Cost:
    """Measured figures of one request. Memory is a GPU's, in GiB: reserved at most by the process, and
    allocated at most in each phase. Where memory ran out there is the reason alone.
    """

    request: Request
    atoms: int
    seconds: dict[str, float]  # of each phase, all cycles, steps and samples
    cycle_seconds: float | None = None  # of the trunk, divided by its cycles
    step_seconds: float | None = None  # of the denoiser, of all the samples that go through it together
    reserved_gib: float | None = None
    allocated_gib: dict[str, float] | None = None
    failed: str | None = None

    def sampling_of(self, steps: int) -> float:
        """Seconds of sampling with so many steps: what is measured once, and the product for the steps."""
        assert self.step_seconds is not None
        portions = -(-self.request.samples // self.request.at_once)
        return self.seconds["sampling"] + (steps - self.request.steps) * portions * self.step_seconds


class PredictionBenchmark:
    """A network with random weights on a device, and what it costs to predict with it."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.device = device
        ops = select(config.kernels, device)
        self.kernels = dict(choices(ops))
        torch.manual_seed(config.seed)
        with device:
            self.network = AlphaFold3(config.model, ops).eval()
        self.seeds = torch.tensor([0], device=device)
        self.denoiser = Clock(device)
        self.denoiser.watch(self.network, ("diffusion",))

    def fits(self, request: Request) -> bool:
        """Whether the request goes through the network, one block of each stack."""
        return self._caught(request, self._warm_up).failed is None

    def cost(self, request: Request) -> Cost:
        """Measured after a warm-up; out of memory is a cost with the reason."""

        def measured(batch: Batch) -> Cost:
            self._warm_up(batch, request)
            return self._measure(batch, request)

        return self._caught(request, lambda batch, _: measured(batch))

    def _caught(self, request: Request, run: Callable[[Batch, Request], Cost]) -> Cost:
        try:
            return run(self._batch(request), request)
        except torch.OutOfMemoryError as error:
            return Cost(request, request.atoms, {}, failed=f"out of memory: {str(error).splitlines()[0]}")
        finally:
            self._clear()

    def _batch(self, request: Request) -> Batch:
        example = synthetic_example(
            request.tokens, request.atoms, n_rows=request.msa_rows, n_cycles=request.cycles,
            n_templates=request.templates,
        )  # fmt: skip
        return collate([example], {}).to(self.device)

    def _warm_up(self, batch: Batch, request: Request) -> Cost:
        one_cycle = replace(batch, msa=batch.msa[:, :1], deletion_count=batch.deletion_count[:, :1],
                            msa_mask=batch.msa_mask[:, :1])  # fmt: skip
        with shallow(self.network):
            return self._measure(one_cycle, replace(request, cycles=1, steps=1, samples=request.at_once))

    @torch.no_grad()
    def _measure(self, batch: Batch, request: Request) -> Cost:
        """The calls of `predict_target`, each phase timed to the end of its work on the device."""
        self._clear()
        seconds, allocated = dict.fromkeys(PHASES, 0.0), dict.fromkeys(PHASES, 0.0)

        @contextmanager
        def phase(name: str) -> Iterator[None]:
            began = self._now()
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            yield
            seconds[name] += self._now() - began
            if self.device.type == "cuda":
                reserved.append(torch.cuda.max_memory_reserved() / 2**30)
                allocated[name] = max(allocated[name], torch.cuda.max_memory_allocated() / 2**30)

        reserved: list[float] = []
        network, sampler = self.network, SamplerConfig(steps=request.steps)
        with phase("trunk"):
            trunk = network.represent(batch, self.seeds)
            contacts = contact_probability(network.distogram, trunk.z)
        for start in range(0, request.samples, request.at_once):
            numbers = torch.arange(start, min(start + request.at_once, request.samples))
            with phase("sampling"):
                portion = network.sample_numbers(batch, trunk, numbers, sampler, self.seeds)
            for x in portion:
                with phase("confidence"):
                    judged = network.judge(batch, trunk, x[None], self.seeds)
                    judged_pairs(judged, batch.asym_id[0])
                    del judged
        del contacts
        on_gpu = self.device.type == "cuda"
        steps = self.denoiser.seconds()["diffusion"] / len(self.denoiser.spans["diffusion"])
        return Cost(
            request, request.atoms, seconds, seconds["trunk"] / request.cycles, steps,
            max(reserved) if on_gpu else None, allocated if on_gpu else None,
        )  # fmt: skip

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _clear(self) -> None:
        """Memory and spans of what came before."""
        self.denoiser.spans.clear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def shallow(network: torch.nn.Module) -> Iterator[None]:
    """The network with the first block of every stack alone."""
    stacks = [module for module in network.modules() if isinstance(module, Stack)]
    whole = [stack.blocks for stack in stacks]
    for stack in stacks:
        stack.blocks = stack.blocks[:1]
    try:
        yield
    finally:
        for stack, blocks in zip(stacks, whole, strict=True):
            stack.blocks = blocks


def longest(benchmark: PredictionBenchmark, request: Request, ceiling: int, console: Console) -> int:
    """The most tokens, a multiple of 256 up to the ceiling, that go through the network; 0 if none."""

    def fits(tokens: int) -> bool:
        if tokens > ceiling:
            return False
        found = benchmark.fits(replace(request, tokens=tokens))
        outcome = "fits" if found else "out of memory"
        console.print(f"{tokens:,} tokens, one block a stack: {outcome}", highlight=False)
        return found

    return bisection(fits, _STEP)


def line(cost: Cost) -> str:
    """A measured size as it is printed."""
    request = cost.request
    name = f"{request.tokens:,} tokens, {cost.atoms:,} atoms"
    if cost.failed is not None:
        return f"{name}: {cost.failed}"
    assert cost.cycle_seconds is not None
    assert cost.step_seconds is not None
    phases = ", ".join(f"{phase} {cost.seconds[phase]:.3f} s" for phase in PHASES)
    memory = "" if cost.reserved_gib is None else f"; {cost.reserved_gib:.1f} GiB"
    cycles = f"{request.cycles} cycles of {cost.cycle_seconds:.3f} s"
    steps = f"{request.samples} samples, {request.steps} steps of {cost.step_seconds:.4f} s"
    products = (
        f"by product {FULL_CYCLES} cycles {FULL_CYCLES * cost.cycle_seconds:.1f} s, "
        f"{FULL_STEPS} steps {cost.sampling_of(FULL_STEPS):.1f} s"
    )
    return f"{name}: {phases} ({cycles}; {steps}; {products}){memory}"


def plot(costs: Sequence[Cost], path: Path) -> None:
    """Seconds of the phases, and memory where there is a GPU, against tokens; the suffix is the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = sorted((cost for cost in costs if cost.failed is None), key=lambda cost: cost.request.tokens)
    tokens = [cost.request.tokens for cost in shown]
    memory = [cost.reserved_gib for cost in shown if cost.reserved_gib is not None]
    figure, axes = pyplot.subplots(1, 2 if memory else 1, figsize=(9 if memory else 5, 3.6), squeeze=False)
    for phase in PHASES:
        axes[0, 0].plot(tokens, [cost.seconds[phase] for cost in shown], "o-", markersize=4, label=phase)
    axes[0, 0].set(xlabel="tokens", ylabel="seconds", xscale="log", yscale="log")
    axes[0, 0].legend()
    if memory:
        axes[0, 1].plot(tokens, memory, "o-", markersize=4)
        axes[0, 1].set(xlabel="tokens", ylabel="peak GiB reserved", ylim=(0, None))
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Hydra overrides as for train.py (model=small, kernels=reference, ...) beside the flags; model=base by
    default. Every size is printed, and the files are written, as soon as it is measured.
    """
    flags, overrides = _parser().parse_known_args(arguments)
    console = Console(soft_wrap=True)
    model = [] if any(override.startswith("model=") for override in overrides) else ["model=base"]
    config = compose_config([*model, *overrides])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    benchmark = PredictionBenchmark(config, device)
    request = Request(
        0, flags.samples, flags.cycles, flags.steps, flags.msa_rows, flags.templates,
        min(flags.at_once, flags.samples),
    )  # fmt: skip
    command = ["scripts/benchmark_predict.py", *(arguments or sys.argv[1:])]
    sizes = list(flags.tokens)
    if flags.longest:
        found = longest(benchmark, request, flags.longest, console)
        console.print(f"the longest: {found:,} tokens", highlight=False)
        sizes += [found] if found else []
    costs: list[Cost] = []
    for tokens in sizes:
        costs.append(benchmark.cost(replace(request, tokens=tokens)))
        console.print(line(costs[-1]), highlight=False)
        if flags.json:
            _write(flags.json, costs, benchmark, command)
        if flags.plot and any(cost.failed is None for cost in costs):
            plot(costs, flags.plot)
    return 0


def _write(path: Path, costs: Sequence[Cost], benchmark: PredictionBenchmark, command: list[str]) -> None:
    device = benchmark.device
    package, commit = code_version()
    record: dict[str, Any] = {
        "lines": [asdict(cost) for cost in costs],
        "parameters": sum(p.numel() for p in benchmark.network.parameters()),
        "kernels": benchmark.kernels,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": str(torch.__version__),
        "foldwright": package,
        "commit": commit,
        "command": command,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def _sizes(text: str) -> list[int]:
    """`256,512` or `tokens=256,512`; argparse's error for anything else."""
    sizes = [int(size) if size.isdecimal() else 0 for size in text.removeprefix("tokens=").split(",")]
    if min(sizes) < 2:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers of tokens, like 256,512")
    return sizes


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark_predict.py", description=main.__doc__)
    add, defaults = parser.add_argument, Request(0)
    add("--tokens", type=_sizes, default=[], help="sizes to measure, like 256,512,1024")
    add("--longest", type=_count, metavar="CEILING", help="find the longest target of at most CEILING tokens")
    add("--samples", type=_count, default=defaults.samples, help=f"default {defaults.samples}")
    add("--cycles", type=_count, default=defaults.cycles, help=f"default {defaults.cycles}")
    add("--steps", type=_count, default=defaults.steps, help=f"of the sampler, default {defaults.steps}")
    add("--msa-rows", type=_count, default=defaults.msa_rows, help=f"default {defaults.msa_rows}")
    add("--templates", type=int, default=defaults.templates, help=f"default {defaults.templates}")
    add("--at-once", type=_count, default=defaults.at_once, help=f"default {defaults.at_once}")
    add("--json", type=Path, help="write the figures to this file")
    add("--plot", type=Path, help="draw time and memory against tokens: an SVG or PNG file")
    return parser
