# SPDX-License-Identifier: Apache-2.0
"""How alike two ligands are: Tanimoto coefficients of Morgan fingerprints (radius 2, 2048 bits).

Source: AF3 SI 5.8 (low-homology sets, threshold 0.85). A branched ligand of several components is like itself
alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import rdFingerprintGenerator

from foldwright.data.structure import Component

_ORDERS = {
    1: Chem.BondType.SINGLE,
    2: Chem.BondType.DOUBLE,
    3: Chem.BondType.TRIPLE,
    4: Chem.BondType.AROMATIC,
}


def similar_ligands(
    queries: Iterable[str], targets: Iterable[str], components: Mapping[str, Component], threshold: float
) -> dict[str, set[str]]:
    """Query code -> target codes whose coefficient is above `threshold`; a code is always like itself.

    A code without a component of its own (several joined by "-") is compared by name.
    """
    names = sorted(set(targets))
    known = [name for name in names if name in components]
    prints = [fingerprint(components[name]) for name in known]
    found = {}
    for query in sorted(set(queries)):
        alike = {query} & set(names)
        if query in components and prints:
            values = DataStructs.BulkTanimotoSimilarity(fingerprint(components[query]), prints)
            alike |= {known[i] for i in np.flatnonzero(np.array(values) > threshold).tolist()}
        found[query] = alike
    return found


def fingerprint(component: Component) -> DataStructs.ExplicitBitVect:
    """Of the heavy-atom graph as the dictionary has it: nothing needs to pass RDKit's valence rules."""
    molecule = Chem.RWMol()
    for element, charge in zip(component.atom_element.tolist(), component.atom_charge.tolist(), strict=True):
        atom = Chem.Atom(element)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)
        molecule.AddAtom(atom)
    for (i, j), order in zip(component.bonds.tolist(), component.bond_order.tolist(), strict=True):
        molecule.AddBond(i, j, _ORDERS[order])
        if order == 4:
            for atom in (i, j):
                molecule.GetAtomWithIdx(atom).SetIsAromatic(True)
    with rdBase.BlockLogs():
        molecule.UpdatePropertyCache(False)
        Chem.FastFindRings(molecule)
        generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
        return generator.GetFingerprint(molecule)
