# SPDX-License-Identifier: Apache-2.0
"""A head that knows the answer is judged to, one that says the opposite is not, and samples stay the same."""

import csv

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from foldwright.batch import collate
from foldwright.confidence.head import ConfidenceLogits
from foldwright.confidence.targets import confidence_targets
from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.sample import store_path
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.training.judgement import judge, judgement


@pytest.fixture(scope="module")
def dimer():
    """A real homodimer of the sample (1a7g), whole, and a structure of it, off more the later the atom."""
    dataset = StoreDataset(DataConfig(root=str(store_path()), n_templates=0), 0)
    example = dataset.full_example("1a7g", n_cycles=1, msa_rows=4).batch
    batch = collate([example], {"A": (-(-example.sizes()["A"] // 32) * 32,)})
    torch.manual_seed(0)
    size = torch.linspace(0.0, 3.0, batch.sizes()["A"])[None, :, None]
    return batch, batch.atom_coords + size * torch.randn(batch.atom_coords.shape)


def logits_of(targets, flip=False):
    """Logits that put all on the right bins, or all LDDT bins upside down."""
    bins = 49 - targets.plddt if flip else targets.plddt
    shape = (*targets.plddt.shape, 2)
    return ConfidenceLogits(
        plddt=100.0 * F.one_hot(bins, 50).float(),
        pae=100.0 * F.one_hot(targets.pae, 64).float(),
        pde=100.0 * F.one_hot(targets.pde, 64).float(),
        resolved=torch.zeros(shape),
    )


def test_the_right_bins_are_off_by_at_most_half_a_bin(dimer):
    batch, x = dimer
    figures = judge(batch, x[0], logits_of(confidence_targets(x, batch)))
    assert figures["plddt_correlation"] > 0.99
    assert figures["plddt_error"] <= 0.01 + 1e-6
    assert figures["pae_error"] <= 0.25 + 1e-6
    assert figures["pde_error"] <= 0.25 + 1e-6
    assert 0.0 < figures["iptm"] <= 1.0
    assert figures["ranking"] == pytest.approx(0.8 * figures["iptm"] + 0.2 * figures["ptm"])


def test_upside_down_is_anticorrelated(dimer):
    batch, x = dimer
    figures = judge(batch, x[0], logits_of(confidence_targets(x, batch), flip=True))
    assert figures["plddt_correlation"] < -0.99
    assert figures["plddt_error"] > 0.1


def test_the_sample_with_the_better_score_is_chosen(dimer):
    batch, x = dimer
    good, bad = batch.atom_coords[0], x[0] + 20 * torch.randn(x[0].shape)
    judged = [logits_of(confidence_targets(sample[None], batch)) for sample in (bad, good)]
    figures = judgement(batch, torch.stack([bad, good]), judged, np.array([0.1, 0.9]))
    assert figures["lddt_chosen"] == 0.9
    assert (
        judgement(batch, torch.stack([good, bad]), judged[::-1], np.array([0.9, 0.1]))["lddt_chosen"] == 0.9
    )


def test_judged_samples_are_those_of_plain_sampling(miniature, awake, batch):
    network = awake(miniature).float().eval()
    seed = torch.tensor([3, 4])
    x, judged = network.sample_judged(batch, 2, SamplerConfig(steps=2), seed)
    assert torch.equal(x, network.sample(batch, 2, SamplerConfig(steps=2), seed))
    assert [tuple(logits.pae.shape) for logits in judged] == [(2, 20, 20, 64)] * 2
    assert not any(part.requires_grad for logits in judged for part in vars(logits).values())


@pytest.mark.slow
def test_the_confidence_stage_writes_them(runs):
    runs.here("before_confidence", "trainer.max_steps=1")
    runs.here(
        "judged",
        "stage=confidence",
        "init_from.stage=structure",
        f"init_from.path={runs.root / 'before_confidence'}",
        "trainer.max_steps=1",
        "validation.entries=[5pti,1a7g]",
        "validation.sampler.steps=2",
    )
    with (runs.root / "judged" / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"lddt", "plddt_correlation", "pae_error", "pde_error", "ptm", "iptm", "lddt_chosen"} <= set(
        rows[0]
    )
    assert rows[0]["lddt"] == rows[1]["lddt"], "the structures are not trained here"
    assert rows[0]["plddt_error"] != rows[1]["plddt_error"]
    assert 0 < float(rows[1]["iptm"]) < 1, "of the dimer alone"
