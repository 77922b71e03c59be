# SPDX-License-Identifier: Apache-2.0
"""What a user asks to be predicted: chains by sequence, ligands, covalent bonds; and its Structure.

A query becomes a Structure of expected atoms, none of them resolved, by the same rules as an mmCIF file
without coordinates (`mmcif.expected_residue`). Of an atom that may leave on bonding, a bond that names it
decides, and the end of a chain; ligands bonded to nothing keep all of theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from foldwright.data.ccd import Definition, Dictionary
from foldwright.data.filters import Rejection
from foldwright.data.mmcif import Chain, LocalBond, Residue, build_structure, expected_residue
from foldwright.data.mmcif_tables import Placement
from foldwright.data.structure import Ints, Structure
from foldwright.vocabulary import ONE_LETTER, RESTYPES, MoleculeType

LETTERS: dict[MoleculeType, dict[str, str]] = {
    MoleculeType.PROTEIN: {ONE_LETTER[name]: name for name in RESTYPES[:21]},
    MoleculeType.RNA: {ONE_LETTER[name]: name for name in RESTYPES[21:26]},
    MoleculeType.DNA: {ONE_LETTER[name]: name for name in RESTYPES[26:31]},
}
"""One-letter codes of sequences, to component codes."""


@dataclass(frozen=True)
class TemplateInput:
    """A structure to take a template from: mmCIF text of one protein chain, and which of its residues
    [K] stands for which of the query's [K], both from 0.
    """

    mmcif: str
    query: Ints
    residues: Ints


@dataclass(frozen=True)
class ChainInput:
    """Equal chains of a query: their names, kind and components, and alignments and templates given.

    `unpaired` and `paired`: the text of a3m files, None where there is none.
    """

    names: tuple[str, ...]
    kind: MoleculeType
    components: tuple[str, ...]
    unpaired: str | None = None
    paired: str | None = None
    templates: tuple[TemplateInput, ...] = ()


class BondEnd(NamedTuple):
    """An atom: chain name, residue from 1, atom name."""

    chain: str
    residue: int
    atom: str


@dataclass(frozen=True)
class Query:
    """One complex. `definitions`: ligands of its own by code, which the dictionary lacks or which replace it.

    `structure` is set where the query is an existing structure, whose chains, atoms and bonds are taken.
    """

    name: str
    seeds: tuple[int, ...] = (1,)
    chains: tuple[ChainInput, ...] = ()
    bonds: tuple[tuple[BondEnd, BondEnd], ...] = ()
    definitions: Mapping[str, Definition] = field(default_factory=dict)
    structure: Structure | None = None


class BadQueries(ValueError):
    """Some queries of a file are bad; `good` are its others."""

    def __init__(self, errors: Sequence[str], good: Sequence[Query]) -> None:
        super().__init__("; ".join(errors))
        self.good = tuple(good)


def with_definitions(query: Query, dictionary: Dictionary) -> Dictionary:
    """The dictionary with the query's own definitions before its own."""
    if not query.definitions:
        return dictionary
    return Dictionary(dictionary.folder, dictionary.own | dict(query.definitions))


def components_of_sequence(
    sequence: str, kind: MoleculeType, modifications: Mapping[int, str] | None = None
) -> tuple[str, ...]:
    """Component codes of a sequence of letters; `modifications`: codes by position from 1.

    Raises ValueError for an empty sequence, an unknown letter, or a position outside of it.
    """
    letters = LETTERS[kind]
    if not sequence:
        raise ValueError(f"got an empty sequence, expected letters of {kind.name}")
    if unknown := [(place, x) for place, x in enumerate(sequence, 1) if x not in letters]:
        place, letter = unknown[0]
        raise ValueError(
            f"sequence: got {letter!r} at position {place}, expected letters of {''.join(letters)} "
            f"({kind.name}); give other residues as modifications"
        )
    components = [letters[letter] for letter in sequence]
    for position, code in (modifications or {}).items():
        if not 1 <= position <= len(components):
            raise ValueError(
                f"modifications: got position {position}, expected 1 to {len(components)}, the residues "
                "of the sequence"
            )
        components[position - 1] = code
    return tuple(components)


def query_structure(query: Query, dictionary: Dictionary) -> Structure:
    """The Structure of a query, without a resolved atom. `dictionary` must know the query's definitions.

    Raises ValueError for a chain name given twice, a component without a definition, or a bond whose ends
    are not among the atoms.
    """
    if query.structure is not None:
        return query.structure
    named = [(name, chain) for chain in query.chains for name in chain.names]
    if not named:
        raise ValueError("got no chain, expected at least one sequence or ligand")
    if repeated := [name for name, count in Counter(name for name, _ in named).items() if count > 1]:
        raise ValueError(f"got the chain name {repeated[0]!r} more than once, expected each once")
    bonded = _bonded_atoms(query, dict(named))
    chains = {name: _chain(name, chain, bonded, dictionary) for name, chain in named}
    bonds = [_local_bond(first, second, chains) for first, second in query.bonds]
    unmoved = [Placement(name, "1", np.eye(3), np.zeros(3)) for name in chains]
    return build_structure((query.name, "", "", 0.0), chains, bonds, unmoved)


def _bonded_atoms(query: Query, chains: Mapping[str, ChainInput]) -> dict[tuple[str, int], set[str]]:
    """Atoms that bonds name, by chain and residue; ValueError for one outside of all chains."""
    found: dict[tuple[str, int], set[str]] = {}
    for end in (end for bond in query.bonds for end in bond):
        if end.chain not in chains:
            raise ValueError(f"bondedAtomPairs: got the chain {end.chain!r}, expected one of {list(chains)}")
        size = len(chains[end.chain].components)
        if not 1 <= end.residue <= size:
            raise ValueError(
                f"bondedAtomPairs: got residue {end.residue} of chain {end.chain!r}, expected 1 to {size}"
            )
        found.setdefault((end.chain, end.residue), set()).add(end.atom)
    return found


def _chain(
    name: str, chain: ChainInput, bonded: Mapping[tuple[str, int], set[str]], dictionary: Dictionary
) -> Chain:
    residues = []
    size, is_ligand = len(chain.components), chain.kind == MoleculeType.LIGAND
    for number, code in enumerate(chain.components, 1):
        present = set(bonded.get((name, number), ()))
        is_free = is_ligand and size == 1 and not present
        ends = (is_free, False) if is_ligand else (number == 1, number == size)
        if not is_ligand:
            present |= {"OP3"} if number == 1 else set()
            present |= {"OXT"} if number == size else set()
        try:
            residue = expected_residue(
                str(number), number, code, chain.kind, ends, {}, dictionary, Counter(), present
            )
        except Rejection as rejection:
            raise ValueError(f"chain {name!r}: {rejection.detail}") from rejection
        residues.append(residue)
    # As in a file: glycans of other linkages are other entities, a ligand is one wherever it is bonded.
    bonds = tuple(sorted((number, tuple(sorted(atoms))) for (own, number), atoms in bonded.items()
                         if own == name and is_ligand and size > 1))  # fmt: skip
    return Chain(chain.kind, (chain.kind, chain.components, bonds), residues)


def _local_bond(first: BondEnd, second: BondEnd, chains: Mapping[str, Chain]) -> LocalBond:
    ends = []
    for end in (first, second):
        residues = chains[end.chain].residues
        residue = residues[end.residue - 1]
        if end.atom not in residue.names:
            raise ValueError(
                f"bondedAtomPairs: got atom {end.atom!r} of residue {end.residue} ({residue.component}) of "
                f"chain {end.chain!r}, expected one of {_shown(residue)}"
            )
        start = sum(len(before.names) for before in residues[: end.residue - 1])
        ends.append((end.chain, start + residue.names.index(end.atom)))
    return ends[0], ends[1]


def _shown(residue: Residue) -> str:
    return ", ".join(residue.names[:12]) + ", ..." * (len(residue.names) > 12)
