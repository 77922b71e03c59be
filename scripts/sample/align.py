# SPDX-License-Identifier: Apache-2.0
"""Make the sample's alignments: project homologous sequences of package files onto chains of the sample.

    python scripts/sample/align.py RAW

reads RAW/mmcif and RAW/homologs (see fetch.py), writes RAW/msa/<entry>_<chain>.a3m by alignments.tsv.
Homologs are FILE (all its records), FILE#ID (records whose name holds ID) or ENTRY#CHAIN (a chain of the
sample). Each is aligned to the chain's sequence by itself (Biopython: global with free end gaps, BLOSUM62 or
match/mismatch for RNA); it is kept if it covers half of the chain at 25 % identity. Insertions are lower
case.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

from Bio import SeqIO
from Bio.Align import PairwiseAligner, substitution_matrices

from foldwright.data.ccd import Dictionary
from foldwright.data.mmcif import read_structure
from foldwright.data.structure import Structure
from foldwright.vocabulary import ONE_LETTER, RESTYPES, MoleculeType

ALIGNMENTS = Path(__file__).with_name("alignments.tsv")
MIN_COVERAGE = 0.5
MIN_IDENTITY = 0.25


def main(raw: Path) -> None:
    dictionary = Dictionary.open()
    (raw / "msa").mkdir(parents=True, exist_ok=True)
    with ALIGNMENTS.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row in rows:
        structure = read_structure(raw / "mmcif" / f"{row['entry']}.cif.gz", dictionary)
        query, is_rna = chain_sequence(structure, row["chain"])
        homologs = [
            record for name in row["homologs"].split(",") for record in read_homologs(name, raw, dictionary)
        ]
        lines = align_all(query, homologs, aligner(is_rna))
        target = raw / "msa" / f"{row['entry']}_{row['chain']}.a3m"
        target.write_text(f">{row['entry']}_{row['chain']}\n{query}\n" + "".join(lines))
        print(f"{target.name}: {1 + len(lines)} rows of {len(query)} columns")


def chain_sequence(structure: Structure, name: str) -> tuple[str, bool]:
    """One-letter sequence of a chain, modified residues as their parents; and whether it is RNA."""
    chain = structure.chain_name.tolist().index(name)
    restypes = structure.residue_restype[structure.residue_chain == chain]
    letters = "".join(ONE_LETTER[RESTYPES[restype]] for restype in restypes.tolist())
    return letters, structure.chain_type[chain] == MoleculeType.RNA


def read_homologs(source: str, raw: Path, dictionary: Dictionary) -> list[tuple[str, str]]:
    """Name and ungapped upper-case sequence of every homolog that FILE, FILE#ID or ENTRY#CHAIN gives."""
    name, _, part = source.partition("#")
    path = raw / "homologs" / name
    if not path.exists():
        structure = read_structure(raw / "mmcif" / f"{name}.cif.gz", dictionary)
        return [(source.replace("#", "_"), chain_sequence(structure, part)[0])]
    kind = "stockholm" if path.suffix in (".stk", ".sto") else "fasta"
    records = [record for record in SeqIO.parse(path, kind) if part in record.id]
    return [(record.id, re.sub("[^A-Z]", "", str(record.seq).upper())) for record in records]


def aligner(is_rna: bool) -> PairwiseAligner:
    made = PairwiseAligner(mode="global")
    if is_rna:
        made.match_score, made.mismatch_score = 2.0, -2.0
        made.open_gap_score, made.extend_gap_score = -5.0, -1.0
    else:
        made.substitution_matrix = substitution_matrices.load("BLOSUM62")
        made.open_gap_score, made.extend_gap_score = -11.0, -1.0
    made.end_gap_score = 0.0
    return made


def align_all(query: str, homologs: list[tuple[str, str]], pairwise: PairwiseAligner) -> list[str]:
    """a3m records of the homologs that pass, each sequence once, the query's own left out."""
    seen, lines = {query}, []
    for name, sequence in homologs:
        row = project(query, sequence, pairwise)
        if row and row not in seen:
            seen.add(row)
            lines.append(f">{name}\n{row}\n")
    return lines


def project(query: str, sequence: str, pairwise: PairwiseAligner) -> str | None:
    """The sequence as a row over the query's columns, or None if too little of it aligns."""
    columns = pairwise.align(query, sequence)[0]
    aligned = list(zip(columns[0], columns[1], strict=True))
    pairs = [(q, s) for q, s in aligned if q != "-" and s != "-"]
    same = sum(q == s for q, s in pairs)
    if len(pairs) < MIN_COVERAGE * len(query) or same < MIN_IDENTITY * len(pairs):
        return None
    first = next(i for i, (q, s) in enumerate(aligned) if q != "-" and s != "-")
    last = max(i for i, (q, s) in enumerate(aligned) if q != "-" and s != "-")
    return "".join(s if q != "-" else s.lower() for i, (q, s) in enumerate(aligned)
                   if q != "-" or first < i < last)  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
