# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from foldwright.data import crop as module
from foldwright.data.crop import (
    Budget,
    CropInput,
    CropMixture,
    contiguous_crop,
    crop,
    interface_tokens,
    spatial_crop,
    spatial_interface_crop,
)

ANY = np.zeros(0, np.int32)


def make_input(chains: list[list[tuple[int, int]]], seed: int = 0, unresolved: float = 0.1) -> CropInput:
    """Chains of residues, each (number of tokens, atoms a token), placed as random walks."""
    rng = np.random.default_rng(seed)
    chain, unit, atoms = [], [], []
    for number, residues in enumerate(chains):
        for n_tokens, n_atoms in residues:
            start = unit[-1] + 1 if unit else 0
            chain += [number] * n_tokens
            unit += [start] * n_tokens
            atoms += [n_atoms] * n_tokens
    centre = np.cumsum(rng.normal(size=(len(chain), 3)) * 2.2, axis=0).astype(np.float32)
    resolved = rng.random(len(chain)) >= unresolved
    resolved[rng.integers(len(chain))] = True
    return CropInput(
        np.array(chain, np.int32), np.array(unit, np.int32), np.array(atoms, np.int32), centre, resolved
    )


residues = st.one_of(
    st.tuples(st.just(1), st.integers(4, 24)),  # a standard residue
    st.tuples(st.integers(1, 40), st.just(1)),  # a ligand or modified residue
)
inputs = st.builds(
    make_input,
    st.lists(st.lists(residues, min_size=1, max_size=30), min_size=1, max_size=6),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.3]),
)
croppers = st.sampled_from([
    lambda i, b, rng: contiguous_crop(i, b, rng),
    lambda i, b, rng: spatial_crop(i, b, ANY, rng),
    lambda i, b, rng: spatial_interface_crop(i, b, ANY, rng),
    lambda i, b, rng: crop(i, b, CropMixture(), np.array([0], np.int32), rng),
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(inputs, croppers, st.integers(1, 80), st.integers(32, 600), st.integers(0, 10_000))
def test_a_crop_keeps_both_budgets_and_whole_residues(tokens, cropper, n_tokens, n_atoms, seed):
    budget = Budget(n_tokens, n_atoms)
    kept = cropper(tokens, budget, np.random.default_rng(seed))
    assert (np.diff(kept) > 0).all()
    assert len(kept) <= n_tokens
    assert tokens.n_atoms[kept].sum() <= n_atoms
    sizes, atoms = np.bincount(tokens.unit), np.bincount(tokens.unit, weights=tokens.n_atoms)
    for unit, count in zip(*np.unique(tokens.unit[kept], return_counts=True), strict=True):
        assert count == sizes[unit] or sizes[unit] > n_tokens or atoms[unit] > n_atoms
    np.testing.assert_array_equal(kept, cropper(tokens, budget, np.random.default_rng(seed)))


@settings(max_examples=100, deadline=None)
@given(inputs, st.integers(0, 10_000))
def test_what_fits_is_not_cropped(tokens, seed):
    budget = Budget(len(tokens.chain), max(int(tokens.n_atoms.sum()), 32))
    kept = crop(tokens, budget, CropMixture(), ANY, np.random.default_rng(seed))
    np.testing.assert_array_equal(kept, np.arange(len(tokens.chain)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(5, 80), st.integers(0, 10_000))
def test_contiguous_crops_of_proteins_are_full_and_one_stretch_a_chain(lengths, n_tokens, seed):
    tokens = make_input([[(1, 8)] * length for length in lengths])
    kept = contiguous_crop(tokens, Budget(n_tokens, 10_000), np.random.default_rng(seed))
    assert len(kept) == min(n_tokens, sum(lengths))
    for chain in np.unique(tokens.chain[kept]):
        assert (np.diff(kept[tokens.chain[kept] == chain]) == 1).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 120), st.integers(1, 60), st.integers(0, 1000))
def test_spatial_crops_of_proteins_are_the_nearest_tokens(length, n_tokens, seed):
    tokens = make_input([[(1, 8)] * length, [(1, 8)] * 20], seed)
    kept = spatial_crop(tokens, Budget(n_tokens, 10_000), ANY, np.random.default_rng(seed))
    assert len(kept) == n_tokens or len(kept) == len(tokens.chain)
    penalised = cdist(tokens.centre, tokens.centre) + 1e-3 * np.arange(len(tokens.chain))
    penalised[:, ~tokens.resolved] = np.inf
    # one of the resolved tokens has exactly the kept tokens as its nearest
    candidates = (
        set(np.argsort(row, kind="stable")[:n_tokens].tolist()) for row in penalised[tokens.resolved]
    )
    assert set(kept.tolist()) in candidates


def test_the_atom_budget_ends_a_crop_by_whole_tokens():
    tokens = make_input([[(1, 10)] * 100], unresolved=0.0)
    for cropper in (contiguous_crop, lambda i, b, r: spatial_crop(i, b, ANY, r)):
        kept = cropper(tokens, Budget(64, 255), np.random.default_rng(0))
        assert len(kept) == 25


def test_a_ligand_that_does_not_fit_is_passed_over_for_its_neighbours():
    """On a line: residues 0-39, a ligand of 15 atoms, residues after it; centred on residue 31."""
    tokens = make_input([[(1, 8)] * 40, [(15, 1)], [(1, 8)] * 40], unresolved=0.0)
    line = np.arange(len(tokens.chain))[:, None] * np.array([1.0, 0, 0])
    tokens = CropInput(tokens.chain, tokens.unit, tokens.n_atoms, line.astype(np.float32), tokens.resolved)
    tight = module._nearest(tokens, Budget(20, 1000), np.array([31]), np.random.default_rng(0))
    np.testing.assert_array_equal(tight, np.arange(20, 40))
    roomy = module._nearest(tokens, Budget(40, 1000), np.array([31]), np.random.default_rng(0))
    np.testing.assert_array_equal(roomy, np.arange(15, 55))
    cut = module._nearest(tokens, Budget(12, 1000), np.array([47]), np.random.default_rng(0))
    np.testing.assert_array_equal(cut, np.arange(41, 53))  # larger than the crop alone: cut by tokens


def test_preferred_chains_hold_the_centre():
    tokens = make_input([[(1, 8)] * 50 for _ in range(4)], unresolved=0.2)
    for seed in range(30):
        kept = spatial_crop(tokens, Budget(10, 1000), np.array([2], np.int32), np.random.default_rng(seed))
        assert (tokens.chain[kept] == 2).any()


def test_interface_tokens_are_those_near_another_chain():
    tokens = make_input([[(1, 8)] * 60, [(1, 8)] * 60, [(9, 1)]], seed=5)
    near = cdist(tokens.centre, tokens.centre) < 15.0
    other = tokens.chain[:, None] != tokens.chain[None]
    both = tokens.resolved[:, None] & tokens.resolved[None]
    expected = np.flatnonzero((near & other & both).any(1))
    assert 0 < len(expected) < len(tokens.chain)
    np.testing.assert_array_equal(interface_tokens(tokens, ANY), expected)
    of_ligand = interface_tokens(tokens, np.array([2], np.int32))
    np.testing.assert_array_equal(of_ligand, expected[tokens.chain[expected] == 2])
    pair = np.array([0, 2], np.int32)
    among = np.isin(tokens.chain, pair)
    drawn = np.flatnonzero((near & other & both & among[:, None] & among[None]).any(1))
    assert 0 < len(drawn) < (among[expected]).sum()  # chain 0 is near chain 1, too
    np.testing.assert_array_equal(interface_tokens(tokens, pair), drawn)


def test_far_chains_have_no_interface_and_are_cropped_spatially():
    tokens = make_input([[(1, 8)] * 30, [(1, 8)] * 30], unresolved=0.0)
    centre = tokens.centre.copy()
    centre[tokens.chain == 1] += 1000
    tokens = CropInput(tokens.chain, tokens.unit, tokens.n_atoms, centre, tokens.resolved)
    kept = spatial_interface_crop(tokens, Budget(10, 1000), ANY, np.random.default_rng(0))
    assert len(kept) == 10
    assert len(set(tokens.chain[kept])) == 1


def test_an_unresolved_stretch_is_not_a_crop():
    """A contiguous crop that sees nothing resolved gives way to a spatial one."""
    tokens = make_input([[(1, 8)] * 300], unresolved=0.0)
    resolved = np.arange(300) < 10
    tokens = CropInput(tokens.chain, tokens.unit, tokens.n_atoms, tokens.centre, resolved)
    for seed in range(20):
        kept = crop(tokens, Budget(20, 1000), CropMixture(1.0, 0.0, 0.0), ANY, np.random.default_rng(seed))
        assert resolved[kept].sum() >= 4


def test_the_mixture_is_drawn_in_its_proportions(monkeypatch):
    tokens = make_input([[(1, 8)] * 60, [(1, 8)] * 60], unresolved=0.0)
    calls = {"contiguous_crop": 0, "spatial_crop": 0, "spatial_interface_crop": 0}
    for name in calls:

        def count(*arguments, name=name):
            calls[name] += 1
            return np.arange(10)

        monkeypatch.setattr(module, name, count)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        crop(tokens, Budget(20, 1000), CropMixture(0.2, 0.4, 0.4), ANY, rng)
    assert calls["contiguous_crop"] == pytest.approx(400, abs=70)  # 4 standard deviations
    assert calls["spatial_crop"] == pytest.approx(800, abs=88)


def test_impossible_budgets_are_refused():
    with pytest.raises(ValueError, match="at least 1 token"):
        Budget(0, 100)
    with pytest.raises(ValueError, match="32 atoms"):
        Budget(4, 8)


def test_a_structure_without_resolved_tokens_is_refused():
    tokens = make_input([[(1, 8)] * 40])
    tokens = CropInput(tokens.chain, tokens.unit, tokens.n_atoms, tokens.centre, np.zeros(40, bool))
    with pytest.raises(ValueError, match="resolved"):
        spatial_crop(tokens, Budget(10, 100), ANY, np.random.default_rng(0))
