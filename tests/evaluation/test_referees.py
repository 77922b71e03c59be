# SPDX-License-Identifier: Apache-2.0
"""Metrics against independent programs: biotite here, and stored values of DockQ, US-align and PLINDER's
pipeline in the corpus (docs/benchmarks/metrics.md).
"""

import csv
import gzip
import io
import json
import re
from pathlib import Path

import biotite.structure as struc
import biotite.structure.io.pdbx as pdbx
import gemmi
import numpy as np
import pytest
import torch

from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.evaluation.dockq import BACKBONE, dockq
from foldwright.evaluation.lddt import lddt
from foldwright.evaluation.surface import accessible_surface
from foldwright.evaluation.tm_score import aligned_rmsd, tm_d0, tm_score

CORPUS = Path(__file__).parents[2].parent / "shared" / "data"
REFERENCE = CORPUS / "eval_reference"
corpus = pytest.mark.corpus
needs_corpus = pytest.mark.skipif(not REFERENCE.is_dir(), reason="../shared/data/eval_reference is absent")


def sample_atoms(name):
    s = Store(store_path()).entry(name).structure
    kept = s.atom_resolved
    array = struc.AtomArray(int(kept.sum()))
    array.coord = s.atom_coords[kept]
    array.res_id = s.atom_residue[kept].astype(int)
    array.chain_id = s.chain_name[s.residue_chain[s.atom_residue[kept]]]
    array.atom_name = s.atom_name[kept]
    array.res_name = s.residue_component[s.atom_residue[kept]]
    elements = {6: "C", 7: "N", 8: "O", 16: "S", 15: "P"}
    array.element = np.array([elements[int(z)] for z in s.atom_element[kept]])
    return s, kept, array


@pytest.mark.parametrize("name", ["5pti", "1ubi"])
def test_surface_agrees_with_biotite(name):
    s, kept, array = sample_atoms(name)
    expected = struc.sasa(array, probe_radius=1.4, point_number=1000, vdw_radii="Single")
    value = accessible_surface(array.coord, s.atom_element[kept], n_points=1000)
    assert value.sum() == pytest.approx(expected.sum(), rel=0.005)
    np.testing.assert_allclose(value, expected, atol=2.5)
    assert accessible_surface(array.coord, s.atom_element[kept]).sum() == pytest.approx(
        expected.sum(), rel=0.02
    )


def test_lone_atom_has_the_sphere_s_surface():
    value = accessible_surface(np.zeros((1, 3)), np.array([6]))
    assert value[0] == pytest.approx(4 * np.pi * 3.1**2)


def test_rmsd_and_tm_terms_agree_with_biotite():
    _, _, array = sample_atoms("2ofg")
    ca = array[array.atom_name == "CA"]
    rng = np.random.default_rng(0)
    other = ca.copy()
    other.coord = ca.coord @ np.diag([1.0, -1, -1]) + rng.normal(size=ca.coord.shape) * 1.5
    fitted, _ = struc.superimpose(ca, other)
    assert aligned_rmsd(other.coord, ca.coord) == pytest.approx(struc.rmsd(ca, fitted), abs=1e-4)
    index = np.arange(len(ca))
    at_least = struc.tm_score(ca, fitted, index, index)
    assert at_least - 1e-6 <= tm_score(other.coord, ca.coord) < at_least + 0.1


def test_tm_score_of_two_domains_finds_the_larger():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 3)) * 15
    y = x.copy()
    y[:35] += [60.0, 20, 0]
    assert tm_score(y, x) == pytest.approx(0.65, abs=0.02)
    assert tm_d0(100) == pytest.approx(3.652, abs=1e-3)


# --- stored values ---


def read(path):
    text = gzip.decompress(path.read_bytes()).decode()
    if ".cif" in path.name:
        atoms = pdbx.get_structure(pdbx.CIFFile.read(io.StringIO(text)), model=1, use_author_fields=False)
    else:
        atoms = _read_pdb(text)
    return atoms[(atoms.element != "H") & ~atoms.hetero]


def _read_pdb(text):
    """By gemmi: one of the models has no B factors, which biotite refuses."""
    rows = [(c.name, r.seqid.num, r.het_flag, a)
            for c in gemmi.read_pdb_string(text)[0] for r in c for a in r if a.altloc in "\0A"]  # fmt: skip
    atoms = struc.AtomArray(len(rows))
    atoms.coord = np.array([[*a.pos] for *_, a in rows], np.float32)
    atoms.chain_id = np.array([row[0] for row in rows])
    atoms.res_id = np.array([row[1] for row in rows])
    atoms.hetero = np.array([row[2] == "H" for row in rows])
    atoms.atom_name = np.array([a.name for *_, a in rows])
    atoms.element = np.array([a.element.name.upper() for *_, a in rows])
    return atoms


def common(model, native, chains):
    """Coordinates of both, and of each atom its residue, whether it is of the first chain, and its name."""

    def table(atoms, names):
        return {
            (names.index(c), int(r), n): x
            for c, r, n, x in zip(atoms.chain_id, atoms.res_id, atoms.atom_name, atoms.coord, strict=True)
            if c in names
        }

    one, other = table(model, [m for m, _ in chains]), table(native, [n for _, n in chains])
    keys = [key for key in other if key in one]
    number = {key: i for i, key in enumerate(sorted({key[:2] for key in keys}))}
    residue = np.array([number[key[:2]] for key in keys])
    first = np.array([key[0] == 0 for key in keys])
    names = np.array([key[2] for key in keys])
    return np.array([one[k] for k in keys]), np.array([other[k] for k in keys]), residue, first, names


def stored_interfaces(path):
    text = path.read_text()
    pattern = r"Native chains: (\w), (\w)\n\tModel chains: (\w), (\w)\n\tDockQ: ([\d.]+)\n\tiRMSD: ([\d.]+)\n"
    pattern += r"\tLRMSD: ([\d.]+)\n\tfnat: ([\d.]+)"
    long = [(m[:4], *map(float, m[4:])) for m in re.findall(pattern, text)]
    pattern = r"DockQ ([\d.]+) iRMSD ([\d.]+) LRMSD ([\d.]+) fnat ([\d.]+) .* mapping (\w)(\w):(\w)(\w)"
    found = re.findall(pattern, text)
    return long + [((m[6], m[7], m[4], m[5]), *map(float, m[:4])) for m in found]


@corpus
@needs_corpus
@pytest.mark.parametrize(
    ("name", "model", "native"),
    [("model", "model", "native"), ("1A2K", "1A2K_r_l_b.model", "1A2K_r_l_b"),
     ("dimer_dimer", "dimer_dimer.model", "dimer_dimer"), ("1EXB", "1EXB_r_l_b.model", "1EXB_r_l_b")],
)  # fmt: skip
def test_dockq_equals_the_programs(name, model, native):
    examples = REFERENCE / "dockq" / "examples"
    predicted, true = read(examples / f"{model}.pdb.gz"), read(examples / f"{native}.pdb.gz")
    found = stored_interfaces(REFERENCE / "dockq" / "testdata" / f"{name}.dockq")
    assert found
    for chains, score, irmsd, lrmsd, fnat in found:
        pairs = [(chains[2], chains[0]), (chains[3], chains[1])]
        x, x_true, residue, first, names = common(predicted, true, pairs)
        value = dockq(x, x_true, residue, first, np.isin(names, BACKBONE))
        expected = pytest.approx((score, irmsd, lrmsd, fnat), abs=1e-3)
        assert (value.dockq, value.irmsd, value.lrmsd, value.fnat) == expected, chains


@corpus
@needs_corpus
def test_dockq_equals_plinders_values():
    data = REFERENCE / "peppr" / "tests" / "data"
    with (data / "ref_metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["ligand_num"] == "1" and row["dockq"]]
    n_compared = 0
    for row in rows:
        folder = data / "predictions" / row["system_id"]
        true, predicted = (
            read(folder / "reference.cif.gz"),
            read(folder / "poses" / f"pose_{row['pose_num']}.cif.gz"),
        )
        chains = sorted(set(true.chain_id))
        others = sorted(set(predicted.chain_id))
        pairs = list(zip(others[:2], chains[:2], strict=True))
        x, x_true, residue, first, names = common(predicted, true, pairs)
        value = dockq(x, x_true, residue, first, np.isin(names, BACKBONE))
        assert value.dockq == pytest.approx(float(row["dockq"]), abs=1e-3), row
        n_compared += 1
    assert n_compared >= 5


@corpus
@needs_corpus
def test_tm_scores_of_us_align():
    stored = REFERENCE / "biotite" / "tests" / "structure" / "data" / "tm" / "tm_scores.json"
    expected = json.loads(stored.read_text())["1l2y"]
    path = CORPUS / "mmcif" / "1l2y.cif.gz"
    if not path.is_file():
        pytest.skip("1l2y is not in the corpus")
    text = gzip.decompress(path.read_bytes()).decode()
    stack = pdbx.get_structure(pdbx.CIFFile.read(io.StringIO(text)), model=None)
    ca = stack[:, stack.atom_name == "CA"]
    found = [tm_score(model.coord, ca[0].coord) for model in ca]
    np.testing.assert_allclose(found, expected, atol=0.05)


@corpus
@needs_corpus
@pytest.mark.parametrize("name", ["102m", "1l2y"])
def test_lddt_of_a_real_structure_equals_biotites(name):
    path = CORPUS / "mmcif" / f"{name}.cif.gz"
    if not path.is_file():
        pytest.skip(f"{name} is not in the corpus")
    array = read(path)
    other = array.copy()
    other.coord = array.coord + np.random.default_rng(0).normal(size=array.coord.shape)
    number = torch.from_numpy(np.cumsum(np.diff(array.res_id, prepend=array.res_id[0]) != 0))
    every = torch.ones(len(array), dtype=torch.bool)
    value = lddt(torch.from_numpy(other.coord), torch.from_numpy(array.coord), every, number)
    assert float(value) == pytest.approx(struc.lddt(array, other, aggregation="atom").mean(), abs=1e-5)
