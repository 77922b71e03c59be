# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from foldwright.affinity.crop import PocketConfig, pocket_tokens


def line(n_protein: int, n_ligand: int, at: float):
    """Protein tokens a unit apart on a line, two chains; the ligand beside position `at`."""
    x = np.zeros((n_protein + n_ligand, 3))
    x[:n_protein, 0] = np.arange(n_protein)
    x[n_protein:] = (at, 2.0, 0.0)
    is_ligand = np.arange(len(x)) >= n_protein
    chain = np.where(is_ligand, 2, np.arange(len(x)) >= n_protein // 2).astype(np.int32)
    return x, chain, np.where(is_ligand, 1, 8), is_ligand, ~is_ligand


def test_by_hand_one_neighbourhood():
    """Token 30 is nearest; of its chain 0..49 its ten are 25 to 34. Nothing else fits in 14 tokens."""
    kept = pocket_tokens(*line(100, 4, 30.0), PocketConfig(tokens=14))
    assert kept.tolist() == [*range(25, 35), 100, 101, 102, 103]


def test_a_neighbourhood_stays_in_its_chain():
    """The ligand lies at the end of the first chain; its last ten tokens come, none of the other."""
    kept = pocket_tokens(*line(100, 1, 49.2), PocketConfig(tokens=11))
    assert kept.tolist() == [*range(40, 50), 100]


@pytest.mark.parametrize("limits", [(256, 200, 2048), (60, 200, 2048), (256, 35, 2048), (256, 200, 400)])
def test_the_budget_holds_and_is_nearly_used(limits):
    config = PocketConfig(*limits)
    inputs = line(500, 20, 260.0)
    kept = pocket_tokens(*inputs, config)
    n_protein = int(inputs[4][kept].sum())
    assert inputs[3][kept].sum() == 20
    assert len(kept) <= config.tokens
    assert n_protein <= config.protein_tokens
    assert inputs[2][kept].sum() <= config.atoms
    slack = min(config.tokens - len(kept), config.protein_tokens - n_protein)
    slack = min(slack, (config.atoms - inputs[2][kept].sum()) // 8)
    assert slack < config.neighbourhood


def test_tokens_that_are_neither_stay_out():
    x, chain, n_atoms, is_ligand, is_protein = line(50, 3, 10.0)
    is_protein[8:12] = False
    kept = pocket_tokens(x, chain, n_atoms, is_ligand, is_protein, PocketConfig())
    assert not set(range(8, 12)) & set(kept.tolist())
    assert len(kept) == 49


@pytest.mark.parametrize("n_ligand", [0, 300])
def test_a_ligand_that_is_absent_or_too_large_is_refused(n_ligand):
    with pytest.raises(ValueError, match=f"ligand of {n_ligand} tokens"):
        pocket_tokens(*line(20, n_ligand, 3.0), PocketConfig())
