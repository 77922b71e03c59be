# SPDX-License-Identifier: Apache-2.0
"""The confidence losses: what counts, what weighs, and what they are at initialisation."""

import math

import pytest
import torch

from foldwright.confidence.head import ConfidenceLogits
from foldwright.losses import LossConfig, confidence_loss
from foldwright.losses.confidence import masked_cross_entropy


def logits_of(batch, scale):
    torch.manual_seed(0)
    n, a = batch.token_mask.shape[1], batch.atom_mask.shape[1]
    shapes = {"plddt": (a, 50), "pae": (n, n, 64), "pde": (n, n, 64), "resolved": (a, 2)}
    parts = {name: scale * torch.randn(2, *shape).double() for name, shape in shapes.items()}
    return ConfidenceLogits(**parts)


@pytest.fixture
def x(batch):
    batch.resolution[:] = 2.0
    torch.manual_seed(1)
    return batch.atom_coords.double() + torch.randn(2, 160, 3).double()


def test_cross_entropy_is_that_of_a_loop_over_what_counts():
    torch.manual_seed(0)
    logits, bins = torch.randn(2, 7, 5).double(), torch.randint(5, (2, 7))
    mask = torch.rand(2, 7) > 0.4
    mask[1] = False
    terms = [-logits[0, i].log_softmax(-1)[bins[0, i]] for i in range(7) if mask[0, i]]
    found = masked_cross_entropy(logits, bins, mask)
    assert found.tolist() == pytest.approx([float(sum(terms) / len(terms)), 0.0])


def test_uniform_logits_cost_the_logarithm_of_the_bins(batch, x):
    terms = confidence_loss(logits_of(batch, 0.0), x, batch, LossConfig(pae=1.0))
    expected = {"plddt": 50, "pae": 64, "pde": 64, "resolved": 2}
    for name, bins in expected.items():
        assert float(terms[name]) == pytest.approx(math.log(bins))
    assert float(terms["loss"]) == pytest.approx(1e-4 * sum(map(math.log, expected.values())))


def test_weights_are_those_of_equation_15(batch, x):
    logits = logits_of(batch, 1.0)
    terms = confidence_loss(logits, x, batch, LossConfig())
    without = sum(float(terms[name]) for name in ("plddt", "pde", "resolved"))
    assert float(terms["loss"]) == pytest.approx(1e-4 * without)
    final = confidence_loss(logits, x, batch, LossConfig(confidence=2.0, pae=1.0))
    assert float(final["loss"]) == pytest.approx(2.0 * (without + float(terms["pae"])))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_of_a_rollout_that_is_not_finite_the_loss_is_neither(batch, x, value):
    x[0, 3] = value
    terms = confidence_loss(logits_of(batch, 1.0), x, batch, LossConfig(pae=1.0))
    assert not torch.isfinite(terms["loss"])


def test_examples_not_learnt_from_give_zero_attached(batch, x):
    logits = logits_of(batch, 1.0)
    together = confidence_loss(logits, x, batch, LossConfig())
    batch.resolution[1] = 9.0
    first = confidence_loss(logits, x, batch, LossConfig())
    batch.supervises_confidence[0] = False
    logits.pae.requires_grad_()
    none = confidence_loss(logits, x, batch, LossConfig(pae=1.0))
    assert 0 < float(first["plddt"]) < float(together["plddt"])
    assert float(none["loss"].detach()) == 0.0
    assert not torch.autograd.grad(none["loss"], logits.pae)[0].any()
