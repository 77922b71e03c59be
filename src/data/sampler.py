# SPDX-License-Identifier: Apache-2.0
"""Which example is sample number n, and which samples make up a step.

Sample numbers count from 0 over the whole run: n = step x global batch + position. What a number stands for
depends on (seed, n) and the weights of its phase alone, so that a run resumes anywhere, on any number of
ranks and workers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch.utils.data import Sampler

from foldwright.data.crop import CropMixture
from foldwright.data.structure import Ints
from foldwright.data.weights import NO_CHAIN
from foldwright.randomness import generator


class Draw(NamedTuple):
    """An entry and the chains the croppers centre on."""

    entry: str
    chains: Ints


class ExampleSampler:
    """Draws chains and interfaces with probabilities proportional to `weights` [n].

    Raises ValueError if there is nothing to draw from.
    """

    def __init__(self, items: pa.Table, weights: NDArray[np.float64], seed: int) -> None:
        cumulative = np.cumsum(weights)
        if len(cumulative) == 0 or not cumulative[-1] > 0:
            raise ValueError(
                f"got {len(cumulative)} items with a total weight of zero, expected a store with at least "
                "one chain of positive weight; look into the store's report.json"
            )
        self.seed = seed
        self._cumulative = cumulative
        self._entries = items["entry"].to_numpy().astype(np.str_)
        self._chains = np.stack([items["chain_1"].to_numpy(), items["chain_2"].to_numpy()], axis=1)

    def draw(self, n: int, attempt: int = 0) -> Draw:
        """The example of sample number `n`; later attempts are its replacements, should it prove bad."""
        point = generator(self.seed, n, f"example {attempt}").random() * self._cumulative[-1]
        row = min(int(np.searchsorted(self._cumulative, point, side="right")), len(self._cumulative) - 1)
        chains = self._chains[row]
        return Draw(str(self._entries[row]), chains[chains != NO_CHAIN].astype(np.int32))


def choose_dataset(seed: int, n: int, shares: Mapping[str, float]) -> str:
    """The data set of sample number `n`, by probability; the only one without a draw."""
    names = list(shares)
    if len(names) == 1:
        return names[0]
    cumulative = np.cumsum([shares[name] for name in names])
    point = generator(seed, n, "data set").random() * cumulative[-1]
    return names[int(np.searchsorted(cumulative, point, side="right"))]


class SampleRequest(NamedTuple):
    """What a worker is asked for: sample number, recycling cycles, and the sizes and weights of the phase."""

    n: int
    n_cycles: int = 4
    crop_tokens: int = 384
    crop_atoms: int = 3456
    msa_rows: int = 1024
    dataset_weights: tuple[tuple[str, float], ...] = ()  # by name, in the place of the configured ones
    dataset_crops: tuple[tuple[str, CropMixture], ...] = ()  # likewise


class Sizes(Protocol):
    """Sizes of one phase of the curriculum, and what it overrides of data sets."""

    crop_tokens: int
    crop_atoms: int
    msa_rows: int
    dataset_weights: dict[str, float]
    dataset_crops: dict[str, CropMixture]


def n_cycles_of_step(seed: int, step: int, max_cycles: int) -> int:
    """Recycling cycles of a step, U{1..max}, the same on all ranks (spec 3.1)."""
    return int(generator(seed, step, "cycles").integers(1, max_cycles, endpoint=True))


class StepBatchSampler(Sampler[list[SampleRequest]]):
    """Without end, the micro-batches of one rank, from `start_step` on.

    A step's global batch is cut into `accumulate` micro-batches of `world_size` shares; it does not depend on
    either. `sizes(step)` gives the phase of a step.

    Raises ValueError if the global batch cannot be shared out evenly.
    """

    def __init__(
        self,
        start_step: int,
        global_batch: int,
        rank: int,
        world_size: int,
        accumulate: int,
        seed: int,
        max_cycles: int,
        sizes: Callable[[int], Sizes],
    ) -> None:
        if global_batch < 1 or global_batch % (world_size * accumulate):
            raise ValueError(
                f"got a global batch of {global_batch}, expected a multiple of world size x accumulation = "
                f"{world_size} x {accumulate}; change one of the three"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"got rank {rank} of {world_size}, expected 0..{world_size - 1}")
        if max_cycles < 1:
            raise ValueError(f"got {max_cycles} recycling cycles at most, expected at least 1")
        self.start_step, self.global_batch, self.rank, self.world_size = (
            start_step,
            global_batch,
            rank,
            world_size,
        )
        self.accumulate, self.seed, self.max_cycles, self.sizes = accumulate, seed, max_cycles, sizes

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        for step in itertools.count(self.start_step):
            yield from self.step(step)

    def step(self, step: int) -> list[list[SampleRequest]]:
        """This rank's micro-batches of one step."""
        share = self.global_batch // (self.world_size * self.accumulate)
        cycles = n_cycles_of_step(self.seed, step, self.max_cycles)
        sizes = self.sizes(step)
        overrides = (tuple(sizes.dataset_weights.items()), tuple(sizes.dataset_crops.items()))
        batches = []
        for micro in range(self.accumulate):
            first = step * self.global_batch + (micro * self.world_size + self.rank) * share
            batches.append([
                SampleRequest(n, cycles, sizes.crop_tokens, sizes.crop_atoms, sizes.msa_rows, *overrides)
                for n in range(first, first + share)
            ])  # fmt: skip
        return batches
