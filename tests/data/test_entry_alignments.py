# SPDX-License-Identifier: Apache-2.0
"""Alignments of an entry of two proteins, one in two copies, through the prepare command and the store."""

import json

import numpy as np
import pytest

from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.msa_blocks import BLOCK
from foldwright.data.prepare import main
from foldwright.data.sampler import SampleRequest
from foldwright.data.store import Store
from foldwright.vocabulary import GAP, MSA_LETTERS, RESTYPE_INDEX, MoleculeType

LONG = ["GLY", "ALA", "SER", "VAL", "LEU", "ALA", "GLY", "SER", "THR", "ALA", "VAL", "LEU"]
SHORT = ["LYS", "LYS", "ALA", "VAL", "GLY", "ALA"]
A_ROWS = [("q", "GASVLAGSTAVL"), ("x OX=9606", "GASVLAGSTAVV"), ("x OX=10090", "GASVLAGSTAaVM"),
          ("x", "GASVLAGSTAVF"), ("x OX=7", "GASVLAGSTAVC")]  # fmt: skip
C_ROWS = [("q", "KKAVGA"), ("x OX=10090", "KKAVGM"), ("x OX=9606", "KKAVGV"), ("x OX=562", "KKAVGE")]


def codes(sequence: str) -> list[int]:
    return [MSA_LETTERS[MoleculeType.PROTEIN][letter] for letter in sequence]


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f">{header}\n{sequence}\n" for header, sequence in rows))


def prepared(tmp_path, writer_of, msas=None) -> Store:
    writer = writer_of["new"]("pair").protein("A", LONG, 0.0).protein("B", LONG, 6.0)
    (tmp_path / "mmcif").mkdir(parents=True)
    writer.protein("C", SHORT, 12.0).write(tmp_path / "mmcif")
    arguments = ["--structures", tmp_path / "mmcif", "--msas", msas or tmp_path / "msa", "--out",
                 tmp_path / "store", "--workers", 1, "--n-conformers", 1]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    return Store(tmp_path / "store")


def test_rows_of_one_species_stand_side_by_side(tmp_path, writer_of):
    write(tmp_path / "msa" / "pair_B.a3m", A_ROWS)
    write(tmp_path / "msa" / "pair_C.a3m", C_ROWS)
    store = prepared(tmp_path, writer_of)
    # human and mouse are in three chains: 1 x 1 x 2 and 2 x 2 x 1; species 7 in the two copies of A alone
    assert store.paired_species("pair") == ["9606", "10090", "7"]
    msas = store.msas("pair", [0, 1])
    assert msas[0].paired_rows.tolist() == [
        codes("GASVLAGSTAVV"),
        codes("GASVLAGSTAVM"),
        codes("GASVLAGSTAVC"),
    ]
    assert msas[1].paired_rows.tolist() == [codes("KKAVGV"), codes("KKAVGM"), [GAP] * 6]
    assert msas[0].rows.tolist() == [codes("GASVLAGSTAVL"), codes("GASVLAGSTAVF")]
    assert msas[1].rows.tolist() == [codes("KKAVGA"), codes("KKAVGE")]
    assert msas[0].profile[11, RESTYPE_INDEX["VAL"]] == pytest.approx(1 / 5)  # of all rows, before pairing
    assert msas[0].deletion_mean[10] == pytest.approx(1 / 5)
    row = store.manifest().to_pylist()[0]
    assert (row["n_paired_rows"], row["chain_msa_depths"]) == (3, [2, 2, 2])
    batch = StoreDataset(DataConfig(root=str(store.path)), 0).full_example("pair", 1, 100).batch.check()
    expected = [codes("GASVLAGSTAV" + a) * 2 + b for a, b in
                zip("LVMCF", [codes("KKAVGA"), codes("KKAVGV"), codes("KKAVGM"), [GAP] * 6, codes("KKAVGE")],
                    strict=True)]  # fmt: skip
    assert batch.msa[0].tolist() == expected
    assert batch.deletion_count[0, 2].nonzero().flatten().tolist() == [10, 22]


def test_the_file_of_a_chain_that_was_dropped_serves_its_copies(tmp_path, writer_of):
    """As in a virus cut down to an interface: chain A is far away, A-4 is there."""
    write(tmp_path / "msa" / "pair_B.a3m", A_ROWS)
    write(tmp_path / "msa" / "pair_C.a3m", C_ROWS)
    named = prepared(tmp_path / "named", writer_of, tmp_path / "msa").msas("pair", [0, 1])
    (tmp_path / "msa" / "pair_C.a3m").rename(tmp_path / "msa" / "pair_R.a3m")
    write(tmp_path / "msa" / "pair_A-0.a3m", A_ROWS[:2])  # comes first, and is not needed: B has a file
    store = prepared(tmp_path / "dropped", writer_of, tmp_path / "msa")
    for entity, got in store.msas("pair", [0, 1]).items():
        np.testing.assert_array_equal(got.rows, named[entity].rows)
        np.testing.assert_array_equal(got.paired_rows, named[entity].paired_rows)
    left_out = json.loads((store.path / "report.json").read_text())["left_out_of_kept_entries"]
    assert {reason: cases["count"] for reason, cases in left_out.items()} == {"msa_without_chain": 1}
    assert "there is no chain 'A-0'" in left_out["msa_without_chain"]["examples"][0]


def test_a_file_for_pairing_leaves_the_profile_alone(tmp_path, writer_of):
    write(tmp_path / "msa" / "pair_A.a3m", [A_ROWS[0], ("x OX=562", "GASVLAGSTAVW")])
    write(tmp_path / "msa" / "pair_A.pairing.a3m", A_ROWS)
    text = "key,sequence\n0,KKAVGA\n4,KKAVGY\n"
    (tmp_path / "msa" / "pair_C.csv").write_text(text)
    write(tmp_path / "msa" / "pair_C.pairing.a3m", C_ROWS)
    store = prepared(tmp_path, writer_of)
    assert store.paired_species("pair") == ["9606", "10090", "7"]
    msas = store.msas("pair", [0, 1])
    assert msas[0].rows.tolist() == [codes("GASVLAGSTAVL"), codes("GASVLAGSTAVW")]
    assert msas[0].profile[11, RESTYPE_INDEX["TRP"]] == pytest.approx(1 / 2)
    assert msas[1].rows.tolist() == [codes("KKAVGA"), codes("KKAVGY")]


def test_rows_with_the_same_key_are_paired(tmp_path, writer_of):
    (tmp_path / "msa").mkdir()
    (tmp_path / "msa" / "pair_A.csv").write_text(
        "key,sequence\n0,GASVLAGSTAVL\n5,GASVLAGSTAVY\n-1,GASVLAGSTAVW\n"
    )
    (tmp_path / "msa" / "pair_C.csv").write_text("key,sequence\n0,KKAVGA\n3,KKAVGY\n5,KKAVGW\n")
    store = prepared(tmp_path, writer_of)
    assert store.paired_species("pair") == ["#5"]
    assert store.msas("pair", [1])[1].paired_rows.tolist() == [codes("KKAVGW")]


def test_one_protein_is_not_paired_and_damage_is_noted(tmp_path, writer_of):
    write(tmp_path / "msa" / "pair_A.a3m", A_ROWS)
    write(tmp_path / "msa" / "pair_C.pairing.a3m", C_ROWS)
    write(tmp_path / "msa" / "pair_B.pairing.a3m", [("q", "GASVL")])
    store = prepared(tmp_path, writer_of)
    assert store.paired_species("pair") == []
    assert store.msas("pair", [0])[0].paired_rows.shape == (0, 12)
    assert len(store.msas("pair", [0])[0].rows) == 5
    report = (store.path / "report.json").read_text()
    assert "pairing_without_msa" in report
    assert "pairing_mismatch" in report


def test_a_crop_reads_the_same_rows_as_the_whole_alignment(tmp_path, writer_of, monkeypatch):
    """A chain of three blocks of columns: the crop's features do not depend on what was left unread."""
    rng = np.random.default_rng(0)
    sequence = ["ALA", "GLY", "SER", "VAL"] * 40
    letters = "AGSV" * 40
    rows = [("q", letters)]
    rows += [(f"x{i}", "".join(rng.choice(list("AGSVLK-"), len(letters)))) for i in range(60)]
    write(tmp_path / "msa" / "long_A.a3m", rows)
    writer_of["new"]("long").protein("A", sequence, 0.0).write(tmp_path / "mmcif")
    arguments = ["--structures", tmp_path / "mmcif", "--msas", tmp_path / "msa", "--out", tmp_path / "store",
                 "--workers", 1, "--n-conformers", 1]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    dataset = StoreDataset(DataConfig(root=str(tmp_path / "store"), n_templates=0), 0)
    request = SampleRequest(3, 2, crop_tokens=20, crop_atoms=160, msa_rows=16)
    one = dataset[request]
    held = dataset.store.msas("long", [0], {0: one.token_index.numpy()})[0].columns
    assert len(held) in (BLOCK, 2 * BLOCK)
    whole = Store.msas
    monkeypatch.setattr(
        Store, "msas", lambda self, entry, entities, columns=None: whole(self, entry, entities)
    )
    two = dataset[request]
    assert (one.msa == two.msa).all()
    assert (one.profile == two.profile).all()
    assert (one.deletion_count == two.deletion_count).all()
