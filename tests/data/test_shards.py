# SPDX-License-Identifier: Apache-2.0
"""A store made in shards, by jobs in any order that are killed in between, is the store made as a whole."""

import json
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from foldwright.data import store as store_module
from foldwright.data.carry_over import carry_clusters
from foldwright.data.clusters import clustered_items, with_column
from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.inspect import main as inspect_main
from foldwright.data.locks import claimed, lock_of
from foldwright.data.preparation import PrepareConfig
from foldwright.data.prepare import main, prepare
from foldwright.data.sample import store_path as sample_path
from foldwright.data.sampler import SampleRequest
from foldwright.data.shards import Shard, parse_shard, shard_number
from foldwright.data.sources import Sources, find_sources
from foldwright.data.splits import split_entries, split_path
from foldwright.data.staging import stage
from foldwright.data.store import ITEMS, MANIFEST, Store, read_records
from foldwright.data.tables import read_table, write_table
from foldwright.data.write_mmcif import write_structure

CONFIG = PrepareConfig(n_conformers=1)


class Killed(BaseException):
    """What ends a job in the middle, as nothing catches it."""


def pool(function: Callable, setup: Callable, tasks: list, limit_s: float) -> Iterator[tuple[Any, Any]]:
    """All tasks, in this process."""
    state = setup()
    return ((task, function(state, task)) for task in tasks)


def killed_after(n: int) -> Callable[..., Iterator[tuple[Any, Any]]]:
    """A pool whose n-th result never comes."""
    left = [n]

    def run(*arguments: Any, **named: Any) -> Iterator[tuple[Any, Any]]:
        for result in pool(*arguments, **named):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            yield result

    return run


@pytest.fixture(scope="module")
def sources(tmp_path_factory, writer_of) -> Sources:
    """Small entries of the sample, one that is rejected, and alignments, one of them of no structure."""
    folder, store = tmp_path_factory.mktemp("raw"), Store(sample_path())
    for row in store.manifest().to_pylist():
        if row["n_tokens"] < 250:
            s = store.entry(row["entry"]).structure
            write_structure(s, s.atom_coords, folder / f"{row['entry']}.cif", mask=s.atom_resolved)
    writer_of["dimr"]().write(folder)
    writer_of["modr"]().write(folder)
    (folder / "junk.cif").write_text("this is no mmCIF file\n")
    (folder / "dimr_A.a3m").write_text(">q\nGASVLAGSTAVL\n>a\nGASVLAGSTA--\n")
    (folder / "none_A.a3m").write_text(">q\nGASVLAGSTAVL\n")
    return find_sources(folder, folder)


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "store"
    prepare(sources, out, CONFIG, pool)
    return out


@pytest.fixture(scope="module")
def sharded(sources, tmp_path_factory) -> Path:
    """Of three shards."""
    out = tmp_path_factory.mktemp("sharded") / "store"
    make_shards(sources, out, 3)
    return out


def make_shards(sources: Sources, out: Path, count: int) -> None:
    for number in range(1, count + 1):
        prepare(sources, out, CONFIG, pool, Shard(number, count))


def records(store: Path) -> dict[str, bytes]:
    """All records of all shards by their keys."""
    found: dict[str, bytes] = {}
    for file in store_module.array_files(store):
        with store_module._environment(file).begin() as transaction:
            for key, value in transaction.cursor():
                name = bytes(key).decode()
                if name.startswith("done/"):
                    value = json.dumps({**json.loads(value), "seconds": 0}).encode()
                if "/" in name:
                    assert found.setdefault(name, value) == value, f"two values of {name}"
    return found


def report_of(store: Path) -> dict[str, Any]:
    report = json.loads((store / "report.json").read_text())
    del report["unchanged_since_last_run"], report["quantiles_0_10_50_90_100"]["seconds"]
    return report


def assert_same(a: Path, b: Path) -> None:
    assert records(a) == records(b)
    for name in (MANIFEST, ITEMS):
        assert read_table(a / name).schema.remove_metadata() == read_table(b / name).schema.remove_metadata()
        assert read_table(a / name).to_pylist() == read_table(b / name).to_pylist()
    assert list(Store(a).components) == list(Store(b).components)
    assert report_of(a) == report_of(b)


def copied(store: Path, to: Path) -> Path:
    return Path(shutil.copytree(store, to))


def cluster(store: Path) -> None:
    """Two clusters of all protein sequences, by their names."""
    manifest, items = Store(store).manifest(), Store(store).items()
    exact = manifest["chain_clusters_100"].to_pylist()
    names = [[f"P{shard_number(n, 2)}" if n[:8] == "PROTEIN:" else n for n in row] for row in exact]
    by_entry = dict(zip(manifest["entry"].to_pylist(), names, strict=True))
    write_table(with_column(manifest, "chain_clusters", pa.array(names)), store / MANIFEST)
    write_table(clustered_items(items, by_entry), store / ITEMS)


def examples(store: Path, n: int = 6) -> list[dict[str, Any]]:
    config = DataConfig(root=str(store), n_templates=1, allow_missing_clusters=True)
    dataset = StoreDataset(config, seed=5)
    return [dict(vars(dataset[SampleRequest(number, 1, 48, 500, 8)])) for number in range(n)]


def assert_same_examples(a: Path, b: Path) -> None:
    for first, second in zip(examples(a), examples(b), strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, second[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (3, 1), (7, 2), (7, 3)])
def test_any_number_of_shards_in_any_order_with_kills_is_the_whole(sources, whole, tmp_path, count, seed):
    rng, out, kills = random.Random(seed), tmp_path / "store", 0
    jobs = [Shard(number, count) for number in range(1, count + 1)]
    rng.shuffle(jobs)
    while jobs:
        shard = jobs.pop(0)
        try:
            if kills < count and rng.random() < 0.6:
                kills += 1
                prepare(sources, out, CONFIG, killed_after(rng.randrange(12)), shard)
            else:
                prepare(sources, out, CONFIG, pool, shard)
        except Killed:
            jobs.insert(rng.randrange(len(jobs) + 1), shard)
        if jobs:
            with pytest.raises(ValueError, match=rf"run prepare_data\.py with --shard \d/{count}"):
                Store(out)
    assert_same(out, whole)
    assert_same_examples(out, whole)
    for store in (out, copied(whole, tmp_path / "whole")):
        cluster(store)
    assert_same(out, tmp_path / "whole")
    assert_same_examples(out, tmp_path / "whole")
