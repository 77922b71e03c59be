# SPDX-License-Identifier: Apache-2.0
"""Ligands that the component dictionary lacks, from SMILES or SDF, as definitions and components of our own.

RDKit perceives elements, charges, bond orders and stereochemistry; a definition keeps them by its Kekulé
orders and its coordinates, as the dictionary does: of an SDF with three dimensions those of the file, else an
embedding's. Atoms that bear no name get their element with a number (C1, C2, N1, ...) in the order given,
which a structure file must use too for its atoms to be found. A definition stands for the molecule as given:
protonation and tautomer are not changed.

    DIR/<code>.sdf, DIR/<code>.smi        ligands of a folder, or
    FILE.csv: code,smiles                 a table, whose second column may name an SDF beside it
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom

from foldwright.data.ccd import Definition, Dictionary
from foldwright.data.conformers import build_molecule, make_component
from foldwright.data.structure import Component, Floats

_ORDERS = {Chem.BondType.SINGLE: 1, Chem.BondType.DOUBLE: 2, Chem.BondType.TRIPLE: 3, Chem.BondType.DATIVE: 1}
_TYPE = "NON-POLYMER"
_SEED, _TIMEOUT_S = 1, 20
_NAME_LENGTH = 4  # of an atom, as in the dictionary


def component_from_smiles(code: str, smiles: str, seed: int = 0, n_conformers: int = 5) -> Component:
    """The component of a SMILES string, with its conformers; ValueError if it cannot be read or embedded."""
    return _component(definition_from_smiles(code, smiles), seed, n_conformers)


def component_from_sdf(code: str, path: Path, seed: int = 0, n_conformers: int = 5) -> Component:
    """The component of the first molecule of an SDF file; ValueError as for `component_from_smiles`."""
    return _component(definition_from_sdf(code, path), seed, n_conformers)


def component_from_molecule(code: str, molecule: Chem.Mol, seed: int = 0, n_conformers: int = 5) -> Component:
    """The component of an RDKit molecule, its heavy atoms in its order; ValueError as for SMILES."""
    with rdBase.BlockLogs():
        return _component(definition_from_molecule(code, molecule), seed, n_conformers)


def _component(definition: Definition, seed: int, n_conformers: int) -> Component:
    return make_component(
        definition.code, Dictionary(None, {definition.code: definition}), seed, n_conformers
    )


def read_ligands(path: Path) -> dict[str, Definition]:
    """Definitions by code, of a CSV file with the columns code,smiles or of a folder of SDF and SMILES files.

    Raises:
        ValueError: there is no ligand, a code is empty or comes twice, or one cannot be read; says which.
    """
    found: dict[str, Definition] = {}
    for code, value in _listed(path):
        if code in found or not (code.isascii() and code.replace("_", "").isalnum()):
            raise ValueError(f"--ligands: got the code {code!r}, expected letters and digits, each once")
        try:
            found[code] = (
                definition_from_sdf(code, path.parent / value if path.is_file() else Path(value))
                if value.endswith(".sdf")
                else definition_from_smiles(code, value)
            )
        except ValueError as error:
            raise ValueError(f"--ligands: {code}: {error}") from error
    if not found:
        raise ValueError(f"--ligands: found none in {path}; expected <code>.sdf, <code>.smi or a CSV file")
    return found


def _listed(path: Path) -> list[tuple[str, str]]:
    """Codes with their SMILES, or the name of their SDF file."""
    if path.is_dir():
        sdf = [(file.stem, str(file)) for file in sorted(path.glob("*.sdf"))]
        lines = [(file.stem, file.read_text().split()) for file in sorted(path.glob("*.smi"))]
        return sdf + [(code, words[0] if words else "") for code, words in lines]
    if not path.is_file():
        raise ValueError(f"--ligands: {path} is neither a file nor a folder")
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if list(rows.fieldnames or []) != ["code", "smiles"]:
            raise ValueError(f"--ligands: {path} has the columns {rows.fieldnames}, expected code,smiles")
        return [(row["code"].strip(), (row["smiles"] or "").strip()) for row in rows]


def definition_from_smiles(code: str, smiles: str) -> Definition:
    """The definition of a SMILES string, with coordinates that show its stereochemistry.

    Raises:
        ValueError: RDKit cannot read it, it holds more than one molecule, or it cannot be embedded.
    """
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
        if molecule is None:
            raise ValueError(f"got {smiles[:60]!r}, expected a SMILES string that RDKit can read")
        return definition_from_molecule(code, molecule)


def definition_from_sdf(code: str, path: Path) -> Definition:
    """The definition of the first molecule of an SDF file; hydrogens it lacks are added.

    Raises:
        ValueError: as for SMILES.
    """
    if not path.is_file():
        raise ValueError(f"no SDF file at {path}")
    with rdBase.BlockLogs():
        text = path.read_text(errors="replace").partition("$$$$")[0]
        molecule = Chem.MolFromMolBlock(text, removeHs=False)
        if molecule is None:
            raise ValueError(f"{path} begins with no molecule that RDKit can read; expected an SDF file")
        return definition_from_molecule(code, molecule)


def definition_from_molecule(code: str, molecule: Chem.Mol) -> Definition:
    """The definition of an RDKit molecule, by its own coordinates if they have three dimensions."""
    if molecule.GetNumConformers() and molecule.GetConformer().Is3D():
        placed = Chem.AddHs(molecule, addCoords=True)
        Chem.AssignStereochemistryFrom3D(placed)
        return _definition(code, placed)
    return _definition(code, _with_coordinates(Chem.AddHs(molecule)))


def _with_coordinates(molecule: Chem.Mol) -> Chem.Mol:
    """The molecule with a conformer of its stereochemistry."""
    for random_coordinates in (False, True):
        parameters: Any = rdDistGeom.ETKDGv3()
        parameters.randomSeed, parameters.timeout = _SEED, _TIMEOUT_S
        parameters.useRandomCoords = random_coordinates
        if molecule.GetNumAtoms() and rdDistGeom.EmbedMolecule(molecule, parameters) >= 0:
            return molecule
    source = Chem.MolToSmiles(Chem.RemoveHs(molecule))
    raise ValueError(
        f"RDKit finds no coordinates for {source[:60]!r}; give an SDF file with three dimensions"
    )


def _definition(code: str, molecule: Chem.Mol) -> Definition:
    if len(Chem.GetMolFrags(molecule)) != 1:
        raise ValueError("got more than one molecule (or a salt), expected one; give each a code")
    aromatic = [bond.GetIsAromatic() for bond in molecule.GetBonds()]
    kekulised = Chem.Mol(molecule)
    Chem.Kekulize(kekulised, clearAromaticFlags=True)
    bonds = list(kekulised.GetBonds())
    orders = [_ORDERS.get(bond.GetBondType(), 0) for bond in bonds]
    if 0 in orders:
        raise ValueError(f"got a bond of type {bonds[orders.index(0)].GetBondType()}, expected one of 1 to 3")
    atoms = list(molecule.GetAtoms())
    names = _names(atoms)
    coords: Floats = molecule.GetConformer().GetPositions().astype(np.float32)
    definition = Definition(
        code=code,
        type=_TYPE,
        parent="",
        modified="",
        atom_name=names,
        atom_old_name=names,
        atom_element=np.array([atom.GetAtomicNum() for atom in atoms], np.uint8),
        atom_charge=np.array([atom.GetFormalCharge() for atom in atoms], np.int8),
        atom_leaving=np.zeros(len(atoms), np.bool_),
        ideal=coords,
        model=np.full_like(coords, np.nan),
        bonds=np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in bonds], np.int32).reshape(-1, 2),
        bond_order=np.array(orders, np.uint8),
        bond_aromatic=np.array(aromatic, np.bool_),
    )
    _require_same(definition, molecule)
    return definition


def _names(atoms: list[Chem.Atom]) -> np.ndarray:
    """Names the atoms bear, where all bear one and no two the same; else elements with numbers."""
    given = [atom.GetProp("atomName") if atom.HasProp("atomName") else "" for atom in atoms]
    if all(given) and len(set(given)) == len(given):
        return np.array(given, np.str_)
    counts: Counter[str] = Counter()
    names = []
    for atom in atoms:
        symbol = atom.GetSymbol().upper()
        counts[symbol] += 1
        names.append(f"{symbol}{counts[symbol]}")
    if max(map(len, names)) > _NAME_LENGTH:
        raise ValueError(f"got {len(atoms)} atoms, expected fewer than a thousand of an element")
    return np.array(names, np.str_)


def _only_settles(given: str, kept: str) -> bool:
    """Whether all that is more in `kept` is stereochemistry that `given` leaves open."""
    one, other = Chem.MolFromSmiles(given), Chem.MolFromSmiles(kept)
    if one is None or other is None or one.GetNumAtoms() != other.GetNumAtoms():
        return False
    same = Chem.MolToSmiles(one, isomericSmiles=False) == Chem.MolToSmiles(other, isomericSmiles=False)
    return same and bool(other.HasSubstructMatch(one, useChirality=True))


def _require_same(definition: Definition, molecule: Chem.Mol) -> None:
    """ValueError if what is kept does not read back as the molecule given, stereochemistry included."""
    again = build_molecule(definition)
    kept, given = (Chem.MolToSmiles(Chem.RemoveHs(m)) if m else "" for m in (again, molecule))
    if kept != given and not _only_settles(given, kept):
        raise ValueError(f"its chemistry cannot be kept: {given} reads back as {kept or 'nothing'}")
