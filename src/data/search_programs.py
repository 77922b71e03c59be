# SPDX-License-Identifier: Apache-2.0
"""Homology searches of one sequence or many with jackhmmer, nhmmer, hmmsearch or MMseqs2.

The flags are AF3's (SI 2.2 and 2.4, spec 2.6 and 2.7). What a program wrote comes back as hits: a header and
a row in a3m, capitals and - being the query's residues. Deviation: the profile for templates is built from
the alignment's first 300 rows whatever database they come from.

nhmmer's own alignment has no column where no hit has a residue, and of a query from FASTA none at its unknown
residues: it is given a profile with a column for every residue, and its hits are laid on that by hmmalign.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np

from foldwright.data.alignment_formats import a3m_row, fasta_records, split_stockholm

PACKAGES = {"jackhmmer": "hmmer", "nhmmer": "hmmer", "hmmbuild": "hmmer", "hmmalign": "hmmer",
            "hmmsearch": "hmmer", "mmseqs": "mmseqs2"}  # fmt: skip
_JACKHMMER = "-N 1 -E 1e-4 --incE 1e-4 --F1 5e-4 --F2 5e-5 --F3 5e-7".split()
_NHMMER = "-E 1e-3 --incE 1e-3 --rna --watson".split()
_SHORT_RNA = 50  # nt; shorter queries get a looser last filter
_HMMSEARCH = "--F1 0.1 --F2 0.1 --F3 0.1 -E 100 --incE 100 --domE 100 --incdomE 100".split()
_MMSEQS = "--num-iterations 3 -s 8 -e 0.1 -a".split()  # sensitive profile search; -a keeps alignments
PROFILE_ROWS = 300  # of the alignment that the profile for templates is built from
_QUERY = "query"


class Hit(NamedTuple):
    """A header without `>`, and its row in a3m."""

    header: bytes
    row: bytes


def require(program: str) -> str:
    """The path of a program; ValueError says which Debian package has it."""
    path = shutil.which(program)
    if path is None:
        raise ValueError(
            f"got no `{program}` program on the PATH; install it with `apt-get install {PACKAGES[program]}` "
            f"(Debian, Ubuntu) or `conda install -c conda-forge -c bioconda {PACKAGES[program]}`"
        )
    return path


def jackhmmer(sequence: str, database: Path, threads: int) -> list[Hit]:
    """Hits of a protein in a FASTA file of proteins, the best first; `threads` are the program's."""
    with tempfile.TemporaryDirectory(prefix="search-") as folder:
        query, out = Path(folder) / "query.fasta", Path(folder) / "out.sto"
        query.write_text(f">{_QUERY}\n{sequence}\n")
        _run(["jackhmmer", *_JACKHMMER, "--cpu", str(threads), "--noali", "-o", "/dev/null", "-A", str(out),
              str(query), str(database)])  # fmt: skip
        return stockholm_hits(out.read_bytes() if out.is_file() else b"", len(sequence))


def nhmmer(sequence: str, database: Path, threads: int) -> list[Hit]:
    """Hits of an RNA in a FASTA file of nucleic acids, the best first."""
    last = "0.02" if len(sequence) < _SHORT_RNA else "5e-5"
    with tempfile.TemporaryDirectory(prefix="search-") as folder:
        profile, out = Path(folder) / "profile.hmm", Path(folder) / "out.sto"
        _build_profile([sequence.encode()], "--rna", profile)
        _run(["nhmmer", *_NHMMER, "--F3", last, "--cpu", str(threads), "--noali", "-o", "/dev/null",
              "-A", str(out), str(profile), str(database)])  # fmt: skip
        data = out.read_bytes() if out.is_file() else b""
        return _realigned(data, profile, len(sequence)) if data.strip() else []


def _realigned(data: bytes, profile: Path, length: int) -> list[Hit]:
    """The rows of a Stockholm file laid on an RNA profile of `length` columns by hmmalign."""
    file = split_stockholm(data)
    bare, out = profile.with_name("hits.fasta"), profile.with_name("hits.sto")
    bare.write_bytes(b"".join(b">%d\n%s\n" % (number, sequence.translate(None, b"-._~"))
                              for number, sequence in enumerate(file.sequences)))  # fmt: skip
    _run(["hmmalign", "--rna", "--trim", "-o", str(out), str(profile), str(bare)])
    names = {b"%d" % number: name for number, name in enumerate(file.names)}
    return [
        Hit((names[number] + b" " + file.descriptions.get(names[number], b"")).strip(), row)
        for number, row in stockholm_hits(out.read_bytes(), length)
    ]


def hmmsearch(rows: Sequence[bytes], database: Path, threads: int) -> bytes:
    """The Stockholm file of a protein's hits in a FASTA file of PDB sequences; b"" without hits.

    Args:
        rows: the alignment in a3m, the query first; its residues are the profile's columns.
        database: sequences named by entry and author chain, `1abc_A`, as PDB's pdb_seqres.txt.
        threads: of the program.
    """
    with tempfile.TemporaryDirectory(prefix="search-") as folder:
        profile, out = Path(folder) / "profile.hmm", Path(folder) / "out.sto"
        _build_profile(rows[:PROFILE_ROWS], "--amino", profile)
        _run(["hmmsearch", *_HMMSEARCH, "--cpu", str(threads), "--noali", "-o", "/dev/null", "-A", str(out),
              str(profile), str(database)])  # fmt: skip
        data = out.read_bytes() if out.is_file() else b""
    return data if b"\n//" in data else b""


def _build_profile(rows: Sequence[bytes], alphabet: str, profile: Path) -> None:
    """Write the profile of a3m rows without their insertions, every column being one of the profile's."""
    aligned = [row.translate(None, ascii_lowercase.encode() + b".") for row in rows]
    lines = [b"# STOCKHOLM 1.0", *(b"r%d %s" % (i, row) for i, row in enumerate(aligned))]
    alignment = profile.with_suffix(".sto")
    alignment.write_bytes(b"\n".join([*lines, b"#=GC RF " + b"x" * len(aligned[0]), b"//", b""]))
    _run(["hmmbuild", "--hand", alphabet, "-o", "/dev/null", str(profile), str(alignment)])


def mmseqs(sequences: Mapping[str, str], database: Path, threads: int, work: Path) -> dict[str, list[Hit]]:
    """Hits of many proteins at once by the names given, which are letters, digits, - and _.

    `database` is a FASTA file, or a database that `mmseqs createdb` made. `work` keeps what MMseqs2 makes of
    a FASTA file for the next call.
    """
    target = _mmseqs_database(database, work)
    with tempfile.TemporaryDirectory(prefix="search-", dir=work) as folder:
        query = Path(folder) / "queries.fasta"
        query.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in sequences.items()))
        path = {name: str(Path(folder) / name) for name in ("queries", "found", "msa", "tmp")}
        _run(["mmseqs", "createdb", str(query), path["queries"]])
        limit = ["--threads", str(threads), "--max-seqs", "10000"]
        _run(["mmseqs", "search", path["queries"], str(target), path["found"], path["tmp"], *_MMSEQS, *limit])
        for mode in ("2", "5"):  # 2 has whole headers, 5 has insertions
            command = [
                "mmseqs",
                "result2msa",
                path["queries"],
                str(target),
                path["found"],
                path["msa"] + mode,
            ]
            _run([*command, "--msa-format-mode", mode, "--filter-msa", "0", "--threads", str(threads)])
        whole, inserted = (Path(path["msa"] + mode).read_bytes() for mode in ("2", "5"))
        return _unpacked(whole, inserted, sequences)


def _mmseqs_database(database: Path, work: Path) -> Path:
    if database.with_name(database.name + ".dbtype").is_file():
        return database
    work.mkdir(parents=True, exist_ok=True)
    made = work / f"{database.name}.mmseqs"
    done = made.with_name(made.name + ".done")
    mark = f"{database.absolute()} {database.stat().st_size} {database.stat().st_mtime_ns}"
    if not (done.is_file() and done.read_text() == mark):
        _run(["mmseqs", "createdb", str(database), str(made)])
        done.write_text(mark)
    return made


def _unpacked(whole: bytes, inserted: bytes, sequences: Mapping[str, str]) -> dict[str, list[Hit]]:
    """Headers of the first and rows of the second of an MMseqs2 result's two forms, by the query's name.

    Alignments are ended by NUL in both, and begin with the query.
    """
    hits: dict[str, list[Hit]] = {name: [] for name in sequences}
    for part, rows_part in zip(whole.split(b"\0"), inserted.split(b"\0"), strict=True):
        if not part.strip():
            continue
        headers, aligned = fasta_records(part)
        rows = fasta_records(rows_part)[1]
        name = headers[0].split()[0].decode()
        same = [row.translate(None, ascii_lowercase.encode()) for row in rows] == aligned
        if not same or aligned[0].decode() != sequences.get(name):
            raise ValueError(f"got an alignment of {name!r} from MMseqs2 that is not one of that query")
        hits[name] = [Hit(*pair) for pair in zip(headers[1:], rows[1:], strict=True)]
    return hits


def _run(command: list[str]) -> None:
    """Run a program; ValueError with its last words if it is not there or fails."""
    done = subprocess.run([require(command[0]), *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        tail = (done.stdout + done.stderr)[-1500:]
        raise ValueError(f"`{' '.join(command)}` ended with code {done.returncode}; its last words: {tail}")


def stockholm_hits(data: bytes, length: int) -> list[Hit]:
    """Rows of a Stockholm file as a3m, by its reference row, which marks the query's `length` residues.

    An empty file, which is what HMMER leaves without hits, has none; the query's own row is left out.
    """
    if not data.strip():
        return []
    file = split_stockholm(data)
    column = np.frombuffer(file.reference, np.uint8) == ord("x")
    if int(column.sum()) != length:
        raise ValueError(f"got an alignment of {int(column.sum())} columns, the query has {length} residues")
    hits = []
    for name, sequence in zip(file.names, file.sequences, strict=True):
        if name != _QUERY.encode():
            header = name + b" " + file.descriptions.get(name, b"")
            hits.append(Hit(header.strip(), a3m_row(sequence, column)))
    return hits
