# SPDX-License-Identifier: Apache-2.0
"""Reference conformers of dictionary components (AF3 SI 2.8): ETKDGv3, else ideal, else model coordinates.

The whole molecule is embedded with its hydrogens, which are then stripped. Bonds to metals are dative in
RDKit, so that haems and clusters pass its valence rules. Deviation: the paper admits model coordinates only
of entries last changed before the training cutoff; here they are the last resort of every entry unless
`model_before` says a date.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom

from foldwright.data.automorphisms import automorphisms
from foldwright.data.ccd import Definition, Dictionary
from foldwright.data.structure import Component, Floats

_ORDERS = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
_AROMATIC = 4
# Metalloids that bond covalently count as non-metals.
_NON_METALS = (1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 52, 53, 54, 85, 86)


def make_component(
    code: str, dictionary: Dictionary, seed: int = 0, n_conformers: int = 5, timeout: float = 20.0,
    model_before: str = "",
) -> Component:  # fmt: skip
    """The component `code` with up to `n_conformers` conformers [n, L, 3] of its heavy atoms in Å.

    Deterministic in `seed` as long as no embedding reaches `timeout`, the seconds allowed to each of the two
    attempts (distance geometry from the bounds, then from random coordinates). When both fail there is one
    conformer, of the dictionary's ideal or else model coordinates, whichever has more atoms; positions that
    no source gives are zero and False in `conformer_mask`. Raises ValueError for a code that the dictionary
    lacks.
    """
    if code not in dictionary:
        raise ValueError(f"component {code!r} is not in the dictionary; give it in a components.cif")
    whole, heavy = dictionary.with_hydrogens(code), dictionary[code]
    conformers = _embed(whole, seed, n_conformers, timeout)
    with rdBase.BlockLogs():
        molecule = build_molecule(whole)
    source = "etkdg"
    mask = np.ones(len(heavy.atom_name), np.bool_)
    if conformers is None:
        allowed = not model_before or (heavy.modified != "" and heavy.modified < model_before)
        source, coords, mask = _dictionary_coordinates(heavy, allowed)
        conformers = coords[None]
    return Component(
        code=code,
        atom_name=heavy.atom_name,
        atom_element=heavy.atom_element,
        atom_charge=heavy.atom_charge,
        atom_leaving=heavy.atom_leaving,
        bonds=heavy.bonds,
        bond_order=np.where(heavy.bond_aromatic, _AROMATIC, heavy.bond_order).astype(np.uint8),
        conformers=conformers.astype(np.float32),
        conformer_mask=mask,
        conformer_source=source,
        automorphisms=automorphisms(whole, molecule),
    )


def _dictionary_coordinates(heavy: Definition, model_allowed: bool) -> tuple[str, Floats, NDArray[np.bool_]]:
    """Source, coordinates [L, 3] with zeros where missing, and mask [L]."""
    source, coords = "ideal", heavy.ideal
    known: NDArray[np.bool_] = np.isfinite(heavy.ideal.sum(axis=1))
    model: NDArray[np.bool_] = np.isfinite(heavy.model.sum(axis=1))
    if model_allowed and model.sum() > known.sum():
        source, coords, known = "model", heavy.model, model
    if not known.any():
        source = "none"
    return source, np.where(known[:, None], coords, 0.0).astype(np.float32), known


def _embed(whole: Definition, seed: int, count: int, timeout: float) -> Floats | None:
    """Conformers [n, L, 3] of the heavy atoms by ETKDGv3, or None if RDKit cannot make any."""
    with rdBase.BlockLogs():  # a component that cannot be embedded is an expected case
        molecule = build_molecule(whole)
        if molecule is None:
            return None
        for random_coordinates in (False, True):
            parameters: Any = rdDistGeom.ETKDGv3()
            parameters.randomSeed = seed % 2**31
            parameters.timeout = max(1, round(timeout))
            parameters.useRandomCoords = random_coordinates
            parameters.numThreads = 1
            try:
                identifiers = list(rdDistGeom.EmbedMultipleConfs(molecule, count, parameters))
                identifiers = [identifier for identifier in identifiers if identifier >= 0]  # -1: timed out
            except (RuntimeError, ValueError):  # bounds that RDKit cannot set up
                identifiers = []
            if identifiers:
                heavy = whole.atom_element != 1
                positions = [molecule.GetConformer(i).GetPositions() for i in identifiers]
                return np.array(positions, np.float32)[:, heavy]
    return None


def build_molecule(definition: Definition) -> Chem.Mol | None:
    """RDKit molecule of all atoms in the dictionary's order; None if its chemistry does not pass RDKit.

    Stereochemistry is perceived from the ideal, else the model coordinates.
    """
    if not definition.atom_element.all() or not len(definition.atom_element):
        return None
    molecule = Chem.RWMol()
    for number, charge in zip(definition.atom_element.tolist(), definition.atom_charge.tolist(), strict=True):
        atom = Chem.Atom(number)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)
        molecule.AddAtom(atom)
    metal = [number not in _NON_METALS for number in definition.atom_element.tolist()]
    for (i, j), order in zip(definition.bonds.tolist(), definition.bond_order.tolist(), strict=True):
        if metal[i] != metal[j]:
            donor, acceptor = (j, i) if metal[i] else (i, j)
            molecule.AddBond(donor, acceptor, Chem.BondType.DATIVE)
        else:
            molecule.AddBond(i, j, _ORDERS[order])
    try:
        Chem.SanitizeMol(molecule)
    except (ValueError, RuntimeError):
        return None
    _perceive_stereo(molecule, definition)
    return molecule.GetMol()


def _perceive_stereo(molecule: Chem.RWMol, definition: Definition) -> None:
    for coords in (definition.ideal, definition.model):
        if np.isfinite(coords).all() and np.abs(coords).sum() > 0:
            conformer = Chem.Conformer(len(coords))
            conformer.SetPositions(coords.astype(np.float64))
            molecule.AddConformer(conformer, assignId=True)
            Chem.AssignStereochemistryFrom3D(molecule)
            molecule.RemoveAllConformers()
            return
