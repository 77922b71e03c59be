# SPDX-License-Identifier: Apache-2.0
"""Our reading of every corpus entry against biotite's; `python tests/data/corpus_comparison.py FOLDER OUT.md`
writes the table of docs/benchmarks/corpus.md.
"""

import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from biotite_reading import Reading, read
from handmade import dictionary

from foldwright.data.filters import FilterConfig, Rejection, clean
from foldwright.data.mmcif import read_structure
from foldwright.data.structure import Structure
from foldwright.vocabulary import MoleculeType

MAX_BYTES = 1_500_000  # of a gzipped file: biotite takes minutes for the largest, which are read by us alone
EXPLAINED = {
    "chains": "ligands that the dictionary lacks or whose names are all unknown (UNL, UNX), counted as such",
    "copies": "a chain listed in several generators of the assembly with other operators",
    "sequence": "several components at one position: ours is the one that has coordinates",
    "atoms": "atoms with names that their component does not have, and those of the component not chosen at "
    "a position with several, counted as such",
    "bonds": "links that are over 2.4 Å, of atoms not read, counted as such, or within one residue",
}


def asyms(structure: Structure) -> list[str]:
    return [str(name).split("-")[0] for name in structure.chain_name]


def differences(structure: Structure, counts: Counter, theirs: Reading) -> dict[str, bool]:
    """What differs from biotite's reading, and whether our own counts explain it."""
    names = asyms(structure)
    found: dict[str, bool] = {}
    left_out = counts["unknown_ligand"] + counts["unmatched_ligand"]
    missing = {asym for asym in theirs.atoms if asym not in names}
    if missing or set(names) - set(theirs.copies):
        found["chains"] = len(missing) <= left_out
    ours = Counter(names)
    common = [asym for asym in ours if asym in theirs.atoms]
    if any(ours[asym] != theirs.copies[asym] for asym in common):
        found["copies"] = False
    for chain, asym in enumerate(names):
        if asym in theirs.sequences and structure.chain_type[chain] != MoleculeType.LIGAND:
            sequence = ["MET" if code == "MSE" else code for code in theirs.sequences[asym]]
            mine = structure.sequence(chain)
            if mine != sequence:
                found["sequence"] = len(mine) == len(sequence)
    chain_of_atom = structure.residue_chain[structure.atom_residue]
    resolved = np.bincount(chain_of_atom[structure.atom_resolved], minlength=len(names))
    atoms = Counter()
    for asym, count in zip(names, resolved.tolist(), strict=True):
        atoms[asym] += count
    gap = sum(abs(theirs.atoms[asym] - atoms[asym]) for asym in common)
    if gap:
        allowed = (counts["unknown_atom_name"] + 20 * counts["sequence_mismatch"]) * max(ours.values())
        found["atoms"] = gap <= allowed
    _compare_bonds(structure, counts, theirs, found)
    return found


def _compare_bonds(structure: Structure, counts: Counter, theirs: Reading, found: dict[str, bool]) -> None:
    names = asyms(structure)
    mine = set()
    for pair in structure.bonds:
        residues = structure.atom_residue[pair]
        chains = structure.residue_chain[residues]
        mine.add(
            frozenset((names[c], str(structure.atom_name[a])) for c, a in zip(chains, pair, strict=True))
        )
    backbone = ({"C", "N"}, {"O3'", "P"})
    wanted = set()
    for link in theirs.bonds:
        ends = sorted(link)
        numbers = [int(end[1]) if end[1].isdecimal() else -9 for end in ends]
        neighbours = len(ends) > 1 and ends[0][0] == ends[1][0] and abs(numbers[0] - numbers[-1]) == 1
        if len(ends) < 2 or (neighbours and {end[2] for end in ends} in backbone):
            continue
        if all(end[0] in names for end in ends):
            wanted.add(frozenset((asym, atom) for asym, _, atom in ends))
    if mine != wanted:
        left_out = counts["long_bond"] + counts["unmatched_bond"]
        found["bonds"] = len(mine - wanted) == 0 and len(wanted - mine) <= left_out


def outcome_of(path: Path) -> tuple[str, dict[str, bool], float]:
    """Of one file: "kept" or the reason against it, differences from biotite, seconds that reading took."""
    counts: Counter = Counter()
    start = time.perf_counter()
    try:
        structure = read_structure(path, dictionary(), counts=counts)
        clean(structure, FilterConfig())
    except Rejection as rejection:
        return rejection.reason, {}, 0.0
    except ValueError:
        return "unreadable", {}, 0.0
    seconds = time.perf_counter() - start
    if path.stat().st_size > MAX_BYTES:
        return "kept, not compared (large)", {}, seconds
    return "kept", differences(structure, counts, read(path)), seconds


def table(folder: Path) -> str:
    outcomes, explained, open_ones = Counter(), defaultdict(list), defaultdict(list)
    reasons = defaultdict(list)
    for path in sorted(folder.glob("*.cif.gz")):
        outcome, found, _ = outcome_of(path)
        outcomes[outcome] += 1
        entry = path.name.removesuffix(".cif.gz")
        if not outcome.startswith("kept"):
            reasons[outcome].append(entry)
        for what, is_explained in found.items():
            (explained if is_explained else open_ones)[what].append(entry)
    lines = ["| outcome | entries | which |", "|---|---|---|"]
    lines += [
        f"| {name} | {count} | {' '.join(reasons[name][:12])} |" for name, count in outcomes.most_common()
    ]
    lines += [
        "",
        "| differs from biotite in | explained by our counts | not explained | why |",
        "|---|---|---|---|",
    ]
    for what, why in EXPLAINED.items():
        rest = " ".join(open_ones[what][:20])
        lines.append(f"| {what} | {len(explained[what])} | {len(open_ones[what])} {rest} | {why} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(table(Path(sys.argv[1])))
