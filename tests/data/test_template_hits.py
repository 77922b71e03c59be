# SPDX-License-Identifier: Apache-2.0
import gzip
import re

import numpy as np
import pytest
from damage import damaged
from handmade import CORPUS

from foldwright.data.alignment_formats import fasta_records, read_bytes, split_stockholm
from foldwright.data.template_hits import parse_a3m_hits, parse_hhr, parse_stockholm_hits, read_hits

QUERY = "MKVLAWGSTA"
HHR = """Query         query
Match_columns 10
No_of_seqs    1 out of 1
Neff          1
Searched_HMMs 3
Date          today
Command       hhsearch

 No Hit                             Prob E-value P-value  Score    SS Cols Query HMM  Template HMM
  1 1ABC_A a protein                99.8 2.0E-05 2.3E-30  158.4   0.0    6    2-9       5-11 (40)
  2 2XYZ_bB another                 99.8 1.0E-05 3.9E-30  157.6   0.0   10    1-10      1-10 (10)
  3 UniRef100_P1 no structure       99.8 1.0E-06 3.9E-30  157.6   0.0    4    1-4       1-4  (10)

No 1
>1ABC_A a protein
Probab=99.84  E-value=2.0E-05  Score=158.43  Aligned_cols=6  Identities=65%  Similarity=1.058  Sum_probs=5.2

Q query             2 KVLA-WGST    9 (10)
Q Consensus         2 ~vla-wgst    9 (10)
                      +||+  +
T Consensus         5 ~vlsp~~-~   11 (40)
T 1ABC_A            5 KV-APWG-T   11 (40)


No 2
>2XYZ_bB another
Probab=99.84  E-value=1.0E-05  Score=157.55  Aligned_cols=10  Identities=59%  Similarity=0.971  Sum_probs=9.3

Q query             1 MKVLAWGSTA   10 (10)
Q Consensus         1 ~~~~~~~~~~   10 (10)
                      ++++++++++
T Consensus         1 ~~~~~~~~~~   10 (10)
T 2XYZ_bB           1 MKILAYGSTA   10 (10)


No 3
>UniRef100_P1 no structure
Probab=99.84  E-value=1.0E-06  Score=157.55  Aligned_cols=4  Identities=59%  Similarity=0.971  Sum_probs=3.3

Q query             1 MKVL    4 (10)
Q Consensus         1 ~~~~    4 (10)
                      ++++
T Consensus         1 ~~~~    4 (10)
T UniRef100_P1      1 MKIL    4 (10)

"""
A3M = """>1abc_A/5-11 [subseq from] mol:protein length:40  A PROTEIN
-KV-ApWG-T
-
>query_A/1-10
MKVLAWGSTA
>2xyz_bB/1-10 [subseq from]
MKILAYGSTA
"""
STOCKHOLM = """# STOCKHOLM 1.0
#=GS 1abc_A/5-11 DE [subseq from] mol:protein length:40

1abc_A/5-11  -KV-Ap
#=GR 1abc_A/5-11 PP 999999
2xyz_bB/1-10 MKILA.
#=GC RF      xxxxx.

1abc_A/5-11  WG-T-
#=GR 1abc_A/5-11 PP 99999
2xyz_bB/1-10 YGSTA
#=GC RF      xxxxx
//
"""
TEXTS = {"hhr": HHR, "a3m": A3M, "sto": STOCKHOLM}


def as_tuples(hits):
    return [(h.entry, h.chain, h.start, h.sequence, h.query.tolist(), h.positions.tolist()) for h in hits]


FIRST = ("1abc", "A", 4, "KVAPWGT", [1, 2, 4, 5, 6, 8], [0, 1, 2, 4, 5, 6])
SECOND = ("2xyz", "bB", 0, "MKILAYGSTA", list(range(10)), list(range(10)))


def test_hhr_hits_are_sorted_by_e_value_and_others_passed_over():
    assert as_tuples(parse_hhr(HHR.encode(), QUERY)) == [SECOND, FIRST]


def test_hmmsearch_hits_keep_their_order():
    assert as_tuples(parse_a3m_hits(A3M.encode(), QUERY)) == [FIRST, SECOND]
    assert as_tuples(parse_stockholm_hits(STOCKHOLM.encode(), QUERY)) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_hhr, "", "no readable hhr"),
        (parse_hhr, A3M, "no readable hhr"),
        (parse_hhr, HHR.replace("columns 10", "columns 11"), "query of 11 residues, the chain has 10"),
        (parse_hhr, HHR.replace("KVLA-WGST", "KVLA-WYST"), "not the chain's sequence"),
        (parse_hhr, HHR.replace("KV-APWG-T", "KV-APWG-"), "(?i)lengths do not match|rows of 9"),
        (parse_hhr, HHR.replace("KV-APWG-T", "KVAAPWG-T"), "do not hold the residues"),
        (parse_hhr, HHR[: HHR.index("No 3")], "2 alignments for the 3 hits"),
        (parse_hhr, HHR[: HHR.index("\n\nNo 2")].replace("11 (40)\n", ""), "alignments for the 3|readable"),
        (parse_hhr, HHR.replace("E-value=2.0E-05", "E-value=nan"), "E-value"),
        (parse_a3m_hits, "", "no record"),
        (parse_a3m_hits, A3M.replace("-KV-ApWG-T\n-", "-KV-ApWG-T"), "has 9 columns, the chain has 10"),
        (parse_a3m_hits, A3M.replace("/5-11", "/5-12"), "has 7 residues, its range"),
        (parse_a3m_hits, A3M.replace("KILAY", "K1LAY"), "one-letter code"),
        (parse_stockholm_hits, STOCKHOLM.replace("/5-11", "/5-12"), "has 7 residues, its range"),
        (parse_stockholm_hits, STOCKHOLM[:-3], "cut short"),
        (parse_stockholm_hits, STOCKHOLM.replace("xxxxx.", "xxxxxx"), "has 11 columns, the chain has 10"),
    ],
)
def test_damaged_hits_are_refused(parse, text, message):
    with pytest.raises(ValueError, match=message):
        parse(text.encode(), QUERY)


@pytest.mark.parametrize("ending", TEXTS)
def test_fuzzed_files_are_refused_or_read_as_they_were(tmp_path, ending):
    """Gzipped files carry a checksum: nothing may change in silence."""
    path = tmp_path / f"x.{ending}.gz"
    good = gzip.compress(TEXTS[ending].encode())
    path.write_bytes(good)
    expected = as_tuples(read_hits(path, QUERY))
    for data in damaged(good, 200):
        path.write_bytes(data)
        try:
            assert as_tuples(read_hits(path, QUERY)) == expected
        except ValueError as error:
            assert path.name in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("parse", "text"), [(parse_hhr, HHR), (parse_a3m_hits, A3M), (parse_stockholm_hits, STOCKHOLM)]
)
def test_damaged_text_gives_an_error_or_well_formed_hits(parse, text):
    for data in damaged(text.encode(), 600):
        try:
            hits = parse(data, QUERY)
        except ValueError:
            continue
        for hit in hits:
            assert (np.diff(hit.query) > 0).all()
            assert (np.diff(hit.positions) > 0).all()
            assert len(hit.query) == len(hit.positions)
            assert 0 <= hit.query.min(initial=0) <= hit.query.max(initial=0) < len(QUERY)
            assert hit.positions.max(initial=0) < len(hit.sequence)


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ending in '\.txt'"):
        read_hits(tmp_path / "x.txt", QUERY)


def _corpus(pattern: str):
    if not CORPUS.is_dir():
        pytest.skip(f"{CORPUS} is not there")
    return sorted((CORPUS / "templates").glob(pattern))


@pytest.mark.corpus
def test_real_hhr_files_against_their_own_summary_tables():
    for path in _corpus("*.hhr.gz"):
        text = gzip.decompress(path.read_bytes()).decode()
        length = int(re.search(r"Match_columns\s+(\d+)", text)[1])
        hits = read_hits(path, "X" * length)
        table = text.partition("\n\nNo 1")[0]
        pattern = r"^ *\d+ (\w{4})_(\w+)[ ;].* (\d+) +(\d+)-\d+ +(\d+)-\d+ *\(\d+\)$"
        rows = re.findall(pattern, table, re.MULTILINE)
        expected = {(entry.lower(), chain, *map(int, numbers)) for entry, chain, *numbers in rows}
        found = {(h.entry, h.chain, len(h.query), int(h.query[0]) + 1, h.start + 1) for h in hits}
        # a hit may begin with a gap in one row; nearly all begin with an aligned pair
        assert len(found & expected) >= 0.9 * len(expected)
        assert path.name.startswith("1paz") or len(hits) >= 10


@pytest.mark.corpus
def test_real_hmmsearch_files_letter_by_letter():
    for path in _corpus("*hmmsearch.a3m.gz"):
        headers, rows = fasta_records(read_bytes(path))
        length = sum(not chr(letter).islower() for letter in rows[0])
        hits = read_hits(path, "X" * length)
        assert len(hits) == len(headers)
        for hit, row in list(zip(hits, rows, strict=True))[:200]:
            aligned = "".join(letter for letter in row.decode() if not letter.islower())
            rebuilt = ["-"] * length
            for column, position in zip(hit.query, hit.positions, strict=True):
                rebuilt[column] = hit.sequence[position]
            assert "".join(rebuilt) == aligned
    for path in _corpus("*.sto.gz"):
        file = split_stockholm(read_bytes(path))
        marks = [mark not in b".-" for mark in file.reference]
        hits = read_hits(path, "X" * sum(marks))
        assert len(hits) == len(file.names)
        for hit, row in list(zip(hits, file.sequences, strict=True))[:200]:
            aligned = "".join(chr(letter) for letter, mark in zip(row, marks, strict=True) if mark)
            rebuilt = ["-"] * len(aligned)
            for column, position in zip(hit.query, hit.positions, strict=True):
                rebuilt[column] = hit.sequence[position]
            assert "".join(rebuilt) == aligned.upper().replace(".", "-")


@pytest.mark.corpus
def test_files_that_are_not_aligned_with_the_query_are_refused():
    for path in _corpus("of3_a3m_*realign.a3m.gz"):
        with pytest.raises(ValueError, match="columns, the chain has"):
            read_hits(path, "X" * 256)
