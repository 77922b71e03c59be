# SPDX-License-Identifier: Apache-2.0
"""The distillation loop: a network learns from what it predicted itself; and what is refused, and why."""

import csv
import json

import gemmi
import numpy as np
import pytest

from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.query import query_structure, with_definitions
from foldwright.data.query_files import read_file
from foldwright.data.sample import store_path
from foldwright.data.sampler import SampleRequest, choose_dataset
from foldwright.data.store import Store
from foldwright.data.write_mmcif import write_structure
from foldwright.evaluation.validity import component_geometry
from foldwright.inference import distill, predict
from foldwright.training.cli import train
from foldwright.training.config import compose_config
from foldwright.training.datamodule import open_dataset

ANY = ["--max-pde=32", "--min-iptm=0", "--max-clash-fraction=1", "--max-ca-gap=1e6", "--workers=1"]


@pytest.fixture(scope="module")
def dictionary():
    return Dictionary.open(DEFAULT_CACHE)


def selection(out):
    with (out / "selection.csv").open() as file:
        return {row["target"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_the_loop(untrained, tmp_path):
    """Predict, take the surer of two predictions, store, and go on training with it as half of the data."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.fasta").write_text(">A\nGAVLKMDERST\n")
    (tmp_path / "in" / "b.fasta").write_text(">A\nMKTAYIAKQRQISFVK\n")
    predictions, out = tmp_path / "predictions", tmp_path / "own"
    fast = ["--samples=2", "--cycles=1", "--steps=4", "--msa-rows=1", "--kernels=reference", "--device=cpu"]
    places = [str(tmp_path / "in"), f"--checkpoint={untrained}", f"--out={predictions}"]
    assert predict.main([*places, *fast]) == 0
    best = {}
    with (predictions / "ranking.csv").open() as file:
        for row in csv.DictReader(file):
            best.setdefault(row["name"], row)  # best first
    plddt = {name: float(row["plddt"]) for name, row in best.items()}
    surer, other = sorted(plddt, key=plddt.get, reverse=True)
    between = (plddt[surer] + plddt[other]) / 2
    assert distill.main([str(predictions), f"--out={out}", f"--min-plddt={between}", *ANY]) == 0
    outcomes = {name: row["outcome"] for name, row in selection(out).items()}
    assert outcomes == {surer: "taken", other: "low_plddt"}

    config = compose_config(
        [f"paths.output_root={tmp_path}", "run_name=student", "seed=3",
         f"init_from.path={untrained}", "init_from.optimizer=reset",
         "data.datasets.pdb.weight=0.5", f"+data.datasets.own.root={out / 'store'}",
         "+data.datasets.own.weight=0.5", "+data.datasets.own.sampling=uniform",
         "+data.datasets.own.losses.confidence=false", "data.allow_missing_msas=true",
         "model.diffusion.blocks=1", "curriculum.initial.crop_tokens=32", "curriculum.initial.crop_atoms=320",
         "curriculum.initial.msa_rows=8", "curriculum.initial.diffusion_samples=2", "trainer.max_steps=2",
         "trainer.accelerator=cpu", "loader.workers=0", "rollout.sampler.steps=2", "summary.sampler.steps=2",
         "summary.entry=1as5", "validation.entries=[]"]
    )  # fmt: skip
    dataset = open_dataset(config.data, config.seed)
    assert dataset.shares({}) == {"pdb": 0.5, "own": 0.5}
    drawn = [choose_dataset(config.seed, n, dataset.shares({})) for n in range(2 * config.global_batch)]
    assert set(drawn) == {"pdb", "own"}  # both are in the two steps below
    example = dataset[SampleRequest(drawn.index("own"), 1, 32, 320, 8)]
    path = predictions / best[surer]["file"]
    atoms = [atom.pos.tolist() for chain in gemmi.read_structure(str(path))[0] for r in chain for atom in r]
    np.testing.assert_allclose(example.atom_coords.numpy(), np.array(atoms, np.float32), atol=1e-3)
    assert not example.supervises_confidence
    train(config)
    with (tmp_path / "student" / "metrics.csv").open() as file:
        assert [np.isfinite(float(row["loss"])) for row in csv.DictReader(file)] == [True, True]


@pytest.fixture
def predicted(tmp_path, dictionary):
    """A true structure as a sure prediction, and what may be changed of it."""

    def write(name, moved=0.0, **scores):
        folder = tmp_path / "predictions" / name
        folder.mkdir(parents=True)
        (folder / "done.json").write_text(json.dumps({"name": name}))
        s = Store(store_path()).entry("1lcd").structure
        x = s.atom_coords.copy()
        first = s.residue_chain[s.atom_residue] == 0
        x[first] += moved * (x[~first].mean(0) - x[first].mean(0))
        plddt = np.full(len(x), scores.pop("plddt", 90.0), np.float32)
        write_structure(s, x, folder / "seed-1_sample-0.cif", dictionary, plddt, s.atom_resolved)
        known = {"ranking_score": 0.9, "plddt": plddt.tolist(), "pde": [[1.0, 2.0], [2.0, 1.0]], "iptm": 0.8,
                 "has_clash": False}  # fmt: skip
        (folder / "seed-1_sample-0.json").write_text(json.dumps(known | scores))
        return tmp_path / "predictions"

    return write


def test_each_limit_refuses(predicted, tmp_path, capsys):
    predicted("sure")
    predicted("alone", iptm=None)
    predicted("unsure", plddt=69.0)
    predicted("far", pde=[[1.0, 3.5], [3.5, 1.0]])
    predicted("loose", iptm=0.5)
    predicted("clashing", has_clash=True)
    folder = predicted("collapsed", moved=1.0)
    out = tmp_path / "out"
    assert distill.main([str(folder), f"--out={out}", "--workers=1"]) == 0
    outcomes = {name: row["outcome"] for name, row in selection(out).items()}
    assert outcomes == {
        "sure": "taken", "alone": "taken", "unsure": "low_plddt", "far": "high_pde", "loose": "low_iptm",
        "clashing": "clash", "collapsed": "clash",
    }  # fmt: skip
    store = Store(out / "store")
    assert store.manifest()["entry"].to_pylist() == ["alone", "sure"]
    assert store.manifest()["mean_plddt"].to_pylist() == [90.0, 90.0]
    assert json.loads((out / "limits.json").read_text())["min_iptm"] == 0.6
    capsys.readouterr()
    assert distill.main([str(folder), f"--out={out}", "--min-plddt=95"]) == 1
    assert "not one of 7 predictions is within the limits" in capsys.readouterr().err


def test_ligands_outside_the_dictionary_come_along_or_are_named(predicted, tmp_path, dictionary, capsys):
    """Two inputs whose own ligands have one code: enantiomers, kept apart; and one that nothing describes."""
    for name, smiles in (("left", "C[C@H](O)c1ccccc1F"), ("right", "C[C@@H](O)c1ccccc1F")):
        chains = [{"protein": {"id": "A", "sequence": "MKTAYIAKQRQISFVK"}}]
        chains.append({"ligand": {"id": "L", "smiles": smiles}})
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "sequences": chains}))
        (query,) = read_file(tmp_path / f"{name}.json", dictionary)
        own = with_definitions(query, dictionary)
        s = query_structure(query, own)
        x = np.random.default_rng(0).normal(size=(len(s.atom_name), 3)).astype(np.float32)
        x[:, 0] += 3.8 * s.atom_residue
        folder = predicted(name, chains=["A", "L"])
        sure = np.full(len(x), 90.0, np.float32)
        write_structure(s, x, folder / name / "seed-1_sample-0.cif", own, sure)
    predicted("lost", chains=["A", "B", "C", "D", "X"])
    limits = ["--max-clash-fraction=1", "--max-ca-gap=1e6", "--workers=1"]
    out = tmp_path / "out"
    assert distill.main([str(folder), f"--out={out}", *limits]) == 0
    rows, store, hands = selection(out), Store(out / "store"), set()
    for name in ("left", "right"):
        code = rows[name]["own_ligands"]
        assert "LIG_L" not in (out / "structures" / f"{name}.cif").read_text()
        assert store.entry(name).structure.residue_component.tolist()[-1] == code
        component = store.components[code]
        assert sorted(component.atom_element.tolist()) == [6] * 8 + [8, 9]
        assert component.conformer_source == "etkdg"
        geometry = component_geometry(component)
        hands.add(bool(geometry.volumes[0] > 0))
    assert hands == {True, False}, "an enantiomer each"
    assert rows["lost"]["dropped_ligands"] == "X"
    shown = capsys.readouterr().out
    assert "2 kept, in components.cif" in shown
    assert "in 1 predictions, by chain: lost X" in shown


def test_what_is_no_prediction(predicted, tmp_path, capsys):
    assert distill.main([str(tmp_path / "nowhere"), f"--out={tmp_path / 'out'}"]) == 1
    assert "got no prediction" in capsys.readouterr().err
    folder = predicted("sure")
    (folder / "sure" / "seed-1_sample-0.json").unlink()
    assert distill.main([str(folder), f"--out={tmp_path / 'out'}"]) == 1
    assert "got no seed-1_sample-0.json beside it" in capsys.readouterr().err
