# SPDX-License-Identifier: Apache-2.0
"""Structure + coordinates -> mmCIF, with the names, sequences and connectivity that other programs read.

The file describes one assembly as it stands: no symmetry operators, copies of a chain under their own names.
Unresolved atoms are written when coordinates are given for them (predictions), or left out by a mask
(experimental ones); the sequence stands in the file either way.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gemmi
import numpy as np
from numpy.typing import NDArray

from foldwright.data.structure import Bools, Floats, Structure
from foldwright.vocabulary import (
    AMINO_ACIDS,
    DNA_NUCLEOTIDES,
    ELEMENTS,
    ONE_LETTER,
    RESTYPES,
    RNA_NUCLEOTIDES,
    MoleculeType,
)

if TYPE_CHECKING:  # writing needs no dictionary, so no biotite either
    from foldwright.data.ccd import Definition, Dictionary

_POLYMER_TYPE = {
    MoleculeType.PROTEIN: "polypeptide(L)",
    MoleculeType.RNA: "polyribonucleotide",
    MoleculeType.DNA: "polydeoxyribonucleotide",
}
_ORDERS = {1: "SING", 2: "DOUB", 3: "TRIP"}
_LINKING = {
    MoleculeType.PROTEIN: "L-peptide linking",
    MoleculeType.RNA: "RNA linking",
    MoleculeType.DNA: "DNA linking",
    MoleculeType.LIGAND: "non-polymer",
}


def write_structure(
    structure: Structure,
    coords: Floats,
    path: Path | str,
    dictionary: Dictionary | None = None,
    b_factors: Floats | None = None,
    mask: Bools | None = None,
) -> None:
    """Write one model as .cif (or .cif.gz, by the name of `path`).

    coords [L, 3] in Å for all atoms of the structure; b_factors [L] in Å² (or a confidence), 0 if None;
    mask [L]: atoms to write, all if None. `dictionary` gives components their exact types, and charges and
    bond orders where some are no standard residues; without it types follow from the chain.
    Raises ValueError if sizes differ or a written coordinate is not finite.
    """
    size = len(structure.atom_name)
    b_factors = np.zeros(size, np.float32) if b_factors is None else b_factors
    mask = np.ones(size, np.bool_) if mask is None else mask
    if coords.shape != (size, 3) or b_factors.shape != (size,) or mask.shape != (size,):
        got = f"coords {coords.shape}, b_factors {b_factors.shape} and mask {mask.shape}"
        raise ValueError(f"got {got}, expected ({size}, 3), ({size},) and ({size},) for {size} atoms")
    if not np.isfinite(coords[mask]).all():
        raise ValueError(f"{structure.entry_id}: coordinates hold NaN or infinity; mask such atoms out")
    block = gemmi.cif.Block("".join(structure.entry_id.split()) or "model")
    _write_header(block, structure)
    _write_entities(block, structure)
    _write_components(block, structure, dictionary)
    _write_connections(block, structure, coords, mask)
    _write_atoms(block, structure, coords, b_factors, mask)
    document = gemmi.cif.Document()
    document.add_copied_block(block)
    if Path(path).suffix == ".gz":
        Path(path).write_bytes(gzip.compress(document.as_string().encode(), mtime=0))
    else:
        document.write_file(str(path))


def _loop(block: gemmi.cif.Block, category: str, tags: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    """Add a loop of quoted values; "" becomes ".". Nothing is written if there are no rows."""
    listed = [[gemmi.cif.quote(value) if value else "." for value in row] for row in rows]
    if listed:
        loop = block.init_loop(category, list(tags))
        loop.set_all_values([list(column) for column in zip(*listed, strict=True)])


def _write_header(block: gemmi.cif.Block, structure: Structure) -> None:
    name = structure.entry_id or "model"
    block.set_pair("_entry.id", gemmi.cif.quote(name))
    if structure.method:
        _loop(block, "_exptl.", ["entry_id", "method"], iter((name, m) for m in structure.method.split(", ")))
    if structure.resolution:
        block.set_pair("_refine.entry_id", gemmi.cif.quote(name))
        block.set_pair("_refine.ls_d_res_high", str(structure.resolution))
    if structure.release_date:
        revision = ("1", "Structure model", structure.release_date)
        _loop(block, "_pdbx_audit_revision_history.", ["ordinal", "data_content_type", "revision_date"],
              iter([revision]))  # fmt: skip


# --- entities ---


def _write_entities(block: gemmi.cif.Block, structure: Structure) -> None:
    entity_of, first = np.unique(structure.chain_entity, return_index=True)
    entities = list(zip((str(e + 1) for e in entity_of.tolist()), first.tolist(), strict=True))
    kinds = {entity: _entity_kind(structure, chain) for entity, chain in entities}
    _loop(block, "_entity.", ["id", "type"], iter(kinds.items()))
    polymers = [(entity, chain) for entity, chain in entities if kinds[entity] == "polymer"]
    tags = ["entity_id", "type", "pdbx_seq_one_letter_code", "pdbx_seq_one_letter_code_can", "pdbx_strand_id"]
    _loop(
        block, "_entity_poly.", tags, (_polymer_row(structure, entity, chain) for entity, chain in polymers)
    )
    _loop(block, "_entity_poly_seq.", ["entity_id", "num", "mon_id", "hetero"],
          ((entity, str(number), component, "n") for entity, chain in polymers
           for number, component in enumerate(structure.sequence(chain), start=1)))  # fmt: skip
    chains = zip(structure.chain_name.tolist(), (structure.chain_entity + 1).tolist(), strict=True)
    _loop(block, "_struct_asym.", ["id", "entity_id"], ((name, str(entity)) for name, entity in chains))


def _entity_kind(structure: Structure, chain: int) -> str:
    if structure.chain_type[chain] != MoleculeType.LIGAND:
        return "polymer"
    return "branched" if (structure.residue_chain == chain).sum() > 1 else "non-polymer"


def _polymer_row(structure: Structure, entity: str, chain: int) -> tuple[str, ...]:
    residues = np.flatnonzero(structure.residue_chain == chain)
    canonical = "".join(ONE_LETTER[RESTYPES[r]] for r in structure.residue_restype[residues].tolist())
    codes, atomised = structure.residue_component[residues], structure.residue_atomised[residues]
    exact = "".join(letter if len(code) != 2 and not special else f"({code})"
                    for code, special, letter in zip(codes, atomised, canonical, strict=True))  # fmt: skip
    strands = ",".join(structure.chain_name[structure.chain_entity == structure.chain_entity[chain]].tolist())
    kind = _POLYMER_TYPE[MoleculeType(int(structure.chain_type[chain]))]
    return entity, kind, exact, canonical, strands


def _write_components(block: gemmi.cif.Block, structure: Structure, dictionary: Dictionary | None) -> None:
    chain_type = structure.chain_type[structure.residue_chain].tolist()
    types: dict[str, MoleculeType] = {}
    for component, kind in zip(structure.residue_component.tolist(), chain_type, strict=True):
        previous = types.get(component, MoleculeType.LIGAND)
        types[component] = MoleculeType(kind) if previous == MoleculeType.LIGAND else previous
    rows = [(code, _component_type(code, kind, dictionary)) for code, kind in sorted(types.items())]
    _loop(block, "_chem_comp.", ["id", "type"], iter(rows))
    if dictionary is not None and structure.residue_atomised.any():
        # of all or of none: biotite takes what a file does not describe, standard residues too, as unbonded
        write_chemistry(block, [dictionary.with_hydrogens(code) for code, _ in rows if code in dictionary])


def write_chemistry(block: gemmi.cif.Block, definitions: Sequence[Definition]) -> None:
    """Atoms with charges, ideal positions and Kekulé bonds of components, which readers may not know: whole,
    with hydrogens, so that what a SMILES string says can be had from the file (`ccd.described_components`).
    """
    tags = ["comp_id", "atom_id", "type_symbol", "charge", "pdbx_leaving_atom_flag"]
    tags += [f"pdbx_model_Cartn_{axis}_ideal" for axis in "xyz"]
    _loop(block, "_chem_comp_atom.", tags, (
        (d.code, str(d.atom_name[i]), ELEMENTS[d.atom_element[i]], str(d.atom_charge[i]),
         "NY"[int(d.atom_leaving[i])],
         *(f"{x:.3f}" if np.isfinite(x) else "" for x in d.ideal[i].tolist()))
        for d in definitions for i in range(len(d.atom_name))
    ))  # fmt: skip
    tags = ["comp_id", "atom_id_1", "atom_id_2", "value_order", "pdbx_aromatic_flag"]
    _loop(block, "_chem_comp_bond.", tags, (
        (d.code, str(d.atom_name[i]), str(d.atom_name[j]), _ORDERS[order], "NY"[int(aromatic)])
        for d in definitions
        for (i, j), order, aromatic in zip(
            d.bonds.tolist(), d.bond_order.tolist(), d.bond_aromatic.tolist(), strict=True
        )
    ))  # fmt: skip


def _component_type(code: str, kind: MoleculeType, dictionary: Dictionary | None) -> str:
    if dictionary is not None and code in dictionary:
        return dictionary[code].type
    if code == "GLY":
        return "peptide linking"
    for names, standard in ((AMINO_ACIDS, MoleculeType.PROTEIN), (RNA_NUCLEOTIDES, MoleculeType.RNA),
                            (DNA_NUCLEOTIDES, MoleculeType.DNA)):  # fmt: skip
        if code in names:
            return _LINKING[standard]
    return _LINKING[kind]


# --- atoms and bonds ---


def _write_connections(block: gemmi.cif.Block, structure: Structure, coords: Floats, mask: Bools) -> None:
    """Structure.bonds as struct_conn; bonds of atoms that are not written are left out."""
    items = ("label_asym_id", "label_comp_id", "label_seq_id", "label_atom_id",
             "auth_asym_id", "auth_comp_id", "auth_seq_id", "symmetry")  # fmt: skip
    ends = [f"ptnr{partner}_{item}" for partner in "12" for item in items]
    tags = ["id", "conn_type_id", *ends, "pdbx_dist_value"]
    rows: list[tuple[str, ...]] = []
    for i, j in structure.bonds[mask[structure.bonds].all(axis=1)].tolist():
        distance = float(np.linalg.norm(coords[i].astype(np.float64) - coords[j]))
        rows.append(
            (f"covale{len(rows) + 1}", "covale", *_end(structure, i), *_end(structure, j), f"{distance:.3f}")
        )
    _loop(block, "_struct_conn.", tags, iter(rows))


def _end(structure: Structure, atom: int) -> tuple[str, ...]:
    residue = structure.atom_residue[atom]
    chain = structure.residue_chain[residue]
    name, component = str(structure.chain_name[chain]), str(structure.residue_component[residue])
    number = str(structure.residue_index[residue])
    label_number = number if structure.chain_type[chain] != MoleculeType.LIGAND else ""
    return name, component, label_number, str(structure.atom_name[atom]), name, component, number, "1_555"


def _write_atoms(
    block: gemmi.cif.Block, structure: Structure, coords: Floats, b_factors: Floats, mask: Bools
) -> None:
    atoms = np.flatnonzero(mask)
    residue = structure.atom_residue[atoms]
    chain = structure.residue_chain[residue]
    standard = ~structure.residue_atomised[residue]
    number = structure.residue_index[residue].astype(np.str_)
    label_number = np.where(structure.chain_type[chain] == MoleculeType.LIGAND, ".", number)
    names, components = structure.atom_name[atoms], structure.residue_component[residue]
    columns: dict[str, NDArray[np.str_] | list[str]] = {
        "group_PDB": np.where(standard, "ATOM", "HETATM"),
        "id": np.arange(1, len(atoms) + 1).astype(np.str_),
        "type_symbol": np.array(ELEMENTS)[structure.atom_element[atoms]],
        "label_atom_id": _quoted(names),
        "label_alt_id": np.full(len(atoms), "."),
        "label_comp_id": _quoted(components),
        "label_asym_id": _quoted(structure.chain_name[chain]),
        "label_entity_id": (structure.chain_entity[chain] + 1).astype(np.str_),
        "label_seq_id": label_number,
        "pdbx_PDB_ins_code": np.full(len(atoms), "?"),
        **{f"Cartn_{axis}": [f"{x:.3f}" for x in coords[atoms, i].tolist()] for i, axis in enumerate("xyz")},
        "occupancy": np.full(len(atoms), "1.00"),
        "B_iso_or_equiv": [f"{b:.2f}" for b in b_factors[atoms].tolist()],
        "pdbx_formal_charge": structure.atom_charge[atoms].astype(np.str_),
        "auth_seq_id": number,
        "auth_comp_id": _quoted(components),
        "auth_asym_id": _quoted(structure.chain_name[chain]),
        "auth_atom_id": _quoted(names),
        "pdbx_PDB_model_num": np.full(len(atoms), "1"),
    }
    loop = block.init_loop("_atom_site.", list(columns))
    loop.set_all_values([list(map(str, column)) for column in columns.values()])


def _quoted(values: NDArray[np.str_]) -> NDArray[np.str_]:
    unique, inverse = np.unique(values, return_inverse=True)
    return np.array([gemmi.cif.quote(str(value)) for value in unique], np.str_)[inverse]
