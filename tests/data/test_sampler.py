# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pytest

from foldwright.data.crop import CropMixture
from foldwright.data.sampler import ExampleSampler, SampleRequest, StepBatchSampler, n_cycles_of_step
from foldwright.data.weights import Item, WeightConfig, item_table, item_weights

ITEMS = item_table([
    Item("a", 0, -1, 1, 0, 0, "p"),
    Item("b", 2, -1, 0, 0, 1, "l"),
    Item("c", 0, 3, 1, 1, 0, "p|n"),
])  # fmt: skip


@dataclass
class Phase:
    crop_tokens: int = 64
    crop_atoms: int = 640
    msa_rows: int = 32
    dataset_weights: dict[str, float] = field(default_factory=dict)
    dataset_crops: dict[str, CropMixture] = field(default_factory=dict)


def test_draws_follow_the_weights():
    sampler = ExampleSampler(ITEMS, item_weights(ITEMS, WeightConfig()), seed=0)
    counts = Counter(sampler.draw(n).entry for n in range(6000))
    weights = item_weights(ITEMS, WeightConfig())
    for entry, weight in zip("abc", weights / weights.sum(), strict=True):
        expected = 6000 * weight
        assert counts[entry] == pytest.approx(expected, abs=4 * np.sqrt(expected))


def test_a_draw_is_a_function_of_seed_number_and_attempt():
    one, two, other = (ExampleSampler(ITEMS, item_weights(ITEMS, WeightConfig()), seed) for seed in (0, 0, 1))
    draws = [one.draw(n).entry for n in range(200)]
    assert [two.draw(n).entry for n in reversed(range(200))][::-1] == draws
    assert [other.draw(n).entry for n in range(200)] != draws
    assert [one.draw(n, attempt=1).entry for n in range(200)] != draws


def test_draws_name_the_chains_of_the_item():
    sampler = ExampleSampler(ITEMS, item_weights(ITEMS, WeightConfig()), seed=0)
    chains = {draw.entry: draw.chains.tolist() for draw in map(sampler.draw, range(200))}
    assert chains == {"a": [0], "b": [2], "c": [0, 3]}


def test_nothing_to_draw_from_is_an_error():
    with pytest.raises(ValueError, match="0 items"):
        ExampleSampler(item_table([]), np.zeros(0), seed=0)
    with pytest.raises(ValueError, match="total weight of zero"):
        ExampleSampler(ITEMS, np.zeros(3), seed=0)


def steps(world_size: int, accumulate: int, start: int = 0, n_steps: int = 5) -> list[list[SampleRequest]]:
    """The requests of whole steps, over all ranks and micro-batches, sorted by number."""
    ranks = [
        StepBatchSampler(start, 8, rank, world_size, accumulate, 3, 4, lambda step: Phase())
        for rank in range(world_size)
    ]
    batches = [list(islice(iter(rank), n_steps * accumulate)) for rank in ranks]
    return [
        sorted(r for rank in batches for b in rank[s * accumulate : (s + 1) * accumulate] for r in b)
        for s in range(n_steps)
    ]


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (4, 2), (1, 8)])
def test_steps_do_not_depend_on_how_they_are_shared_out(world_size, accumulate):
    whole = steps(world_size, accumulate)
    assert whole == steps(1, 1)
    assert [[r.n for r in step] for step in whole] == [list(range(8 * s, 8 * s + 8)) for s in range(5)]


def test_a_later_start_continues_the_same_steps():
    assert steps(2, 2, start=3, n_steps=2) == steps(1, 1)[3:]


def test_cycles_are_equal_within_a_step_and_uniform_over_steps():
    for step, requests in enumerate(steps(2, 2)):
        assert {r.n_cycles for r in requests} == {n_cycles_of_step(3, step, 4)}
    counts = Counter(n_cycles_of_step(0, step, 4) for step in range(4000))
    assert set(counts) == {1, 2, 3, 4}
    assert all(count == pytest.approx(1000, abs=110) for count in counts.values())


def test_requests_carry_the_sizes_of_their_step():
    sampler = StepBatchSampler(
        0, 2, 0, 1, 1, 0, 1, lambda step: Phase(32) if step < 2 else Phase(48, 480, 16)
    )
    sizes = [(r.crop_tokens, r.crop_atoms, r.msa_rows) for batch in islice(sampler, 4) for r in batch]
    assert sizes == [(32, 640, 32)] * 4 + [(48, 480, 16)] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 6, 0, 4, 1), "multiple of"), ((0, 8, 0, 2, 3), "multiple of"), ((0, 8, 2, 2, 1), "rank 2 of 2")],
)
def test_impossible_shares_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        StepBatchSampler(*arguments, 0, 4, lambda step: Phase())
    with pytest.raises(ValueError, match="at least 1"):
        StepBatchSampler(0, 8, 0, 1, 1, 0, 0, lambda step: Phase())
