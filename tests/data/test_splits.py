# SPDX-License-Identifier: Apache-2.0
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.datasets import DatasetConfig
from foldwright.data.splits import TEST, TRAIN, VALIDATION, require_disjoint, split_entries
from foldwright.data.store import Store


def split_table(*rows: tuple[str, str, str]) -> pa.Table:
    return pa.table(dict(zip(("split", "entry", "cluster"), map(list, zip(*rows, strict=True)), strict=True)))


GOOD = [("train", "dimr", "p|p"), ("train", "dimr", "p"), ("validation", "modr", "p|q"), ("test", "x", "p|q")]


def test_disjoint_sets_pass():
    require_disjoint(split_table(*GOOD))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("validation", "dimr", "q"), "train and validation share 1 entries, such as dimr"),
        (("test", "dimr", "q"), "train and test share 1 entries"),
        (("test", "modr", "q"), "validation and test share 1 entries, such as modr"),
        (("validation", "new", "p"), "train and validation share 1 clusters, such as p"),
        (("test", "new", "p|p"), "train and test share 1 clusters"),
    ],
)
def test_overlap_is_an_error(row, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        require_disjoint(split_table(*GOOD, row))


@pytest.fixture
def store(store_path, tmp_path):
    shutil.copytree(store_path, tmp_path / "store")
    return Store(tmp_path / "store")


def test_training_draws_from_the_training_set_alone(store):
    pq.write_table(split_table(*GOOD), store.path / "split_mine.parquet")
    dataset = StoreDataset(
        DataConfig(str(store.path), {"pdb": DatasetConfig(split="mine")}, n_templates=0), seed=0
    )
    assert {dataset.parts["pdb"].sampler.draw(n).entry for n in range(50)} == {"dimr"}
    everything = StoreDataset(DataConfig(root=str(store.path), n_templates=0), seed=0)
    assert {everything.parts["pdb"].sampler.draw(n).entry for n in range(50)} == {"dimr", "modr"}


def test_training_refuses_overlap_unless_told(store):
    pq.write_table(split_table(*GOOD, ("test", "dimr", "z")), store.path / "split_leaky.parquet")
    config = DataConfig(str(store.path), {"pdb": DatasetConfig(split="leaky")}, n_templates=0)
    with pytest.raises(ValueError, match=r"train and test share 1 entries.*data.allow_overlap=true"):
        StoreDataset(config, seed=0)
    config.allow_overlap = True
    assert StoreDataset(config, seed=0).parts["pdb"].sampler.draw(0).entry == "dimr"


def test_an_unknown_split_and_one_of_another_store_are_errors(store):
    pq.write_table(split_table(*GOOD), store.path / "split_mine.parquet")
    with pytest.raises(ValueError, match=r"got 'other', expected one of the splits of .*: mine; make one"):
        split_entries(store, "other", allow_overlap=False)
    pq.write_table(split_table(("train", "gone", "p")), store.path / "split_old.parquet")
    with pytest.raises(ValueError, match="lacks 1"):
        split_entries(store, "old", allow_overlap=False)
    sets = split_entries(store, "mine", allow_overlap=False)
    assert sets == {TRAIN: ["dimr"], VALIDATION: ["modr"], TEST: ["x"]}
