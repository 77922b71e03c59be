# SPDX-License-Identifier: Apache-2.0
import numpy as np
import torch
from scipy import stats

from foldwright.randomness import generator, key, keys, normal, random_bits, uniform

SEEDS = torch.tensor([0, 1, 2**40])


def test_uniform_and_normal_pass_kolmogorov_smirnov():
    for seed in SEEDS:
        assert stats.kstest(uniform(seed, (20_000,)).numpy(), "uniform").pvalue > 1e-3
        assert stats.kstest(normal(seed, (20_000,)).numpy(), "norm").pvalue > 1e-3


def test_neighbouring_seeds_salts_and_counters_are_uncorrelated():
    draws = torch.cat(
        [normal(SEEDS, (4096,)), normal(key(SEEDS, "a"), (4096,)), normal(key(SEEDS, 7), (4096,))]
    )
    correlation = np.corrcoef(draws.numpy()) - np.eye(len(draws))
    assert np.abs(correlation).max() < 0.07  # 4.5 standard errors
    lagged = np.corrcoef(draws[0, :-1], draws[0, 1:])[0, 1]
    assert abs(lagged) < 0.07


def test_every_bit_is_balanced_and_no_value_repeats():
    bits = random_bits(torch.tensor(5), (50_000,))
    ones = torch.stack([(bits >> shift) & 1 for shift in range(64)]).double().mean(1)
    assert (ones - 0.5).abs().max() < 0.01
    assert len(bits.unique()) == 50_000


def test_one_seed_of_a_batch_draws_as_it_does_alone():
    assert torch.equal(normal(SEEDS, (3, 5))[1], normal(SEEDS[1], (3, 5)))


def test_keys_are_those_of_their_numbers():
    seeds = torch.tensor([0, -(2**63), 2**63 - 1])
    assert torch.equal(keys(seeds, 5), torch.stack([key(seeds, n) for n in range(5)]))


def test_host_generators_differ_by_every_part_of_the_key():
    draws = [generator(*k).random() for k in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]]
    assert len(set(draws)) == 4
    assert generator(0, 0, "a").random() == draws[0]
