# SPDX-License-Identifier: Apache-2.0
"""The predict command: what it leaves, what it does not do twice, what it says of bad inputs."""

import csv
import json
import shutil

import gemmi
import numpy as np
import pytest
import torch

from foldwright.inference import predict
from foldwright.inference.network import load_network
from foldwright.kernels import KernelConfig

FAST = ["--samples=3", "--cycles=1", "--steps=2", "--msa-rows=4", "--kernels=reference", "--device=cpu"]


def inputs(folder):
    folder.mkdir(exist_ok=True)
    job = {
        "name": "complex 1",
        "modelSeeds": [5, 6],
        "sequences": [
            {"protein": {"id": ["A", "B"], "sequence": "MKTAYIAK"}},
            {"ligand": {"id": "L", "smiles": "C[C@H](N)C(=O)O"}},
        ],
    }
    (folder / "complex.json").write_text(json.dumps(job))
    (folder / "peptide.fasta").write_text(">A\nGAVLK\n")
    (folder / "bad.json").write_text("{}")
    return folder


def run(untrained, folder, out, *more):
    return predict.main([str(folder), f"--checkpoint={untrained}", f"--out={out}", *FAST, *more])


@pytest.fixture(scope="module")
def predicted(untrained, tmp_path_factory):
    out = tmp_path_factory.mktemp("predicted")
    folder = inputs(out / "inputs")
    assert run(untrained, folder, out / "out") == 1  # one of the inputs is bad
    return folder, out / "out"


def test_what_a_prediction_leaves(predicted):
    _, out = predicted
    names = sorted(path.name for path in (out / "complex_1").iterdir())
    assert names == sorted(
        ["done.json", "ranking.csv"]
        + [f"seed-{s}_sample-{n}.{e}" for s in (5, 6) for n in range(3) for e in ("cif", "json")]
    )
    scores = json.loads((out / "complex_1" / "seed-5_sample-0.json").read_text())
    structure = gemmi.read_structure(str(out / "complex_1" / "seed-5_sample-0.cif"))
    b_factors = [atom.b_iso for chain in structure[0] for residue in chain for atom in residue]
    np.testing.assert_allclose(b_factors, scores["plddt"], atol=0.011)
    assert np.ptp(b_factors) > 1
    n = len(scores["token_chain"])
    assert n == 16 + 6
    assert np.shape(scores["pae"]) == np.shape(scores["pde"]) == (n, n)
    assert np.shape(scores["chain_pair_iptm"]) == (3, 3)
    expected = 0.8 * scores["iptm"] + 0.2 * scores["ptm"] + 0.5 * scores["fraction_disordered"]
    assert scores["ranking_score"] == pytest.approx(expected - 100 * scores["has_clash"])
    assert not (out / "bad").exists()


def test_rankings_list_all_samples_best_first(predicted):
    _, out = predicted
    with (out / "ranking.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    scores = [float(row["ranking_score"]) for row in rows if row["name"] == "complex_1"]
    assert scores == sorted(scores, reverse=True)
    assert all((out / row["file"]).is_file() for row in rows)
    assert {row["iptm"] for row in rows if row["name"] == "peptide"} == {""}


def test_what_is_complete_is_not_made_again(predicted, untrained, capsys):
    folder, out = predicted
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.cif")}
    run(untrained, folder, out, "--at-once=2")
    assert "0 predicted, 2 already there, 1 failed" in " ".join(capsys.readouterr().out.split())
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.cif")}
    (folder / "peptide.fasta").write_text(">A\nGAVLW\n")
    run(untrained, folder, out)
    said = " ".join(capsys.readouterr().out.split())
    assert "1 predicted, 1 already there, 1 failed" in said
    assert "bad.json" in said
    (folder / "peptide.fasta").write_text(">A\nGAVLK\n")
    shutil.rmtree(out / "peptide")
    run(untrained, folder, out)


def test_samples_do_not_depend_on_the_portions(predicted, untrained, tmp_path):
    folder, out = predicted
    run(untrained, folder, tmp_path / "out", "--at-once=2", "--seeds", "5")
    for number in range(3):
        first, second = (
            gemmi.cif.read(str(place / "complex_1" / f"seed-5_sample-{number}.cif")).sole_block()
            for place in (out, tmp_path / "out")
        )
        for axis in "xyz":
            tag = f"_atom_site.Cartn_{axis}"
            values = [np.array(list(block.find_values(tag)), float) for block in (first, second)]
            np.testing.assert_allclose(*values, atol=0.02)


@pytest.mark.slow
def test_two_processes_share_the_inputs(predicted, untrained, tmp_path):
    folder, out = predicted
    assert run(untrained, folder, tmp_path / "out", "--devices=2") == 1
    assert (tmp_path / "out" / "ranking.csv").read_text() == (out / "ranking.csv").read_text()


def test_parts_are_disjoint_and_complete(predicted, untrained, tmp_path):
    folder, _ = predicted
    run(untrained, folder, tmp_path / "out", "--part=0/2", "--samples=1", "--seeds", "1")
    first = {path.parent.name for path in (tmp_path / "out").glob("*/done.json")}
    run(untrained, folder, tmp_path / "out", "--part=1/2", "--samples=1", "--seeds", "1")
    both = {path.parent.name for path in (tmp_path / "out").glob("*/done.json")}
    assert len(first) == 1
    assert both == {"complex_1", "peptide"}


def test_options_and_checkpoints_that_cannot_be(tmp_path, untrained, capsys):
    folder = inputs(tmp_path / "in")
    assert predict.main([str(folder), "--checkpoint=/nowhere", f"--out={tmp_path}/o", *FAST]) == 1
    assert "--checkpoint: got /nowhere, expected a run directory" in capsys.readouterr().err
    assert run(untrained, folder, tmp_path / "o", "--part=2/2") == 1
    assert "--part: got '2/2'" in capsys.readouterr().err
    assert run(untrained, tmp_path / "empty", tmp_path / "o") == 1
    assert "no such file" in capsys.readouterr().err


def test_a_loaded_network_is_the_averaged_one(untrained):
    loaded = load_network(untrained, torch.device("cpu"), KernelConfig("reference"))
    raw = load_network(untrained, torch.device("cpu"), KernelConfig("reference"), raw=True)
    assert loaded.digest != raw.digest
    assert not loaded.network.training
    assert loaded.config.stage == "structure"
