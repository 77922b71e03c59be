# SPDX-License-Identifier: Apache-2.0
"""The search command: alignments and template hits for the sequences of a store or of a FASTA file.

Each unique sequence is searched once in each database. A search's result is one file, written beside its
place and renamed: what is there is complete, and an interrupted run goes on with what is not there.

    OUT/searches/<sequence>/<database>.a3m    one search; .sto for templates; empty without a hit
    OUT/searches/<sequence>/msa.a3m           the query, then the hits of all databases in the order given
    OUT/searches/<sequence>/pairing.a3m       the same of the databases for pairing
    OUT/msas/<entry>_<chain>.a3m              links to these, named as prepare_data.py reads them,
    OUT/msas/<entry>_<chain>.pairing.a3m      for `--msas OUT/msas`
    OUT/templates/<entry>_<chain>.sto         and for `--templates OUT/templates`

<sequence> is a digest of type and sequence, <database> the name of the file with a digest of its path, size
and date and of the program (for templates, of the alignment too): what was replaced is searched again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from foldwright.data.alignment_formats import fasta_records, read_bytes
from foldwright.data.clusters import sequence_of
from foldwright.data.msa import MIN_CHAIN_LENGTH
from foldwright.data.search_programs import Hit, hmmsearch, jackhmmer, mmseqs, nhmmer, require
from foldwright.data.sources import file_digest
from foldwright.data.store import Store
from foldwright.vocabulary import MoleculeType

_BATCH = 500  # proteins that MMseqs2 searches at a time: what an interruption loses at most
_TYPES = {MoleculeType.PROTEIN: "protein", MoleculeType.RNA: "rna"}


@dataclass(frozen=True)
class SearchConfig:
    """Databases (FASTA files), in the order in which their hits are joined, and how they are searched."""

    protein: tuple[Path, ...] = ()
    pairing: tuple[Path, ...] = ()  # proteins with species in their headers, as UniProt
    rna: tuple[Path, ...] = ()
    templates: Path | None = None  # PDB sequences named 1abc_A
    protein_program: str = "jackhmmer"
    max_hits: int = 10_000  # AF3 SI 2.2, of a database
    max_pairing_hits: int = 50_000
    jobs: int = 1
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)


class Query(NamedTuple):
    """A unique sequence, "protein" or "rna", and the names of its chains, `<entry>_<chain>`."""

    kind: str
    sequence: str
    names: tuple[str, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.kind} {self.sequence}".encode()).hexdigest()[:20]


class Search(NamedTuple):
    """One search to be done: a query, a database and what to call."""

    query: Query
    database: Path
    program: str


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    values = {name: getattr(arguments, name) for name in SearchConfig.__dataclass_fields__}
    values |= {name: tuple(values[name] or ()) for name in ("protein", "pairing", "rna")}
    try:
        if (arguments.store is None) == (arguments.fasta is None):
            raise ValueError("give either a store or --fasta FILE")
        queries = store_queries(arguments.store) if arguments.store else fasta_queries(arguments.fasta)
        searched = search(queries, arguments.out, SearchConfig(**values))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    Console().print(f"{len(queries)} unique sequences, {searched} searches done now, the others were there")
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = SearchConfig()
    parser = argparse.ArgumentParser(
        prog="search_msa.py",
        description="Search databases for the sequences of a store or of a FASTA file.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("store", type=Path, nargs="?", help="a store made by prepare_data.py (prepare it again afterwards)")
    add("--fasta", type=Path, help="or proteins and RNAs named <entry>_<chain>")
    add("--out", type=Path, required=True, help="folder for results; a run goes on with what is there")
    add("--protein", type=Path, action="append", help="FASTA of proteins; may be given several times")
    add("--pairing", type=Path, action="append", help="FASTA of proteins whose headers name species")
    add("--rna", type=Path, action="append", help="FASTA of nucleic acids; may be given several times")
    add("--templates", type=Path, help="FASTA of PDB sequences, named 1abc_A, such as pdb_seqres.txt")
    add(
        "--protein-program",
        choices=("jackhmmer", "mmseqs"),
        default=defaults.protein_program,
        help="that searches proteins",
    )
    add("--max-hits", type=int, default=defaults.max_hits, help="kept of each database")
    add("--max-pairing-hits", type=int, default=defaults.max_pairing_hits, help="kept of those for pairing")
    add("--jobs", type=int, default=defaults.jobs, help="searches at a time")
    add("--threads", type=int, default=defaults.threads, help="of each search")
    return parser


# --- what to search for ---


def store_queries(path: Path) -> list[Query]:
    """The unique protein and RNA sequences of a store; modified residues as their parents."""
    store = Store(path)
    names: dict[tuple[str, str], list[str]] = {}
    for entry in store.manifest()["entry"].to_pylist():
        structure = store.entry(entry).structure
        for chain, kind in enumerate(structure.chain_type.tolist()):
            if kind in _TYPES and structure.chain_sym[chain] == 0:
                key = (_TYPES[MoleculeType(kind)], sequence_of(structure, chain))
                names.setdefault(key, []).append(f"{entry}_{structure.chain_name[chain]}")
    return _queries(names)


def fasta_queries(path: Path) -> list[Query]:
    """The unique sequences of a FASTA file, which are RNA if they hold nothing but A, C, G, U, T and N."""
    if not path.is_file():
        raise ValueError(f"--fasta: {path} is not a file; give one with sequences named <entry>_<chain>")
    headers, sequences = fasta_records(read_bytes(path))
    names: dict[tuple[str, str], list[str]] = {}
    for header, letters in zip(headers, sequences, strict=True):
        name, sequence = header.decode("utf-8", "replace").split(), letters.decode("ascii", "replace").upper()
        if not name or "/" in name[0] or not (sequence.isalpha() and sequence.isascii()):
            raise ValueError(f"{path}: got the record {header[:40]!r}, expected a name and a sequence")
        kind = "rna" if set(sequence) <= set("ACGUTN") else "protein"
        names.setdefault((kind, sequence), []).append(name[0])
    return _queries(names)


def _queries(names: dict[tuple[str, str], list[str]]) -> list[Query]:
    long = {key: chains for key, chains in names.items() if len(key[1]) >= MIN_CHAIN_LENGTH}
    return [Query(*key, tuple(chains)) for key, chains in sorted(long.items())]


# --- searching ---


def search(queries: Sequence[Query], out: Path, config: SearchConfig) -> int:
    """Do all searches that are not done yet, join and link their results; returns how many were done.

    Raises:
        ValueError: a database or program is missing, nothing is to be searched, or a program failed.
    """
    _check(queries, config)
    wanted = list(_searches(queries, config))
    todo = [one for one in wanted if one.program != "hmmsearch" and not _place(out, one).is_file()]
    single = [one for one in todo if one.program != "mmseqs"]
    _in_threads([lambda one=one: _search(out, one, config) for one in single], config.jobs, "searching")  # type: ignore[misc]
    for database in dict.fromkeys(one.database for one in todo if one.program == "mmseqs"):
        mine = [one for one in todo if one.program == "mmseqs" and one.database == database]
        batches = [mine[start : start + _BATCH] for start in range(0, len(mine), _BATCH)]
        for batch in track(batches, f"MMseqs2, {database.name}", console=Console(stderr=True)):
            _search_batch(out, batch, config)
    for query in queries:
        _join(out, query, config)
    last = [one for one in wanted if one.program == "hmmsearch" and not _place(out, one).is_file()]
    _in_threads([lambda one=one: _search(out, one, config) for one in last], config.jobs, "templates")  # type: ignore[misc]
    _link(out, queries, config)
    return len(todo) + len(last)


def _check(queries: Sequence[Query], config: SearchConfig) -> None:
    databases = [
        *config.protein,
        *config.pairing,
        *config.rna,
        *([config.templates] * bool(config.templates)),
    ]
    missing = [path for path in databases if path is not None and not path.is_file()]
    if missing:
        raise ValueError(f"got no database at {missing[0]}, expected a FASTA file")
    if not databases or not queries:
        what = "sequence of five residues or more" if databases else "database: --protein, --rna, --templates"
        raise ValueError(f"got no {what}; there is nothing to search")
    if config.jobs < 1 or config.threads < 1:
        raise ValueError(f"got {config.jobs} jobs of {config.threads} threads, expected at least one of each")
    for program in dict.fromkeys(one.program for one in _searches(queries, config)):
        require(program)


def _searches(queries: Sequence[Query], config: SearchConfig) -> Iterator[Search]:
    for query in queries:
        if query.kind == "rna":
            yield from (Search(query, database, "nhmmer") for database in config.rna)
            continue
        for database in dict.fromkeys((*config.protein, *config.pairing)):
            yield Search(query, database, config.protein_program)
        if config.templates:
            yield Search(query, config.templates, "hmmsearch")


def _place(out: Path, one: Search) -> Path:
    state = one.database.stat()
    mark = f"{one.program} {one.database.absolute()} {state.st_size} {state.st_mtime_ns}"
    if one.program == "hmmsearch":  # its profile is the alignment
        mark += " " + file_digest(_msa_path(out, one.query, "msa"))
    ending = ".sto" if one.program == "hmmsearch" else ".a3m"
    name = f"{one.database.name}-{hashlib.sha256(mark.encode()).hexdigest()[:8]}{ending}"
    return out / "searches" / one.query.digest / name


def _search(out: Path, one: Search, config: SearchConfig) -> None:
    sequence, threads = one.query.sequence, config.threads
    if one.program == "hmmsearch":
        rows = fasta_records(_msa_path(out, one.query, "msa").read_bytes())[1]
        _write(_place(out, one), hmmsearch(rows, one.database, threads))
        return
    program = jackhmmer if one.program == "jackhmmer" else nhmmer
    _write(_place(out, one), _a3m(program(sequence, one.database, threads)))


def _search_batch(out: Path, batch: Sequence[Search], config: SearchConfig) -> None:
    sequences = {one.query.digest: one.query.sequence for one in batch}
    hits = mmseqs(sequences, batch[0].database, config.threads, out / "databases")
    for one in batch:
        _write(_place(out, one), _a3m(hits[one.query.digest]))


def _in_threads(calls: Sequence[Callable[[], None]], jobs: int, what: str) -> None:
    """Make all calls, `jobs` at a time, with a progress bar; the first error ends the run."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            for future in track(as_completed(futures), what, len(futures), console=Console(stderr=True)):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# --- results ---


def _a3m(hits: Sequence[Hit]) -> bytes:
    return b"".join(b">%s\n%s\n" % hit for hit in hits)


def _msa_path(out: Path, query: Query, name: str) -> Path:
    return out / "searches" / query.digest / f"{name}.a3m"


def _join(out: Path, query: Query, config: SearchConfig) -> None:
    """Write msa.a3m and pairing.a3m: the query and the first hits of every database."""
    program = config.protein_program if query.kind == "protein" else "nhmmer"
    databases = config.protein if query.kind == "protein" else config.rna
    pairing = config.pairing if query.kind == "protein" else ()
    for name, files, limit in (
        ("msa", databases, config.max_hits),
        ("pairing", pairing, config.max_pairing_hits),
    ):
        parts = [Hit(b"query", query.sequence.encode())]
        for database in files:
            found = fasta_records(_place(out, Search(query, database, program)).read_bytes())
            parts += [Hit(*pair) for pair in list(zip(*found, strict=True))[:limit]]
        _write(_msa_path(out, query, name), _a3m(parts))


def _write(path: Path, data: bytes) -> None:
    """Write beside `path` and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _link(out: Path, queries: Sequence[Query], config: SearchConfig) -> None:
    """Links named by chain to what was found; none to templates where there is no hit."""
    for query in queries:
        is_protein = query.kind == "protein"
        targets = {}
        if config.protein if is_protein else config.rna:
            targets["msas", ".a3m"] = _msa_path(out, query, "msa")
        if config.pairing and is_protein:
            targets["msas", ".pairing.a3m"] = _msa_path(out, query, "pairing")
        if config.templates and is_protein:
            targets["templates", ".sto"] = _place(out, Search(query, config.templates, "hmmsearch"))
        for (folder, ending), target in targets.items():
            (out / folder).mkdir(exist_ok=True)
            for name in query.names:
                link = out / folder / (name + ending)
                link.unlink(missing_ok=True)
                if target.stat().st_size:
                    link.symlink_to(os.path.relpath(target, link.parent))
