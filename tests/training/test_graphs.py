# SPDX-License-Identifier: Apache-2.0
"""Captured steps compute what steps kernel by kernel do; what is captured reads nothing of variable size."""

from dataclasses import replace

import pytest
import torch

from foldwright.batch import SCHEMA, collate
from foldwright.data.dataset import DataConfig, StoreDataset, buckets
from foldwright.data.sample import store_path
from foldwright.data.sampler import SampleRequest
from foldwright.diffusion.noise import NoiseConfig
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.kernels import KernelConfig, select
from foldwright.losses import LossConfig
from foldwright.model import AlphaFold3
from foldwright.training.config import compose_config
from foldwright.training.curriculum import PhaseConfig
from foldwright.training.gradients import FlatGradients
from foldwright.training.graphs import VARIABLE_AXES, Eager, Graphed
from foldwright.training.step import RolloutConfig, step_losses

PHASE = PhaseConfig(diffusion_samples=2)


@pytest.fixture(scope="module")
def real_batches():
    """Eight samples of the built-in store, of one or two cycles, padded to one shape."""
    dataset = StoreDataset(DataConfig(root=str(store_path()), n_templates=1), 0)
    sizes = buckets(32, 320, 8, 1)
    return [collate([dataset[SampleRequest(n, 1 + n % 2, 32, 320, 8)]], sizes) for n in range(8)]


def losses_of(model, ops):
    def losses(batch, phase, apart):
        rollout = RolloutConfig(sampler=SamplerConfig(steps=2))
        config = LossConfig(bond=1.0)
        return step_losses(
            model, batch, phase.diffusion_samples, 0, NoiseConfig(), config, rollout, ops, apart
        )

    return losses


def test_after_the_permutation_nothing_of_variable_size_is_read(miniature, awake, real_batches, ops):
    model = awake(miniature).float()
    expected = losses_of(model, ops)(real_batches[0], PHASE, lambda f, batch, x: f(batch, x))

    def apart(function, batch, x):
        labels = function(batch, x)
        for name, feature in SCHEMA.items():
            if VARIABLE_AXES & {*feature.axes}:
                setattr(batch, name, None)
        return labels

    terms = losses_of(model, ops)(replace(real_batches[0]), PHASE, apart)
    assert terms.keys() == expected.keys()
    assert all(torch.equal(terms[name], expected[name]) for name in terms)


def test_variable_sizes_do_vary(real_batches):
    """Else the permutation need not stand apart."""
    assert len({batch.truth_coords.shape for batch in real_batches}) > 1
    assert len({batch.atom_coords.shape for batch in real_batches}) == 1


@pytest.fixture
def deterministic():
    """Gradients of gathers without atomics, whose order of summation differs from run to run."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["reference", "auto"])
def test_graphs_give_the_losses_and_gradients_of_single_kernels_bitwise(real_batches, kernels, deterministic):
    device = torch.device("cuda")
    ops = select(KernelConfig(kernels), device)
    torch.manual_seed(0)
    model = AlphaFold3(compose_config(["model=tiny"]).model, ops)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.to(device)
    gradients = FlatGradients(model.parameters())
    losses = losses_of(model, ops)
    results = []
    for execution in (Eager(losses), Graphed(losses, 1.0)):
        seen = []
        for batch in real_batches:
            terms = execution.forward(batch.to(device), PHASE)
            gradients.zero()
            execution.backward(terms["loss"])
            seen.append((terms["loss"].item(), gradients.flat.clone()))
        results.append(seen)
    for (loss, gradient), (other, same) in zip(*results, strict=True):
        assert loss == other
        assert torch.equal(gradient, same)
