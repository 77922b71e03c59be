# SPDX-License-Identifier: Apache-2.0
"""Structure: a cleaned biological assembly as flat arrays, and Tokens: its token view.

Both hold every *expected* heavy atom (from the sequence and the component dictionary), resolved or not, in
order chain, residue, atom slot. They are what the store keeps: plain NumPy arrays, no objects.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Strings = NDArray[np.str_]

MAX_BOND_LENGTH = 2.4  # Å: what the experiment shows farther apart is not taken as bonded (AF3 SI 5.1)


@dataclass(frozen=True)
class Structure:
    """One assembly. C chains, S residues, L atoms, E inter-residue bonds. Coordinates in Å.

    A chain is a polymer chain, one ligand/ion molecule, or one branched (glycan) molecule of the assembly;
    symmetry copies are chains of their own. `chain_entity` numbers unique sequences or compositions from 0;
    `chain_sym` numbers the copies within an entity from 0.
    """

    entry_id: str
    release_date: str  # ISO date, "" when the file has none
    method: str
    resolution: float  # Å; 0.0 when not reported (NMR)
    # chains [C]
    chain_name: Strings  # label_asym_id, copies suffixed "-2", "-3", ...
    chain_entity: Ints
    chain_sym: Ints
    chain_type: Bytes  # MoleculeType
    # residues [S]
    residue_chain: Ints
    residue_index: Ints  # label_seq_id, 1-based; running number in ligands and glycans
    residue_component: Strings  # CCD code after MSE -> MET
    residue_restype: Bytes  # parent's restype for modified residues; UNK for ligands
    residue_atomised: Bools  # True: one token an atom
    # atoms [L]
    atom_residue: Ints
    atom_name: Strings
    atom_slot: Bytes  # slot in vocabulary.RESIDUE_ATOMS for standard residues; 0 in atomised ones
    atom_element: Bytes  # atomic number
    atom_charge: NDArray[np.int8]
    atom_coords: Floats  # [L, 3]; 0 where unresolved
    atom_resolved: Bools
    # covalent bonds between different residues other than polymer-backbone links, as atom pairs [E, 2]
    bonds: Ints

    def sequence(self, chain: int) -> list[str]:
        """Component codes of one chain, in order."""
        return [str(code) for code in self.residue_component[self.residue_chain == chain]]


@dataclass(frozen=True)
class Tokens:
    """Token view of a Structure (AF3 SI 2.6). N tokens; atom indices point into the Structure's atoms."""

    token_residue: Ints  # [N]
    token_chain: Ints  # [N]
    token_restype: Bytes  # [N]
    token_atomised: Bools  # [N]
    token_first_atom: Ints  # [N + 1]: atoms of token i are first[i] .. first[i + 1] - 1
    token_centre: Ints  # [N] atom index
    token_representative: Ints  # [N] atom index
    atom_token: Ints  # [L]
    token_bonds: Ints  # [P, 2] token pairs i < j: ligand-ligand, polymer-ligand, inside atomised residues
    polymer_ligand_bonds: Ints  # [K, 2] atom pairs (polymer atom, ligand atom), for the bond loss


@dataclass(frozen=True)
class Component:
    """One entry of the component dictionary: L heavy atoms, E bonds and its cached conformers."""

    code: str
    atom_name: Strings
    atom_element: Bytes
    atom_charge: NDArray[np.int8]
    atom_leaving: Bools
    bonds: Ints  # [E, 2] atom indices
    bond_order: Bytes  # [E]: 1, 2, 3, or 4 for aromatic
    conformers: Floats  # [n >= 1, L, 3] Å
    conformer_mask: Bools  # [L]: False where no source gives a position
    conformer_source: str  # "etkdg", "ideal", "model" or "none"
    automorphisms: Ints  # [P >= 1, L]: atom i may take the place of atom row[i]; row 0 is the identity


def keep_chains(structure: Structure, keep: Bools) -> Structure:
    """The structure of the chains where `keep` [C] is True; entities and copies are numbered anew from 0."""
    if keep.shape != structure.chain_name.shape:
        raise ValueError(
            f"got a mask of shape {keep.shape}, expected one value a chain: {structure.chain_name.shape}"
        )
    residue_kept = keep[structure.residue_chain]
    atom_kept = residue_kept[structure.atom_residue]
    new_chain, new_residue, new_atom = (np.cumsum(mask) - 1 for mask in (keep, residue_kept, atom_kept))
    entity, sym = _renumbered(structure.chain_entity[keep])
    changed: dict[str, NDArray[Any]] = {"chain_entity": entity, "chain_sym": sym}
    for field in fields(Structure):
        value = getattr(structure, field.name)
        mask = {"chain": keep, "residue": residue_kept, "atom": atom_kept}.get(field.name.split("_")[0])
        if mask is not None and field.name not in changed:
            changed[field.name] = value[mask]
    changed["residue_chain"] = new_chain[changed["residue_chain"]].astype(np.int32)
    changed["atom_residue"] = new_residue[changed["atom_residue"]].astype(np.int32)
    bonds = structure.bonds[atom_kept[structure.bonds].all(axis=1)]
    return replace(structure, **changed, bonds=new_atom[bonds].astype(np.int32).reshape(-1, 2))  # type: ignore[arg-type]


def _renumbered(entity: Ints) -> tuple[Ints, Ints]:
    """Entities in order of first appearance from 0, and the running number of each chain in its entity."""
    numbers: dict[int, int] = {}
    counts: dict[int, int] = {}
    new, sym = np.zeros_like(entity), np.zeros_like(entity)
    for i, old in enumerate(entity.tolist()):
        new[i] = numbers.setdefault(old, len(numbers))
        sym[i] = counts.get(old, 0)
        counts[old] = counts.get(old, 0) + 1
    return new, sym
