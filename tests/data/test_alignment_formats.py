# SPDX-License-Identifier: Apache-2.0
import csv
import gzip
import io
import re

import numpy as np
import pytest
from Bio import AlignIO
from damage import damaged
from handmade import CORPUS

from foldwright.data.alignment_formats import (
    parse_a3m,
    parse_csv,
    parse_stockholm,
    read_alignment,
    split_stockholm,
)
from foldwright.vocabulary import GAP, MSA_LETTERS, RESTYPE_INDEX, MoleculeType

PROTEIN, RNA = MoleculeType.PROTEIN, MoleculeType.RNA


def codes(sequence: str, kind: MoleculeType = PROTEIN) -> np.ndarray:
    return np.array([MSA_LETTERS[kind][letter] for letter in sequence], np.uint8)


def parse_by_hand(text: str) -> tuple[list[str], list[list[int]]]:
    """The plainest a3m reader: letter by letter."""
    rows, deletions = [], []
    for record in re.split(r"^>", text, flags=re.MULTILINE)[1:]:
        row, counts, pending = "", [], 0
        for letter in "".join(record.split("\n")[1:]).replace("\x00", ""):
            if letter.islower():
                pending += 1
            elif letter != ".":
                row, pending = row + letter, (counts.append(pending), 0)[1]
        rows.append(row)
        deletions.append(counts)
    return rows, deletions


TEXT = "# a comment\n>query\nMKVL\n>a b->c\nM-VL\n>b\nmmMKaaaVLll\n>c\n.-k\n.KV-\n"
STOCKHOLM = """# STOCKHOLM 1.0
#=GF ID query
#=GS sp|P1|AA_HUMAN/1-4 DE a thing OS=Homo sapiens OX=9606

query             MK-V
sp|P1|AA_HUMAN/1-4 m.AV
#=GR query PP     9999
b                 --aa
#=GC RF           xx.x

query             ..L-
#=GR query PP     9999
sp|P1|AA_HUMAN/1-4 YY-W
b                 y.LW
#=GC RF           ..x.
//
"""
KEYED = "key,sequence\n0,MKVL\n7,MaaK-L\n-1,mMKVL\n0,M-VL\n"


def test_a3m_agrees_with_a_reader_by_hand():
    alignment = parse_a3m(TEXT.encode(), PROTEIN)
    by_hand, counts = parse_by_hand(TEXT.replace("# a comment\n", ""))
    np.testing.assert_array_equal(alignment.rows, [codes(row) for row in by_hand])
    np.testing.assert_array_equal(alignment.deletions, counts)
    assert alignment.deletions[2].tolist() == [2, 0, 3, 0]
    assert alignment.deletions[3].tolist() == [0, 1, 0, 0]


def test_stockholm_columns_are_the_querys_residues():
    alignment = parse_stockholm(STOCKHOLM.encode(), PROTEIN)
    np.testing.assert_array_equal(alignment.rows, [codes("MKVL"), codes("M-V-"), codes("--AL")])
    # query MK-V..L-: row 2 has A left of V and YY left of L; what follows the last column is not counted
    assert alignment.deletions.tolist() == [[0, 0, 0, 0], [0, 0, 1, 2], [0, 0, 1, 1]]
    assert alignment.species == ("", "9606", "")


def test_stockholm_rows_are_biopythons():
    file = split_stockholm(STOCKHOLM.encode())
    for record, name, sequence in zip(
        AlignIO.read(io.StringIO(STOCKHOLM), "stockholm"), file.names, file.sequences, strict=True
    ):
        assert record.id == name.decode()
        assert str(record.seq).upper().replace(".", "-") == sequence.decode().upper().replace(".", "-")
    assert file.reference == b"xx.x..x."


def test_keyed_rows():
    alignment = parse_csv(KEYED.encode(), PROTEIN)
    np.testing.assert_array_equal(
        alignment.rows, [codes("MKVL"), codes("MK-L"), codes("MKVL"), codes("M-VL")]
    )
    assert alignment.deletions.tolist() == [[0, 0, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert alignment.species == ("", "#7", "", "#0")


def test_letters_of_af3():
    rows = parse_a3m(b">q\nBZUJOX-A\n", PROTEIN).rows
    names = ["ASP", "GLU", "CYS", "UNK", "UNK", "UNK", "-", "ALA"]
    assert rows[0].tolist() == [RESTYPE_INDEX[name] for name in names]
    rows = parse_a3m(b">q\nACGTUN\n", RNA).rows
    assert rows[0].tolist() == [RESTYPE_INDEX[name] for name in ["A", "C", "G", "U", "U", "N"]]


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_a3m, "", "no sequence"),
        (parse_a3m, ">q\n\n>a\nMK\n", "no sequence"),
        (parse_a3m, ">q\nMKV\n>a\nMK\n", "got 2 aligned columns in sequence 2"),
        (parse_a3m, ">q\nMK1\n", "'1' in sequence 1"),
        (parse_a3m, ">q\nMKV\n>a\n", "got 0 aligned columns in sequence 2"),
        (parse_a3m, "MKV\n>a\nMKV\n", "before the first record"),
        (parse_stockholm, "", "first line"),
        (parse_stockholm, TEXT, "# STOCKHOLM"),
        (parse_stockholm, "# STOCKHOLM 1.0\n//\n", "no sequence"),
        (parse_stockholm, STOCKHOLM[:-3], "cut short"),
        (parse_stockholm, STOCKHOLM + STOCKHOLM, "holds more"),
        (parse_stockholm, STOCKHOLM.replace("y.LW", "y.L"), "'b' has 7 columns, the first 8"),
        (parse_stockholm, STOCKHOLM.replace("b                 y", "query y"), "columns"),
        (parse_stockholm, STOCKHOLM.replace("y.LW", "y.L*"), "'\\*' in sequence 3"),
        (parse_stockholm, STOCKHOLM.replace("y.LW", ""), "expected a name and a sequence"),
        (parse_stockholm, STOCKHOLM.replace("..x.", "..x"), "RF' has 7 columns"),
        (parse_stockholm, "# STOCKHOLM 1.0\nq ---\n//\n", "without residues"),
        (parse_csv, "", "key,sequence"),
        (parse_csv, "sequence,key\nMK,0\n", "key,sequence"),
        (parse_csv, "key,sequence\n", "no sequence"),
        (parse_csv, KEYED + "x,MKVL\n", "line 6"),
        (parse_csv, KEYED + "3\n", "line 6"),
        (parse_csv, KEYED + "3,MK\n", "got 2 aligned columns in sequence 5"),
    ],
)
def test_malformed_alignments_are_refused(parse, text, message):
    with pytest.raises(ValueError, match=message):
        parse(text.encode(), PROTEIN)


@pytest.mark.parametrize(("ending", "text"), [("a3m", TEXT), ("sto", STOCKHOLM), ("csv", KEYED)])
def test_read_plain_gzip_and_damaged_files(tmp_path, ending, text):
    plain, packed = tmp_path / f"a_A.{ending}", tmp_path / f"a_A.{ending}.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    good = read_alignment(plain, PROTEIN)
    np.testing.assert_array_equal(good.rows, read_alignment(packed, PROTEIN).rows)
    for data in damaged(gzip.compress(text.encode()), 200):  # refused with the file's name, or read as it was
        packed.write_bytes(data)
        try:
            again = read_alignment(packed, PROTEIN)
        except ValueError as error:
            assert packed.name in str(error)  # noqa: PT017
            continue
        np.testing.assert_array_equal(again.rows, good.rows)
        assert again.species == good.species


@pytest.mark.parametrize(
    ("parse", "text"), [(parse_a3m, TEXT), (parse_stockholm, STOCKHOLM), (parse_csv, KEYED)]
)
def test_damaged_text_gives_an_error_or_a_well_formed_alignment(parse, text):
    for data in damaged(text.encode(), 600):
        try:
            alignment = parse(data, PROTEIN)
        except ValueError:
            continue
        assert alignment.rows.shape == alignment.deletions.shape
        assert len(alignment.species) == len(alignment.rows) > 0
        assert alignment.rows.max() <= GAP


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ending in '\.fasta'"):
        read_alignment(tmp_path / "a.fasta.gz", PROTEIN)


def _files(pattern: str):
    if not CORPUS.is_dir():
        pytest.skip(f"{CORPUS} is not there")
    return sorted((CORPUS / "msa").glob(pattern))


@pytest.mark.corpus
def test_deletion_counts_of_real_a3m_files():
    for path in _files("protein/*/bfd_uniclust.a3m.gz")[:3]:
        alignment = read_alignment(path, PROTEIN)
        rows, counts = parse_by_hand(gzip.decompress(path.read_bytes()).decode())
        assert alignment.deletions.sum() > 0
        np.testing.assert_array_equal(alignment.deletions, counts)
        np.testing.assert_array_equal(alignment.rows, [codes(row) for row in rows])


@pytest.mark.corpus
def test_rfam_seeds_are_read_as_biopython_reads_them():
    compared = 0
    for path in _files("rfam_3d_seed/*.sto.gz")[:20]:
        text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        alignment = read_alignment(path, RNA)
        try:
            records = AlignIO.read(io.StringIO(text), "stockholm")
        except ValueError:  # names that are repeated: count the rows instead
            rows = [line for line in text.splitlines() if line and line[0] not in "#/"]
            assert len(alignment.rows) == len(rows)
            continue
        compared += 1
        matrix = np.array([list(str(record.seq).upper()) for record in records])
        column = ~np.isin(matrix[0], ["-", "."])
        expected = [codes("".join(row).replace(".", "-"), RNA) for row in matrix[:, column]]
        np.testing.assert_array_equal(alignment.rows, expected)
        inserted = np.cumsum(~np.isin(matrix, ["-", "."]) & ~column, axis=1)[:, column]
        np.testing.assert_array_equal(alignment.deletions, np.diff(inserted, axis=1, prepend=0))
    assert compared > 10


@pytest.mark.corpus
def test_a_real_keyed_file():
    for path in _files("protein/8c3u_A/*.csv.gz"):
        with gzip.open(path, "rt") as file:
            lines = list(csv.DictReader(file))
        alignment = read_alignment(path, PROTEIN)
        expected = [codes("".join(c for c in line["sequence"] if not c.islower())) for line in lines]
        np.testing.assert_array_equal(alignment.rows, expected)
        keys = ["" if int(line["key"]) < 0 else f"#{line['key']}" for line in lines]
        assert alignment.species == ("", *keys[1:])
