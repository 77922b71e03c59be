# SPDX-License-Identifier: Apache-2.0
"""What prediction makes of all pairs is made some rows or blocks at a time: the same numbers, less memory."""

from contextlib import contextmanager

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foldwright.batch import collate
from foldwright.confidence import scores
from foldwright.data.synthetic import synthetic_example
from foldwright.diffusion import conditioning
from foldwright.inference import confidence
from foldwright.kernels import KernelConfig, reference, select
from foldwright.layers.attention import PairBiases
from foldwright.model import AlphaFold3, DistogramHead
from foldwright.pairformer import template, triangle
from foldwright.pairformer.triangle import PairStack, TriangleAttention
from foldwright.training.config import compose_config

N = 160
OPS = select(KernelConfig("reference"), torch.device("cpu"))


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside held at once."""

    def __init__(self):
        super().__init__()
        self.most, self._made = 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and func.is_view is False:
                storage = tensor.untyped_storage()
                self._made.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self._made = {at: own for at, own in self._made.items() if not own[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._made.values()))
        return out


@contextmanager
def counted(of):
    """Peak in units of the bytes of a tensor, in a list that has it afterwards."""
    found = []
    with torch.no_grad(), Peak() as peak:
        yield found
    found.append(peak.most / of.untyped_storage().nbytes())


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = AlphaFold3(compose_config(["model.diffusion.blocks=1"]).model, OPS).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.fixture
def small_portions(monkeypatch):
    for module in (scores, confidence, conditioning):
        monkeypatch.setattr(module, "_ROWS", 7)


def test_a_counted_peak_forgets_what_is_gone():
    x = torch.zeros(100)
    with counted(x) as found:
        for _ in range(3):
            (x + 1) + 1
    assert found == [2.0]


def test_contact_probabilities_without_the_distogram_of_all_pairs(network, small_portions):
    z = torch.randn(1, N, N, network.config.widths.pair)
    with counted(z) as whole:
        logits = network.distogram(z)[0].softmax(-1)
    with counted(z) as some:
        found = confidence.contact_probability(network.distogram, z)
    breaks = torch.linspace(2.3125, 21.6875, 63)  # Å, AF3's distogram
    expected = logits[..., : int((breaks <= 8).sum())].sum(-1)
    torch.testing.assert_close(found, expected)
    assert some[0] < 0.6 < 3 < whole[0]


def test_scores_of_pairs_without_the_logits_of_all_pairs(network, small_portions):
    z, asym = torch.randn(1, N, N, network.config.widths.pair), torch.arange(N) // 60
    head = network.confidence
    with counted(z) as whole:
        pae, pde = (part[0] for part in head.pairs(z, slice(None)))
        expected = scores.expected_error(pae), scores.expected_error(pde)
    with counted(z) as some:
        found = scores.pair_scores(lambda rows: tuple(part[0] for part in head.pairs(z, rows)), asym)
    torch.testing.assert_close((found.pae, found.pde), expected, atol=1e-4, rtol=1e-4)
    assert some[0] < 1.0 < 4 < whole[0]


def test_bias_maps_of_all_blocks_are_made_a_block_at_a_time():
    torch.manual_seed(0)
    module, mask = PairBiases(16, 4, OPS, blocks=24), torch.arange(N)[None] < N - 9
    z = torch.randn(1, N, N, 16)
    expected = module(z, mask)
    maps = torch.stack([one.detach() for one in expected])
    with counted(maps) as found:
        got = module(z, mask)
    torch.testing.assert_close(torch.stack(got), maps)
    assert got[0].is_contiguous()
    assert found[0] < 1.6
    with Peak() as peak:
        module(z, mask)
    assert peak.most > 2 * maps.untyped_storage().nbytes(), "with gradient they come from one product"


def test_outer_products_are_not_there_for_all_pairs(monkeypatch):
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, 5, N, 8)
    mask, weight, bias = torch.arange(5)[None] < 4, torch.randn(16, 64), torch.randn(16)
    z = torch.empty(1, N, N, 16)
    with counted(z) as whole:
        expected = reference.outer_product_mean(a, b, mask, weight, bias)
    monkeypatch.setattr(reference, "_OUTER_ROWS", 7)
    with counted(z) as some:
        found = reference.outer_product_mean(a, b, mask, weight, bias)
    torch.testing.assert_close(found, expected)
    assert some[0] < 2.6 < 7 < whole[0]


def test_conditioned_pairs_without_the_concatenation_of_all_pairs(network, small_portions):
    batch = collate([synthetic_example(N, 4 * N, n_rows=2, n_templates=0)], {})
    z = torch.randn(1, N, N, network.config.widths.pair)
    module = network.diffusion.conditioning
    expected = module.pair(batch, z).detach()
    with counted(z) as found:
        got = module.pair(batch, z)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert found[0] < 2.2


def test_rows_of_the_heads_are_rows_of_the_whole():
    torch.manual_seed(0)
    head = DistogramHead(8)
    torch.nn.init.normal_(head.linear.weight)
    z = torch.randn(2, 11, 11, 8)
    torch.testing.assert_close(head.rows(z, slice(3, 8)), head(z)[:, 3:8])


@pytest.mark.parametrize("ending", [False, True])
def test_triangle_attention_of_some_rows_at_a_time(ending, monkeypatch):
    torch.manual_seed(0)
    module = TriangleAttention(16, 2, 8, OPS, ending=ending)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    z = torch.randn(2, 40, 40, 16)
    mask_bias = torch.where(torch.arange(40) < 33, 0.0, -1e9).expand(2, 1, 1, 40)
    drop = torch.zeros(2, dtype=torch.int64), 0.0
    expected = module(z, mask_bias, *drop).detach()
    with counted(z) as whole, torch.no_grad():
        module(z, mask_bias, *drop)
    monkeypatch.setattr(triangle, "_PAIRS", 2 * 40 * 7)
    with counted(z) as some:
        found = module(z, mask_bias, *drop)
    torch.testing.assert_close(found, expected)
    assert some[0] < whole[0] / 2


def test_a_pair_stack_gives_the_same_with_and_without_gradient_and_leaves_its_input():
    torch.manual_seed(0)
    stack = PairStack(16, 2, 8, 2, 0.25, OPS).eval()
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    z, mask = torch.randn(1, 20, 20, 16), torch.ones(1, 20, dtype=torch.bool)
    given, seeds, bias = z.clone(), torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 1, 1, 20)
    expected = stack(z, mask, bias, seeds).detach()
    assert torch.equal(z, given)
    with torch.no_grad():
        found = stack(z, mask, bias, seeds)
    torch.testing.assert_close(found, expected)
    assert torch.equal(z, given)


def test_template_features_of_rows_are_rows_of_the_whole(network, monkeypatch):
    batch = collate([synthetic_example(N, 4 * N, n_rows=2, n_templates=1)], {})
    whole = template.template_pair_features(batch, 0)
    torch.testing.assert_close(template.template_pair_features(batch, 0, slice(5, 9)), whole[:, 5:9])
    module = network.trunk.template
    expected = module._embed_pairs(batch, 0, torch.float32).detach()
    monkeypatch.setattr(template, "_ROWS", 7)
    with torch.no_grad():
        torch.testing.assert_close(module._embed_pairs(batch, 0, torch.float32), expected)


def test_peak_of_whole_targets_in_pair_tensors():
    """Of the ops that a GPU takes, by their outputs alone; docs/evaluation.md says what a unit is."""
    n = 2000
    blocks = [f"model.{part}.blocks=1" for part in ("trunk.pairformer", "confidence.pairformer")]
    config = compose_config(["model=base", *blocks]).model
    batch = collate([synthetic_example(n, 18_016, n_rows=64, n_cycles=2, n_templates=1)], {}).to("meta")
    with torch.device("meta"):
        network = AlphaFold3(config, select(KernelConfig("auto"), "cuda")).eval()
        seed, x = torch.zeros(1, dtype=torch.int64), torch.empty(1, 18_016, 3)
        z = torch.empty(1, n, n, config.widths.pair, dtype=torch.bfloat16)
    with counted(z) as trunk:
        found = network.represent(batch, seed)
    with counted(z) as conditioning:
        network._condition(batch, found.s_inputs, found.s, found.z)
    with counted(z) as judged:
        network.judge(batch, found, x, seed)
    assert trunk[0] < 9.1
    assert conditioning[0] < 5.6
    assert judged[0] < 7.1
