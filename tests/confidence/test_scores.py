# SPDX-License-Identifier: Apache-2.0
"""Derived scores: golden numbers of the spec, and loops over the definitions."""

import math

import pytest
import torch

from foldwright.confidence import scores


@pytest.mark.parametrize(("n", "golden"), [(5, 0.168), (19, 0.168), (50, 2.256), (100, 3.652), (384, 7.094)])
def test_d0_is_golden(n, golden):
    assert scores.d0(n) == pytest.approx(golden, abs=5e-4)


def certain(bins, n_bins):
    return torch.nn.functional.one_hot(torch.as_tensor(bins), n_bins).double() * 200.0


def test_expectations_of_certain_bins_are_their_centres():
    assert scores.plddt(certain([0, 49], 50)).tolist() == pytest.approx([1.0, 99.0])
    assert scores.expected_error(certain([0, 1, 63], 64)).tolist() == pytest.approx([0.25, 0.75, 31.75])
    assert float(scores.plddt(torch.zeros(50))) == pytest.approx(50.0)
    assert float(scores.expected_error(torch.zeros(64))) == pytest.approx(16.0)


def test_gpde_is_weighted_by_contacts():
    pde, contact = torch.tensor([[1.0, 9.0], [3.0, 5.0]]), torch.tensor([[1.0, 0.0], [0.5, 0.0]])
    assert float(scores.global_pde(pde, contact)) == pytest.approx(2.5 / 1.5)


def loop_tm(logits, frames, pairs, n):
    scale = 1.24 * (max(n, 19) - 15) ** (1 / 3) - 1.8
    best = 0.0
    for i in frames:
        terms = [
            sum(
                p / (1 + (((b + 0.5) / 2) / scale) ** 2)
                for b, p in enumerate(logits[i, j].softmax(-1).tolist())
            )
            for j in range(len(logits))
            if pairs(i, j)
        ]
        if terms:
            best = max(best, sum(terms) / len(terms))
    return best


def test_scores_of_a_few_rows_at_a_time_are_those_of_a_loop(monkeypatch):
    monkeypatch.setattr(scores, "_ROWS", 5)
    torch.manual_seed(0)
    logits, pde = torch.randn(2, 26, 26, 64) * 3
    has_frame = torch.arange(26) % 3 != 0
    asym = torch.tensor([1] * 8 + [0] * 11 + [1] * 2 + [2] * 5)  # a chain in two pieces
    sizes = {0: 11, 1: 10, 2: 5}
    pairs = scores.pair_scores(lambda rows: (logits[rows], pde[rows]), asym)
    torch.testing.assert_close(pairs.pae, scores.expected_error(logits))
    torch.testing.assert_close(pairs.pde, scores.expected_error(pde))
    frames = [i for i in range(26) if i % 3]
    expected = loop_tm(logits, frames, lambda i, j: True, 26)
    assert float(pairs.ptm(has_frame)) == pytest.approx(expected, rel=1e-5)
    expected = loop_tm(logits, frames, lambda i, j: asym[i] != asym[j], 26)
    assert float(pairs.iptm(has_frame, asym)) == pytest.approx(expected, rel=1e-5)

    def of_chains(a, b):
        own = [i for i in frames if asym[i] in (a, b)]
        n = sizes[a] + sizes[b] * (a != b)
        return loop_tm(logits, own, lambda i, j: {int(asym[i]), int(asym[j])} == {a, b}, n)

    for a, b in ((0, 1), (1, 2), (2, 0), (0, 0), (1, 1), (2, 2)):
        assert float(pairs.chain_ptm(has_frame, asym, a, b)) == pytest.approx(of_chains(a, b), rel=1e-5)


def test_ptm_and_iptm_are_those_of_a_loop():
    torch.manual_seed(0)
    logits = torch.randn(26, 26, 64, dtype=torch.float64) * 3
    tokens = torch.arange(26) < 24
    has_frame = torch.arange(26) % 3 != 0
    asym = torch.tensor([0] * 10 + [1] * 10 + [2] * 6)
    frames = [i for i in range(24) if i % 3]
    expected = loop_tm(logits, frames, lambda i, j: j < 24, 24)
    assert float(scores.ptm(logits, tokens, has_frame)) == pytest.approx(expected)
    expected = loop_tm(logits, frames, lambda i, j: j < 24 and asym[i] != asym[j], 24)
    assert float(scores.iptm(logits, tokens, has_frame, asym)) == pytest.approx(expected)
    assert float(scores.iptm(logits, asym == 0, has_frame, asym)) == 0.0, "a single chain has no interface"


def test_perfect_confidence_is_near_one():
    logits = certain(torch.zeros(400, 400, dtype=torch.int64), 64)
    everything = torch.ones(400, dtype=torch.bool)
    assert float(scores.ptm(logits, everything, everything)) == pytest.approx(
        1 / (1 + (0.25 / 7.19) ** 2), abs=1e-4
    )


def test_clashes_count_between_polymer_chains_alone():
    x = torch.arange(60.0)[:, None].expand(-1, 3) * 3
    both, asym = torch.cat([x, x + 0.1]), torch.arange(120) // 60
    polymer = torch.ones(120, dtype=torch.bool)
    assert scores.has_clash(both, asym, polymer)
    assert not scores.has_clash(both + (asym * 50.0)[:, None] * torch.tensor([1.0, 0.0, 0.0]), asym, polymer)
    assert not scores.has_clash(both, torch.zeros_like(asym), polymer)
    assert not scores.has_clash(both, asym, asym == 0)
    assert not scores.has_clash(torch.cat([x, x[:29], x[:31] + 1000]), asym, polymer), (
        "29 of 60 is under half"
    )


def test_clashes_do_not_depend_on_where_the_structure_lies():
    """Distances of 1.25 Å, 7000 Å away from the origin: a product of coordinates would lose them."""
    x = torch.arange(60.0)[:, None].expand(-1, 3) * 3 + 4000
    near = x + torch.tensor([1.25, 0.0, 0.0])
    asym, polymer = torch.arange(120) // 60, torch.ones(120, dtype=torch.bool)
    assert not scores.has_clash(torch.cat([x, near]), asym, polymer)
    assert scores.has_clash(torch.cat([x, near - 0.25 * (near - x)]), asym, polymer)


def test_the_ranking_score():
    assert scores.ranking_score(0.5, 0.8, 0.1, False) == pytest.approx(0.64 + 0.1 + 0.05)
    assert scores.ranking_score(0.5, None, 0.0, True) == pytest.approx(0.5 - 100)
    assert math.isclose(scores.ranking_score(1.0, 1.0, 0.0, False), 1.0)
