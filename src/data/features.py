# SPDX-License-Identifier: Apache-2.0
"""From a tokenised structure, its alignments and a crop to the Batch of one example.

Source: AF3 SI Table 5 (spec 1.4). Indices keep their values from before the crop: residue, token, chain,
entity and symmetry numbers all do. Unresolved atoms carry coordinate 0 and `atom_resolved` False. `has_frame`
is geometric validity; a loss that needs the frame's atoms resolved looks that up in `atom_resolved`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foldwright.batch import Batch
from foldwright.data import msa, reference, templates
from foldwright.data.datasets import Scope, Supervision
from foldwright.data.records import Entry
from foldwright.data.structure import Bytes, Component, Ints, Strings, Tokens
from foldwright.data.truth import truth_features
from foldwright.vocabulary import GAP, N_NAME_CHARS, N_RESTYPES, MoleculeType


@dataclass(frozen=True)
class MsaConfig:
    """Rows a cycle (AF3 draws 1024, Algorithm 8) and whether alignments are first cut to a random depth."""

    rows: int = 1024
    random_depth: bool = True


@dataclass(frozen=True)
class _Crop:
    """Kept tokens [N] and atoms [A] of an entry, and the way back from its indices (-1: left out)."""

    tokens: NDArray[np.int64]
    atoms: NDArray[np.int64]
    atom_to_token: Ints
    new_token: Ints
    new_atom: Ints


def build_example(
    entry: Entry,
    components: Mapping[str, Component],
    msas: Mapping[int, msa.Msa],
    kept: NDArray[np.int64],
    *,
    msa_config: MsaConfig,
    n_templates: int,
    n_cycles: int,
    sample_number: int,
    msa_rng: np.random.Generator,
    conformer_rng: np.random.Generator,
    chain_templates: Mapping[int, templates.Templates] = MappingProxyType({}),
    template_rng: np.random.Generator | None = None,
    supervision: Supervision | None = None,
) -> Batch:
    """Every feature of one example (no leading axis).

    Args:
        entry: the tokenised structure.
        components: all components the kept residues are made of.
        msas: alignment by entity, holding the columns that the crop needs (`alignment_columns`); polymers
            without one use their sequence alone, ligands gap columns.
        kept: [N] ascending token indices.
        msa_config: rows drawn for each cycle.
        n_templates: template slots.
        n_cycles: recycling cycles R, a set of alignment rows each.
        sample_number: global number of the sample.
        msa_rng, conformer_rng: sources of the rows drawn, and of conformers with their placement.
        chain_templates: templates by entity.
        template_rng: draws templates, as in training; None takes the first ones.
        supervision: losses that the example supervises; all if None.
    """
    crop = _cropped(entry.tokens, kept)
    atoms = _atom_features(entry, components, crop, conformer_rng)
    return Batch(
        **_token_features(entry, crop),
        **atoms,
        **_frame_features(entry, components, crop),
        **_msa_features(entry, msas, crop, msa_config, n_cycles, msa_rng),
        **_template_features(entry, chain_templates, crop, n_templates, template_rng),
        **_labels(entry, crop),
        **_supervised(supervision or Supervision()),
        **truth_features(entry, components, crop.tokens, crop.atoms),
        sample_number=torch.tensor(sample_number, dtype=torch.int64),
    )


def _cropped(tokens: Tokens, kept: NDArray[np.int64]) -> _Crop:
    first = tokens.token_first_atom
    counts = first[kept + 1] - first[kept]
    starts = np.cumsum(counts) - counts
    atoms = np.repeat(first[kept] - starts, counts) + np.arange(counts.sum())
    new_token = np.full(len(tokens.token_residue), -1, np.int32)
    new_token[kept] = np.arange(len(kept))
    new_atom = np.full(len(tokens.atom_token), -1, np.int32)
    new_atom[atoms] = np.arange(len(atoms))
    atom_to_token = np.repeat(np.arange(len(kept), dtype=np.int32), counts)
    return _Crop(kept, atoms, atom_to_token, new_token, new_atom)


def _tensor(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.array(array, order="C")).to(dtype)


def _token_features(entry: Entry, crop: _Crop) -> dict[str, Tensor]:
    structure, tokens, kept = entry.structure, entry.tokens, crop.tokens
    chain, residue = tokens.token_chain[kept], tokens.token_residue[kept]
    bonds = crop.new_token[tokens.token_bonds]
    bonds = bonds[(bonds >= 0).all(axis=1)]
    dense = np.zeros((len(kept), len(kept)), np.bool_)
    dense[bonds[:, 0], bonds[:, 1]] = dense[bonds[:, 1], bonds[:, 0]] = True
    integers: dict[str, NDArray[Any]] = {
        "token_index": kept,
        "residue_index": structure.residue_index[residue],
        "asym_id": chain,
        "entity_id": structure.chain_entity[chain],
        "sym_id": structure.chain_sym[chain],
        "centre_atom": crop.new_atom[tokens.token_centre[kept]],
        "representative_atom": crop.new_atom[tokens.token_representative[kept]],
    }
    return {name: _tensor(array, torch.int32) for name, array in integers.items()} | {
        "token_mask": torch.ones(len(kept), dtype=torch.bool),
        "restype": _tensor(tokens.token_restype[kept], torch.uint8),
        "molecule_type": _tensor(structure.chain_type[chain], torch.uint8),
        "is_atomised": _tensor(tokens.token_atomised[kept], torch.bool),
        "token_bonds": torch.from_numpy(dense),
    }


def _atom_features(
    entry: Entry, components: Mapping[str, Component], crop: _Crop, rng: np.random.Generator
) -> dict[str, Tensor]:
    structure, atoms = entry.structure, crop.atoms
    residue = structure.atom_residue[atoms]
    present, inverse = np.unique(residue, return_inverse=True)
    local = inverse.astype(np.int32)
    codes = structure.residue_component[present]
    raw, mask = reference.place_conformers(codes, local, entry.atom_reference[atoms], components, rng)
    return {
        "atom_mask": torch.ones(len(atoms), dtype=torch.bool),
        "atom_to_token": _tensor(crop.atom_to_token, torch.int32),
        "atom_slot": _tensor(structure.atom_slot[atoms], torch.uint8),
        "ref_pos": _tensor(reference.augment(raw, mask, local, len(present), rng), torch.float32),
        "ref_mask": _tensor(mask, torch.bool),
        "ref_element": _tensor(structure.atom_element[atoms], torch.uint8),
        "ref_charge": _tensor(structure.atom_charge[atoms], torch.int8),
        "ref_atom_name_chars": _tensor(encode_names(structure.atom_name[atoms]), torch.uint8),
        "ref_space_uid": _tensor(residue, torch.int32),
    }


def encode_names(names: Strings) -> Bytes:
    """[A, 4] codes as vocabulary.encode_atom_name, for an array of names."""
    padded = np.ascontiguousarray(np.char.upper(names).astype("U4"))
    codes = padded.view(np.uint32).reshape(len(names), 4).astype(np.int64)
    return np.where(codes == 0, 0, np.clip(codes - 32, 0, N_NAME_CHARS - 1)).astype(np.uint8)


def _frame_features(entry: Entry, components: Mapping[str, Component], crop: _Crop) -> dict[str, Tensor]:
    """Frames of all tokens. Those of atomised residues are found in the component's first conformer."""
    structure, tokens = entry.structure, entry.tokens
    atomised = tokens.token_atomised[crop.tokens]
    frames, valid = reference.polymer_frames(
        tokens.token_restype[crop.tokens], atomised, crop.atom_to_token, structure.atom_slot[crop.atoms]
    )
    residue = tokens.token_residue[crop.tokens]
    starts = np.flatnonzero(np.diff(residue, prepend=-1))
    for start, end in zip(starts, np.append(starts[1:], len(residue)), strict=True):
        if atomised[start] and end - start >= 3:
            component = components[str(structure.residue_component[residue[start]])]
            own = slice(frames[start, 1], frames[end - 1, 1] + 1)
            index = entry.atom_reference[crop.atoms[own]]
            mask = component.conformer_mask[index] & (index >= 0)
            local, valid[start:end] = reference.ligand_frames(component.conformers[0][index], mask)
            frames[start:end] = local + own.start
    return {"frame_atoms": _tensor(frames, torch.int32), "has_frame": _tensor(valid, torch.bool)}


def _msa_features(
    entry: Entry,
    msas: Mapping[int, msa.Msa],
    crop: _Crop,
    config: MsaConfig,
    n_cycles: int,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    alignments, token_msa, token_column = _msa_columns(entry, msas, crop)
    rows, deletions = msa.assemble(
        alignments, token_msa, token_column, config.rows, n_cycles, rng, config.random_depth
    )
    profile = np.zeros((len(crop.tokens), N_RESTYPES), np.float32)
    profile[token_msa < 0, GAP] = 1
    mean = np.zeros(len(crop.tokens), np.float32)
    for index, alignment in enumerate(alignments):
        mine = token_msa == index
        profile[mine] = alignment.profile[token_column[mine]]
        mean[mine] = alignment.deletion_mean[token_column[mine]]
    return {
        "profile": torch.from_numpy(profile),
        "deletion_mean": torch.from_numpy(mean),
        "msa": torch.from_numpy(rows),
        "deletion_count": torch.from_numpy(deletions),
        "msa_mask": torch.ones(rows.shape[:2], dtype=torch.bool),
    }


def _msa_columns(entry: Entry, msas: Mapping[int, msa.Msa], crop: _Crop) -> tuple[list[msa.Msa], Ints, Ints]:
    """One alignment a polymer entity of the crop; each token's alignment (-1: ligand) and column in it."""
    structure = entry.structure
    chain = entry.tokens.token_chain[crop.tokens]
    token_msa, token_column = np.full(len(chain), -1, np.int32), _chain_columns(entry, crop.tokens)
    alignments: list[msa.Msa] = []
    polymer = structure.chain_type[chain] != MoleculeType.LIGAND
    for entity in np.unique(structure.chain_entity[chain[polymer]]):
        mine = polymer & (structure.chain_entity[chain] == entity)
        token_msa[mine] = len(alignments)
        restypes = structure.residue_restype[structure.residue_chain == chain[mine][0]]
        alignments.append(msas[int(entity)] if int(entity) in msas else msa.query_msa(restypes))
        token_column[mine] = alignments[-1].find_columns(token_column[mine])
    return alignments, token_msa, token_column


def _chain_columns(entry: Entry, kept: NDArray[np.int64]) -> Ints:
    """[N] residue of each kept token in its chain, from 0."""
    first_residue = np.searchsorted(entry.structure.residue_chain, entry.tokens.token_chain[kept])
    return (entry.tokens.token_residue[kept] - first_residue).astype(np.int32)


def alignment_columns(entry: Entry, kept: NDArray[np.int64]) -> dict[int, Ints]:
    """The columns of every alignment of an entry that a crop of tokens `kept` [N] needs, by entity."""
    entity = entry.structure.chain_entity[entry.tokens.token_chain[kept]]
    columns = _chain_columns(entry, kept)
    present = np.intersect1d(entity, entry.msa_entities)
    return {int(wanted): np.unique(columns[entity == wanted]) for wanted in present}


def _template_features(
    entry: Entry,
    chain_templates: Mapping[int, templates.Templates],
    crop: _Crop,
    n_slots: int,
    rng: np.random.Generator | None,
) -> dict[str, Tensor]:
    entity = entry.structure.chain_entity[entry.tokens.token_chain[crop.tokens]]
    token_templates = np.full(len(entity), -1, np.int32)
    present = [wanted for wanted in np.unique(entity) if int(wanted) in chain_templates]
    for index, wanted in enumerate(present):
        token_templates[(entity == wanted) & ~entry.tokens.token_atomised[crop.tokens]] = index
    of_chain = [chain_templates[int(wanted)] for wanted in present]
    columns = _chain_columns(entry, crop.tokens)
    return templates.template_features(of_chain, token_templates, columns, n_slots, rng)


def _labels(entry: Entry, crop: _Crop) -> dict[str, Tensor]:
    structure = entry.structure
    resolved = structure.atom_resolved[crop.atoms]
    bonds = crop.new_atom[entry.tokens.polymer_ligand_bonds.reshape(-1, 2)]
    bonds = bonds[(bonds >= 0).all(axis=1)]
    bonds = bonds[resolved[bonds].all(axis=1)]
    coords = np.where(resolved[:, None], structure.atom_coords[crop.atoms], 0)
    return {
        "atom_coords": _tensor(coords, torch.float32),
        "atom_resolved": _tensor(resolved, torch.bool),
        "bond_atoms": _tensor(bonds, torch.int32),
        "bond_mask": torch.ones(len(bonds), dtype=torch.bool),
        "resolution": torch.tensor(structure.resolution, dtype=torch.float32),
    }


def _supervised(supervision: Supervision) -> dict[str, Tensor]:
    return {
        "supervises_diffusion": torch.tensor(supervision.diffusion is not Scope.none),
        "supervises_non_protein": torch.tensor(supervision.diffusion is Scope.all),
        "supervises_distogram": torch.tensor(supervision.distogram),
        "supervises_confidence": torch.tensor(supervision.confidence),
    }
