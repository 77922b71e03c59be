# SPDX-License-Identifier: Apache-2.0
"""Copies of a store on local disk: made once, whole, by one of many, and anew when the store changes."""

import multiprocessing
import shutil

import pyarrow as pa
import pytest

from foldwright.data import staging
from foldwright.data.staging import content_key, stage
from foldwright.data.store import ITEMS, Store
from foldwright.data.tables import read_table, write_table


@pytest.fixture
def store(store_path, tmp_path):
    shutil.copytree(store_path, tmp_path / "store")
    return tmp_path / "store"


def test_a_copy_is_the_store_and_is_found_again(store, tmp_path, monkeypatch):
    copy = stage(store, tmp_path / "disk")
    for path in store.iterdir():
        if not path.name.endswith("-lock"):
            assert (copy / path.name).read_bytes() == path.read_bytes()
    assert Store(copy).entry("dimr").structure.entry_id == "dimr"
    monkeypatch.setattr(staging, "_copy", None)
    assert stage(store, tmp_path / "disk") == copy


def test_another_content_is_another_copy(store, tmp_path):
    first = stage(store, tmp_path / "disk")
    items = read_table(store / ITEMS)
    write_table(items.append_column("new", pa.array([1] * len(items))), store / ITEMS)
    assert stage(store, tmp_path / "disk") != first
    assert "new" in Store(stage(store, tmp_path / "disk")).items().column_names


def test_what_a_killed_rank_left_is_no_copy(store, tmp_path):
    disk, key = tmp_path / "disk", content_key(store)
    (disk / f"{key}.partial").mkdir(parents=True)
    (disk / f"{key}.partial" / "arrays.lmdb").write_bytes(b"half")
    assert content_key(stage(store, disk)) == key
    assert not (disk / f"{key}.partial").exists()


def test_a_copy_that_was_cut_is_refused(store, tmp_path):
    copy = stage(store, tmp_path / "disk")
    with (copy / "arrays.lmdb").open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(ValueError, match="no sound copy"):
        stage(store, tmp_path / "disk")


def _stage_and_count(store, disk, copies):
    real = staging._copy

    def counting(*arguments):
        copies.append(1)
        real(*arguments)

    staging._copy = counting
    assert content_key(stage(store, disk)) == content_key(store)


def test_ranks_of_a_node_share_one_copy(store, tmp_path):
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        copies = manager.list()
        ranks = [
            context.Process(target=_stage_and_count, args=(store, tmp_path / "disk", copies))
            for _ in range(4)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        assert [rank.exitcode for rank in ranks] == [0] * 4
        assert len(copies) == 1


def test_a_full_disk_and_what_is_no_store_are_said(store, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"loader.stage_to: .* has 0.0 GiB left"):
        stage(store, tmp_path / "disk")
    with pytest.raises(ValueError, match=r"prepare_data\.py"):
        stage(tmp_path, tmp_path / "disk")
