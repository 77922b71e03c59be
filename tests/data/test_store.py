# SPDX-License-Identifier: Apache-2.0
import json
import multiprocessing
import pickle
import shutil

import pytest

from foldwright.data import store as module
from foldwright.data.store import Store


def test_tables_list_entries_and_components(store_path):
    store = Store(store_path)
    rows = {row["entry"]: row for row in store.manifest().to_pylist()}
    assert set(rows) == {"dimr", "modr"}
    row = rows["dimr"]
    assert (row["n_tokens"], row["n_chains"]) == (34, 4)
    assert row["chain_types"] == ["PROTEIN", "PROTEIN", "LIGAND", "LIGAND"]
    assert row["chain_msa_depths"] == [4, 4, 0, 0]
    assert row["chain_names"] == ["A", "B", "C", "D"]
    assert (row["resolution"], row["method"]) == (pytest.approx(1.8), "X-RAY DIFFRACTION")
    assert set(store.components) == {"GLY", "ALA", "SER", "VAL", "LEU", "THR", "SEP", "BEN", "ZN"}
    assert len(store.components["BEN"].atom_name) == 9


def test_unknown_entries_and_components_are_key_errors(store_path):
    store = Store(store_path)
    with pytest.raises(KeyError, match="entry/none"):
        store.entry("none")
    with pytest.raises(KeyError, match="component/XYZ"):
        store.components["XYZ"]


def test_a_missing_or_incomplete_store_says_what_to_do(tmp_path, store_path):
    with pytest.raises(ValueError, match=r"lacks arrays\.lmdb.*prepare_data\.py"):
        Store(tmp_path)
    shutil.copytree(store_path, tmp_path / "part")
    (tmp_path / "part" / "items.parquet").unlink()
    with pytest.raises(ValueError, match=r"lacks items\.parquet"):
        Store(tmp_path / "part")


def test_another_schema_version_is_refused(tmp_path, store_path):
    copy = tmp_path / "old"
    shutil.copytree(store_path, copy)
    environment = module.open_for_writing(copy / module.ARRAYS)
    with environment.begin(write=True) as transaction:
        transaction.put(b"meta", json.dumps({"schema_version": 0}).encode())
    environment.close()
    with pytest.raises(ValueError, match=r"schema version 0.*prepare"):
        Store(copy)


def _tokens_of(store: Store) -> int:
    return len(store.entry("dimr").tokens.token_residue)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_open_their_own(store_path, method):
    store = Store(store_path)
    assert _tokens_of(store) == 34
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_tokens_of, [store] * 4) == [34] * 4
    assert len(pickle.dumps(store)) < 1000


def test_two_readers_of_one_process_share_the_file(store_path):
    assert (
        Store(store_path).entry("modr").structure.entry_id
        == Store(str(store_path)).entry("modr").structure.entry_id
    )


def test_a_process_reads_hundreds_of_stores(tmp_path, store_path):
    """Each takes address space, of which there are 128 TiB."""
    for number in range(200):
        copy = shutil.copytree(store_path, tmp_path / str(number))
        assert _tokens_of(Store(copy)) == 34
