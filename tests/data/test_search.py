# SPDX-License-Identifier: Apache-2.0
"""Searches with the real programs over tiny databases of a random protein's and a random RNA's mutants."""

import os
import shutil
import time

import numpy as np
import pytest

from foldwright.data import search_programs
from foldwright.data.alignment_formats import read_alignment
from foldwright.data.search import SearchConfig, fasta_queries, main, search, store_queries
from foldwright.data.search_programs import stockholm_hits
from foldwright.data.store import Store
from foldwright.data.template_hits import read_hits
from foldwright.vocabulary import GAP, MSA_LETTERS, MoleculeType

needs_hmmer = pytest.mark.skipif(
    shutil.which("jackhmmer") is None, reason="needs HMMER's programs (apt-get install hmmer)"
)
needs_mmseqs = pytest.mark.skipif(
    shutil.which("mmseqs") is None, reason="needs the mmseqs program (apt-get install mmseqs2)"
)
AMINO_ACIDS, BASES = "ACDEFGHIKLMNPQRSTVWY", "ACGU"
N_PROTEIN, N_RNA = 90, 80


def drawn(letters: str, length: int, rng: np.random.Generator) -> str:
    return "".join(rng.choice(list(letters), length))


def mutated(sequence: str, letters: str, rng: np.random.Generator) -> str:
    """A tenth of the letters drawn anew, three letters inserted after the 40th, the 60th missing."""
    changed = [drawn(letters, 1, rng) if rng.random() < 0.1 else letter for letter in sequence]
    return "".join(changed[:40]) + drawn(letters, 3, rng) + "".join(changed[40:59] + changed[60:])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """queries.fasta (a protein in two entries, an RNA) and databases with three homologs of each."""
    folder, rng = tmp_path_factory.mktemp("databases"), np.random.default_rng(0)
    protein, rna = drawn(AMINO_ACIDS, N_PROTEIN, rng), drawn(BASES, N_RNA, rng)
    (folder / "queries.fasta").write_text(f">1abc_A\n{protein}\n>2xyz_B extra\n{protein}\n>1abc_C\n{rna}\n")
    others = "".join(f">other{i}\n{drawn(AMINO_ACIDS, 120, rng)}\n" for i in range(20))
    homologs = [mutated(protein, AMINO_ACIDS, rng) for _ in range(3)]
    named = [f">sp|P0000{i}|X_SPEC{i} OX={i + 1}\n{sequence}\n" for i, sequence in enumerate(homologs)]
    (folder / "one.fasta").write_text("".join(named[:2]) + others)
    (folder / "two.fasta").write_text(others + named[2])
    chains = [f">{i}xxx_A mol:protein length:{len(s)}\n{s}\n" for i, s in enumerate(homologs, 3)]
    (folder / "pdb.fasta").write_text("".join(chains) + others)
    strands = [mutated(rna, BASES, rng) for _ in range(3)]
    noise = "".join(f">n{i}\n{drawn('ACGT', 200, rng)}\n" for i in range(20))
    strands = "".join(f">r{i}\n{s.replace('U', 'T')}\n" for i, s in enumerate(strands))
    (folder / "rna.fasta").write_text(strands + noise)
    return folder, protein, rna


def files_of(out):
    return {path.name: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@needs_hmmer
def test_hmmer_finds_and_lays_out_all_homologs_and_does_nothing_twice(world, tmp_path, capsys):
    folder, protein, rna = world
    arguments = ["--fasta", folder / "queries.fasta", "--out", tmp_path, "--protein", folder / "one.fasta",
                 "--protein", folder / "two.fasta", "--pairing", folder / "two.fasta", "--threads", "1",
                 "--rna", folder / "rna.fasta", "--templates", folder / "pdb.fasta"]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    assert "2 unique sequences, 4 searches done now" in capsys.readouterr().out
    for name in ("1abc_A", "2xyz_B"):
        alignment = read_alignment(tmp_path / "msas" / f"{name}.a3m", MoleculeType.PROTEIN)
        codes = [MSA_LETTERS[MoleculeType.PROTEIN][letter] for letter in protein]
        assert alignment.rows[0].tolist() == codes
        assert len(alignment.rows) == 4
        assert set(alignment.species) == {"", "1", "2", "3"}
        assert ((alignment.rows[1:] == codes).mean(axis=1) > 0.8).all()
        assert alignment.deletions[1:, 37:44].sum(axis=1).tolist() == [3, 3, 3]
        pairing = read_alignment(tmp_path / "msas" / f"{name}.pairing.a3m", MoleculeType.PROTEIN)
        assert pairing.species == ("", "3")
        hits = read_hits(tmp_path / "templates" / f"{name}.sto", protein)
        assert {(hit.entry, hit.chain) for hit in hits} == {("3xxx", "A"), ("4xxx", "A"), ("5xxx", "A")}
    strands = read_alignment(tmp_path / "msas" / "1abc_C.a3m", MoleculeType.RNA)
    assert strands.rows.shape == (4, len(rna))
    assert strands.deletions[1:, 37:44].sum(axis=1).tolist() == [3, 3, 3]
    before = files_of(tmp_path)
    victim = next(path for path in (tmp_path / "searches").rglob("two.fasta-*.a3m"))
    victim.unlink()  # as if the run had been killed before this search
    assert main([str(argument) for argument in arguments]) == 0
    assert "1 searches done now" in capsys.readouterr().out
    assert files_of(tmp_path) == before


@needs_hmmer
def test_rna_hits_that_reach_neither_end_stand_on_the_residues_of_a_query_with_unknown_ones(tmp_path):
    rng = np.random.default_rng(1)
    known = drawn(BASES, 80, rng)
    query = "N" + known[1:20] + "NNN" + known[23:78] + "NN"
    (tmp_path / "query.fasta").write_text(f">1abc_A\n{query}\n")
    homologs = [known[25:72], known[15:45] + "GAUUA" + known[45:70], known[10:40] + known[44:60]]
    records = [f">r{i}\n{drawn(BASES, 40, rng)}{s}{drawn(BASES, 40, rng)}\n" for i, s in enumerate(homologs)]
    noise = [f">n{i}\n{drawn(BASES, 200, rng)}\n" for i in range(20)]
    (tmp_path / "rna.fasta").write_text("".join(records + noise).replace("U", "T"))
    config = SearchConfig(rna=(tmp_path / "rna.fasta",), threads=1)
    search(fasta_queries(tmp_path / "query.fasta"), tmp_path, config)
    alignment = read_alignment(tmp_path / "msas" / "1abc_A.a3m", MoleculeType.RNA)
    letters = MSA_LETTERS[MoleculeType.RNA]
    codes = np.array([letters[base] for base in known])
    assert alignment.rows[0].tolist() == [letters[base] for base in query]
    hits, present = alignment.rows[1:], alignment.rows[1:] != GAP
    assert hits.shape == (3, 80)
    assert (present.sum(axis=1) > 30).all()
    assert (hits == codes)[present].mean() > 0.9  # a shift by one would leave a quarter
    assert 5 in alignment.deletions[1:, 40:50]


@needs_hmmer
def test_a_replaced_database_is_searched_again(world, tmp_path):
    folder, _, _ = world
    database = tmp_path / "db.fasta"
    shutil.copy(folder / "two.fasta", database)
    queries = [query for query in fasta_queries(folder / "queries.fasta") if query.kind == "protein"]
    config = SearchConfig(protein=(database,), threads=1)
    assert search(queries, tmp_path / "out", config) == 1
    assert search(queries, tmp_path / "out", config) == 0
    shutil.copy(folder / "one.fasta", database)
    os.utime(database, ns=(time.time_ns(), time.time_ns() + 10**9))
    assert search(queries, tmp_path / "out", config) == 1
    alignment = read_alignment(tmp_path / "out" / "msas" / "1abc_A.a3m", MoleculeType.PROTEIN)
    assert set(alignment.species) == {"", "1", "2"}


@needs_mmseqs
def test_mmseqs_finds_the_same_homologs(world, tmp_path):
    folder, protein, _ = world
    queries = [query for query in fasta_queries(folder / "queries.fasta") if query.kind == "protein"]
    config = SearchConfig(protein=(folder / "one.fasta",), protein_program="mmseqs", threads=1)
    assert search(queries, tmp_path, config) == 1
    alignment = read_alignment(tmp_path / "msas" / "2xyz_B.a3m", MoleculeType.PROTEIN)
    assert alignment.rows.shape == (3, len(protein))
    assert set(alignment.species) == {"", "1", "2"}
    assert (alignment.deletions[1:].sum(axis=1) == 3).all()
    assert search(queries, tmp_path, config) == 0


def test_the_sequences_of_a_store_are_searched_once_each(store_path):
    queries = {query.names: query for query in store_queries(store_path)}
    assert {names: query.sequence for names, query in queries.items()} == {
        ("dimr_A",): "GASVLAGSTAVL",
        ("modr_A",): "ASGVAL",  # SEP as its parent
    }
    assert {query.kind for query in queries.values()} == {"protein"}
    assert Store(store_path).entry("dimr").structure.chain_name[1] == "B"  # a copy of A: not searched again


def test_what_is_missing_is_said(world, tmp_path, monkeypatch, capsys):
    folder, _, _ = world
    queries = ["--fasta", str(folder / "queries.fasta"), "--out", str(tmp_path)]
    assert main([*queries, "--protein", str(tmp_path / "none.fasta")]) == 1
    assert "no database at" in capsys.readouterr().err
    assert main(queries) == 1
    assert "--protein" in capsys.readouterr().err
    assert main(["--out", str(tmp_path)]) == 1
    assert "a store or --fasta" in capsys.readouterr().err
    monkeypatch.setattr(search_programs.shutil, "which", lambda _: None)
    assert main([*queries, "--rna", str(folder / "rna.fasta")]) == 1
    assert "`nhmmer` program on the PATH; install it with `apt-get install hmmer`" in capsys.readouterr().err
    assert main([*queries, "--protein", str(folder / "one.fasta"), "--protein-program", "mmseqs"]) == 1
    assert "apt-get install mmseqs2" in capsys.readouterr().err


def test_stockholm_rows_become_a3m_by_the_reference_row():
    text = b"# STOCKHOLM 1.0\nquery AC--GU\nhit/1-5 ACuuG-\nx/2-4 .CA-.U\n#=GC RF xx..xx\n//\n"
    assert stockholm_hits(text, 4) == [(b"hit/1-5", b"ACuuG-"), (b"x/2-4", b"-Ca-U")]
    assert stockholm_hits(b"", 4) == []
    with pytest.raises(ValueError, match="4 columns, the query has 5"):
        stockholm_hits(text, 5)
