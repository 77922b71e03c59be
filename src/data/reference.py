# SPDX-License-Identifier: Apache-2.0
"""Reference conformers placed on the atoms of a crop, and the frames of its tokens.

Sources: AF3 SI 2.8 and Table 5 (a conformer a residue, centred, randomly rotated and translated), SI 4.3.2
(frames). Ligand frames are found in the reference conformer, so that they exist at inference (spec 1.2).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foldwright.data.structure import Bools, Bytes, Component, Floats, Ints, Strings, Structure
from foldwright.vocabulary import MAX_ATOMS_PER_TOKEN, N_RESTYPES, RESIDUE_ATOMS, RESTYPES, frame_atoms

MAX_COSINE = 0.9063  # cos 25°: three atoms nearer to a line than this make no frame (AF3 SI 4.3.2)


def atom_reference(structure: Structure, components: Mapping[str, Component]) -> Ints:
    """[L] index of every atom of a structure among the atoms of its residue's component.

    -1 where the component does not name the atom. Computed when an entry is prepared.
    """
    out = np.full(len(structure.atom_name), -1, np.int32)
    code_of_atom = structure.residue_component[structure.atom_residue]
    for code in np.unique(code_of_atom):
        atoms = np.flatnonzero(code_of_atom == code)
        names = components[str(code)].atom_name
        order = np.argsort(names)
        place = np.minimum(np.searchsorted(names[order], structure.atom_name[atoms]), len(names) - 1)
        found = names[order[place]] == structure.atom_name[atoms]
        out[atoms] = np.where(found, order[place], -1)
    return out


def place_conformers(
    codes: Strings,
    atom_residue: Ints,
    reference: Ints,
    components: Mapping[str, Component],
    rng: np.random.Generator,
) -> tuple[Floats, Bools]:
    """Positions (Å, as in the component, not yet augmented) and mask of reference atoms.

    Args:
        codes: [S] component of every residue.
        atom_residue: [A] residue of every atom.
        reference: [A] index of the atom in its component, -1 if it has none.
        components: components with their cached conformers; one is drawn at random for each residue.
        rng: source of the draw.
    """
    distinct, kind = np.unique(codes, return_inverse=True)
    chosen = [components[str(code)] for code in distinct]
    n_atoms = np.array([len(component.atom_name) for component in chosen], np.int64)
    n_conformers = np.array([len(component.conformers) for component in chosen], np.int64)
    sizes = n_atoms * n_conformers
    offset = np.cumsum(sizes) - sizes
    positions = np.concatenate([component.conformers.reshape(-1, 3) for component in chosen])
    masks = np.concatenate(
        [np.tile(component.conformer_mask, len(component.conformers)) for component in chosen]
    )
    drawn = rng.integers(n_conformers[kind])
    row = (offset[kind] + drawn * n_atoms[kind])[atom_residue] + np.maximum(reference, 0)
    mask = masks[row] & (reference >= 0)
    return np.where(mask[:, None], positions[row], 0).astype(np.float32), mask


def augment(
    positions: Floats, mask: Bools, residue: Ints, n_residues: int, rng: np.random.Generator
) -> Floats:
    """Centre each residue's atoms, rotate uniformly, move by N(0, 1 Å); masked atoms stay at 0."""
    weight = np.maximum(np.bincount(residue, weights=mask, minlength=n_residues), 1)
    mean = np.stack(
        [np.bincount(residue, weights=positions[:, axis] * mask, minlength=n_residues) for axis in range(3)],
        1,
    )
    rotation = random_rotations(n_residues, rng)
    translation = rng.standard_normal((n_residues, 3))
    centred = positions - (mean / weight[:, None])[residue]
    moved = np.einsum("aij,aj->ai", rotation[residue], centred) + translation[residue]
    return np.where(mask[:, None], moved, 0).astype(np.float32)


def random_rotations(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[count, 3, 3] uniform rotations, from normally distributed quaternions."""
    quaternion = rng.standard_normal((count, 4))
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _frame_slots() -> NDArray[np.int64]:
    """[32, 3] slots of the frame atoms (a, b, c) of every standard residue; the gap row is unused."""
    slots = np.zeros((N_RESTYPES, 3), np.int64)
    for restype, name in enumerate(RESTYPES[:-1]):
        slots[restype] = [RESIDUE_ATOMS[name].index(atom) for atom in frame_atoms(name)]
    return slots


_FRAME_SLOTS = _frame_slots()


def polymer_frames(
    restype: Bytes, atomised: Bools, atom_to_token: Ints, atom_slot: Bytes
) -> tuple[Ints, Bools]:
    """Frame atoms [N, 3] and validity [N] of standard residues; atomised tokens: invalid, at their atom."""
    n_slots = MAX_ATOMS_PER_TOKEN + 1  # OXT follows the residue's own atoms
    table = np.full((len(restype), n_slots), -1, np.int64)
    table[atom_to_token, atom_slot] = np.arange(len(atom_to_token))
    frames = np.take_along_axis(table, _FRAME_SLOTS[restype], axis=1)
    valid = (frames >= 0).all(axis=1) & ~atomised
    first_atom = np.searchsorted(atom_to_token, np.arange(len(restype)))
    frames = np.where(valid[:, None], frames, first_atom[:, None])
    return frames.astype(np.int32), valid


def ligand_frames(positions: Floats, mask: Bools) -> tuple[NDArray[np.int64], Bools]:
    """Frames [n, 3] of the atoms of one residue from its reference conformer, and their validity [n].

    b is the atom itself, a its nearest and c its second nearest atom. Invalid with fewer than three atoms,
    an atom without a position, or a, b, c within 25° of a line.
    """
    n_atoms = len(positions)
    own = np.arange(n_atoms)
    if n_atoms < 3 or not positions.any():
        return np.repeat(own[:, None], 3, axis=1), np.zeros(n_atoms, np.bool_)
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    distance[own, own] = np.inf
    distance[:, ~mask] = np.inf
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :2]
    reachable = np.isfinite(np.take_along_axis(distance, nearest, axis=1)).all(axis=1)
    to_a, to_c = (positions[nearest[:, column]] - positions for column in (0, 1))
    norms = np.linalg.norm(to_a, axis=1) * np.linalg.norm(to_c, axis=1)
    cosine = np.abs((to_a * to_c).sum(axis=1)) / np.maximum(norms, 1e-8)
    return np.stack([nearest[:, 0], own, nearest[:, 1]], axis=1), mask & reachable & (cosine <= MAX_COSINE)
