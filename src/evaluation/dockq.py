# SPDX-License-Identifier: Apache-2.0
"""DockQ of an interface of two polymer chains (Basu and Wallner 2016; spec 9).

Of three parts: the share of native residue contacts (heavy atoms within 5 Å) that the prediction has; the
RMSD of the backbones of interface residues (heavy atoms within 10 Å of the partner), superposed; the RMSD of
the smaller chain's backbone after the larger one's has been superposed. Only residues and atoms that both
structures have count, as in the DockQ program, whose atoms of a nucleotide's backbone are taken too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from foldwright.data.superpose import superpose

CONTACT, INTERFACE = 5.0, 10.0  # Å
BACKBONE = (
    "N CA C O P OP1 OP2 O2' O3' O4' O5' C1' C2' C3' C4' C5'".split()
)  # of residues that the program compares
_I_SCALE, _L_SCALE = 1.5, 8.5  # Å
Coords = NDArray[np.floating]


@dataclass
class DockQ:
    """The score, 0 to 1, and its parts; RMSDs in Å. `native_contacts` counts residue pairs of the truth."""

    dockq: float
    fnat: float
    irmsd: float
    lrmsd: float
    native_contacts: int


def dockq(
    x: Coords,
    x_true: Coords,
    residue: NDArray[np.integer],
    first: NDArray[np.bool_],
    is_backbone: NDArray[np.bool_],
) -> DockQ | None:
    """DockQ of a prediction x [n, 3] of the atoms of two chains, Å; None if the truth has no contact.

    residue [n] numbers residues over both chains; first [n]: atoms of the first chain; is_backbone [n]. All
    atoms are resolved in the truth.
    """
    x, x_true = np.asarray(x, np.float64), np.asarray(x_true, np.float64)
    native = _contacts(x_true, residue, first, CONTACT)
    if not native:
        return None
    kept = native & _contacts(x, residue, first, CONTACT)
    fnat = len(kept) / len(native)
    near = np.array(sorted({r for pair in _contacts(x_true, residue, first, INTERFACE) for r in pair}))
    at_interface = is_backbone & np.isin(residue, near)
    irmsd = _rmsd(x, x_true, at_interface, at_interface)
    sizes = [len(np.unique(residue[side])) for side in (first, ~first)]
    receptor = first if sizes[0] > sizes[1] else ~first  # of equal ones the second, as the program does
    lrmsd = _rmsd(x, x_true, is_backbone & receptor, is_backbone & ~receptor)
    return DockQ(dockq_formula(fnat, irmsd, lrmsd), fnat, irmsd, lrmsd, len(native))


def dockq_formula(fnat: float, irmsd: float, lrmsd: float) -> float:
    """The mean of the three parts, each from 0 to 1."""
    return (fnat + 1 / (1 + (irmsd / _I_SCALE) ** 2) + 1 / (1 + (lrmsd / _L_SCALE) ** 2)) / 3


def _contacts(
    x: Coords, residue: NDArray[np.integer], first: NDArray[np.bool_], distance: float
) -> set[tuple[int, int]]:
    """Pairs of residues, one of each chain, with atoms within the distance."""
    near = cKDTree(x[first]).query_ball_tree(cKDTree(x[~first]), distance)
    one, other = residue[first], residue[~first]
    return {(int(one[i]), int(other[j])) for i, partners in enumerate(near) for j in partners}


def _rmsd(x: Coords, x_true: Coords, aligned: NDArray[np.bool_], compared: NDArray[np.bool_]) -> float:
    """RMSD of some atoms after others were superposed."""
    motion = superpose(x[aligned], x_true[aligned])
    difference = motion(x[compared]) - x_true[compared]
    return float(np.sqrt((difference**2).sum(axis=1).mean()))
