# SPDX-License-Identifier: Apache-2.0
"""The affinity losses against loops in float64 and cases worked by hand."""

import math

import pytest
import torch

from foldwright.affinity.head import AffinityPrediction
from foldwright.losses.affinity import (
    AffinityLabels,
    AffinityLossConfig,
    absolute_loss,
    affinity_loss,
    focal_loss,
    pairwise_loss,
)

DELTA = 0.5


def labels(values, relations, assays=None, binders=None) -> AffinityLabels:
    """relations: "=", ">", "<" or "-" for no value; binders: 1, 0 or None."""
    y = torch.tensor(values, dtype=torch.float64)
    infinity = torch.full_like(y, math.inf)
    kind = list(relations)
    below, above = torch.tensor([r == "<" for r in kind]), torch.tensor([r == ">" for r in kind])
    binders = binders or [None] * len(kind)
    return AffinityLabels(
        low=torch.where(below, -infinity, y),
        high=torch.where(above, infinity, y),
        assay=torch.tensor(assays or [0] * len(kind)),
        has_value=torch.tensor([r != "-" for r in kind]),
        group=torch.zeros(len(kind), dtype=torch.int64),
        is_binder=torch.tensor([b == 1 for b in binders]),
        has_binder=torch.tensor([b is not None for b in binders]),
    )


def one(value) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def reference_pair(p, q, y, z, r, s) -> float:
    """Loss of one pair by cases of the two relations, first and second."""
    error = (q - p) - (z - y)
    huber = 0.5 * error**2 if abs(error) < DELTA else DELTA * (abs(error) - 0.5 * DELTA)
    if r == s:
        return huber if r == "=" else 0.0
    second_is_weaker = s == ">" or r == "<"  # the true difference is at least z - y
    contradicts = error < 0 if second_is_weaker else error > 0
    return huber if contradicts else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_pairs_against_a_loop(seed):
    draw = torch.Generator().manual_seed(seed)
    n = 9
    y = torch.randn(n, generator=draw, dtype=torch.float64)
    p = torch.randn(n, generator=draw, dtype=torch.float64)
    relations = [["=", ">", "<"][k] for k in torch.randint(3, (n,), generator=draw).tolist()]
    assays = torch.randint(2, (n,), generator=draw).tolist()
    given = labels(y.tolist(), relations, assays)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n) if assays[i] == assays[j]]
    expected = [
        reference_pair(p[i].item(), p[j].item(), y[i].item(), y[j].item(), relations[i], relations[j])
        for i, j in pairs
    ]
    found = pairwise_loss(p[None], given, DELTA)
    assert found.item() == pytest.approx(sum(expected) / len(pairs), abs=1e-12)


def test_pairs_by_hand():
    exact = labels([0.0, 1.0], "==")
    assert pairwise_loss(one([5.0, 6.0]), exact, DELTA).item() == 0.0, "an offset of the assay costs nothing"
    assert pairwise_loss(one([0.0, 1.4]), exact, DELTA).item() == pytest.approx(0.5 * 0.4**2)
    assert pairwise_loss(one([0.0, 3.0]), exact, DELTA).item() == pytest.approx(0.5 * (2.0 - 0.25))
    censored = labels([0.0, 1.0], "=>")
    assert pairwise_loss(one([0.0, 3.0]), censored, DELTA).item() == 0.0, "weaker still agrees"
    assert pairwise_loss(one([0.0, -1.0]), censored, DELTA).item() == pytest.approx(0.5 * (2.0 - 0.25))
    assert pairwise_loss(one([9.0, -9.0]), labels([0.0, 1.0], ">>"), DELTA).item() == 0.0
    assert pairwise_loss(one([9.0, -9.0]), labels([0.0, 1.0], "==", [0, 1]), DELTA).item() == 0.0


def test_values_by_hand():
    assert absolute_loss(one([0.3]), labels([0.0], "="), DELTA).item() == pytest.approx(0.045)
    assert absolute_loss(one([4.0]), labels([1.0], ">"), DELTA).item() == 0.0, (
        "weaker than the limit, as said"
    )
    assert absolute_loss(one([0.0]), labels([1.0], ">"), DELTA).item() == pytest.approx(0.5 * (1.0 - 0.25))
    assert absolute_loss(one([0.0]), labels([1.0], "<"), DELTA).item() == 0.0
    assert absolute_loss(one([4.0, 9.0]), labels([3.0, 0.0], "=-"), DELTA).item() == pytest.approx(0.375)


def test_focal_by_hand():
    """Binder at p = 0.5: 0.8 x 0.5 ln 2. Non-binder at logit 2: p of its class 0.1192."""
    binder = labels([0.0], "-", binders=[1])
    assert focal_loss(one([0.0]), binder, 1.0, 0.8).item() == pytest.approx(0.4 * math.log(2))
    other = labels([0.0], "-", binders=[0])
    p = 1 / (1 + math.exp(2.0))
    assert focal_loss(one([2.0]), other, 1.0, 0.8).item() == pytest.approx(0.2 * (1 - p) * -math.log(p))
    plain = torch.nn.functional.binary_cross_entropy_with_logits(one([2.0]), one([0.0]))
    assert focal_loss(one([2.0]), other, 0.0, 0.5).item() == pytest.approx(0.5 * plain.item())


def test_the_sum_and_what_has_no_label():
    value = torch.tensor([[0.3, 1.7], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    logit = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    config = AffinityLossConfig()
    terms = affinity_loss(AffinityPrediction(value, logit), labels([0.0, 1.0], "=="), config)
    assert terms["pairwise"].item() == pytest.approx(0.5 * 0.08)
    assert terms["absolute"].item() == pytest.approx((0.045 + 0.5 * (0.7 - 0.25)) / 4)
    assert terms["binder"].item() == 0.0
    assert terms["loss"].item() == pytest.approx(0.9 * 0.04 + 0.1 * terms["absolute"].item())
    terms["loss"].backward()
    assert torch.isfinite(value.grad).all()
    assert not logit.grad.any()


def test_infinite_bounds_leave_gradients_finite():
    value = torch.tensor([[0.3, -1.7, 0.2]], dtype=torch.float64, requires_grad=True)
    given = labels([0.0, 1.0, 0.5], ">><")
    terms = affinity_loss(AffinityPrediction(value, torch.zeros_like(value)), given, AffinityLossConfig())
    terms["loss"].backward()
    assert torch.isfinite(value.grad).all()


def test_a_step_is_the_same_however_its_groups_are_shared_out():
    """Groups of several sizes, one of values, one censored, two of binding alone: at once, and one by one."""
    rng = torch.Generator().manual_seed(3)
    groups = [
        labels([0.0, 1.0, -2.0, 0.5], "=><="),
        labels([1.0, 2.0, 0.0], "=>=", assays=[0, 1, 0]),
        labels([0.0] * 5, "-----", binders=[1, 0, 0, 0, 0]),
        labels([0.0] * 2, "--", binders=[0, 1]),
    ]
    sizes = [len(group.low) for group in groups]
    shape = (2, sum(sizes))
    value, logit = (torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(2))
    joined = AffinityLabels(**{
        name: torch.cat([getattr(group, name) for group in groups]) for name in vars(groups[0])
    })  # fmt: skip
    joined.group = torch.repeat_interleave(torch.tensor(sizes))
    at_once = affinity_loss(AffinityPrediction(value, logit), joined, AffinityLossConfig())
    parts = zip(value.split(sizes, 1), logit.split(sizes, 1), groups, strict=True)
    each = [affinity_loss(AffinityPrediction(v, g), own, AffinityLossConfig()) for v, g, own in parts]
    for name, term in at_once.items():
        assert term.item() == pytest.approx(sum(part[name].item() for part in each) / 4), name
