# SPDX-License-Identifier: Apache-2.0
"""Which entries, chains and bonds are fit to learn from: limits, clashes, breaks, aids (AF3 SI 2.5.4), bonds
that all copies of a polymer have (SI 5.1).

Deviations: an entry of NMR, which has no resolution, passes unless `require_resolution`; atoms bonded to each
other do not count as clashing, else a small covalent ligand would clash with its own protein.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from foldwright.data.neighbours import pairs_within
from foldwright.data.structure import Bools, Floats, Structure, keep_chains
from foldwright.randomness import generator
from foldwright.vocabulary import UNKNOWN_RESTYPE, MoleculeType

CRYSTALLISATION_AIDS = (
    *("SO4", "GOL", "EDO", "PO4", "ACT", "PEG", "DMS", "TRS"),
    *("PGE", "PG4", "FMT", "EPE", "MPD", "MES", "CD", "IOD"),
)  # AF3 SI Table 9
_CRYSTAL_METHODS = ("X-RAY", "NEUTRON", "FIBER", "POWDER", "ELECTRON CRYSTALLOGRAPHY")
_Joint = tuple[int, int, str, str, str]  # polymer entity, residue in it, atom; ligand component, atom
_POLYMER_UNKNOWN = [
    UNKNOWN_RESTYPE[kind] for kind in (MoleculeType.PROTEIN, MoleculeType.RNA, MoleculeType.DNA)
]


class Rejection(Exception):
    """An entry that is left out on purpose: a short reason code, to be counted, and what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class FilterConfig:
    """Limits of AF3 SI 2.5.4; distances in Å. Dates are ISO; "" means no cutoff."""

    released_before: str = ""
    max_resolution: float = 9.0
    require_resolution: bool = False
    max_polymer_chains: int = 300
    min_resolved_residues: int = 4
    clash_distance: float = 1.7
    clash_fraction: float = 0.3
    max_ca_gap: float = 10.0
    max_chains: int = 20
    interface_distance: float = 15.0
    drop_asymmetric_bonds: bool = True
    drop_crystallisation_aids: bool = True
    seed: int = 0  # of the choice of chains in assemblies of more than max_chains


def clean(structure: Structure, config: FilterConfig) -> tuple[Structure, dict[str, int]]:
    """Apply every filter in the paper's order; returns the structure kept and what was dropped by reason.

    Chains: "unknown_chain", "clash", "short_chain" (too few resolved residues), "chain_break",
    "distant_chain" (beyond max_chains), "crystallisation_aid". Bonds: "asymmetric_bond". Raises Rejection:
    "resolution", "release_date", "too_many_chains", "no_chains".
    """
    _check_entry(structure, config)
    counts: Counter[str] = Counter()
    structure = _drop(structure, _unknown_chains(structure), "unknown_chain", counts)
    structure = _drop(
        structure, _short_chains(structure, config.min_resolved_residues), "short_chain", counts
    )
    structure = _drop(structure, _clashing_chains(structure, config), "clash", counts)
    structure = _drop(structure, _broken_chains(structure, config.max_ca_gap), "chain_break", counts)
    if config.drop_asymmetric_bonds:
        structure = _drop_bonds(structure, _asymmetric_bonds(structure), counts)
    structure = _drop(structure, _distant_chains(structure, config), "distant_chain", counts)
    if config.drop_crystallisation_aids and any(word in structure.method for word in _CRYSTAL_METHODS):
        structure = _drop(structure, _aids(structure), "crystallisation_aid", counts)
    return structure, dict(counts)


def _check_entry(structure: Structure, config: FilterConfig) -> None:
    if structure.resolution > config.max_resolution:
        detail = f"{structure.resolution} Å, the limit is {config.max_resolution} Å"
        raise Rejection("resolution", detail)
    if config.require_resolution and not structure.resolution:
        raise Rejection("resolution", f"none reported ({structure.method or 'no method'})")
    date, cutoff = structure.release_date, config.released_before
    if cutoff and not date < cutoff:
        raise Rejection("release_date", f"released {date}, the cutoff is {cutoff}")
    if cutoff and not date:
        raise Rejection("release_date", f"the file gives no release date, the cutoff is {cutoff}")
    polymers = int((structure.chain_type != MoleculeType.LIGAND).sum())
    if polymers > config.max_polymer_chains:
        raise Rejection(
            "too_many_chains", f"{polymers} polymer chains, the limit is {config.max_polymer_chains}"
        )


def _drop(structure: Structure, unfit: Bools, reason: str, counts: Counter[str]) -> Structure:
    if not unfit.any():
        return structure
    counts[reason] += int(unfit.sum())
    if unfit.all():
        raise Rejection("no_chains", f"no chain is left after the filters: {dict(counts)}")
    return keep_chains(structure, ~unfit)


def _drop_bonds(structure: Structure, unfit: Bools, counts: Counter[str]) -> Structure:
    if not unfit.any():
        return structure
    counts["asymmetric_bond"] += int(unfit.sum())
    return replace(structure, bonds=structure.bonds[~unfit])


def _unknown_chains(structure: Structure) -> Bools:
    """Polymer chains of unknown residues alone."""
    known = ~np.isin(structure.residue_restype, _POLYMER_UNKNOWN) | structure.residue_atomised
    return _polymers(structure) & (_sum_by(structure.residue_chain, known, len(structure.chain_name)) == 0)


def _short_chains(structure: Structure, minimum: int) -> Bools:
    """Polymer chains with fewer than `minimum` residues that have a resolved atom."""
    residues = len(structure.residue_chain)
    resolved = _sum_by(structure.atom_residue, structure.atom_resolved, residues) > 0
    return _polymers(structure) & (
        _sum_by(structure.residue_chain, resolved, len(structure.chain_name)) < minimum
    )


def _polymers(structure: Structure) -> Bools:
    return structure.chain_type != MoleculeType.LIGAND


def _sum_by(group: NDArray[np.int32], values: NDArray[np.bool_], size: int) -> NDArray[np.float64]:
    return np.bincount(group, weights=values, minlength=size).astype(np.float64)


def _clashing_chains(structure: Structure, config: FilterConfig) -> Bools:
    """Chains to remove so that no pair of chains clashes.

    A chain clashes with another if more than `clash_fraction` of its resolved atoms lie within
    `clash_distance` of that one's. Of a pair goes the chain with the higher fraction, then the one with fewer
    atoms, then the later one; the worst pairs are settled first.
    """
    removed = np.zeros(len(structure.chain_name), np.bool_)
    fractions, sizes = clash_fractions(structure, config.clash_distance)
    pairs = {(min(pair), max(pair)) for pair, value in fractions.items() if value > config.clash_fraction}

    def badness(chain: int, other: int) -> tuple[float, float, int]:
        return fractions.get((chain, other), 0.0), -sizes[chain], chain

    for i, j in sorted(pairs, key=lambda p: (-max(fractions.get(p, 0.0), fractions.get(p[::-1], 0.0)), p)):
        if not removed[i] and not removed[j]:
            removed[i if badness(i, j) > badness(j, i) else j] = True
    return removed


def clash_fractions(
    structure: Structure, radius: float
) -> tuple[dict[tuple[int, int], float], NDArray[np.float64]]:
    """Share of a chain's resolved atoms near another, by ordered pair; and its number of resolved atoms."""
    rows = np.flatnonzero(structure.atom_resolved)
    chain = structure.residue_chain[structure.atom_residue]
    sizes = np.bincount(chain[rows], minlength=len(structure.chain_name)).astype(np.float64)
    points = structure.atom_coords[rows]
    i, j, _ = pairs_within(points, points, radius)
    i, j = rows[i], rows[j]
    total = len(chain)
    bonded = np.concatenate([structure.bonds, structure.bonds[:, ::-1]]).astype(np.int64) @ [total, 1]
    near = (chain[i] != chain[j]) & ~np.isin(i * total + j, bonded)
    touched = np.unique(np.stack([i[near], chain[j[near]]], axis=1), axis=0)
    pairs, counts = np.unique(
        np.stack([chain[touched[:, 0]], touched[:, 1]], axis=1), axis=0, return_counts=True
    )
    fractions = {(int(a), int(b)): float(n / sizes[a]) for (a, b), n in zip(pairs, counts, strict=True)}
    return fractions, sizes


def _broken_chains(structure: Structure, limit: float) -> Bools:
    """Protein chains where two consecutive resolved CA atoms are farther apart than the limit."""
    ca = np.flatnonzero(
        (structure.atom_name == "CA") & structure.atom_resolved & (structure.atom_element == 6)
    )
    residue = structure.atom_residue[ca]
    chain, index = structure.residue_chain[residue], structure.residue_index[residue]
    neighbours = (chain[1:] == chain[:-1]) & (index[1:] - index[:-1] == 1)
    gap = np.linalg.norm(structure.atom_coords[ca[1:]] - structure.atom_coords[ca[:-1]], axis=1)
    broken = np.zeros(len(structure.chain_name), np.bool_)
    broken[chain[1:][neighbours & (gap > limit)]] = True
    return broken & (structure.chain_type == MoleculeType.PROTEIN)


def _aids(structure: Structure) -> Bools:
    """Ligand chains that are crystallisation aids: every residue is on the list."""
    other = ~np.isin(structure.residue_component, CRYSTALLISATION_AIDS)
    others = _sum_by(structure.residue_chain, other, len(structure.chain_name))
    return ~_polymers(structure) & (others == 0)


def _asymmetric_bonds(structure: Structure) -> Bools:
    """[E] bonds of a polymer with a ligand that not every copy of the polymer has (AF3 SI 5.1).

    Which copy has it would be told by `token_bonds`, and copies that differ in it could not be exchanged.
    """
    copies = np.bincount(structure.chain_entity)
    first_residue = np.searchsorted(structure.residue_chain, np.arange(len(structure.chain_name)))
    holders: dict[_Joint, set[int]] = defaultdict(set)
    kinds: list[_Joint | None] = []  # what each bond joins; None within ligands or polymers
    for pair in structure.bonds.tolist():
        residues = structure.atom_residue[pair]
        chains = structure.residue_chain[residues]
        ligand = structure.chain_type[chains] == MoleculeType.LIGAND
        if ligand[0] == ligand[1]:
            kinds.append(None)
            continue
        own, other = (0, 1) if ligand[1] else (1, 0)
        chain = int(chains[own])
        kind = (
            int(structure.chain_entity[chain]), int(residues[own] - first_residue[chain]),
            str(structure.atom_name[pair[own]]), str(structure.residue_component[residues[other]]),
            str(structure.atom_name[pair[other]]),
        )  # fmt: skip
        kinds.append(kind)
        holders[kind].add(chain)
    lacking = [kind is not None and len(holders[kind]) < copies[kind[0]] for kind in kinds]
    return np.array(lacking, np.bool_)


def _distant_chains(structure: Structure, config: FilterConfig) -> Bools:
    """All but the `max_chains` chains nearest to a random interface token, in larger assemblies."""
    count = len(structure.chain_name)
    if count <= config.max_chains:
        return np.zeros(count, np.bool_)
    centres, chain = token_centres(structure)
    i, j, _ = pairs_within(centres, centres, config.interface_distance)
    candidates = np.unique(i[chain[i] != chain[j]])
    if not len(candidates):
        candidates = np.arange(len(centres))
    rng = generator(config.seed, zlib.crc32(structure.entry_id.encode()), "chains of a large assembly")
    distance = np.linalg.norm(centres - centres[rng.choice(candidates)], axis=1)
    nearest = np.full(count, np.inf)
    np.minimum.at(nearest, chain, distance)
    distant = np.ones(count, np.bool_)
    distant[np.argsort(nearest, kind="stable")[: config.max_chains]] = False
    return distant


def token_centres(structure: Structure) -> tuple[Floats, NDArray[np.int32]]:
    """Coordinates [N, 3] in Å and chain [N] of resolved token centres: CA, C1', every atomised atom."""
    polymer_centre = np.isin(structure.atom_name, ("CA", "C1'"))
    atomised = structure.residue_atomised[structure.atom_residue]
    rows = np.flatnonzero((polymer_centre | atomised) & structure.atom_resolved)
    return structure.atom_coords[rows], structure.residue_chain[structure.atom_residue[rows]]
