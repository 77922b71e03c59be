# SPDX-License-Identifier: Apache-2.0
"""LDDT as PLINDER's pipeline stores it: that of OpenStructure, which counts as missing what breaks chemistry.

OpenStructure 2.4 and later drops from a model, before it scores it, residues whose backbone, and side chains
whose atoms, clash (nearer than their van der Waals radii together less 1.5 Å) or have bonds or angles over 12
standard deviations off; names equivalent side-chain atoms as they fit best; and averages over all pairs of
atoms instead of atoms. Repeated here but for bonds and angles within residues, whose deviations are CCP4's
monomer library: with them absent a score can only be too high. Cis prolines count as trans ones.
"""

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from biotite.structure.info import bonds_in_residue
from biotite.structure.io import pdbx
from scipy.spatial import cKDTree

from foldwright.evaluation.lddt import lddt_of_atoms

DATA = Path(__file__).parents[3] / "shared" / "data" / "eval_reference" / "peppr" / "tests" / "data"
BACKBONE = ("N", "CA", "C", "O")
RADII = {"C": 1.70, "N": 1.55, "O": 1.52, "S": 1.80}  # Å, Bondi 1964
DISULFIDE = 1.03  # Å
LINKS = {  # Å and degrees, with standard deviations: CCP4's standard geometry of the link to a residue
    "GLY": (1.326, 0.018, (116.2, 2.0), (123.2, 1.7), (122.3, 2.1)),
    "PRO": (1.338, 0.019, (117.1, 2.8), (121.1, 1.9), (119.3, 1.5)),
    "": (1.336, 0.023, (117.2, 2.2), (122.7, 1.6), (121.7, 2.5)),
}
ANGLES = (("CA", "C", "N"), ("O", "C", "N"), ("C", "N", "CA"))
DEVIATIONS = 12
SWAPPED = {
    "PHE": ("CD1 CD2", "CE1 CE2"), "TYR": ("CD1 CD2", "CE1 CE2"), "ASP": ("OD1 OD2",), "GLU": ("OE1 OE2",),
    "ARG": ("NH1 NH2",), "LEU": ("CD1 CD2",), "VAL": ("CG1 CG2",),
}  # fmt: skip


def read(path):
    text = gzip.decompress(path.read_bytes()).decode()
    atoms = pdbx.get_structure(pdbx.CIFFile.read(io.StringIO(text)), model=1, use_author_fields=False)
    return atoms[(atoms.element != "H") & ~atoms.hetero]


def residues(atoms):
    names = [f"{chain} {number}" for chain, number in zip(atoms.chain_id, atoms.res_id, strict=True)]
    return np.unique(names, return_inverse=True)[1]


def clashing(atoms, residue):
    """Pairs of atoms too near to each other that are not bonded."""
    x, names = atoms.coord.astype(float), atoms.atom_name
    for i, j in cKDTree(x).query_pairs(2.1):
        first, second = (i, j) if atoms.res_id[i] < atoms.res_id[j] else (j, i)
        if residue[i] == residue[j]:
            bonds = bonds_in_residue(atoms.res_name[i])
            bonded = (names[i], names[j]) in bonds or (names[j], names[i]) in bonds
        else:
            follow = atoms.res_id[second] == atoms.res_id[first] + 1
            follow &= atoms.chain_id[i] == atoms.chain_id[j]
            bonded = follow and (names[first], names[second]) == ("C", "N")
        sulfurs = names[i] == names[j] == "SG"
        limit = DISULFIDE if sulfurs else RADII[atoms.element[i]] + RADII[atoms.element[j]] - 1.5
        if not bonded and np.linalg.norm(x[i] - x[j]) < limit:
            yield i, j


def broken_links(atoms):
    """Atoms of peptide bonds, and of the angles at them, that are far off."""
    at = {key: i for i, key in enumerate(zip(atoms.chain_id, atoms.res_id, atoms.atom_name, strict=True))}
    x = atoms.coord.astype(float)
    for (chain, number, name), n in at.items():
        before = {key: at.get((chain, number - 1, key)) for key in ("CA", "C", "O")}
        after = at.get((chain, number, "CA"))
        if name != "N" or after is None or None in before.values():
            continue
        length, deviation, *angles = LINKS.get(atoms.res_name[n], LINKS[""])
        if abs(np.linalg.norm(x[before["C"]] - x[n]) - length) > DEVIATIONS * deviation:
            yield before["C"], n
        for names, (mean, spread) in zip(ANGLES, angles, strict=True):
            own = [n if key == "N" else before[key] for key in names]
            own[2] = after if names[2] == "CA" else own[2]
            arms = x[own[0]] - x[own[1]], x[own[2]] - x[own[1]]
            cosine = arms[0] @ arms[1] / np.prod([np.linalg.norm(arm) for arm in arms])
            if abs(np.degrees(np.arccos(cosine)) - mean) > DEVIATIONS * spread:
                yield tuple(own)


def sound(atoms):
    """Which atoms are left: without side chains that break chemistry, and residues whose backbone does."""
    residue, side = residues(atoms), ~np.isin(atoms.atom_name, BACKBONE)
    bad = np.zeros(len(atoms), bool)
    for group in (*clashing(atoms, residue), *broken_links(atoms)):
        bad[list(group)] = True
    dropped = np.zeros(len(atoms), bool)
    for number in np.unique(residue[bad]):
        own = residue == number
        dropped |= own if (bad & own & ~side).any() else own & side
    return ~dropped


def renamed(x, x_true, residue, names, components):
    """x with equivalent side-chain atoms exchanged where more distances to all unequivocal atoms fit."""
    swaps = []
    for number in np.unique(residue):
        at = {names[i]: i for i in np.flatnonzero(residue == number)}
        pairs = [pair.split() for pair in SWAPPED.get(components[next(iter(at.values()))], ())]
        if pairs and all(name in at for pair in pairs for name in pair):
            swaps.append([[at[name] for name in pair] for pair in pairs])
    ambiguous = np.zeros(len(x), bool)
    ambiguous[[i for swap in swaps for pair in swap for i in pair]] = True
    tree, found = cKDTree(x_true), x.copy()
    for swap in swaps:
        kept = [0, 0]
        for i, j in (*swap, *(pair[::-1] for pair in swap)):
            near = np.array([k for k in tree.query_ball_point(x_true[i], 15.0) if residue[k] != residue[i]])
            near = near[~ambiguous[near]]
            true = np.linalg.norm(x_true[near] - x_true[i], axis=1)
            for turn, own in enumerate((i, j)):
                error = np.abs(np.linalg.norm(x[near] - x[own], axis=1) - true)
                kept[turn] += sum(int((error < limit).sum()) for limit in (0.5, 1, 2, 4))
        if kept[1] > kept[0]:
            for i, j in swap:
                found[[i, j]] = x[[j, i]]
    return found


def score(true, pose):
    """LDDT over pairs of atoms of a pose whose unsound atoms are nowhere."""
    chains = dict(zip(sorted(set(pose.chain_id)), sorted(set(true.chain_id)), strict=True))
    pose = pose[sound(pose)]
    keys = zip((chains[name] for name in pose.chain_id), pose.res_id, pose.atom_name, strict=True)
    at = dict(zip(keys, pose.coord.astype(float), strict=True))
    x_true, residue = true.coord.astype(float), residues(true)
    wanted = zip(true.chain_id, true.res_id, true.atom_name, strict=True)
    x = np.array([at.get(key, (1e6 * (n + 1), 0, 0)) for n, key in enumerate(wanted)])
    x = renamed(x, x_true, residue, true.atom_name, true.res_name)
    tensors = [torch.from_numpy(part) for part in (x, x_true, np.ones(len(x), bool), residue)]
    of_atoms = lddt_of_atoms(*tensors).numpy()
    near = cKDTree(x_true).query_pairs(15.0, output_type="ndarray")
    near = near[residue[near[:, 0]] != residue[near[:, 1]]]
    pairs = np.bincount(near.ravel(), minlength=len(x))
    return np.nansum(of_atoms * pairs) / pairs.sum()


@pytest.mark.corpus
@pytest.mark.skipif(
    not DATA.is_dir(), reason="needs the corpus beside the project: shared/data/eval_reference"
)
def test_lddt_equals_plinders_values():
    with (DATA / "ref_metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["ligand_num"] == "1"]
    excess = []
    for row in rows:
        folder = DATA / "predictions" / row["system_id"]
        true = read(folder / "reference.cif.gz")
        pose = read(folder / "poses" / f"pose_{row['pose_num']}.cif.gz")
        assert sound(true).all()
        excess.append(score(true, pose) - float(row["lddt"]))
    excess = np.array(excess)
    assert len(excess) == 15
    assert (np.abs(excess) < 1e-5).sum() >= 9
    assert excess.min() > -1e-5
    assert excess.max() < 1.4e-3
