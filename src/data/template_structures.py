# SPDX-License-Identifier: Apache-2.0
"""The chains that templates are taken from: backbone and pseudo-beta atoms of the proteins of mmCIF files.

Read in preparation from a folder of <entry>.cif or .cif.gz files, first model, the position of highest
occupancy of each atom. Chains go by their author name, as in the sequence databases that are searched.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from Bio.Align import PairwiseAligner

from foldwright.data.mmcif_tables import Atoms, Entry, entry_of_block, read_entry
from foldwright.data.structure import Bools, Floats, Ints

_CACHED = 64  # parsed entries that a process keeps
_MIN_IDENTITY = 0.9  # of a hit's residues with the structure's sequence, when they must be aligned anew


@dataclass(frozen=True)
class TemplateChain:
    """S residues of one protein chain, from its whole sequence."""

    sequence: str  # parents' letters for modified residues, X for what has none
    coords: Floats  # [S, 4, 3] Å: N, CA, C, pseudo-beta
    present: Bools  # [S, 4]


@dataclass(frozen=True)
class TemplateEntry:
    """The protein chains of one file by author name, and its ISO release date ("" if it has none)."""

    release_date: str
    chains: dict[str, TemplateChain]


class TemplateLibrary:
    """A folder of template structures, read when asked for; the last 64 stay in memory.

    Raises:
        ValueError: the folder does not exist.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"--template-structures: {folder} is not a directory; give an existing one")
        files = sorted(path for path in folder.rglob("*.cif*") if path.name.endswith((".cif", ".cif.gz")))
        self._files = {path.name.split(".")[0].lower(): path for path in files}
        self._parsed: OrderedDict[str, TemplateEntry] = OrderedDict()

    def __contains__(self, entry: object) -> bool:
        return entry in self._files

    def __getitem__(self, entry: str) -> TemplateEntry:
        """Raises KeyError for an entry that the folder lacks, ValueError for an unreadable file."""
        if entry not in self._parsed:
            self._parsed[entry] = read_template_entry(self._files[entry])
            if len(self._parsed) > _CACHED:
                self._parsed.popitem(last=False)
        self._parsed.move_to_end(entry)
        return self._parsed[entry]

    def digest(self) -> str:
        """Digest of the files' names and sizes: whether a preparation with templates is up to date."""
        lines = [f"{entry} {path.stat().st_size}" for entry, path in self._files.items()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_template_entry(path: Path) -> TemplateEntry:
    """The proteins of a structure file; ValueError says what is wrong with it."""
    return _template_entry(read_entry(path))


def read_template_block(block: gemmi.cif.Block) -> TemplateEntry:
    """As `read_template_entry`, from a parsed mmCIF block."""
    return _template_entry(entry_of_block(block, "template"))


def _template_entry(entry: Entry) -> TemplateEntry:
    chains: dict[str, TemplateChain] = {}
    for asym, entity in entry.asym_entity.items():
        kind = entry.polymer_type.get(entity, "")
        if entity in entry.sequences and (kind.startswith("polypeptide") or not kind):
            codes = [alternatives[0] for alternatives in entry.sequences[entity]]
            chain = _chain(codes, entry.atoms, asym)
            if chain.present.any():
                chains.setdefault(entry.asym_author.get(asym, asym), chain)
    return TemplateEntry(entry.release_date, chains)


def _chain(codes: list[str], atoms: Atoms, asym: str) -> TemplateChain:
    coords, present = np.zeros((len(codes), 4, 3), np.float32), np.zeros((len(codes), 4), np.bool_)
    wanted = np.flatnonzero((atoms.asym == asym) & np.isin(atoms.name, ("N", "CA", "C", "CB")))
    for atom in wanted[np.argsort(-atoms.occupancy[wanted], kind="stable")]:
        key = str(atoms.residue_key[atom])
        if not key.isdecimal() or not 0 < int(key) <= len(codes):
            continue
        residue, name = int(key) - 1, str(atoms.name[atom])
        if str(atoms.component[atom]) != codes[residue]:
            continue  # another component of a heterogeneous position
        for slot in _slots(name, codes[residue]):
            if not present[residue, slot]:
                coords[residue, slot], present[residue, slot] = atoms.coords[atom], True
    return TemplateChain("".join(map(_letter, codes)), coords, present)


def _slots(name: str, code: str) -> tuple[int, ...]:
    """Where an atom belongs in N, CA, C, pseudo-beta."""
    if name == "CA" and code == "GLY":
        return (1, 3)
    return {"N": (0,), "CA": (1,), "C": (2,), "CB": (3,) if code != "GLY" else ()}[name]


def _letter(code: str) -> str:
    residue = gemmi.find_tabulated_residue(code)
    letter = residue.one_letter_code.upper()
    return letter if letter.isalpha() and residue.is_amino_acid() else "X"


def locate(sequence: str, start: int, chain: str) -> Ints | None:
    """Where each residue of a hit is in the structure's sequence [len(sequence)], -1 for nowhere.

    At `start` if it stands there, else wherever it occurs once, else by a local alignment in which nine
    tenths of its residues are identical; None if there is none.
    """
    if chain.startswith(sequence, start):
        return np.arange(start, start + len(sequence), dtype=np.int32)
    if chain.count(sequence) == 1:
        found = chain.index(sequence)
        return np.arange(found, found + len(sequence), dtype=np.int32)
    aligner = PairwiseAligner(mode="local", match_score=2, mismatch_score=-1, open_gap_score=-5,
                              extend_gap_score=-0.5)  # fmt: skip
    if not sequence or not chain or aligner.score(chain, sequence) <= 0:
        return None
    where = np.full(len(sequence), -1, np.int32)
    identical = 0
    for (first, last), (begin, end) in zip(*aligner.align(chain, sequence)[0].aligned, strict=True):
        where[begin:end] = np.arange(first, last)
        identical += sum(a == b for a, b in zip(chain[first:last], sequence[begin:end], strict=True))
    return where if identical >= _MIN_IDENTITY * len(sequence) else None
