# SPDX-License-Identifier: Apache-2.0
"""mmCIF -> Structure: biological assembly 1 with every expected heavy atom, resolved or not (AF3 SI 2.1).

What is expected comes from the sequence and the component dictionary, what is resolved from the coordinates.
Standard residues expect vocabulary.RESIDUE_ATOMS, with OP3 only at the start of a nucleic acid and OXT only
at the end of a protein. Modified residues and ligands expect the dictionary's heavy atoms; of an atom that
may leave on bonding, the coordinates decide, unless the ligand is bonded to nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldwright.data.ccd import Definition, Dictionary
from foldwright.data.filters import Rejection
from foldwright.data.mmcif_tables import Atoms, Entry, Link, Placement, read_entry
from foldwright.data.structure import MAX_BOND_LENGTH, Floats, Structure
from foldwright.vocabulary import (
    AMINO_ACIDS,
    DNA_NUCLEOTIDES,
    RESIDUE_ATOMS,
    RESTYPE_INDEX,
    RNA_NUCLEOTIDES,
    UNKNOWN_RESTYPE,
    MoleculeType,
)

_NUCLEOTIDES = frozenset((*RNA_NUCLEOTIDES, *DNA_NUCLEOTIDES, "N", "DN"))
_PEPTIDES = frozenset((*AMINO_ACIDS, "UNK"))
_POLYMER_TYPES = {
    "polypeptide(l)": MoleculeType.PROTEIN,
    "polypeptide(d)": MoleculeType.PROTEIN,
    "cyclic-pseudo-peptide": MoleculeType.PROTEIN,
    "polyribonucleotide": MoleculeType.RNA,
    "polydeoxyribonucleotide": MoleculeType.DNA,
    "polysaccharide(d)": MoleculeType.LIGAND,
    "polysaccharide(l)": MoleculeType.LIGAND,
}
_BACKBONE_LINKS = ({"C", "N"}, {"O3'", "P"})

Observed = dict[str, Floats]  # atom name -> coordinates [3]


@dataclass
class Residue:
    """One residue of the asymmetric unit with its expected atoms. `key` tells it from others of its chain."""

    key: str
    index: int
    component: str
    restype: int
    atomised: bool
    names: list[str]
    renames: dict[str, str]  # the file's atom names that are others here
    slots: list[int]
    elements: list[int]
    charges: list[int]
    coords: list[Floats | None]


@dataclass
class Chain:
    """One chain of the asymmetric unit. `identity` is equal for chains of one entity."""

    type: MoleculeType
    identity: tuple[object, ...]
    residues: list[Residue]


def read_structure(
    path: Path | str,
    dictionary: Dictionary,
    max_polymer_chains: int = 300,
    counts: Counter[str] | None = None,
) -> Structure:
    """Read assembly 1 of a .cif or .cif.gz file.

    `counts` collects what was left out on the way: "unknown_ligand", "unmatched_ligand" (none of its atoms
    has a name of the dictionary), "unknown_atom_name", "sequence_mismatch" (residues whose component is not
    the sequence's), "unmatched_bond", "long_bond" (beyond 2.4 Å); and polymers that are kept but unusual:
    "hybrid_polymer" (typed as most of its residues), "d_peptide" (its residues one token an atom).

    Raises ValueError, naming the file, if it is no complete mmCIF; Rejection if an assembly has more than
    `max_polymer_chains` polymer chains or a polymer holds a component that the dictionary lacks.
    """
    path, counts = Path(path), Counter() if counts is None else counts
    try:
        entry = read_entry(path)
        _refuse_giants(entry, max_polymer_chains)
        chains = _asymmetric_unit(entry, dictionary, counts)
        bonds = _local_bonds(entry.links, chains, counts)
        header = (entry.entry_id, entry.release_date, entry.method, entry.resolution)
        return build_structure(header, chains, bonds, entry.placements)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _refuse_giants(entry: Entry, limit: int) -> None:
    count = sum(entry.asym_entity[copy.asym] in entry.sequences for copy in entry.placements)
    if count > limit:
        raise Rejection("too_many_chains", f"assembly 1 has {count} polymer chains, the limit is {limit}")


# --- chains of the asymmetric unit ---


def _asymmetric_unit(entry: Entry, dictionary: Dictionary, counts: Counter[str]) -> dict[str, Chain]:
    rows = _rows_by_residue(entry.atoms)
    wanted = {copy.asym for copy in entry.placements}
    linked = {partner[0] for link in entry.links for partner in (link.first, link.second)}
    chains = {}
    for asym, entity in entry.asym_entity.items():
        if asym not in wanted or entry.entity_type.get(entity) == "water":
            continue
        chain: Chain | None
        if entity in entry.sequences:
            chain = _polymer(entry, entity, rows.get(asym, {}), dictionary, counts)
        else:
            kind = entity if entry.entity_type.get(entity) == "branched" else ""
            chain = _ligand(entry.atoms, kind, rows.get(asym, {}), dictionary, asym not in linked, counts)
        if chain is not None:
            chains[asym] = chain
    return chains


RowsByResidue = dict[str, dict[str, list[int]]]  # residue key -> component -> rows of the atom table


def _rows_by_residue(atoms: Atoms) -> dict[str, RowsByResidue]:
    found: dict[str, RowsByResidue] = {}
    keys = zip(atoms.asym.tolist(), atoms.residue_key.tolist(), atoms.component.tolist(), strict=True)
    for row, (asym, key, component) in enumerate(keys):
        found.setdefault(asym, {}).setdefault(key, {}).setdefault(component, []).append(row)
    return found


def _polymer(
    entry: Entry, entity: str, rows: RowsByResidue, dictionary: Dictionary, counts: Counter[str]
) -> Chain:
    sequence = entry.sequences[entity]
    declared = entry.polymer_type.get(entity, "")
    chain_type = polymer_type(declared, [options[0] for options in sequence])
    counts.update(["hybrid_polymer"] * ("hybrid" in declared) + ["d_peptide"] * ("peptide(d)" in declared))
    is_typed = chain_type != MoleculeType.LIGAND  # else bonded, unless it is alone
    residues = []
    for number, options in enumerate(sequence, start=1):
        seen = rows.get(str(number), {})
        component = next((option for option in options if option in seen), options[0])
        if seen and component not in seen:
            counts["sequence_mismatch"] += 1
        observed = _observed(entry.atoms, seen.get(component, []))
        ends = (number == 1 and (is_typed or len(sequence) == 1), number == len(sequence))
        residues.append(
            expected_residue(str(number), number, component, chain_type, ends, observed, dictionary, counts)
        )
    components = tuple(residue.component for residue in residues)
    return Chain(chain_type, (chain_type, components), residues)


def polymer_type(declared: str, sequence: list[str]) -> MoleculeType:
    """Molecule type of a polymer entity: as declared, else (hybrids, others) that of most of its residues."""
    if declared in _POLYMER_TYPES:
        return _POLYMER_TYPES[declared]
    votes = {
        MoleculeType.PROTEIN: sum(component in _PEPTIDES for component in sequence),
        MoleculeType.DNA: sum(component in (*DNA_NUCLEOTIDES, "DN") for component in sequence),
        MoleculeType.RNA: sum(component in (*RNA_NUCLEOTIDES, "N") for component in sequence),
    }
    winner = max(votes, key=lambda kind: votes[kind])
    return winner if votes[winner] else MoleculeType.LIGAND


def _ligand(
    atoms: Atoms, branched_entity: str, rows: RowsByResidue, dictionary: Dictionary, free: bool,
    counts: Counter[str],
) -> Chain | None:  # fmt: skip
    """A ligand, an ion or a glycan; None, counted, if it cannot be read with the dictionary."""
    residues = []
    for number, (key, seen) in enumerate(rows.items(), start=1):
        component = next(iter(seen))
        if not _is_known(component, dictionary, MoleculeType.LIGAND):
            counts["unknown_ligand"] += 1
            return None
        observed = _observed(atoms, seen[component])
        ends = (free and len(rows) == 1, False)
        residues.append(
            expected_residue(key, number, component, MoleculeType.LIGAND, ends, observed, dictionary, counts)
        )
    if not any(coords is not None for residue in residues for coords in residue.coords):
        counts.update(["unmatched_ligand"] * bool(rows))
        return None
    components = tuple(residue.component for residue in residues)
    return Chain(MoleculeType.LIGAND, (MoleculeType.LIGAND, branched_entity, components), residues)


# --- residues ---


def _observed(atoms: Atoms, rows: list[int]) -> Observed:
    """Coordinates by atom name: of several alternates the one of the highest summed occupancy, throughout."""
    alternates = [str(atoms.alternate[row]) for row in rows]
    weight: dict[str, float] = {}
    for row, alternate in zip(rows, alternates, strict=True):
        if alternate:
            weight[alternate] = weight.get(alternate, 0.0) + float(atoms.occupancy[row])
    best = max(sorted(weight), key=lambda name: round(weight[name], 3), default="")
    observed: Observed = {}
    for row, alternate in zip(rows, alternates, strict=True):
        if alternate in ("", best):
            observed.setdefault(str(atoms.name[row]), atoms.coords[row])
    return observed


def expected_residue(
    key: str, index: int, component: str, chain_type: MoleculeType, ends: tuple[bool, bool],
    observed: Observed, dictionary: Dictionary, counts: Counter[str], present: Collection[str] = (),
) -> Residue:  # fmt: skip
    """Expected atoms of one residue, matched with the observed ones.

    `ends`: first and last of its chain; for a ligand, (bonded to nothing, unused). `present`: atoms that are
    there even if they may leave and are not observed.
    """
    source, component = (
        component,
        "MET" if component == "MSE" and chain_type == MoleculeType.PROTEIN else component,
    )
    if not _is_known(component, dictionary, chain_type):
        detail = f"component {component!r} is not in the dictionary; give it in a components.cif"
        raise Rejection("unknown_component", detail)
    definition = dictionary[component]
    renames = {"SE": "SD"} if source != component else _renames(definition, observed)
    observed = {renames.get(name, name): coords for name, coords in observed.items()}
    if component == "ARG":
        _order_guanidinium(observed)
    standard = _is_standard(component, chain_type)
    if standard:
        names, slots = _standard_atoms(component, chain_type, *ends)
    else:
        free = chain_type == MoleculeType.LIGAND and ends[0]
        names = _atomised_names(definition, {*observed, *present}, free)
        slots = [0] * len(names)
    position = {str(name): i for i, name in enumerate(definition.atom_name)}
    rows = [position[name] for name in names]
    counts.update(["unknown_atom_name"] * sum(name not in position for name in observed))
    return Residue(
        key, index, component, _restype(definition, chain_type, standard), not standard,
        names, renames, slots,
        definition.atom_element[rows].tolist(), definition.atom_charge[rows].tolist(),
        [observed.get(name) for name in names],
    )  # fmt: skip


def _is_known(component: str, dictionary: Dictionary, chain_type: MoleculeType) -> bool:
    """Whether the dictionary has atoms for it (not for UNL); in ligands of known elements (not in UNX)."""
    if component not in dictionary:
        return False
    elements = dictionary[component].atom_element
    return len(elements) > 0 and (chain_type != MoleculeType.LIGAND or bool(elements.all()))


def _renames(definition: Definition, observed: Mapping[str, object]) -> dict[str, str]:
    """Names of older files that the dictionary lists as another name of an unobserved atom -> its name."""
    current = set(definition.atom_name.tolist())
    if observed.keys() <= current:
        return {}
    new = dict(zip(definition.atom_old_name.tolist(), definition.atom_name.tolist(), strict=True))
    return {name: new[name] for name in observed
            if name not in current and name in new and new[name] not in observed}  # fmt: skip


def _is_standard(component: str, chain_type: MoleculeType) -> bool:
    if chain_type == MoleculeType.PROTEIN:
        return component in _PEPTIDES
    return chain_type != MoleculeType.LIGAND and component in _NUCLEOTIDES


def _standard_atoms(
    component: str, chain_type: MoleculeType, first: bool, last: bool
) -> tuple[list[str], list[int]]:
    own = RESIDUE_ATOMS[component]
    chosen = [(name, slot) for slot, name in enumerate(own) if name != "OP3" or first]
    if chain_type == MoleculeType.PROTEIN and last:
        chosen.append(("OXT", len(own)))
    return [name for name, _ in chosen], [slot for _, slot in chosen]


def _atomised_names(definition: Definition, present: Collection[str], free: bool) -> list[str]:
    names = [str(name) for name in definition.atom_name]
    kept = [name for name, leaving in zip(names, definition.atom_leaving, strict=True)
            if free or not leaving or name in present]  # fmt: skip
    return kept or names


def _restype(definition: Definition, chain_type: MoleculeType, standard: bool) -> int:
    if standard:
        return RESTYPE_INDEX[definition.code]
    family = _PEPTIDES if chain_type == MoleculeType.PROTEIN else _NUCLEOTIDES
    if chain_type != MoleculeType.LIGAND and definition.parent in family:
        return RESTYPE_INDEX[definition.parent]
    return UNKNOWN_RESTYPE[chain_type]


def _order_guanidinium(observed: Observed) -> None:
    """Name ARG's NH1 the nitrogen nearer to CD, in place (AF3 SI 2.1)."""
    if {"CD", "NH1", "NH2"} <= observed.keys():
        cd, nh1, nh2 = (observed[name] for name in ("CD", "NH1", "NH2"))
        if np.linalg.norm(nh2 - cd) < np.linalg.norm(nh1 - cd):
            observed["NH1"], observed["NH2"] = nh2, nh1


# --- covalent bonds ---


LocalBond = tuple[tuple[str, int], tuple[str, int]]  # (asym, atom index in its chain) of both ends


def _local_bonds(links: list[Link], chains: dict[str, Chain], counts: Counter[str]) -> list[LocalBond]:
    """Links between expected atoms of different residues, other than backbone links and disulfides."""
    atoms = {(asym, residue.key): (residue, start)
             for asym, chain in chains.items() for residue, start in _starts(chain)}  # fmt: skip
    bonds = []
    for link in links:
        first, second = atoms.get(link.first[:2]), atoms.get(link.second[:2])
        if first is None or second is None or link.first[:2] == link.second[:2]:
            continue
        names = [residue.renames.get(end[2], end[2])
                 for residue, end in ((first[0], link.first), (second[0], link.second))]  # fmt: skip
        if names[0] not in first[0].names or names[1] not in second[0].names:
            counts["unmatched_bond"] += 1
            continue
        i, j = first[0].names.index(names[0]), second[0].names.index(names[1])
        if _is_backbone(link, first[0], second[0], set(names)) or _is_disulfide(first[0], i, second[0], j):
            continue
        ends = first[0].coords[i], second[0].coords[j]
        if (
            ends[0] is not None
            and ends[1] is not None
            and np.linalg.norm(ends[0] - ends[1]) > MAX_BOND_LENGTH
        ):
            counts["long_bond"] += 1
            continue
        bonds.append(((link.first[0], first[1] + i), (link.second[0], second[1] + j)))
    return bonds


def _starts(chain: Chain) -> list[tuple[Residue, int]]:
    sizes = [len(residue.names) for residue in chain.residues]
    return list(zip(chain.residues, np.cumsum([0, *sizes])[:-1].tolist(), strict=True))


def _is_backbone(link: Link, first: Residue, second: Residue, names: set[str]) -> bool:
    neighbours = link.first[0] == link.second[0] and abs(first.index - second.index) == 1
    return neighbours and names in _BACKBONE_LINKS


def _is_disulfide(first: Residue, i: int, second: Residue, j: int) -> bool:
    return not (first.atomised or second.atomised) and first.elements[i] == second.elements[j] == 16


# --- assembly ---


def build_structure(
    header: tuple[str, str, str, float],
    chains: dict[str, Chain],
    bonds: list[LocalBond],
    placements: list[Placement],
) -> Structure:
    """Place the chains of the assembly and flatten them.

    `header`: entry id, release date, method and resolution.
    """
    copies = [copy for copy in placements if copy.asym in chains]
    if not copies:
        raise Rejection("no_chains", "nothing but water and unreadable ligands in assembly 1")
    placed = [chains[copy.asym] for copy in copies]
    residues = [residue for chain in placed for residue in chain.residues]
    sizes = [sum(len(residue.names) for residue in chain.residues) for chain in placed]
    starts = np.cumsum([0, *sizes])
    names, entities, symmetries = _labels(copies, placed)
    resolved = np.array([x is not None for residue in residues for x in residue.coords], np.bool_)
    return Structure(
        entry_id=header[0],
        release_date=header[1],
        method=header[2],
        resolution=header[3],
        chain_name=np.array(names, np.str_),
        chain_entity=np.array(entities, np.int32),
        chain_sym=np.array(symmetries, np.int32),
        chain_type=np.array([chain.type for chain in placed], np.uint8),
        residue_chain=np.repeat(np.arange(len(placed)), [len(c.residues) for c in placed]).astype(np.int32),
        residue_index=np.array([residue.index for residue in residues], np.int32),
        residue_component=np.array([residue.component for residue in residues], np.str_),
        residue_restype=np.array([residue.restype for residue in residues], np.uint8),
        residue_atomised=np.array([residue.atomised for residue in residues], np.bool_),
        atom_residue=np.repeat(np.arange(len(residues)), [len(r.names) for r in residues]).astype(np.int32),
        atom_name=np.array([name for residue in residues for name in residue.names], np.str_),
        atom_slot=np.array([slot for residue in residues for slot in residue.slots], np.uint8),
        atom_element=np.array([number for residue in residues for number in residue.elements], np.uint8),
        atom_charge=np.array([charge for residue in residues for charge in residue.charges], np.int8),
        atom_coords=np.concatenate([_placed_coords(c, copy) for c, copy in zip(placed, copies, strict=True)]),
        atom_resolved=resolved,
        bonds=_placed_bonds(copies, starts.tolist(), bonds),
    )


def _labels(copies: list[Placement], placed: list[Chain]) -> tuple[list[str], list[int], list[int]]:
    """Chain names ("A", "A-2", ...), entity numbers and copy numbers within the entity."""
    entities: dict[tuple[object, ...], int] = {}
    seen: Counter[str] = Counter()
    members: Counter[int] = Counter()
    labels: tuple[list[str], list[int], list[int]] = ([], [], [])
    for copy, chain in zip(copies, placed, strict=True):
        entity = entities.setdefault(chain.identity, len(entities))
        seen[copy.asym] += 1
        labels[0].append(copy.asym if seen[copy.asym] == 1 else f"{copy.asym}-{seen[copy.asym]}")
        labels[1].append(entity)
        labels[2].append(members[entity])
        members[entity] += 1
    return labels


def _placed_coords(chain: Chain, copy: Placement) -> Floats:
    """[L, 3], 0 where unresolved."""
    coords = [x for residue in chain.residues for x in residue.coords]
    resolved = np.array([x is not None for x in coords], np.bool_)
    placed = np.zeros((len(coords), 3), np.float32)
    if resolved.any():
        known = np.array([x for x in coords if x is not None], np.float64)
        placed[resolved] = known @ copy.rotation.T + copy.translation
    return placed


def _placed_bonds(copies: list[Placement], starts: list[int], bonds: list[LocalBond]) -> np.ndarray:
    """Every local bond in every copy of the asymmetric unit that holds both its chains, as sorted pairs."""
    start = {(copy.asym, copy.operator): s for copy, s in zip(copies, starts[:-1], strict=True)}
    pairs = set()
    for (asym_1, atom_1), (asym_2, atom_2) in bonds:
        for asym, operator in start:
            if asym == asym_1 and (asym_2, operator) in start:
                i, j = start[asym, operator] + atom_1, start[asym_2, operator] + atom_2
                pairs.add((min(i, j), max(i, j)))
    return np.array(sorted(pairs), np.int32).reshape(-1, 2)
