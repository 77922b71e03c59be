# SPDX-License-Identifier: Apache-2.0
"""Synthetic examples of exact sizes, for benchmarks, self-tests and unit tests: no training data.

A random-walk protein chain with plausible bond lengths and a few ligand atoms: shapes, dtypes, masks and
index structure are those of real examples; distances are only roughly protein-like.
"""

from __future__ import annotations

import numpy as np
import torch

from foldwright.batch import Batch
from foldwright.vocabulary import AMINO_ACIDS, RESIDUE_ATOMS, RESTYPE_INDEX, MoleculeType, encode_atom_name


def synthetic_example(
    n_tokens: int,
    n_atoms: int,
    *,
    n_rows: int = 8,
    n_cycles: int = 1,
    n_templates: int = 0,
    seed: int = 0,
    sample_number: int = 0,
) -> Batch:
    """One example without the leading axis B, padded to exactly `n_tokens` and `n_atoms` (a multiple of 32).

    Residues are added while both budgets hold; the rest is padding. Raises ValueError if not even two fit.
    """
    rng = np.random.default_rng(seed)
    residues: list[str] = []
    while len(residues) < n_tokens:
        name = AMINO_ACIDS[int(rng.integers(20))]
        if sum(len(RESIDUE_ATOMS[r]) for r in residues) + len(RESIDUE_ATOMS[name]) > n_atoms:
            break
        residues.append(name)
    if len(residues) < 2:
        raise ValueError(f"{n_tokens} tokens and {n_atoms} atoms hold no two residues; ask for more atoms")
    example = _chain(residues, n_rows, n_cycles, n_templates, rng, sample_number)
    return example.pad({"N": n_tokens, "A": n_atoms}).check()


def _chain(
    residues: list[str], n_rows: int, n_cycles: int, n_templates: int, rng: np.random.Generator, number: int
) -> Batch:
    n = len(residues)
    lengths = np.array([len(RESIDUE_ATOMS[name]) for name in residues])
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    token = np.repeat(np.arange(n), lengths)
    names = [atom for name in residues for atom in RESIDUE_ATOMS[name]]
    n_atoms = len(names)
    steps = rng.normal(size=(n, 3))
    centres = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0)
    offsets = rng.normal(size=(n_atoms, 3)) * 1.5
    restype = np.array([RESTYPE_INDEX[name] for name in residues])
    msa = np.where(
        rng.random((n_cycles, n_rows, n)) < 0.5, restype, rng.integers(0, 32, (n_cycles, n_rows, n))
    )
    profile = np.eye(32)[restype]
    beta = first + np.array([min(4, length - 1) if length > 4 else 1 for length in lengths])
    resolved = rng.random(n_atoms) < 0.97
    xyz = np.where(resolved[:, None], centres[token] + offsets, 0.0)
    template = np.broadcast_to(centres, (n_templates, n, 3))
    triples = template[:, :, None] + rng.normal(size=(n_templates, n, 3, 3))

    def tensor(array: object, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(dtype)

    i32, u8, f32, flag = torch.int32, torch.uint8, torch.float32, torch.bool
    ones = np.ones(n)
    return Batch(
        token_mask=tensor(ones, flag),
        token_index=tensor(np.arange(n), i32),
        residue_index=tensor(np.arange(1, n + 1), i32),
        asym_id=tensor(np.arange(n) >= (2 * n) // 3, i32),
        entity_id=tensor(np.arange(n) >= (2 * n) // 3, i32),
        sym_id=tensor(ones * 0, i32),
        restype=tensor(restype, u8),
        molecule_type=tensor(ones * MoleculeType.PROTEIN, u8),
        is_atomised=tensor(ones * 0, flag),
        token_bonds=tensor(np.zeros((n, n)), flag),
        profile=tensor(profile, f32),
        deletion_mean=tensor(rng.random(n), f32),
        centre_atom=tensor(first + 1, i32),
        representative_atom=tensor(beta, i32),
        frame_atoms=tensor(first[:, None] + np.arange(3), i32),
        has_frame=tensor(ones, flag),
        atom_mask=tensor(np.ones(n_atoms), flag),
        atom_to_token=tensor(token, i32),
        atom_slot=tensor(np.arange(n_atoms) - first[token], u8),
        ref_pos=tensor(offsets, f32),
        ref_mask=tensor(np.ones(n_atoms), flag),
        ref_element=tensor([{"N": 7, "O": 8, "S": 16}.get(name[0], 6) for name in names], u8),
        ref_charge=tensor(np.zeros(n_atoms), torch.int8),
        ref_atom_name_chars=tensor([encode_atom_name(name) for name in names], u8),
        ref_space_uid=tensor(token, i32),
        msa=tensor(msa, u8),
        deletion_count=tensor(rng.poisson(0.1, msa.shape), u8),
        msa_mask=tensor(np.ones(msa.shape[:2]), flag),
        template_mask=tensor(np.ones(n_templates), flag),
        template_restype=tensor(np.broadcast_to(restype, (n_templates, n)), u8),
        template_pseudo_beta=tensor(template, f32),
        template_pseudo_beta_mask=tensor(np.ones((n_templates, n)), flag),
        template_backbone=tensor(triples, f32),
        template_backbone_mask=tensor(np.ones((n_templates, n)), flag),
        atom_coords=tensor(xyz, f32),
        atom_resolved=tensor(resolved, flag),
        bond_atoms=tensor(np.zeros((0, 2)), i32),
        bond_mask=tensor(np.zeros(0), flag),
        token_molecule=tensor(np.arange(n) >= (2 * n) // 3, i32),
        molecule_mask=tensor(np.ones(2), flag),
        molecule_is_polymer=tensor(np.ones(2), flag),
        molecule_group=tensor(np.arange(2), i32),
        molecule_copy=tensor(np.zeros(2), i32),
        molecule_copies=tensor(np.ones(2), i32),
        molecule_stride=tensor(np.zeros(2), i32),
        truth_atom=tensor(np.arange(n_atoms), i32),
        truth_coords=tensor(xyz, f32),
        truth_resolved=tensor(resolved, flag),
        symmetry_mask=tensor(np.zeros(0), flag),
        symmetry_option=tensor(np.zeros(0), i32),
        symmetry_from=tensor(np.zeros(0), i32),
        symmetry_to=tensor(np.zeros(0), i32),
        option_residue=tensor(np.zeros(0), i32),
        resolution=tensor(2.0, f32),
        supervises_diffusion=tensor(True, flag),
        supervises_non_protein=tensor(True, flag),
        supervises_distogram=tensor(True, flag),
        supervises_confidence=tensor(True, flag),
        sample_number=tensor(number, torch.int64),
    )
