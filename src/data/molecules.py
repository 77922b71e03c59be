# SPDX-License-Identifier: Apache-2.0
"""Molecules as RDKit reads them: SMILES, the poses of an SDF, and what baselines of affinity need of them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator, rdMolDescriptors

from foldwright.data.structure import Floats


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
