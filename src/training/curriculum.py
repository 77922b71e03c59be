# SPDX-License-Identifier: Apache-2.0
"""The curriculum: named phases of a stage, ordered by the step at which each ends.

A phase fixes the crop or a mixture of crop sizes, the MSA depth, the number of diffusion samples and a factor
of the learning rate, and may override weights and croppers of data sets. Defaults are AF3's initial training
(SI Table 6: crop 384, D = 48, about 20 million samples, that is 78,125 steps of 256); nine atoms a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from rich.table import Table

from foldwright.data.crop import CropMixture
from foldwright.data.datasets import described
from foldwright.randomness import generator

ATOMS_PER_TOKEN = 9  # AF3 trains and Boltz crops with nine (3456 atoms of 384 tokens)
_ATOM_WINDOW = 32  # queries of a window of atom attention


@dataclass
class PhaseConfig:
    """Sizes of the steps up to, but not including, step `until`.

    `crop_mixture`, where given, replaces `crop_tokens`: each step draws one of its sizes by probability.
    `crop_atoms` = 0 is nine a token. What names data sets overrides their own settings in this phase.
    """

    until: int = 78_125
    crop_tokens: int = 384
    crop_mixture: dict[int, float] = field(default_factory=dict)  # {256: 0.5, 384: 0.5}, renormalised
    crop_atoms: int = 0  # else a multiple of 32, the query window of atom attention
    msa_rows: int = 1024
    diffusion_samples: int = 48
    lr_factor: float = 1.0  # of the schedule's learning rate
    dataset_weights: dict[str, float] = field(default_factory=dict)  # by name, instead of data.datasets'
    dataset_crops: dict[str, CropMixture] = field(default_factory=dict)  # likewise


class Curriculum:
    """Phases in the order of their `until`, looked up by step; `seed` keys what a mixture draws.

    Raises ValueError for no phase, a size below one, two phases that end at the same step, an atom budget
    that is no multiple of 32, a mixture of no size or without weight, or a negative learning rate.
    """

    def __init__(self, phases: Mapping[str, PhaseConfig], seed: int = 0) -> None:
        if not phases:
            raise ValueError(
                "curriculum: got no phase, expected at least one; add +curriculum.NAME.until=STEPS"
            )
        for name, phase in phases.items():
            _check(name, phase)
        self.seed = seed
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

    def last_step(self, wanted: int | None) -> int:
        """Where a run ends: at step `wanted`, or with the last phase; ValueError for one beyond that."""
        if wanted is None:
            return self.steps
        if not 1 <= wanted <= self.steps:
            raise ValueError(
                f"trainer.max_steps: got {wanted}, expected 1 to {self.steps}, the end of the last phase; "
                f"raise curriculum.{[*self.phases][-1]}.until to go further"
            )
        return wanted

    def name_at(self, step: int) -> str:
        """The phase of the step that follows `step` completed ones; the last phase beyond the end."""
        return next((name for name, phase in self.phases.items() if step < phase.until), [*self.phases][-1])

    def number_at(self, step: int) -> int:
        """The place of that phase in their order, from 0."""
        return [*self.phases].index(self.name_at(step))

    def at(self, step: int) -> PhaseConfig:
        """That phase with the step's own crop: one size, its atoms counted. The same on all ranks."""
        phase = self.phases[self.name_at(step)]
        return _with_crop(phase, self._draw(phase.crop_mixture, step) or phase.crop_tokens)

    def sizes(self) -> list[PhaseConfig]:
        """Every phase with every crop that it may draw: what steps have to be padded for."""
        return [_with_crop(phase, tokens) for phase in self.phases.values() for tokens in crop_shares(phase)]

    def table(
        self, max_steps: int, global_batch: int, shares: Callable[[dict[str, float]], dict[str, float]]
    ) -> Table:
        """The resolved plan, cut at `max_steps`; `shares` makes a phase's dataset_weights probabilities."""
        table = Table(title=f"plan: {max_steps:,} steps of {global_batch}", title_justify="left")
        shown_left = ("phase", "data sets")
        for column in (
            "phase", "steps", "crop tokens", "crop atoms", "MSA rows", "D", "lr factor", "data sets"
        ):  # fmt: skip
            table.add_column(column, justify="left" if column in shown_left else "right")
        first = 0
        for name, phase in self.phases.items():
            last = min(phase.until, max_steps)
            if last > first:
                table.add_row(name, f"{first:,}-{last - 1:,}", *_described(phase, shares))
            first = phase.until
        return table

    def _draw(self, mixture: Mapping[int, float], step: int) -> int:
        if not mixture:
            return 0
        sizes = sorted(mixture)
        weights = np.array([mixture[size] for size in sizes])
        return int(generator(self.seed, step, "crop size").choice(sizes, p=weights / weights.sum()))


def crop_shares(phase: PhaseConfig) -> dict[int, float]:
    """The crop sizes of a phase in tokens, ascending, and the share of its steps that has each."""
    mixture = phase.crop_mixture or {phase.crop_tokens: 1.0}
    total = sum(mixture.values())
    return {size: mixture[size] / total for size in sorted(mixture) if mixture[size]}


def _with_crop(phase: PhaseConfig, tokens: int) -> PhaseConfig:
    atoms = phase.crop_atoms or -(-ATOMS_PER_TOKEN * tokens // _ATOM_WINDOW) * _ATOM_WINDOW
    return replace(phase, crop_tokens=tokens, crop_mixture={}, crop_atoms=atoms)


def _described(phase: PhaseConfig, shares: Callable[[dict[str, float]], dict[str, float]]) -> Iterable[str]:
    """Cells of the plan's row of a phase, behind its name and steps."""
    crops = crop_shares(phase)
    share = {size: f" ({100 * part:.0f} %)" if len(crops) > 1 else "" for size, part in crops.items()}
    yield "\n".join(f"{size:,}{share[size]}" for size in crops)
    yield "\n".join(f"{_with_crop(phase, size).crop_atoms:,}" for size in crops)
    yield f"{phase.msa_rows:,}"
    yield f"{phase.diffusion_samples:,}"
    yield f"{phase.lr_factor:g}"
    croppers = "".join(
        f"\n{name}: contiguous {c.contiguous:g}, spatial {c.spatial:g}, interface {c.spatial_interface:g}"
        for name, c in phase.dataset_crops.items()
    )
    yield described(shares(phase.dataset_weights)) + croppers


def _check(name: str, phase: PhaseConfig) -> None:
    key = f"curriculum.{name}"
    for size in ("until", "crop_tokens", "msa_rows", "diffusion_samples"):
        if getattr(phase, size) < 1:
            raise ValueError(f"{key}.{size}: got {getattr(phase, size)}, expected >= 1")
    if phase.crop_atoms < 0 or phase.crop_atoms % _ATOM_WINDOW:
        raise ValueError(
            f"{key}.crop_atoms: got {phase.crop_atoms}, expected a multiple of {_ATOM_WINDOW}; "
            f"take {max(0, -(-phase.crop_atoms // _ATOM_WINDOW) * _ATOM_WINDOW)}, or 0 for nine a token"
        )
    if not 0.0 <= phase.lr_factor < float("inf"):
        raise ValueError(f"{key}.lr_factor: got {phase.lr_factor}, expected 0 or more")
    if phase.crop_mixture:
        _check_mixture(f"{key}.crop_mixture", phase.crop_mixture)
    for dataset, crop in phase.dataset_crops.items():
        parts = (crop.contiguous, crop.spatial, crop.spatial_interface)
        if min(parts) < 0 or not 0 < sum(parts) < float("inf"):
            raise ValueError(
                f"{key}.dataset_crops.{dataset}: got {parts}, expected probabilities and a positive sum"
            )


def _check_mixture(key: str, mixture: Mapping[int, float]) -> None:
    weights = list(mixture.values())
    if min(mixture) < 1 or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise ValueError(
            f"{key}: got {dict(mixture)}, expected sizes in tokens and their probabilities, as "
            "{256: 0.5, 384: 0.5}"
        )
