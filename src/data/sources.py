# SPDX-License-Identifier: Apache-2.0
"""The files a preparation starts from: structures, and alignments and template hits matched to them by name.

    ENTRY.cif                      a structure
    ENTRY_CHAIN.a3m                the alignment of a chain; also .sto and .csv (`alignment_formats`)
    ENTRY_CHAIN.pairing.a3m        rows for pairing by species alone, as AF3's UniProt search; without it the
                                   rows of ENTRY_CHAIN.a3m are paired
    ENTRY_CHAIN.hhr                template hits of a chain; also .a3m and .sto (`template_hits`)

Each may be gzipped. CHAIN is the label_asym_id of any chain with that sequence. Files as OpenProteinSet and
ColabFold name them (`alignment_layouts`) are taken as they are, among the others or alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from foldwright.data.alignment_formats import FORMATS
from foldwright.data.alignment_layouts import layout_key, read_duplicates
from foldwright.data.shards import Shard

_STRUCTURES = (".cif", ".cif.gz")
_MSAS = tuple(ending + gz for ending in FORMATS for gz in ("", ".gz"))
_HITS = (".hhr", ".hhr.gz", ".a3m", ".a3m.gz", ".sto", ".sto.gz")
_PAIRING = ".pairing"


class Note(NamedTuple):
    """Something left out of an entry: a reason to count and what was found."""

    reason: str
    detail: str


ChainFiles = list[tuple[str, Path]]  # chain name, file


@dataclass
class EntryFiles:
    """The files of one entry."""

    structure: Path
    msas: ChainFiles = field(default_factory=list)
    pairings: ChainFiles = field(default_factory=list)
    hits: ChainFiles = field(default_factory=list)  # chain "": whichever they fit
    searches: list[Path] = field(default_factory=list)  # of other layouts, whose chains are to be found

    def digest(self) -> str:
        """sha256 over all files' bytes and what each is to the entry."""
        parts = [file_digest(self.structure)]
        for kind, files in (("", self.msas), ("pairing ", self.pairings), ("hits ", self.hits)):
            parts += [f"{kind}{chain} {file_digest(path)}" for chain, path in files]
        parts += [f"search {path.name} {file_digest(path)}" for path in self.searches]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Sources(NamedTuple):
    """The files found: entries by name, and alignments that no structure file matches."""

    of_entry: dict[str, EntryFiles]
    unmatched: list[str]

    def of_shard(self, shard: Shard) -> Sources:
        """What falls to one shard."""
        own = {entry: files for entry, files in self.of_entry.items() if shard.holds(entry)}
        return Sources(own, [name for name in self.unmatched if shard.holds(name)])


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_sources(structures: Path, msas: Path | None, hits: Path | None = None) -> Sources:
    """Match structure files with alignments and template hits by name.

    Raises:
        ValueError: a directory is missing, the first holds no mmCIF file or two of one entry.
    """
    found: dict[str, EntryFiles] = {}
    for path, entry in _files(structures, _STRUCTURES, "--structures"):
        if entry in found:
            raise ValueError(
                f"got two files of entry {entry}: {found[entry].structure} and {path}; keep one of them"
            )
        found[entry] = EntryFiles(path)
    if not found:
        raise ValueError(f"found no .cif or .cif.gz file in {structures}; give the directory that holds them")
    finder = _Finder(found)
    for folder, endings, option in ((msas, _MSAS, "--msas"), (hits, _HITS, "--templates")):
        if folder:
            finder.add_folder(folder, endings, option)
    return Sources(found, finder.unmatched)


class _Finder:
    """Gives files to the entries they belong to."""

    def __init__(self, found: dict[str, EntryFiles]) -> None:
        self._by_name = {entry.lower(): files for entry, files in found.items()}
        self.unmatched: list[str] = []

    def add_folder(self, folder: Path, endings: tuple[str, ...], option: str) -> None:
        groups = read_duplicates(folder) if folder.is_dir() else {}
        for path, name in _files(folder, endings, option):
            layout = layout_key(path)
            if layout is None:
                self._add_named(path, name, option)
            elif layout[1] == (option == "--templates"):  # the same folder may be given for both
                self._add_search(path, *layout, groups)

    def _add_search(self, path: Path, key: str, is_hits: bool, groups: Mapping[str, list[str]]) -> None:
        entries = {entry for name in groups.get(key, [key]) if (entry := self._entry(name))}
        for entry in sorted(entries):
            files = self._by_name[entry]
            if is_hits:
                files.hits.append(("", path))
            else:
                files.searches.append(path)
        if not entries:
            self.unmatched.append(f"{key}/{path.name}")

    def _entry(self, name: str) -> str | None:
        names = (name.lower(), name.lower().rpartition("_")[0])
        return next((entry for entry in names if entry in self._by_name), None)

    def _add_named(self, path: Path, name: str, option: str) -> None:
        if option == "--msas" and name.lower() in self._by_name and name + ".a3m" in path.name:
            self._by_name[name.lower()].searches.append(path)  # ColabFold's, of all chains
            return
        entry, _, chain = name.rpartition("_")
        files = self._by_name.get(entry.lower())
        if files is None:
            self.unmatched.append(path.name)
        elif option == "--templates":
            files.hits.append((chain, path))
        elif chain.endswith(_PAIRING):
            files.pairings.append((chain.removesuffix(_PAIRING), path))
        else:
            files.msas.append((chain, path))


def _files(folder: Path, endings: tuple[str, ...], option: str) -> list[tuple[Path, str]]:
    """Files below a folder with one of the endings, and their names without it, sorted."""
    if not folder.is_dir():
        raise ValueError(f"{option}: {folder} is not a directory; give an existing one")
    files = []
    for path in sorted(folder.rglob("*")):
        ending = next((ending for ending in endings if path.name.endswith(ending)), None)
        if ending and path.is_file():
            files.append((path, path.name.removesuffix(ending)))
    return files
