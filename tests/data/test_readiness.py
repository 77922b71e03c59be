# SPDX-License-Identifier: Apache-2.0
"""Stores that are refused, what the refusal says, and that the built-in sample is not."""

import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foldwright.data.clusters import clustered_items
from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.datasets import DatasetConfig, Sampling
from foldwright.data.readiness import alignment_coverage, require_ready
from foldwright.data.sample import store_path as sample_path
from foldwright.data.store import ITEMS, MANIFEST, Store


def check(config: DataConfig) -> None:
    require_ready(StoreDataset(config, 0).parts, config)


@pytest.fixture
def clustered(store_path, tmp_path):
    """The handmade store, each chain its own cluster."""
    shutil.copytree(store_path, tmp_path / "store")
    store = Store(tmp_path / "store")
    manifest = store.manifest()
    clusters = dict(
        zip(manifest["entry"].to_pylist(), manifest["chain_clusters_100"].to_pylist(), strict=True)
    )
    pq.write_table(clustered_items(store.items(), clusters), store.path / ITEMS)
    return store


def test_the_built_in_sample_is_ready():
    check(DataConfig(str(sample_path())))
    manifest = Store(sample_path()).manifest()
    assert "chain_clusters" in manifest.column_names
    aligned, chains = alignment_coverage(manifest)
    assert 0 < aligned < chains


def test_missing_clusters_are_refused_where_weights_need_them(store_path, clustered):
    config = DataConfig(str(store_path))
    with pytest.raises(ValueError, match=r"datasets.pdb: .*`cluster_data.py .*allow_missing_clusters=true"):
        check(config)
    check(replace(config, allow_missing_clusters=True))
    check(replace(config, datasets={"far": DatasetConfig(sampling=Sampling.uniform)}))
    check(DataConfig(str(clustered.path)))


def with_column(store: Store, name: str, change) -> None:
    manifest = store.manifest()
    column = pa.array([[change(value) for value in own] for own in manifest[name].to_pylist()])
    pq.write_table(
        manifest.set_column(manifest.column_names.index(name), name, column), store.path / MANIFEST
    )


def test_a_store_without_any_alignment_is_refused(clustered):
    config = DataConfig(str(clustered.path), {"one": DatasetConfig(entries=["modr"])})
    check(config)  # modr has none, dimr of the same store has one
    with_column(clustered, "chain_msa_depths", lambda depth: 0)
    with pytest.raises(ValueError, match=r"datasets.one: not one of 3 prot.*--msas.*allow_missing_msas=true"):
        check(config)
    check(replace(config, allow_missing_msas=True))


def test_chains_that_are_never_searched_do_not_count(clustered):
    assert alignment_coverage(clustered.manifest()) == (2, 3)
    with_column(clustered, "chain_msa_depths", lambda depth: 0)
    with_column(clustered, "chain_types", lambda kind: "DNA")
    check(DataConfig(str(clustered.path)))
