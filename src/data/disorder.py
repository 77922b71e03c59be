# SPDX-License-Identifier: Apache-2.0
"""The disorder set: predicted protein, unresolved stretches included, amid the true rest of an entry.

Source: AF3 SI Table 3 (spec 2.3): entries with at least 40 unresolved protein residues whose prediction has a
GDT of at least 60 and no clashes once the ground truth of all that is not protein is inserted.
Readings: the GDT is that of all protein chains together; a clash is the one of the filters (30 % of a chain's
atoms within 1.7 Å of another's). Chains of one sequence are matched by where the superposition puts them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.filters import FilterConfig, Rejection, clash_fractions, clean
from foldwright.data.mmcif import read_structure
from foldwright.data.predicted import read_plddt
from foldwright.data.sources import find_sources
from foldwright.data.structure import Floats, Structure
from foldwright.data.superpose import Gdt, gdt, superpose
from foldwright.data.write_mmcif import write_structure
from foldwright.vocabulary import MoleculeType

_MIN_SHARED = 10  # resolved CA atoms that make a chain an anchor
_Rows = NDArray[np.int64]


@dataclass(frozen=True)
class DisorderConfig:
    """AF3's thresholds: unresolved protein residues, GDT_TS (0 to 100), and the filters' rule of clashes."""

    min_unresolved: int = 40
    min_gdt: float = 60.0
    clash_distance: float = FilterConfig.clash_distance
    clash_fraction: float = FilterConfig.clash_fraction


class Grafted(NamedTuple):
    """A combined structure, b_factors [L] (pLDDT of the protein, 100 for the rest), and what was found."""

    structure: Structure
    b_factors: Floats
    gdt: float
    unresolved: int


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 if no entry could be made."""
    defaults = DisorderConfig()
    parser = argparse.ArgumentParser(
        prog="make_disorder_set.py",
        description="Combine entries with predictions of their proteins into the disorder set's mmCIF files; "
        "then: prepare_data.py --predicted --structures OUT --out STORE.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--structures", type=Path, required=True, help="directory of <entry>.cif[.gz], experimental")
    add("--predictions", type=Path, required=True, help="directory of <entry>.cif[.gz], all its proteins")
    add("--out", type=Path, required=True, help="directory for <entry>.cif.gz")
    add("--min-unresolved", type=int, default=defaults.min_unresolved, help="protein residues")
    add("--min-gdt", type=float, default=defaults.min_gdt, help="0 to 100")
    add("--dictionary-cache", type=Path, default=DEFAULT_CACHE, help="folder of the compiled dictionary")
    arguments = parser.parse_args(argv)
    config = DisorderConfig(arguments.min_unresolved, arguments.min_gdt)
    try:
        dictionary = Dictionary.open(arguments.dictionary_cache)
        outcomes = dict(
            make_set(arguments.structures, arguments.predictions, arguments.out, dictionary, config)
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = Table("outcome", "entries", "example", title=str(arguments.out), title_justify="left")
    for reason, count in Counter(reason for reason, _ in outcomes.values()).most_common():
        entry = next(entry for entry, outcome in outcomes.items() if outcome[0] == reason)
        table.add_row(reason, str(count), f"{entry}: {outcomes[entry][1]}")
    Console().print(table)
    return 0 if any(reason == "made" for reason, _ in outcomes.values()) else 1


def make_set(
    structures: Path, predictions: Path, out: Path, dictionary: Dictionary, config: DisorderConfig
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Make the file of every entry with a prediction; yields entry and (reason, detail), "made" if it was.

    Raises ValueError if a directory is missing or empty.
    """
    experiments, models = find_sources(structures, None).of_entry, find_sources(predictions, None).of_entry
    out.mkdir(parents=True, exist_ok=True)
    for entry, files in experiments.items():
        if entry not in models:
            yield entry, ("no_prediction", f"{predictions} has no {entry}.cif")
            continue
        try:
            truth, _ = clean(read_structure(files.structure, dictionary), FilterConfig())
            model = read_structure(models[entry].structure, dictionary)
            made = graft(truth, model, read_plddt(models[entry].structure, model), config)
        except Rejection as rejection:
            yield entry, (rejection.reason, rejection.detail)
            continue
        except ValueError as error:
            yield entry, ("unreadable", str(error))
            continue
        partial = out / f".{entry}.partial.gz"
        structure = made.structure
        write_structure(
            structure, structure.atom_coords, partial, dictionary, made.b_factors, structure.atom_resolved
        )
        os.replace(partial, out / f"{entry}.cif.gz")
        yield entry, ("made", f"GDT {made.gdt:.1f}, {made.unresolved} residues unresolved")


def graft(truth: Structure, model: Structure, plddt: Floats, config: DisorderConfig) -> Grafted:
    """The predicted protein in the place of the experiment's, moved onto it; all else as it was.

    truth: the entry, cleaned. model: a prediction of all its protein chains, each as long or longer. plddt:
    [S] of the model's residues. Raises Rejection: "few_unresolved", "no_prediction" (of a chain), "low_gdt",
    "clash".
    """
    unresolved = unresolved_residues(truth)
    if unresolved < config.min_unresolved:
        raise Rejection("few_unresolved", f"{unresolved} residues, the least is {config.min_unresolved}")
    found = best_match(truth, model)
    if found.fit.score < config.min_gdt:
        raise Rejection("low_gdt", f"{found.fit.score:.1f}, the least is {config.min_gdt}")
    coords, resolved = truth.atom_coords.copy(), truth.atom_resolved.copy()
    resolved[_protein_atoms(truth)] = False
    b_factors = np.full(len(coords), 100.0, np.float32)
    moved = found.fit.motion(model.atom_coords)
    coords[found.truth_atoms], resolved[found.truth_atoms] = moved[found.model_atoms], True
    coords[~resolved] = 0
    b_factors[found.truth_atoms] = plddt[model.atom_residue[found.model_atoms]]
    made = replace(truth, atom_coords=coords.astype(np.float32), atom_resolved=resolved)
    _refuse_clashes(made, config)
    return Grafted(made, b_factors, found.fit.score, unresolved)


def unresolved_residues(structure: Structure) -> int:
    """Protein residues without a resolved atom."""
    seen = np.bincount(structure.atom_residue, structure.atom_resolved, len(structure.residue_chain)) > 0
    return int((~seen & (structure.chain_type[structure.residue_chain] == MoleculeType.PROTEIN)).sum())


class Match(NamedTuple):
    """Atoms of the entry's proteins and the model's atoms that stand for them, and how well they fit."""

    truth_atoms: _Rows
    model_atoms: _Rows
    fit: Gdt


def best_match(truth: Structure, model: Structure) -> Match:
    """The assignment of the model's chains to the entry's of the highest GDT.

    Every model chain that may stand for the entry's best resolved one is tried as an anchor; the others are
    then assigned where they come to lie.
    """
    options = _options(truth, model)
    if not options:
        raise Rejection("no_prediction", "the entry has no protein chain")
    anchor = max(options, key=lambda chain: max(len(_shared(truth, model, p)[0]) for p in options[chain]))
    matches = []
    for pair in options[anchor]:
        if len(_shared(truth, model, pair)[0]) >= _MIN_SHARED:
            matches.append(_assigned(truth, model, options, anchor, pair))
    if not matches:
        raise Rejection("no_prediction", f"no chain shows {_MIN_SHARED} residues to be superposed on")
    return max(matches, key=lambda match: match.fit.score)


class _Pair(NamedTuple):
    """A chain of the model that may stand for one of the entry: its number, and the atoms of both in step."""

    chain: int
    truth_atoms: _Rows
    model_atoms: _Rows


def _options(truth: Structure, model: Structure) -> dict[int, list[_Pair]]:
    """For every protein chain of the entry the chains of the model that hold its sequence."""
    proteins = np.flatnonzero(model.chain_type == MoleculeType.PROTEIN).tolist()
    options: dict[int, list[_Pair]] = {}
    for chain in np.flatnonzero(truth.chain_type == MoleculeType.PROTEIN).tolist():
        pairs = [_pair(truth, chain, model, candidate) for candidate in proteins]
        options[chain] = [pair for pair in pairs if pair is not None]
        if not options[chain]:
            name = truth.chain_name[chain]
            raise Rejection("no_prediction", f"no chain of the model holds the sequence of chain {name}")
    return options


def _pair(truth: Structure, chain: int, model: Structure, candidate: int) -> _Pair | None:
    mine = np.flatnonzero(truth.residue_chain == chain)
    theirs = np.flatnonzero(model.residue_chain == candidate)
    start = bytes(model.residue_restype[theirs]).find(bytes(truth.residue_restype[mine]))
    if start < 0:
        return None
    theirs = theirs[start : start + len(mine)]
    rows = {
        (residue, name): row for row, residue, name in _named_atoms(model, theirs) if model.atom_resolved[row]
    }
    kept = [
        (row, rows[residue, name])
        for row, residue, name in _named_atoms(truth, mine)
        if (residue, name) in rows
    ]
    atoms = np.array(kept, np.int64).reshape(-1, 2)
    return _Pair(candidate, atoms[:, 0], atoms[:, 1])


def _named_atoms(structure: Structure, residues: _Rows) -> Iterator[tuple[int, int, str]]:
    """Row, position of its residue among `residues`, and name of every atom."""
    rows = np.flatnonzero(np.isin(structure.atom_residue, residues))
    places = np.searchsorted(residues, structure.atom_residue[rows])
    return zip(rows.tolist(), places.tolist(), structure.atom_name[rows].tolist(), strict=True)


def _shared(truth: Structure, model: Structure, pair: _Pair) -> tuple[Floats, Floats]:
    """CA atoms of the model and of the experiment, where it shows them."""
    counted = (truth.atom_name[pair.truth_atoms] == "CA") & truth.atom_resolved[pair.truth_atoms]
    return model.atom_coords[pair.model_atoms[counted]], truth.atom_coords[pair.truth_atoms[counted]]


def _assigned(
    truth: Structure, model: Structure, options: dict[int, list[_Pair]], anchor: int, first: _Pair
) -> Match:
    """The match with one pair given: each other chain takes the free candidate nearest to it."""
    motion = superpose(*_shared(truth, model, first))
    chosen = {anchor: first}
    for chain, pairs in options.items():
        if chain == anchor:
            continue
        free = [pair for pair in pairs if pair.chain not in {other.chain for other in chosen.values()}]
        if not free:
            name = truth.chain_name[chain]
            raise Rejection("no_prediction", f"the model has too few copies of chain {name}")

        def distance(pair: _Pair) -> float:
            x, y = _shared(truth, model, pair)
            return float(np.linalg.norm(motion(x) - y, axis=1).mean()) if len(x) else np.inf

        chosen[chain] = min(free, key=distance)
    shared = [_shared(truth, model, pair) for pair in chosen.values()]
    x, y = (np.concatenate([part[side] for part in shared]) for side in (0, 1))
    return Match(
        np.concatenate([pair.truth_atoms for pair in chosen.values()]),
        np.concatenate([pair.model_atoms for pair in chosen.values()]),
        gdt(x, y),
    )


def _protein_atoms(structure: Structure) -> NDArray[np.bool_]:
    chain = structure.residue_chain[structure.atom_residue]
    return np.asarray(structure.chain_type[chain] == MoleculeType.PROTEIN)


def _refuse_clashes(structure: Structure, config: DisorderConfig) -> None:
    fractions, _ = clash_fractions(structure, config.clash_distance)
    for (chain, other), fraction in fractions.items():
        if fraction > config.clash_fraction:
            one, two = structure.chain_name[chain], structure.chain_name[other]
            where = f"within {config.clash_distance} Å of chain {two}"
            raise Rejection("clash", f"{100 * fraction:.0f} % of chain {one} is {where}")
