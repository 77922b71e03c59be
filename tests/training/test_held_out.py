# SPDX-License-Identifier: Apache-2.0
"""What is held out is never trained on, in no entry; whatever else is in the store."""

import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.datasets import DatasetConfig
from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.training.held_out import HeldOut, ValidationConfig, entry_clusters, hold_out, leave_out


class FakeStore:
    """A manifest in memory: entries e0, e1, ... of the given clusters."""

    path = "fake"

    def __init__(self, clusters, tokens=100):
        n = len(clusters)
        self._manifest = pa.table({
            "entry": [f"e{i}" for i in range(n)],
            "n_tokens": [tokens] * n,
            "n_atoms": [8 * tokens] * n,
            "chain_clusters_100": [[f"x{name}" for name in own] for own in clusters],
            "chain_clusters": clusters,
        })  # fmt: skip

    def manifest(self):
        return self._manifest

    def items(self):
        return self._manifest.select(["entry"])


@pytest.fixture(scope="module")
def store():
    return Store(store_path())


def test_named_entries_and_whoever_shares_their_sequences_are_left_out():
    store = FakeStore([["a"], ["a", "b"], ["b"], ["c", "LIGAND:HEM"], ["d", "LIGAND:HEM"]])
    held = hold_out(store, ValidationConfig(entries=["e0"]), [])
    assert held == HeldOut(("e0",), ("e2", "e3", "e4"), excluded=2)
    assert hold_out(store, ValidationConfig(entries=["e3"]), []).trained_on == ("e0", "e1", "e2", "e4")
    assert hold_out(store, ValidationConfig(entries=["e0"]), ["e3", "e1"]) == held


def test_a_fraction_holds_out_clusters_whole():
    clusters = [[f"c{i % 300}", f"c{(7 * i + 1) % 300}"] for i in range(600)]
    store = FakeStore(clusters)
    held = hold_out(store, ValidationConfig(fraction=0.3, max_entries=1000), [])
    own = entry_clusters(store.manifest())
    seen = frozenset().union(*(own[entry] for entry in held.trained_on))
    scored = frozenset().union(*(own[entry] for entry in held.scored))
    assert not seen & scored
    assert 0.1 < len(scored) / 300 < 0.4
    assert len(held.scored) > 20
    capped = hold_out(store, ValidationConfig(fraction=0.3, max_entries=5), [])
    assert capped.scored == held.scored[:5]
    assert capped.trained_on == held.trained_on


def test_the_choice_is_that_of_the_cluster_alone():
    store = FakeStore([[f"c{i}"] for i in range(200)])
    fewer = FakeStore([[f"c{i}"] for i in range(100)])
    config = ValidationConfig(fraction=0.2, max_entries=1000)
    all_scored = set(hold_out(store, config, []).scored)
    assert set(hold_out(fewer, config, []).scored) == {f"e{i}" for i in range(100)} & all_scored


def test_every_data_set_leaves_out_what_is_held_out(tmp_path):
    """One of the same store by entry, one of another store by sequence."""
    other = tmp_path / "other"
    shutil.copytree(store_path(), other)
    data = DataConfig(
        str(store_path()),
        {
            "pdb": DatasetConfig(),
            "few": DatasetConfig(entries=["5pti", "1ubi"]),
            "copy": DatasetConfig(str(other)),
        },
    )
    dataset = StoreDataset(data, 0)
    held = hold_out(dataset.store, ValidationConfig(entries=["5pti"]), [])
    left = leave_out(data, held, dataset).datasets
    assert set(left["pdb"].entries) == set(held.trained_on)
    assert left["few"].entries == ["1ubi"]
    assert "5pti" not in left["copy"].entries
    assert len(left["copy"].entries) == 18
    assert leave_out(data, HeldOut(), dataset) is data
    sets = {"pdb": DatasetConfig(), "few": DatasetConfig(entries=["5pti"])}
    dataset = StoreDataset(replace(data, datasets=sets), 0)
    with pytest.raises(ValueError, match=r"nothing is left to draw for data.datasets.few; .*~data.dat"):
        leave_out(data, held, dataset)


def test_what_one_data_set_draws_is_no_limit_of_another_of_its_store():
    sets = {"few": DatasetConfig(entries=["1ubi", "1as5"]), "all": DatasetConfig(weight=0.5)}
    data = DataConfig(str(store_path()), sets)
    dataset = StoreDataset(data, 0)
    held = hold_out(dataset.store, ValidationConfig(entries=["5pti"]), sets["few"].entries)
    left = leave_out(data, held, dataset).datasets
    assert left["few"].entries == ["1ubi", "1as5"]
    everything = set(dataset.store.items()["entry"].to_pylist())
    assert {"1ubi", "1as5", "2ofg"} <= set(left["all"].entries) <= everything - {"5pti"}


SPLIT = [
    ("train", "5pti"),
    ("train", "1a7g"),
    ("validation", "1ubi"),
    ("validation", "1bd2"),
    ("test", "1xjr"),
]


@pytest.fixture
def split(store, tmp_path):
    """A copy of the sample with a split of five of its entries, "mine", and a "leaky" one."""
    copy = shutil.copytree(store.path, tmp_path / "store")
    rows = [(*row, f"cluster of {row[1]}") for row in SPLIT]
    for name, more in (("mine", []), ("leaky", [("test", "5pti", "another")])):
        columns = zip(*rows, *more, strict=True)
        table = pa.table(dict(zip(("split", "entry", "cluster"), map(list, columns), strict=True)))
        pq.write_table(table, copy / f"split_{name}.parquet")
    return Store(copy)


def test_a_split_decides_what_is_scored_and_what_is_trained_on(split):
    config = ValidationConfig(split="mine", fraction=0.5)
    held = hold_out(split, config, [])
    assert held == HeldOut(("1ubi",), ("1a7g", "5pti"), excluded=17, too_large=1)
    assert hold_out(split, config, ["5pti", "1ubi", "4cup"]) == held
    manifest = split.manifest()
    exact = dict(zip(manifest["entry"].to_pylist(), manifest["chain_clusters_100"].to_pylist(), strict=True))
    polymers = {name for entry in ("1ubi", "1xjr") for name in exact[entry] if not name.startswith("LIGAND:")}
    assert polymers <= held.sequences
    assert held.sequences.isdisjoint(exact["5pti"])


def test_other_stores_leave_out_what_a_split_evaluates(split, store):
    data = DataConfig(str(split.path), {"pdb": DatasetConfig(), "more": DatasetConfig(root=str(store.path))},
                      n_templates=0)  # fmt: skip
    dataset = StoreDataset(data, 0)
    parts = StoreDataset(
        leave_out(data, hold_out(split, ValidationConfig(split="mine"), []), dataset), 0
    ).parts
    assert {parts["pdb"].sampler.draw(n).entry for n in range(60)} == {"1a7g", "5pti"}
    drawn = set(parts["more"].config.entries)
    assert {"5pti", "4cup"} <= drawn
    assert drawn.isdisjoint({"1ubi", "1bd2", "1xjr"})


def test_a_split_that_cannot_be_is_refused(split):
    for name, wanted, message in [
        ("af3", [], r"validation.split: got 'af3', expected one of the splits of .*: leaky, mine; make one"),
        ("leaky", [], "train and test share 1 entries"),
        ("mine", ["4cup"], "leaves none to train on"),
    ]:
        with pytest.raises(ValueError, match=message):
            hold_out(split, ValidationConfig(split=name), wanted)
    assert hold_out(split, ValidationConfig(split="leaky"), [], allow_overlap=True).scored == ("1ubi",)


def test_nothing_asked_nothing_held_out(store):
    assert hold_out(store, ValidationConfig(), []) == HeldOut()


def test_too_large_entries_are_counted_and_not_scored():
    store = FakeStore([[f"c{i}"] for i in range(50)], tokens=400)
    held = hold_out(store, ValidationConfig(fraction=0.2), [])
    assert held.scored == ()
    assert held.too_large == held.excluded > 0


def test_what_cannot_be_is_refused(store):
    sound = ValidationConfig(entries=["5pti"])
    for config, wanted, message in [
        (replace(sound, entries=["9xyz"]), [], "got '9xyz'"),
        (replace(sound, entries=["1bd2"]), [], "1bd2, which has more than"),
        (sound, ["5pti"], "leaves none to train on"),
        (ValidationConfig(fraction=1.0), [], "expected 0 <= fraction < 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            hold_out(store, config, wanted)
