# SPDX-License-Identifier: Apache-2.0
"""Every metric of one prediction of one target, after identical chains and equivalent atoms were exchanged so
that the truth fits it best (`permutation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foldwright.batch import Batch
from foldwright.data.records import Entry
from foldwright.data.structure import Component, Structure
from foldwright.data.truth import crop_automorphisms
from foldwright.evaluation.dockq import BACKBONE, dockq
from foldwright.evaluation.kinds import interface_kind, interface_lddt, interfaces, lddt_by_kind
from foldwright.evaluation.lddt import lddt
from foldwright.evaluation.ligand_rmsd import SUCCESS, find_pocket, ligand_rmsd
from foldwright.evaluation.tm_score import aligned_rmsd, tm_score
from foldwright.evaluation.validity import Validity, backbone_links, check_structure
from foldwright.permutation import permuted_labels
from foldwright.vocabulary import MoleculeType

Coords = NDArray[np.floating]
Bools = NDArray[np.bool_]
_MIN_CHAIN = 3  # resolved residues of a chain with a TM-score


@dataclass
class Scores:
    """`figures`: one number each, of the whole target; NaN where the target has none of its kind.
    `interfaces`, `ligands`: a record each.
    """

    figures: dict[str, float]
    interfaces: list[dict[str, Any]] = field(default_factory=list)
    ligands: list[dict[str, Any]] = field(default_factory=list)


def permuted_truth(batch: Batch, x: Coords) -> tuple[Coords, Bools]:
    """True coordinates [L, 3] and which are resolved [L], of a batch of one, as they fit x [L, 3] best."""
    padded = torch.zeros(1, batch.atom_mask.shape[1], 3)
    padded[0, : len(x)] = torch.from_numpy(np.nan_to_num(np.asarray(x, np.float32)))
    labels = permuted_labels(batch, padded.to(batch.device))
    return (
        labels.atom_coords[0, : len(x)].double().cpu().numpy(),
        labels.atom_resolved[0, : len(x)].cpu().numpy(),
    )


def score(
    entry: Entry,
    components: Mapping[str, Component],
    batch: Batch,
    x: Coords,
    predicted: Bools | None = None,
) -> Scores:
    """All metrics of a prediction x [L, 3] Å of an entry; `batch`: its features, of one, with labels.

    predicted [L]: atoms that are there, all if None; the others' x is finite and counts for nothing.
    ValueError where x has another shape or is not finite.
    """
    structure = entry.structure
    if x.shape != structure.atom_coords.shape or not np.isfinite(x).all():
        raise ValueError(
            f"{structure.entry_id}: got coordinates {x.shape}, expected finite {structure.atom_coords.shape}"
        )
    x = np.asarray(x, np.float64)
    predicted = np.ones(len(x), np.bool_) if predicted is None else predicted
    x_true, resolved = permuted_truth(batch, x)
    resolved &= predicted  # an exchanged copy may show what this one was not predicted of
    pairs = [
        _interface(structure, x, x_true, resolved, a, b) for a, b in interfaces(structure, x_true, resolved)
    ]
    ligands = _ligands(entry, components, x, x_true, resolved)
    figures = {
        **_whole(entry, x, x_true, resolved),
        **lddt_by_kind(structure, x, x_true, resolved, predicted),
        **_mean_of(pairs, "dockq"),
        **_mean_of(ligands, "ligand_rmsd"),
        **_validity(entry, components, x, predicted),
    }
    if rmsds := [r["ligand_rmsd"] for r in ligands if np.isfinite(r["ligand_rmsd"])]:
        figures["ligand_success"] = float((np.array(rmsds) <= SUCCESS).mean())
    return Scores(figures, pairs, ligands)


def _whole(entry: Entry, x: Coords, x_true: Coords, resolved: Bools) -> dict[str, float]:
    structure, tokens = entry.structure, entry.tokens
    atoms = np.flatnonzero(resolved)
    figures = {"lddt": _lddt(structure, x, x_true, atoms)}
    ca = atoms[(structure.atom_name[atoms] == "CA") & _of_protein(structure)[atoms]]
    figures["lddt_ca"] = _lddt(structure, x, x_true, ca)
    centres = np.intersect1d(tokens.token_centre[~tokens.token_atomised], atoms)
    figures["rmsd"] = aligned_rmsd(x[centres], x_true[centres]) if len(centres) > 2 else float("nan")
    chain = structure.residue_chain[structure.atom_residue[ca]]
    each = [
        tm_score(x[ca[chain == c]], x_true[ca[chain == c]])
        for c in np.unique(chain)
        if (chain == c).sum() >= _MIN_CHAIN
    ]
    figures["tm_score"] = float(np.mean(each)) if each else float("nan")
    figures["tm_score_complex"] = tm_score(x[ca], x_true[ca]) if len(ca) >= _MIN_CHAIN else float("nan")
    return figures


def _of_protein(structure: Structure) -> Bools:
    kind = structure.chain_type[structure.residue_chain[structure.atom_residue]]
    return kind == MoleculeType.PROTEIN


def _lddt(structure: Structure, x: Coords, x_true: Coords, atoms: NDArray[np.int64]) -> float:
    every = torch.ones(len(atoms), dtype=torch.bool)
    residue = torch.from_numpy(structure.atom_residue[atoms].astype(np.int64))
    return float(lddt(torch.from_numpy(x[atoms]), torch.from_numpy(x_true[atoms]), every, residue))


def _interface(
    structure: Structure, x: Coords, x_true: Coords, resolved: Bools, a: int, b: int
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "chains": f"{structure.chain_name[a]}-{structure.chain_name[b]}",
        "kind": interface_kind(structure, a, b),
        "lddt": interface_lddt(structure, x, x_true, resolved, a, b),
        "dockq": float("nan"),
    }
    if (structure.chain_type[[a, b]] == MoleculeType.LIGAND).any():
        return record
    chain = structure.residue_chain[structure.atom_residue]
    atoms = np.flatnonzero(((chain == a) | (chain == b)) & resolved)
    backbone = np.isin(structure.atom_name[atoms], BACKBONE)
    found = dockq(x[atoms], x_true[atoms], structure.atom_residue[atoms], chain[atoms] == a, backbone)
    return record | (vars(found) if found else {})


def _ligands(
    entry: Entry, components: Mapping[str, Component], x: Coords, x_true: Coords, resolved: Bools
) -> list[dict[str, Any]]:
    """Pocket-aligned RMSD of every ligand of one residue."""
    structure = entry.structure
    chain = structure.residue_chain[structure.atom_residue]
    polymer = structure.chain_type[chain] != MoleculeType.LIGAND
    is_centre = np.zeros(len(chain), np.bool_)
    is_centre[entry.tokens.token_centre[~entry.tokens.token_atomised]] = True
    records = []
    for number in np.flatnonzero(structure.chain_type == MoleculeType.LIGAND).tolist():
        mine = chain == number
        atoms = np.flatnonzero(mine)
        if len(np.unique(structure.atom_residue[atoms])) > 1:
            continue
        pocket = find_pocket(x_true, resolved, mine, polymer, chain, structure.atom_residue, is_centre)
        if pocket is None:
            continue
        code = str(structure.residue_component[structure.atom_residue[atoms[0]]])
        reference = entry.atom_reference[atoms]
        orders = crop_automorphisms(components[code].automorphisms, reference, np.zeros(len(atoms), np.bool_))
        value = ligand_rmsd(x, x_true, pocket, atoms, resolved, orders)
        name, size = str(structure.chain_name[number]), len(atoms)
        records.append({"chain": name, "component": code, "atoms": size, "ligand_rmsd": value})
    return records


def _validity(
    entry: Entry, components: Mapping[str, Component], x: Coords, present: Bools
) -> dict[str, float]:
    total = Validity()
    for each in check_structure(entry.structure, components, entry.atom_reference, x, present):
        total.add(each)
    links, broken = backbone_links(entry.structure, x, present)

    def share(bad: int, all_of_it: int) -> float:
        return bad / all_of_it if all_of_it else 0.0

    return {
        "bad_bonds": share(total.bad_bonds, total.bonds),
        "bad_angles": share(total.bad_angles, total.angles),
        "wrong_hands": share(total.wrong_hands, total.centres),
        "bent_rings": share(total.bent_rings, total.rings),
        "broken_links": share(broken, links),
        "clashes_per_1000_atoms": 1000 * total.clashes / max(int(present.sum()), 1),
        "is_valid": float(total.is_valid and not broken),
    }


def _mean_of(records: list[dict[str, Any]], name: str) -> dict[str, float]:
    values = [r[name] for r in records if np.isfinite(r[name])]
    return {name: float(np.mean(values))} if values else {}
