# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from foldwright.affinity.head import AffinityPrediction
from foldwright.affinity.scores import binding_energy, ensemble, pic50

PREDICTION = AffinityPrediction(
    torch.tensor([[1.0, -2.0], [2.0, -4.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]])
)


def test_the_ensemble_is_the_mean_of_values_and_of_probabilities():
    scores = ensemble(PREDICTION)
    assert scores.value.tolist() == [1.5, -3.0]
    expected = (1 / (1 + math.exp(-1)) + 1 / (1 + math.exp(-3))) / 2
    assert scores.probability.tolist() == pytest.approx([0.5, expected])


def test_the_correction_by_hand():
    """350^0.3 = exp(0.3 ln 350) = exp(1.757380) = 5.79723; times 0.59992683 is 3.47791."""
    value = ensemble(PREDICTION, torch.tensor([350.0, 350.0])).value
    assert value[0].item() == pytest.approx(1.55288907 - 3.47791 + 2.83288489, abs=1e-4)


def test_units():
    """1 nM is y = -3, pIC50 9, 12.3 kcal/mol."""
    y = torch.tensor(-3.0)
    assert pic50(y).item() == 9.0
    assert binding_energy(y).item() == pytest.approx(12.276)
