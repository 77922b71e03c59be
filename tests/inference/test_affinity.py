# SPDX-License-Identifier: Apache-2.0
"""Affinities beside a prediction: of each pose, of every member, in the stage's own pocket."""

import json

import numpy as np
import pytest
import torch
from untrained import save_untrained

from foldwright.affinity.crop import PocketConfig
from foldwright.affinity.head import Pocket
from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.query_example import Components, query_target
from foldwright.data.query_files import read_file
from foldwright.inference import predict
from foldwright.inference.affinity import affinities
from foldwright.inference.network import load_network
from foldwright.inference.sampling import SamplingConfig, target_batch
from foldwright.kernels import KernelConfig

BUDGET = ("tokens=20", "protein_tokens=8", "neighbourhood=2")
JOB = {
    "name": "bound",
    "sequences": [
        {"protein": {"id": "A", "sequence": "MKTAYIAKQRQISFVK"}},
        {"ligand": {"id": "L", "smiles": "NCc1ccc(F)cc1"}},
        {"ligand": {"id": "F", "ccdCodes": ["FBA"]}},
        {"ligand": {"id": "Z", "ccdCodes": ["ZN"]}},
    ],
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A checkpoint of the affinity stage, and an input with a SMILES, a CCD ligand and an ion."""
    root = tmp_path_factory.mktemp("affinity")
    settings = [f"affinity.pose.pocket.{setting}" for setting in BUDGET]
    save_untrained(root / "run", "stage=affinity", "data=affinity_sample", "init_from.path=x", *settings)
    (root / "bound.json").write_text(json.dumps(JOB))
    (root / "alone.smi").write_text("NCc1ccc(F)cc1 alone\n")
    return root


def test_every_sample_has_the_affinities_of_its_own_pose(stage):
    options = ["--samples=2", "--cycles=1", "--steps=2", "--kernels=reference", "--device=cpu"]
    inputs = [str(stage / "bound.json"), str(stage / "alone.smi")]
    assert predict.main([*inputs, f"--checkpoint={stage / 'run'}", f"--out={stage / 'out'}", *options]) == 0
    found = []
    for number in range(2):
        scores = json.loads((stage / "out" / "bound" / f"seed-1_sample-{number}.json").read_text())
        assert scores["affinity"].keys() == {"L", "F"}, "an ion has none"
        for affinity in scores["affinity"].values():
            assert len(affinity["members_log10_k_um"]) == 2, "two models make the stage's ensemble"
            assert affinity["log10_k_um"] == pytest.approx(np.mean(affinity["members_log10_k_um"]))
            assert affinity["pic50"] == pytest.approx(6 - affinity["log10_k_um"])
            members = affinity["members_probability_binder"]
            assert affinity["probability_binder"] == pytest.approx(np.mean(members))
            assert 0 < affinity["probability_binder"] < 1
        found.append(scores["affinity"]["L"]["log10_k_um"])
    assert found[0] != found[1]
    without_protein = json.loads((stage / "out" / "alone" / "seed-1_sample-0.json").read_text())
    assert without_protein["affinity"] == {}
    record = json.loads((stage / "out" / "bound" / "done.json").read_text())
    assert record["sampling"]["pocket"]["tokens"] == 20, "the stage's budget, not the default"


def test_the_figures_are_the_head_s_on_the_masked_complex(stage):
    """Against the head on all tokens with what is outside of the pocket masked, instead of cut away."""
    loaded = load_network(stage / "run", torch.device("cpu"), KernelConfig("reference"))
    dictionary = Dictionary.open(DEFAULT_CACHE)
    (query,) = read_file(stage / "bound.json", dictionary)
    target = query_target(query, Components(dictionary, 1))
    batch, seeds = target_batch(target, SamplingConfig(cycles=1, templates=0), 1), torch.tensor([1])
    trunk = loaded.network.represent(batch, seeds)
    x = torch.from_numpy(np.random.default_rng(0).normal(scale=8, size=(batch.atom_mask.shape[1], 3))).float()
    found, left_out = affinities(loaded.network, target, batch, trunk, x, PocketConfig(), seeds)
    assert left_out == {}
    for chain, size in ((1, 9), (2, 9)):
        ligand = batch.asym_id == chain
        assert int(ligand.sum()) == size
        seen = ligand | (batch.asym_id == 0)
        centres = x[batch.representative_atom[0].long()][None]
        whole = Pocket(trunk.s_inputs, trunk.z.clone(), centres, ligand, seen)
        with torch.no_grad():
            expected = loaded.network.predict_affinity(whole, seeds)
        own = found[target.structure.chain_name[chain]]
        np.testing.assert_allclose(own.members_log10_k_um, expected.value[:, 0], atol=2e-2)
        np.testing.assert_allclose(
            own.members_probability_binder, torch.sigmoid(expected.logit[:, 0]), atol=5e-3
        )


def test_a_ligand_over_the_budget_is_named_in_the_scores_and_in_a_warning(stage, capsys):
    """Twenty tokens hold no ligand of 32 heavy atoms; the other has its affinity."""
    large = {"ligand": {"id": "T", "smiles": "C" * 32}}
    job = {**JOB, "name": "large", "sequences": [*JOB["sequences"][:2], large]}
    (stage / "large.json").write_text(json.dumps(job))
    options = ["--samples=1", "--cycles=1", "--steps=1", "--kernels=reference", "--device=cpu"]
    arguments = [str(stage / "large.json"), f"--checkpoint={stage / 'run'}", f"--out={stage / 'large'}"]
    assert predict.main([*arguments, *options]) == 0
    scores = json.loads((stage / "large" / "large" / "seed-1_sample-0.json").read_text())
    assert scores["affinity"].keys() == {"L"}
    assert scores["affinity_left_out"].keys() == {"T"}
    assert "ligand of 32 tokens" in scores["affinity_left_out"]["T"]
    shown = capsys.readouterr().out
    assert "warning: large: chain T has no affinity: got a ligand of 32 tokens" in shown
