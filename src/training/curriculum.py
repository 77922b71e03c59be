# SPDX-License-Identifier: Apache-2.0
"""The curriculum: named phases of a stage, ordered by the step at which each ends.

A phase fixes the crop, the MSA depth and the number of diffusion samples. Defaults are AF3's initial training
(SI Table 6: crop 384, D = 48, about 20 million samples, that is 78,125 steps of 256); nine atoms a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.table import Table

from foldwright.data.datasets import described


@dataclass
class PhaseConfig:
    """Sizes of the steps up to, but not including, step `until`."""

    until: int = 78_125
    crop_tokens: int = 384
    crop_atoms: int = 3456  # a multiple of 32, the query window of atom attention
    msa_rows: int = 1024
    diffusion_samples: int = 48
    dataset_weights: dict[str, float] = field(default_factory=dict)  # by name, instead of data.datasets'


class Curriculum:
    """Phases in the order of their `until`, looked up by step.

    Raises ValueError for no phase, a size below one, two phases that end at the same step, or an atom budget
    that is no multiple of 32.
    """

    def __init__(self, phases: Mapping[str, PhaseConfig]) -> None:
        if not phases:
            raise ValueError(
                "curriculum: got no phase, expected at least one; add +curriculum.NAME.until=STEPS"
            )
        for name, phase in phases.items():
            _check(name, phase)
        self.phases = dict(sorted(phases.items(), key=lambda item: item[1].until))
        ends = [phase.until for phase in self.phases.values()]
        if len(set(ends)) < len(ends):
            raise ValueError(
                f"curriculum: phases {list(self.phases)} end at steps {ends}, expected different ends"
            )

    @property
    def steps(self) -> int:
        """Where the last phase ends."""
        return max(phase.until for phase in self.phases.values())

    def at(self, step: int) -> PhaseConfig:
        """The phase of the step that follows `step` completed ones; the last phase beyond the end."""
        for phase in self.phases.values():
            if step < phase.until:
                return phase
        return phase

    def table(
        self, max_steps: int, global_batch: int, shares: Callable[[dict[str, float]], dict[str, float]]
    ) -> Table:
        """The resolved plan, cut at `max_steps`; `shares` makes a phase's dataset_weights probabilities."""
        table = Table(title=f"plan: {max_steps:,} steps of {global_batch}", title_justify="left")
        for column in ("phase", "steps", "crop tokens", "crop atoms", "MSA rows", "D", "data sets"):
            table.add_column(column, justify="left" if column in ("phase", "data sets") else "right")
        first = 0
        for name, phase in self.phases.items():
            last = min(phase.until, max_steps)
            if last > first:
                sizes = (phase.crop_tokens, phase.crop_atoms, phase.msa_rows, phase.diffusion_samples)
                drawn = described(shares(phase.dataset_weights))
                table.add_row(name, f"{first:,}-{last - 1:,}", *(f"{size:,}" for size in sizes), drawn)
            first = phase.until
        return table


def _check(name: str, phase: PhaseConfig) -> None:
    for size in ("until", "crop_tokens", "crop_atoms", "msa_rows", "diffusion_samples"):
        if getattr(phase, size) < 1:
            raise ValueError(f"curriculum.{name}.{size}: got {getattr(phase, size)}, expected >= 1")
    if phase.crop_atoms % 32:
        raise ValueError(
            f"curriculum.{name}.crop_atoms: got {phase.crop_atoms}, expected a multiple of 32; "
            f"take {-(-phase.crop_atoms // 32) * 32}"
        )
