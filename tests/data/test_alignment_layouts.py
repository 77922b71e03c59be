# SPDX-License-Identifier: Apache-2.0
"""OpenProteinSet's and ColabFold's layouts, written by hand after the real ones, and real files."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from handmade import CORPUS, dictionary

from foldwright.data.alignment_formats import a3m_row
from foldwright.data.alignment_layouts import layout_key, read_layout, split_row
from foldwright.data.entry_alignments import read_msas
from foldwright.data.mmcif import read_structure
from foldwright.data.prepare import main
from foldwright.data.sources import find_sources
from foldwright.data.store import Store
from foldwright.vocabulary import GAP, MSA_LETTERS, MoleculeType

GREEN, RED = "GASVLAGSTAVL", "AVVGSL"
UNIREF = ">UniRef90_A0 x n=1 Tax=Some TaxID={} RepID=X\n"
COLABFOLD = f"""#12,6\t1,1
>101\t102
{GREEN}{RED}
>UniRef100_A\tUniRef100_B
GASVLAGSTAVIkkAVVGS-
>UniRef100_C
GASVLAGSTAVV------
>101
{GREEN}------
>one
GASVL-GSTAVLqq------
>102
------------{RED}
>two
------------AV-GSL
>three
------------AVVGSI
"""


def codes(row: str) -> list[int]:
    return [MSA_LETTERS[MoleculeType.PROTEIN][letter] for letter in row]


@pytest.fixture
def structures(tmp_path, writer_of):
    """1abc: two chains of GREEN and one of RED; 2xyz: one of GREEN."""
    names = {"G": "GLY", "A": "ALA", "S": "SER", "V": "VAL", "L": "LEU", "T": "THR"}
    green, red = ([names[letter] for letter in sequence] for sequence in (GREEN, RED))
    folder = tmp_path / "mmcif"
    writer_of["new"]("1abc").protein("A", green, 0.0).protein("B", red, 7.0).protein("C", green, 14.0).write(
        folder
    )
    writer_of["new"]("2xyz").protein("A", green, 0.0).write(folder)
    return folder


def prepared(structures: Path, msas: Path) -> Store:
    out = msas.with_name("store")
    arguments = [
        "--structures",
        structures,
        "--msas",
        msas,
        "--out",
        out,
        "--workers",
        1,
        "--n-conformers",
        1,
    ]
    assert main([str(argument) for argument in arguments]) == 0
    return Store(out)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(("path", "key"), [
    ("x/1abc_A/a3m/uniref90_hits.a3m", ("1abc_A", False)),
    ("x/1abc_A/bfd_uniclust_hits.a3m.gz", ("1abc_A", False)),
    ("x/1abc_A/hhr/pdb70_hits.hhr", ("1abc_A", True)),
    ("x/1abc_A/mgnify_hits.sto", ("1abc_A", False)),
    ("x/1abc_env/uniref.a3m", ("1abc", False)),
    ("x/1abc_pairgreedy/pair.a3m", ("1abc", False)),
    ("x/1abc_env/bfd.mgnify30.metaeuk30.smag30.a3m", ("1abc", False)),
    ("x/1abc_A.a3m", None),
])  # fmt: skip
def test_files_of_layouts_are_told_by_their_names(path, key):
    assert layout_key(Path(path)) == key


def test_open_protein_set_is_read_as_it_is(structures, tmp_path):
    """Folders carry the authors' chain names, which here are nobody's; 2xyz_Q shares the folder of 1abc_X."""
    folder = tmp_path / "set"
    query = f">q\n{GREEN}\n"
    write(folder / "1abc_X/a3m/mgnify_hits.a3m", query + f">m\n{GREEN[:-1]}V\n")
    write(folder / "1abc_X/a3m/uniref90_hits.a3m", query + UNIREF.format(7) + GREEN[:-1] + "I\n")
    write(folder / "1abc_X/a3m/bfd_uniclust_hits.a3m", query + f">b\n{GREEN[:-1]}T\n")
    write(folder / "1abc_Y/uniref90_hits.sto",
          "# STOCKHOLM 1.0\nq/1-6 AV.VGSL\ns/1-7 AVaVGSI\n#=GS s/1-7 DE x TaxID=7 y\n//\n")  # fmt: skip
    write(folder / "9zzz_A/a3m/mgnify_hits.a3m", query)
    write(folder / "duplicate_pdb_chains.txt", "1abc_X 2xyz_Q 8www_A\n")
    assert find_sources(structures, folder).unmatched == ["9zzz_A/mgnify_hits.a3m"]
    store = prepared(structures, folder)
    depths = dict(
        zip(*(store.manifest()[name].to_pylist() for name in ("entry", "chain_msa_depths")), strict=True)
    )
    assert depths == {"1abc": [3, 1, 3], "2xyz": [4]}  # without what is paired
    green, red = (store.msas("1abc", [entity])[entity] for entity in (0, 1))
    assert [row.tolist() for row in green.rows[1:]] == [codes(GREEN[:-1] + letter) for letter in "TV"]
    assert store.paired_species("1abc") == ["7"]
    assert green.paired_rows.tolist() == [codes(GREEN[:-1] + "I")]
    assert red.paired_rows.tolist() == [codes("AVVGSI")]
    assert red.paired_deletions[0].tolist() == [0, 0, 1, 0, 0, 0]


def test_a_colabfold_file_of_a_complex(structures, tmp_path):
    write(tmp_path / "msa" / "1abc.a3m", COLABFOLD)
    store = prepared(structures, tmp_path / "msa")
    green, red = (store.msas("1abc", [entity])[entity] for entity in (0, 1))
    assert store.paired_species("1abc") == ["#1", "#2"]  # the second pairs the two copies of GREEN
    assert green.paired_rows.tolist() == [codes("GASVLAGSTAVI"), codes("GASVLAGSTAVV")]
    assert red.paired_rows.tolist() == [codes("AVVGS-"), codes("------")]
    assert codes("GASVL-GSTAVL") in green.rows.tolist()
    assert [row.tolist() for row in red.rows] == [codes(RED), codes("AV-GSL"), codes("AVVGSI")]
    rows = {row["entry"]: row for row in store.manifest().to_pylist()}
    assert rows["2xyz"]["chain_msa_depths"] == [0]


def test_what_colabfolds_server_answers(structures, tmp_path):
    folder = tmp_path / "msa" / "1abc_env"
    write(folder / "uniref.a3m", f">101\n{GREEN}\n>u\n{GREEN[:-1]}I\n\0>102\n{RED}\n>v\nAVVGSI\n\0")
    write(
        folder / "bfd.mgnify30.metaeuk30.smag30.a3m", f">101\n{GREEN}\n>w\n{GREEN[:-1]}V\n\0>102\n{RED}\n\0"
    )
    write(tmp_path / "msa" / "1abc_pairgreedy" / "pair.a3m",
          f">101\n{GREEN}\n>p\nGASVLAGSTAAA\n\0>102\n{RED}\n>r\nAVVAAA\n\0")  # fmt: skip
    searches = {
        search.main.sequences[0]: search for search in read_layout(sorted((tmp_path / "msa").rglob("*.a3m")))
    }
    assert searches[GREEN.encode()].main.sequences[1:] == [b"GASVLAGSTAVI", b"GASVLAGSTAVV"]
    assert searches[RED.encode()].main.sequences[1:] == [b"AVVGSI"]
    assert {search.pairing.species[1] for search in searches.values()} == {"#1"}
    store = prepared(structures, tmp_path / "msa")
    assert store.msas("1abc", [0])[0].paired_rows.tolist() == [codes("GASVLAGSTAAA")]
    assert store.msas("1abc", [1])[1].paired_rows.tolist() == [codes("AVVAAA")]
    assert store.msas("1abc", [0])[0].rows.tolist()[1:] == [codes("GASVLAGSTAVI"), codes("GASVLAGSTAVV")]


def test_rows_are_split_at_the_chains():
    assert split_row(b"aAb-CcD", [2, 2]) == [b"aAb-", b"CcD"]
    assert split_row(b"ABccDE", [2, 2]) == [b"ABcc", b"DE"]
    with pytest.raises(ValueError, match="5 columns, the chains have 4"):
        split_row(b"ABCDE", [2, 2])


def test_damaged_layouts_are_noted_and_the_entry_stays(structures, tmp_path):
    write(tmp_path / "msa" / "1abc.a3m", COLABFOLD.replace("GASVLAGSTAVV------", "GASVLAGSTAVV----"))
    write(tmp_path / "msa" / "2xyz_A" / "uniref90_hits.a3m", ">q\nWWWWWW\n")
    files = find_sources(structures, tmp_path / "msa").of_entry
    for entry, reason, detail in (
        ("1abc", "msa_mismatch", "16 columns, the chains have 18"),
        ("2xyz", "msa_without_chain", "no chain has the sequence WWWWWW"),
    ):
        msas = read_msas(read_structure(files[entry].structure, dictionary()), files[entry], 100)
        assert not msas.of_entity
        assert [note.reason for note in msas.notes] == [reason]
        assert detail in msas.notes[0].detail


def test_a_stockholm_row_in_a3m():
    column = np.array([True, False, True, True, False])
    assert a3m_row(b"Aa.-C", column) == b"Aa--c"


@pytest.mark.corpus
def test_real_files_of_open_protein_set(tmp_path):
    """Haemoglobin's alpha chain under its author name: three databases joined, in 4hhb."""
    source = CORPUS / "msa" / "protein" / "1a00_A"
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    names = {"uniref90": "uniref90_hits", "bfd_uniclust": "bfd_uniclust_hits", "mgnify": "mgnify_hits"}
    folder = tmp_path / "set" / "4hhb_A" / "a3m"
    folder.mkdir(parents=True)
    n_rows = 0
    for name, theirs in names.items():
        text = gzip.decompress((source / f"{name}.a3m.gz").read_bytes())
        (folder / f"{theirs}.a3m").write_bytes(text)
        n_rows += text.count(b"\n>")  # all records but the first
    (tmp_path / "mmcif").mkdir()
    shutil.copy(CORPUS / "mmcif" / "4hhb.cif.gz", tmp_path / "mmcif")
    files = find_sources(tmp_path / "mmcif", tmp_path / "set").of_entry["4hhb"]
    searches = read_layout(files.searches)
    assert len(searches) == 1
    assert len(searches[0].main.sequences) == 1 + n_rows
    msas = read_msas(read_structure(files.structure, dictionary()), files, 16384)
    assert list(msas.of_entity) == [0]
    assert not msas.notes
    assert (msas.of_entity[0].rows[0] != GAP).all()
    assert msas.depth(0) > 1000
