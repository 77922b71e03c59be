# SPDX-License-Identifier: Apache-2.0
"""Damaged structures and stores: an error that says so, or what was there before; never a crash or a hang."""

import gzip
import shutil
from collections import Counter
from dataclasses import fields

import numpy as np
import pyarrow.parquet as pq
import pytest
from damage import damaged
from handmade import dictionary, mmcif_text

from foldwright.data.alignment_layouts import read_layout
from foldwright.data.filters import Rejection
from foldwright.data.mmcif import read_structure
from foldwright.data.store import ARRAYS, ITEMS, MANIFEST, Store, entry_key
from foldwright.data.structure import Structure
from foldwright.data.tables import read_table


def check(structure: Structure) -> None:
    """What holds for every structure, whatever the file said."""
    chains, residues, atoms = (
        len(structure.chain_name),
        len(structure.residue_chain),
        len(structure.atom_name),
    )
    for field in fields(Structure):
        size = {"chain": chains, "residue": residues, "atom": atoms}.get(field.name.split("_")[0])
        assert size is None or len(getattr(structure, field.name)) == size, field.name
    assert np.isfinite(structure.atom_coords).all()
    assert (np.diff(structure.atom_residue) >= 0).all()
    assert structure.atom_residue[-1] == residues - 1
    assert structure.residue_chain[-1] == chains - 1
    assert structure.bonds.max(initial=0) < max(atoms, 1)


@pytest.mark.timeout(60)
def test_damaged_structures_are_refused_or_well_formed(tmp_path):
    path, outcomes = tmp_path / "x.cif", Counter()
    for data in damaged(mmcif_text().encode(), 300):
        path.write_bytes(data)
        try:
            check(read_structure(path, dictionary()))
            outcomes["read"] += 1
        except ValueError as error:
            assert "x.cif" in str(error)  # noqa: PT017
            outcomes["refused"] += 1
        except Rejection:
            outcomes["rejected"] += 1
    assert outcomes["refused"] > 100
    assert outcomes["read"] > 20  # a flipped bit of a coordinate is another coordinate


@pytest.mark.timeout(60)
def test_no_damage_to_a_gzipped_structure_goes_unseen(tmp_path):
    text = mmcif_text().encode()
    path = tmp_path / "x.cif.gz"
    for data in damaged(gzip.compress(text, mtime=0), 200):
        path.write_bytes(data)
        try:
            structure = read_structure(path, dictionary())
        except ValueError as error:
            assert "x.cif.gz" in str(error)  # noqa: PT017
            continue
        assert gzip.decompress(data) == text  # gzip's header has bytes without meaning
        check(structure)


def test_damaged_colabfold_files_are_refused_or_well_formed(tmp_path):
    text = b"#6,4\t1,1\n>101\t102\nACDEFGHIKL\n>a\nAC-EFaaGHIKL\n>101\nACDEFG----\n>b\nACDEFG----\n"
    path = tmp_path / "x.a3m"
    for data in damaged(text, 300):
        path.write_bytes(data)
        try:
            searches = read_layout([path])
        except ValueError as error:
            assert "x.a3m" in str(error)  # noqa: PT017
            continue
        for search in searches:
            assert len(search.main.sequences) == len(search.main.species) > 0
            assert len(search.pairing.sequences) == len(search.pairing.species) > 0


@pytest.mark.parametrize("name", [MANIFEST, ITEMS])
@pytest.mark.timeout(60)
def test_damaged_tables_are_refused_or_as_they_were(store_path, tmp_path, name):
    whole = read_table(store_path / name)
    data = (store_path / name).read_bytes()
    refused = 0
    for number, broken in enumerate(damaged(data, 400)):
        path = tmp_path / f"{number}.parquet"  # Arrow maps files
        path.write_bytes(broken)
        try:
            table = read_table(path)
        except ValueError as error:
            assert "prepare the store again" in str(error)  # noqa: PT017
            refused += 1
            continue
        assert table.equals(whole)
    assert refused > 250


def test_a_table_of_fewer_rows_than_were_written_is_refused(store_path, tmp_path):
    pq.write_table(pq.read_table(store_path / ITEMS).slice(1), tmp_path / ITEMS)
    with pytest.raises(ValueError, match="not as it was written"):
        read_table(tmp_path / ITEMS)


def test_a_flipped_bit_in_a_record_is_found(store_path, tmp_path):
    """Bits flipped within the stored values themselves, found in the file by their bytes."""
    data = (store_path / ARRAYS).read_bytes()
    value = Store(store_path)._get(entry_key("modr"), "modr")
    start = data.index(value[:64])
    rng = np.random.default_rng(0)
    for number, offset in enumerate(rng.integers(0, min(len(value), 3000), 40).tolist()):
        copy = tmp_path / str(number)
        shutil.copytree(store_path, copy)
        broken = bytearray(data)
        broken[start + offset] ^= 1 << int(rng.integers(8))
        (copy / ARRAYS).write_bytes(broken)
        with pytest.raises(ValueError, match=r"prepare|again"):
            Store(copy).entry("modr")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_store_cut_short_is_refused(store_path, tmp_path, share):
    copy = tmp_path / "store"
    shutil.copytree(store_path, copy)
    data = (copy / ARRAYS).read_bytes()
    (copy / ARRAYS).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="damaged"):
        Store(copy)
    (copy / ARRAYS).write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        Store(copy)
