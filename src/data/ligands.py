# SPDX-License-Identifier: Apache-2.0
"""Ligands from outside the component dictionary: SMILES and SDF to Components with conformers and atom names.

Atoms are named by element and running number (C1, C2, N3, ...), hydrogens H1, H2, ...; all else is made as
for the dictionary's components (`conformers.make_component`).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdFingerprintGenerator, rdMolDescriptors

from foldwright.data.ccd import Definition, Dictionary
from foldwright.data.conformers import make_component
from foldwright.data.structure import Component, Floats


class Pose(NamedTuple):
    """A molecule of an SDF without hydrogens: its title, and positions [L, 3] Å in the component's order."""

    name: str
    molecule: Chem.Mol
    coords: Floats


class Descriptors2D(NamedTuple):
    """Canonical SMILES, molecular weight in g/mol, and 2048 Morgan bits (radius 2) packed into 256 bytes."""

    smiles: str
    weight: float
    bits: bytes


def component_from_smiles(smiles: str, code: str, n_conformers: int = 5, seed: int = 0) -> Component:
    """The component of a SMILES; ValueError if RDKit cannot read it."""
    return component_from_molecule(read_smiles(smiles), code, n_conformers, seed)


def component_from_sdf(path: Path, code: str, n_conformers: int = 5, seed: int = 0) -> Component:
    """The component of the first molecule of an SDF (.gz too); ValueError if there is none."""
    for pose in read_sdf(path):
        return component_from_molecule(pose.molecule, code, n_conformers, seed)
    raise ValueError(f"{path}: got no readable molecule, expected an SDF; write it again with RDKit")


def component_from_molecule(
    molecule: Chem.Mol, code: str, n_conformers: int = 5, seed: int = 0, timeout: float = 20.0
) -> Component:
    """The component of an RDKit molecule, its heavy atoms in the molecule's order."""
    dictionary = Dictionary(None, {code: definition_from_molecule(molecule, code)})
    return make_component(code, dictionary, seed, n_conformers, timeout)


def definition_from_molecule(molecule: Chem.Mol, code: str) -> Definition:
    """The dictionary entry of a molecule with its hydrogens; stereochemistry through 3D coordinates."""
    whole = Chem.AddHs(molecule, addCoords=bool(molecule.GetNumConformers()))
    if not whole.GetNumConformers():
        with rdBase.BlockLogs():
            rdDistGeom.EmbedMolecule(whole, randomSeed=1)
    Chem.Kekulize(whole, clearAromaticFlags=False)
    atoms, bonds = list(whole.GetAtoms()), list(whole.GetBonds())
    n = len(atoms)
    counts: dict[str, int] = {}
    names = []
    for atom in atoms:
        symbol = atom.GetSymbol().upper()
        counts[symbol] = counts.get(symbol, 0) + 1
        names.append(f"{symbol}{counts[symbol]}")
    missing = np.full((n, 3), np.nan, np.float32)
    ideal = whole.GetConformer().GetPositions().astype(np.float32) if whole.GetNumConformers() else missing
    return Definition(
        code=code,
        type="NON-POLYMER",
        parent="",
        modified="",
        atom_name=np.array(names, np.str_),
        atom_old_name=np.array(names, np.str_),
        atom_element=np.array([atom.GetAtomicNum() for atom in atoms], np.uint8),
        atom_charge=np.array([atom.GetFormalCharge() for atom in atoms], np.int8),
        atom_leaving=np.zeros(n, np.bool_),
        ideal=ideal,
        model=missing,
        bonds=np.array(
            [[b.GetBeginAtomIdx(), b.GetEndAtomIdx()] for b in bonds], np.int32
        ).reshape(-1, 2),
        bond_order=np.array([max(1, int(b.GetBondTypeAsDouble())) for b in bonds], np.uint8),
        bond_aromatic=np.array([b.GetIsAromatic() for b in bonds], np.bool_),
    )  # fmt: skip


def read_smiles(smiles: str) -> Chem.Mol:
    """ValueError for what RDKit cannot read."""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or not molecule.GetNumAtoms():
        raise ValueError(f"got the SMILES {smiles[:80]!r}, which RDKit cannot read; correct or drop it")
    return molecule


def read_sdf(path: Path) -> Iterator[Pose]:
    """The readable molecules of an SDF (.gz too) with their poses, hydrogens removed."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file, rdBase.BlockLogs():
        for molecule in Chem.ForwardSDMolSupplier(file, removeHs=False):
            if molecule is not None and molecule.GetNumConformers():
                heavy = Chem.RemoveHs(molecule)
                coords = heavy.GetConformer().GetPositions().astype(np.float32)
                yield Pose(molecule.GetProp("_Name"), heavy, coords)


def describe(molecule: Chem.Mol) -> Descriptors2D:
    """What baselines and the correction by weight need of a molecule."""
    heavy = Chem.RemoveHs(molecule)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    bits = np.packbits(generator.GetFingerprintAsNumPy(heavy))
    return Descriptors2D(Chem.MolToSmiles(heavy), float(rdMolDescriptors._CalcMolWt(heavy)), bits.tobytes())
