# SPDX-License-Identifier: Apache-2.0
"""Named data sets: shares, limits, uniform draws, and what of an example is supervised."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from foldwright.batch import SCHEMA
from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.datasets import (
    DatasetConfig,
    Limits,
    Sampling,
    Scope,
    Supervision,
    drawing_weights,
    fitting_entries,
    shares,
    without_doubtful,
)
from foldwright.data.sampler import SampleRequest, choose_dataset
from foldwright.data.store import Store
from foldwright.data.weights import Item, item_table

REQUEST = SampleRequest(5, n_cycles=1, crop_tokens=20, crop_atoms=160, msa_rows=3)
AF3 = {"pdb": 0.5, "disorder": 0.02, "monomers": 0.495, "short": 0.005, "rna": 0.05}


def of(weights) -> dict[str, DatasetConfig]:
    return {name: DatasetConfig(weight=weight) for name, weight in weights.items()}


def test_weights_are_renormalised_and_overridden_by_name():
    found = shares(of(AF3), {})
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["pdb"] == pytest.approx(0.5 / 1.07)
    assert shares(of({"a": 1, "b": 3}), {"b": 1}) == {"a": 0.5, "b": 0.5}
    assert shares(of({"a": 1, "b": 3}), {"b": 0}) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize(
    ("weights", "overrides", "message"),
    [
        ({"a": 1}, {"pbd": 1}, "got 'pbd', expected names of data.datasets: a"),
        ({"a": 0}, {}, "a positive sum"),
        ({"a": 1, "b": -1}, {}, "none below zero"),
        ({"a": float("nan")}, {}, "a positive sum"),
    ],
)
def test_impossible_weights_are_refused(weights, overrides, message):
    with pytest.raises(ValueError, match=message):
        shares(of(weights), overrides)


def test_sets_are_drawn_in_proportion_by_seed_and_number():
    probabilities = shares(of(AF3), {})
    counts = Counter(choose_dataset(3, n, probabilities) for n in range(8000))
    for name, share in probabilities.items():
        assert counts[name] == pytest.approx(8000 * share, abs=4 * np.sqrt(8000 * share) + 1)
    again = [choose_dataset(3, n, probabilities) for n in reversed(range(100))][::-1]
    assert again == [choose_dataset(3, n, probabilities) for n in range(100)]
    assert again != [choose_dataset(4, n, probabilities) for n in range(100)]
    assert {choose_dataset(3, n, {"a": 0.0, "b": 1.0, "c": 0.0}) for n in range(200)} == {"b"}


def manifest(**columns) -> pa.Table:
    base = {
        "entry": ["xray", "nmr", "af"],
        "n_tokens": [300, 50, 120],
        "resolution": [3.0, 0.0, 0.0],
        "release_date": ["2020-01-01", "", "2022-06-01"],
    }
    return pa.table(base | columns)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(), ["xray", "nmr", "af"]),
        (Limits(max_resolution=2.5), ["nmr", "af"]),
        (Limits(released_before="2021-09-30"), ["xray"]),
        (Limits(min_tokens=51, max_tokens=200), ["af"]),
        (Limits(min_plddt=80.0), ["af"]),
        (Limits(min_plddt=95.0), []),
    ],
)
def test_limits_choose_entries(limits, expected):
    assert fitting_entries(manifest(mean_plddt=[None, None, 91.5]), limits) == expected


def test_a_limit_on_plddt_rejects_a_store_without_any():
    assert fitting_entries(manifest(), Limits(min_plddt=1.0)) == []


def test_uniform_draws_every_entry_equally_often():
    items = item_table([
        Item("a", 0, -1, 1, 0, 0, "p"), Item("a", 1, -1, 1, 0, 0, "q"), Item("a", 0, 1, 2, 0, 0, "p|q"),
        Item("b", 0, -1, 1, 0, 0, "p"),
    ])  # fmt: skip
    weights = drawing_weights(items, DatasetConfig(sampling=Sampling.uniform))
    assert weights / weights.sum() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    weighted = drawing_weights(items, DatasetConfig())
    assert weighted[2] / weighted[0] == pytest.approx(2 * 2 * 2)  # interface, two proteins, no homologue


def mixture(store_path, **sets) -> StoreDataset:
    return StoreDataset(DataConfig(str(store_path), sets, n_templates=0), seed=0)


def test_a_second_set_does_not_move_the_examples_of_the_first(store_path):
    alone = mixture(store_path, pdb=DatasetConfig())
    both = mixture(store_path, pdb=DatasetConfig(), other=DatasetConfig(entries=["modr"]))
    numbers = [n for n in range(40) if choose_dataset(0, n, both.shares({})) == "pdb"]
    assert 5 < len(numbers) < 35
    for n in numbers[:6]:
        one, two = (dataset[REQUEST._replace(n=n)] for dataset in (alone, both))
        assert all(bool((getattr(one, name) == getattr(two, name)).all()) for name in SCHEMA)


def test_a_request_overrides_the_weights(store_path):
    both = mixture(
        store_path,
        one=DatasetConfig(entries=["dimr"]),
        two=DatasetConfig(entries=["modr"], losses=Supervision(Scope.protein, False, False)),
    )
    drawn = [both[REQUEST._replace(n=n, dataset_weights=(("one", 0.0),))] for n in range(6)]
    assert {bool(example.supervises_confidence) for example in drawn} == {False}
    assert {bool(example.supervises_non_protein) for example in drawn} == {False}
    assert {bool(example.supervises_diffusion) for example in drawn} == {True}
    drawn = [both[REQUEST._replace(n=n, dataset_weights=(("two", 0.0),))] for n in range(6)]
    assert {bool(example.supervises_distogram) for example in drawn} == {True}
    with pytest.raises(ValueError, match="got 'three'"):
        both[REQUEST._replace(dataset_weights=(("three", 1.0),))]


def test_a_set_that_nothing_fits_is_refused_by_name(store_path):
    with pytest.raises(ValueError, match=r"data.datasets.big.limits: got Limits.*min_tokens=999"):
        mixture(store_path, big=DatasetConfig(limits=Limits(min_tokens=999)))
    with pytest.raises(ValueError, match=r"data.datasets.two.root: got no store.*~data.datasets.two"):
        StoreDataset(DataConfig(datasets={"one": DatasetConfig(str(store_path)), "two": DatasetConfig()}), 0)


def test_doubtful_residues_are_unresolved(store_path):
    entry = Store(store_path).entry("dimr")
    plddt = np.full(len(entry.structure.residue_chain), 90.0, np.float32)
    plddt[2] = 40.0
    masked = without_doubtful(entry, plddt, 50.0).structure
    mine = entry.structure.atom_residue == 2
    assert not masked.atom_resolved[mine].any()
    assert not masked.atom_coords[mine].any()
    assert np.array_equal(masked.atom_resolved[~mine], entry.structure.atom_resolved[~mine])
    assert without_doubtful(entry, None, 50.0) is entry
