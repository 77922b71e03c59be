# SPDX-License-Identifier: Apache-2.0
"""Solvent-accessible surface (Shrake and Rupley 1973) and what AF3 takes for disorder from it.

Points on a sphere around every heavy atom, its van der Waals radius (Bondi 1964) and a water's together;
those outside of all other atoms' spheres are accessible. Relative to the largest surface of a residue (Sander
and Rost 1994), smoothed over 25 residues: above 0.581 a residue is taken for disordered (AlphaFold-disorder,
Piovesan et al. 2022; AF3 SI 5.9.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from foldwright.data.structure import Bools, Floats, Structure
from foldwright.vocabulary import AMINO_ACIDS, MoleculeType

PROBE = 1.4  # Å, a water
DISORDERED = 0.581
WINDOW = 25  # residues
_N_POINTS = 100
_RADII = {6: 1.70, 7: 1.55, 8: 1.52, 9: 1.47, 15: 1.80, 16: 1.80, 17: 1.75, 34: 1.90, 35: 1.85, 53: 1.98}
_OTHER_RADIUS = 1.80
_LARGEST = dict(
    zip(
        AMINO_ACIDS,
        (106, 248, 157, 163, 135, 198, 194, 84, 184, 169, 164, 205, 188, 197, 136, 130, 142, 227, 222, 142),
        strict=True,
    )
)


def accessible_surface(
    coords: NDArray[np.floating], element: NDArray[np.integer], n_points: int = _N_POINTS
) -> NDArray[np.float64]:
    """Å² [L] of each heavy atom: coords [L, 3] Å, atomic numbers [L]."""
    x = np.asarray(coords, np.float64)
    radius = np.array([_RADII.get(int(number), _OTHER_RADIUS) for number in element]) + PROBE
    sphere = _sphere(n_points)
    tree = cKDTree(x)
    near = tree.query_ball_point(x, radius + radius.max(initial=0.0))
    area = np.zeros(len(x))
    for atom, neighbours in enumerate(near):
        others = np.array([n for n in neighbours if n != atom], np.int64)
        points = x[atom] + radius[atom] * sphere
        offset = points[:, None] - x[others]
        hidden = (np.einsum("pox,pox->po", offset, offset) < radius[others] ** 2).any(axis=1)
        area[atom] = 4 * np.pi * radius[atom] ** 2 * (~hidden).mean()
    return area


def relative_surface(structure: Structure, coords: Floats, present: Bools) -> NDArray[np.float64]:
    """[S] accessible share of each protein residue of the 20 kinds; NaN for all others, or without atoms.

    coords [L, 3] Å; present [L]: atoms that are there.
    """
    atoms = np.flatnonzero(present)
    area = accessible_surface(coords[atoms], structure.atom_element[atoms])
    residue = structure.atom_residue[atoms]
    n_residues = len(structure.residue_chain)
    total = np.bincount(residue, weights=area, minlength=n_residues)
    largest = np.array([_LARGEST.get(str(code), np.nan) for code in structure.residue_component])
    is_protein = structure.chain_type[structure.residue_chain] == MoleculeType.PROTEIN
    counted = is_protein & (np.bincount(residue, minlength=n_residues) > 0)
    return np.where(counted, total / largest, np.nan)


def smoothed_surface(structure: Structure, relative: NDArray[np.float64]) -> NDArray[np.float64]:
    """[S] mean over the 25 residues around each in its chain, as many as there are; NaN where it is."""
    out = np.full(len(relative), np.nan)
    for chain in range(len(structure.chain_name)):
        own = np.flatnonzero((structure.residue_chain == chain) & np.isfinite(relative))
        if len(own):
            kernel = np.ones(min(WINDOW, 2 * len(own) - 1))
            count = np.convolve(np.ones(len(own)), kernel, "full")
            total = np.convolve(relative[own], kernel, "full")
            start = len(kernel) // 2
            out[own] = (total / count)[start : start + len(own)]
    return out


def disordered_fraction(structure: Structure, coords: Floats, present: Bools) -> float:
    """Share of protein residues whose smoothed relative surface is above 0.581; 0 without protein."""
    smooth = smoothed_surface(structure, relative_surface(structure, coords, present))
    known = smooth[np.isfinite(smooth)]
    return float((known > DISORDERED).mean()) if len(known) else 0.0


def _sphere(n: int) -> NDArray[np.float64]:
    """[n, 3] points spread evenly on the unit sphere: a spiral of golden angles."""
    step = np.arange(n) + 0.5
    z = 1 - 2 * step / n
    angle = np.pi * (1 + 5**0.5) * step
    around = np.sqrt(1 - z**2)
    return np.stack([around * np.cos(angle), around * np.sin(angle), z], axis=1)
