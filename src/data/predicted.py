# SPDX-License-Identifier: Apache-2.0
"""Predicted structures as training data: the confidence of every residue, read where mmCIF files carry it.

AlphaFold DB, and this package's own predictions (`write_mmcif`), put the pLDDT, 0 to 100, in the column of B
factors. A residue's is the mean over its atoms. Whether a file is a prediction is said by who prepares it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foldwright.data.filters import Rejection
from foldwright.data.mmcif_tables import Atoms, read_entry
from foldwright.data.structure import Floats, Structure
from foldwright.vocabulary import MoleculeType


def read_plddt(path: Path, structure: Structure) -> Floats:
    """[S] pLDDT of the residues of a structure read from `path`; 0 for those without a resolved atom.

    Raises Rejection "no_plddt" if the B factors are none: outside 0 to 100, or nowhere above 1.
    """
    values = residue_means(read_entry(path).atoms, structure)
    if not (values.min() >= 0 and 1 < values.max() <= 100):
        raise Rejection(
            "no_plddt",
            f"B factors are {values.min():.2f} to {values.max():.2f}, a prediction's pLDDT is 0 to 100; "
            "prepare experimental structures without --predicted",
        )
    return values


def residue_means(atoms: Atoms, structure: Structure) -> Floats:
    """[S] mean B factor of every residue, of the file's chain of that name; 0 where the file has no atom."""
    total: dict[tuple[str, str], list[float]] = {}
    in_order: dict[str, list[str]] = {}
    for asym, key, value in zip(
        atoms.asym.tolist(), atoms.residue_key.tolist(), atoms.b_factor.tolist(), strict=True
    ):
        if (asym, key) not in total:
            in_order.setdefault(asym, []).append(key)
        total.setdefault((asym, key), []).append(value)
    seen = _seen_residues(structure)
    means = np.zeros(len(structure.residue_chain), np.float32)
    for residue in np.flatnonzero(seen).tolist():
        chain = int(structure.residue_chain[residue])
        name, number = str(structure.chain_name[chain]), int(structure.residue_index[residue])
        asym = name if name in in_order else name.split("-")[0]  # copies made by symmetry
        is_ligand = structure.chain_type[chain] == MoleculeType.LIGAND
        key = in_order[asym][number - 1] if is_ligand else str(number)
        means[residue] = np.mean(total[asym, key])
    return means


def mean_plddt(plddt: Floats, structure: Structure) -> float:
    """Mean over all resolved atoms of their residues' values, as AlphaFold DB's global metric."""
    return float(plddt[structure.atom_residue[structure.atom_resolved]].mean(dtype=np.float64))


def _seen_residues(structure: Structure) -> np.ndarray:
    counts = np.bincount(structure.atom_residue, structure.atom_resolved, len(structure.residue_chain))
    return counts > 0
