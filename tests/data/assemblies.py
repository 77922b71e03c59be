# SPDX-License-Identifier: Apache-2.0
"""Assemblies made of copies of a few random folds, as stored entries, and examples cropped from them."""

from typing import NamedTuple

import numpy as np
from handmade import bare_component, dictionary

from foldwright.batch import Batch
from foldwright.data.automorphisms import automorphisms
from foldwright.data.conformers import build_molecule
from foldwright.data.features import MsaConfig, build_example
from foldwright.data.records import Entry
from foldwright.data.reference import atom_reference, random_rotations
from foldwright.data.structure import Component, Structure
from foldwright.data.tokenize import tokenize
from foldwright.vocabulary import ATOMIC_NUMBER, RESIDUE_ATOMS, RESTYPE_INDEX, UNKNOWN_RESTYPE, MoleculeType


class Chain(NamedTuple):
    """A copy of an entity: its type, component codes and atom positions [n, 3] in Å."""

    entity: int
    kind: MoleculeType
    codes: list[str]
    coords: np.ndarray


def component(code: str) -> Component:
    """With ideal coordinates as conformer, and its automorphisms."""
    whole = dictionary().with_hydrogens(code)
    values = vars(bare_component(code)) | {"automorphisms": automorphisms(whole, build_molecule(whole))}
    return Component(**values)


def atom_names(code: str, kind: MoleculeType) -> list[str]:
    if kind == MoleculeType.LIGAND:
        return [str(name) for name in component(code).atom_name]
    return list(RESIDUE_ATOMS[code])


def fold(codes: list[str], kind: MoleculeType, rng: np.random.Generator) -> np.ndarray:
    """A random walk of residues 3.8 Å apart, atoms within 1.5 Å of it; a ligand has its ideal shape."""
    if kind == MoleculeType.LIGAND:
        return np.concatenate([component(code).conformers[0] for code in codes])
    steps = rng.standard_normal((len(codes), 3))
    centres = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0)
    counts = [len(atom_names(code, kind)) for code in codes]
    spread = rng.uniform(-1.5, 1.5, (sum(counts), 3))
    return np.repeat(centres, counts, axis=0) + spread


def copies(
    entity: int,
    kind: MoleculeType,
    codes: list[str],
    count: int,
    rng: np.random.Generator,
    size: float = 60.0,
) -> list[Chain]:
    """Copies of one fold under random motions, each with deviations of its own (0.3 Å)."""
    shape = fold(codes, kind, rng)
    rotations, shifts = random_rotations(count, rng), rng.uniform(-size, size, (count, 3))
    return [
        Chain(entity, kind, codes, shape @ r.T + s + 0.3 * rng.standard_normal(shape.shape))
        for r, s in zip(rotations, shifts, strict=True)
    ]


def make_entry(chains: list[Chain], bonds: list[tuple[int, int]] | None = None, unresolved=()) -> Entry:
    """The entry of these chains; `bonds` between atoms, `unresolved` atoms, both by their numbers."""
    residues = [(c, code) for c, chain in enumerate(chains) for code in chain.codes]
    names = [atom_names(code, chains[c].kind) for c, code in residues]
    flat = [name for row in names for name in row]
    kinds = [chains[c].kind for c, _ in residues]
    ligand = np.array([kind == MoleculeType.LIGAND for kind in kinds])
    elements = []
    for (_, code), row in zip(residues, names, strict=True):
        known = dict(zip(component(code).atom_name, component(code).atom_element, strict=True))
        elements += [known.get(name, ATOMIC_NUMBER.get(name[0], 0)) for name in row]
    resolved = np.ones(len(flat), np.bool_)
    resolved[list(unresolved)] = False
    coords = np.concatenate([chain.coords for chain in chains]).astype(np.float32)
    entity = [chain.entity for chain in chains]
    slots = [0 if ligand[i] else slot for i, row in enumerate(names) for slot in range(len(row))]
    restypes = [
        RESTYPE_INDEX.get(code, UNKNOWN_RESTYPE[kind])
        for (_, code), kind in zip(residues, kinds, strict=True)
    ]
    structure = Structure(
        entry_id="made", release_date="", method="X-RAY DIFFRACTION", resolution=2.0,
        chain_name=np.array([f"C{i}" for i in range(len(chains))]),
        chain_entity=np.array(entity, np.int32),
        chain_sym=np.array([entity[:i].count(e) for i, e in enumerate(entity)], np.int32),
        chain_type=np.array([chain.kind for chain in chains], np.uint8),
        residue_chain=np.array([c for c, _ in residues], np.int32),
        residue_index=np.concatenate([np.arange(1, len(c.codes) + 1) for c in chains]).astype(np.int32),
        residue_component=np.array([code for _, code in residues]),
        residue_restype=np.array(restypes, np.uint8),
        residue_atomised=ligand,
        atom_residue=np.repeat(np.arange(len(residues)), [len(row) for row in names]).astype(np.int32),
        atom_name=np.array(flat), atom_slot=np.array(slots, np.uint8),
        atom_element=np.array(elements, np.uint8), atom_charge=np.zeros(len(flat), np.int8),
        atom_coords=np.where(resolved[:, None], coords, 0), atom_resolved=resolved,
        bonds=np.array(bonds or np.zeros((0, 2)), np.int32).reshape(-1, 2),
    )  # fmt: skip
    components = components_of(structure)
    reference = atom_reference(structure, components)
    none = np.zeros(0, np.int32)
    return Entry(structure, tokenize(structure, components), reference, none, none)


def components_of(structure: Structure) -> dict[str, Component]:
    return {str(code): component(str(code)) for code in np.unique(structure.residue_component)}


def example(entry: Entry, kept: np.ndarray | None = None) -> Batch:
    """The entry's example, cropped to the tokens `kept`."""
    everything = np.arange(len(entry.tokens.token_residue))
    return build_example(
        entry, components_of(entry.structure), {}, everything if kept is None else kept,
        msa_config=MsaConfig(2, random_depth=False), n_templates=0, n_cycles=1, sample_number=0,
        msa_rng=np.random.default_rng(0), conformer_rng=np.random.default_rng(1),
    )  # fmt: skip
