# SPDX-License-Identifier: Apache-2.0
"""Captured steps compute what steps kernel by kernel do; what is captured reads nothing of variable size."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foldwright.batch import SCHEMA, collate
from foldwright.data.dataset import DataConfig, StoreDataset, buckets
from foldwright.data.sample import store_path
from foldwright.data.sampler import SampleRequest
from foldwright.diffusion.noise import NoiseConfig
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.kernels import KernelConfig, casts, select
from foldwright.kernels.casts import WeightCopies
from foldwright.layers.stack import Recompute, set_recomputation
from foldwright.losses import LossConfig
from foldwright.model import AlphaFold3, Precision
from foldwright.training import graphs
from foldwright.training.config import compose_config
from foldwright.training.curriculum import PhaseConfig
from foldwright.training.gradients import FlatGradients
from foldwright.training.graphs import VARIABLE_AXES, Eager, Graphed
from foldwright.training.optim import OptimizerConfig, build_adam, set_learning_rate
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


class WeightCasts(TorchDispatchMode):
    """Counts casts of whole weights to bfloat16 that are kernels of their own, and multi-tensor copies."""

    def __init__(self, model):
        super().__init__()
        self.own = {p.untyped_storage()._cdata for p in model.parameters()}
        self.single = self.several = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") is torch.bfloat16:
            self.single += args[0].untyped_storage()._cdata in self.own
        self.several += func is torch.ops.aten._foreach_copy_.default
        return func(*args, **kwargs or {})


def test_a_step_casts_all_weights_at_once_and_after_an_update_anew(miniature, awake, real_batches, ops):
    """Losses, gradients, an update of the weights, the same again; then by copies alone: bit by bit equal."""
    low = replace(miniature, trunk_dtype=Precision.bfloat16, diffusion_dtype=Precision.bfloat16)

    def run(copies):
        model = awake(low).float()
        set_recomputation(model, Recompute.block)
        gradients = FlatGradients(model.parameters())
        optimizer = build_adam(model.parameters(), OptimizerConfig())
        set_learning_rate(optimizer, 1e-2)
        execution, seen = Eager(losses_of(model, ops), gradients, copies), []
        for batch in real_batches[:4:2]:
            gradients.zero()
            with WeightCasts(model) as seen_casts:
                terms = execution.forward(batch, PHASE)
                execution.backward(terms["loss"])
            seen.append((terms["loss"].item(), gradients.flat.clone(), seen_casts.single, seen_casts.several))
            optimizer.step()
        return seen

    copies = WeightCopies()
    plain, copied = run(None), run(copies)
    for (loss, gradient, single, _), (other, same, fewer, _) in zip(plain, copied, strict=True):
        assert loss == other
        assert torch.equal(gradient, same)
        assert single > 100
        assert fewer == 3, "tables of embeddings, gathered from once a step"
    assert copied[-1][-1] == 1
    assert not copies.buffers(), "none outlives the backward pass"


class Recorded:
    """Stands for a shape's graphs where there is no GPU; says what became of them."""

    events: ClassVar[list] = []

    def __init__(self, pool, stream, batch):
        self.cycles, self.pool = batch.msa.shape[1], pool

    def __del__(self):
        self.events.append(("freed", self.cycles))

    def record(self, losses, phase, scale, gradients, copies):
        self.events.append(("captured", self.cycles, self.pool))
        return {}

    def replay(self, batch):
        self.events.append(("replayed", self.cycles, self.pool))
        return {}


@pytest.fixture
def events(monkeypatch):
    """What `Graphed` does with batches of so many cycles."""
    pools, seen = iter("ABC"), []
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: seen.append(("waited",)))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append(("returned",)))
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(Recorded, "events", seen)
    monkeypatch.setattr(graphs, "_Recording", Recorded)
    monkeypatch.setattr(
        Graphed, "_warm_up", lambda self, batch, phase: seen.append(("run", batch.msa.shape[1]))
    )
    return seen


def test_graphs_go_before_a_further_shape_runs_as_usual(real_batches, events):
    one, two = real_batches[0], real_batches[1]
    execution = Graphed(lambda *_: {}, None, 1.0)
    for batch in (one, one, one, two, one, two, one):
        execution.forward(batch, PHASE)
        execution._current = None  # its backward
    assert events == [
        ("run", 1), ("captured", 1, "A"), ("replayed", 1, "A"),
        ("waited",), ("freed", 1), ("returned",), ("run", 2),
        ("captured", 1, "B"), ("captured", 2, "B"), ("replayed", 1, "B"),
    ]  # fmt: skip


def test_a_failed_capture_is_ended(monkeypatch, real_batches):
    """Else the device would go on capturing what a handler of the failure does."""
    open_captures = []

    class Capture:
        def __enter__(self):
            open_captures.append(self)

        def __exit__(self, *_):
            open_captures.remove(self)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(graphs._Recording, "_capture", lambda self, graph: Capture())

    def losses(batch, phase, apart):
        assert len(open_captures) == 1
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        graphs._Recording(None, None, real_batches[0]).record(losses, PHASE, 1.0, None, WeightCopies())
    assert not open_captures
    assert casts._opened is None


class _Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum()

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("kind", [Eager, Graphed])
def test_a_failed_backward_pass_leaves_no_copies_of_the_weights(kind, events, monkeypatch):
    """Else a sweep's next line would find the weights of the one that ran out of memory still there."""
    weight, copies = torch.nn.Parameter(torch.ones(2, 2)), WeightCopies()
    execution = kind(lambda *_: {}, FlatGradients([weight]), copies)
    execution.copies = copies
    with copies.opened():
        loss = _Failing.apply(casts.cast(weight, torch.bfloat16))
    assert casts._opened is copies
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        execution.backward(loss)
    assert casts._opened is None
    assert not copies.buffers()


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

    def steps(execution):
        """In a function of its own: a loss that outlives its steps holds the capture up."""
        for number in (0, 2, 1, 4, 3, 6, 5, 7):  # the second shape comes when the first has been captured
            terms = execution.forward(real_batches[number].to(device), PHASE)
            gradients.zero()
            execution.backward(terms["loss"])
            yield terms["loss"].item(), gradients.flat.clone()

    eager = list(steps(Eager(losses, gradients, None)))
    for (loss, gradient), (other, same) in zip(eager, steps(Graphed(losses, gradients, 1.0)), strict=True):
        assert loss == other
        assert torch.equal(gradient, same)
