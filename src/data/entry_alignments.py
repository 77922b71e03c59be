# SPDX-License-Identifier: Apache-2.0
"""The alignments of one entry in preparation: read, checked against the chains, paired, made compact.

Sources: AF3 SI 2.2 and 2.3, spec 2.6. A file that does not fit its chain is left out and noted; the entry
stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from foldwright.data.alignment_formats import Alignment, align_sequences, read_alignment
from foldwright.data.alignment_layouts import layout_key, read_layout
from foldwright.data.msa import MIN_CHAIN_LENGTH, Msa, check_query, make_msa, paired_block
from foldwright.data.pairing import MAX_PAIRED, Pairing, pair_rows
from foldwright.data.sources import ChainFiles, EntryFiles, Note
from foldwright.data.structure import Bytes, Structure
from foldwright.vocabulary import MoleculeType

Value = TypeVar("Value")
_ALIGNED = (MoleculeType.PROTEIN, MoleculeType.RNA)  # AF3 SI 2.2: no alignments for DNA and ligands


@dataclass(frozen=True)
class EntryMsas:
    """Alignments by entity, and the species of the rows that its proteins share (the same for all)."""

    of_entity: dict[int, Msa]
    paired_species: tuple[str, ...]
    notes: list[Note]

    def depth(self, entity: int) -> int:
        """Rows of an entity's own, the query included; 0 without an alignment."""
        return len(self.of_entity[entity].rows) if entity in self.of_entity else 0


def read_msas(structure: Structure, files: EntryFiles, max_rows: int) -> EntryMsas:
    """The alignment of every entity that has one, the proteins' paired.

    None has more than `max_rows` rows, nor more than half as many paired ones with the query (spec 2.6: 8,191
    of 16,384).
    """
    notes: list[Note] = []

    def read(chain: int, path: Path) -> Alignment | None:
        return _read(structure, chain, path)

    main = for_entities(structure, files.msas, "msa", read, notes)
    pairable = main | for_entities(structure, files.pairings, "pairing", read, notes)
    _add_searches(structure, files.searches, main, pairable, notes)
    for entity in set(pairable) - set(main):
        notes.append(
            Note("pairing_without_msa", f"entity {entity} has rows to pair but no alignment of its own")
        )
    return join_alignments(structure, main, pairable, max_rows, notes)


def join_alignments(
    structure: Structure,
    main: Mapping[int, Alignment],
    pairable: Mapping[int, Alignment],
    max_rows: int,
    notes: list[Note],
) -> EntryMsas:
    """The alignments of an entry's entities, those of its proteins paired; `pairable` holds one for each."""
    pairing, blocks = _paired(structure, {entity: pairable[entity] for entity in main}, max_rows // 2 - 1)
    msas = {
        entity: make_msa(alignment, _restypes(structure, entity), max_rows, blocks.get(entity))
        for entity, alignment in main.items()
    }
    return EntryMsas(msas, pairing.species, notes)


def _add_searches(
    structure: Structure,
    files: Sequence[Path],
    main: dict[int, Alignment],
    pairable: dict[int, Alignment],
    notes: list[Note],
) -> None:
    """Add the alignments of other layouts, for entities that have none, in place."""
    groups: dict[str, list[Path]] = {}
    for path in files:  # a ColabFold file stands alone
        layout = layout_key(path)
        groups.setdefault(layout[0] if layout else path.name, []).append(path)
    for group, members in groups.items():
        try:
            searches = read_layout(members)
        except ValueError as error:
            notes.append(Note("msa_mismatch", f"{group}: {error}"))
            continue
        for search in searches:
            entities = _entities_with(structure, search.main.sequences[0])
            if not entities:
                detail = f"{group}: no chain has the sequence {search.main.sequences[0][:20].decode()}..."
                notes.append(Note("msa_without_chain", detail))
            for entity, kind in entities.items():
                if entity in main:
                    continue
                try:
                    own, paired = search.main.alignment(kind), search.pairing.alignment(kind)
                except ValueError as error:
                    notes.append(Note("msa_mismatch", f"{group}: {error}"))
                    continue
                main[entity] = own
                pairable[entity] = paired if len(paired.rows) > 1 else pairable.get(entity, own)


def _entities_with(structure: Structure, query: bytes) -> dict[int, MoleculeType]:
    """Protein and RNA entities that a first row fits, and their types."""
    found: dict[int, MoleculeType] = {}
    for chain in np.flatnonzero(structure.chain_sym == 0):
        kind = MoleculeType(int(structure.chain_type[chain]))
        mine = structure.residue_chain == chain
        if kind not in _ALIGNED or int(mine.sum()) < MIN_CHAIN_LENGTH:
            continue
        try:
            rows, _ = align_sequences([query], kind)
            check_query(rows[0], structure.residue_restype[mine], structure.residue_atomised[mine], kind)
        except ValueError:
            continue
        found[int(structure.chain_entity[chain])] = kind
    return found


def for_entities(
    structure: Structure,
    files: ChainFiles,
    kind: str,
    read: Callable[[int, Path], Value | None],
    notes: list[Note],
) -> dict[int, Value]:
    """What `read` makes of the first file of every entity; a file names a chain and serves all its copies.

    A file without a chain's name, or of a chain that the filters dropped, is for the entities left that
    `read` takes it for. A file of no chain, one that `read` refuses with ValueError, and one it has no use
    for (None) are noted.
    """
    values: dict[int, Value] = {}
    names = structure.chain_name.tolist()
    for name, path in sorted(files, key=lambda file: file[0] not in names):
        if name not in names:
            _offer(structure, name, path, kind, read, values, notes)
            continue
        chains = np.flatnonzero(structure.chain_name == name)
        entity = int(structure.chain_entity[chains[0]])
        if entity in values:
            continue
        try:
            value = read(int(chains[0]), path)
        except ValueError as error:
            notes.append(Note(f"{kind}_mismatch", f"{path.name}: {error}"))
            continue
        if value is None:
            detail = (
                f"{path.name}: nothing of it is used for chain {name!r}, which is a ligand, DNA or very "
                "short, or for which no hit passes the filters"
            )
            notes.append(Note(f"{kind}_not_used", detail))
        else:
            values[entity] = value
    return values


def _offer(
    structure: Structure,
    name: str,
    path: Path,
    kind: str,
    read: Callable[[int, Path], Value | None],
    values: dict[int, Value],
    notes: list[Note],
) -> None:
    """Give a file to the entities that have none and that `read` takes it for; note it if there are none."""
    refusal, taken = "", False
    for chain in np.flatnonzero((structure.chain_sym == 0) & np.isin(structure.chain_type, _ALIGNED)):
        entity = int(structure.chain_entity[chain])
        if entity in values:
            continue
        try:
            value = read(int(chain), path)
        except ValueError as error:
            refusal = str(error)
            continue
        if value is not None:
            values[entity] = value
        # no use for an RNA is no fit: templates are of proteins
        taken |= value is not None or structure.chain_type[chain] == MoleculeType.PROTEIN
    if name and not taken:
        detail = f"{path.name}: there is no chain {name!r} after the filters, and none else that it fits"
        notes.append(Note(f"{kind}_without_chain", detail))
    elif refusal and not taken:
        notes.append(Note(f"{kind}_mismatch", f"{path.name}: it fits no chain; of the last: {refusal}"))


def _read(structure: Structure, chain: int, path: Path) -> Alignment | None:
    kind = MoleculeType(int(structure.chain_type[chain]))
    mine = structure.residue_chain == chain
    restypes = structure.residue_restype[mine]
    if kind not in _ALIGNED or len(restypes) < MIN_CHAIN_LENGTH:
        return None
    alignment = read_alignment(path, kind)
    check_query(alignment.rows[0], restypes, structure.residue_atomised[mine], kind)
    return alignment


def _paired(
    structure: Structure, alignments: Mapping[int, Alignment], max_paired: int
) -> tuple[Pairing, dict[int, tuple[Bytes, Bytes]]]:
    """The pairing of the entry's proteins and the paired rows of each."""
    proteins = [entity for entity in sorted(alignments) if _is_protein(structure, entity)]
    copies = [int((structure.chain_entity == entity).sum()) for entity in proteins]
    species = [alignments[entity].species for entity in proteins]
    pairing = pair_rows(species, copies, max(min(max_paired, MAX_PAIRED), 0))
    if not pairing.species:
        return pairing, {}
    blocks = {
        entity: paired_block(alignments[entity], pairing.rows[:, column])
        for column, entity in enumerate(proteins)
    }
    return pairing, blocks


def _is_protein(structure: Structure, entity: int) -> bool:
    return bool((structure.chain_type[structure.chain_entity == entity] == MoleculeType.PROTEIN).all())


def _restypes(structure: Structure, entity: int) -> Bytes:
    chain = int(np.flatnonzero(structure.chain_entity == entity)[0])
    return structure.residue_restype[structure.residue_chain == chain]
