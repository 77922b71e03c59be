# SPDX-License-Identifier: Apache-2.0
"""Two gloo ranks that share a layer compute its outputs and, averaged over them, its gradients."""

import multiprocessing
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn

from foldwright.kernels import KernelConfig, select
from foldwright.layers.attention import AttentionPairBias, ConditionedAttentionPairBias
from foldwright.layers.conditioned import ConditionedBlock
from foldwright.layers.tensor_parallel import Split, split_network
from foldwright.layers.transition import ConditionedTransition, Transition

OPS = select(KernelConfig(default="reference"), "cpu")
B, D, N, C, S, HEADS = 1, 2, 5, 8, 6, 4


def layers():
    """Each layer with its inputs, every number drawn; float64, so that the order of sums does not show."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    a, s, bias = torch.randn(B, D, N, C), torch.randn(B, D, N, S), torch.randn(B, HEADS, N, N)
    cases = [
        (Transition(C, 2, OPS), (a,)),
        (AttentionPairBias(C, HEADS, OPS), (a, bias)),
        (
            ConditionedBlock(
                ConditionedAttentionPairBias(C, S, HEADS, OPS), ConditionedTransition(C, S, 2, OPS)
            ),
            (a, s, bias),
        ),
    ]
    for layer, _ in cases:
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    torch.set_default_dtype(torch.float32)
    return cases


def run(layer, inputs):
    """The output, the gradients of inputs, and those of parameters."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = layer(*inputs)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    (out * weight).sum().backward()
    return out.detach(), [x.grad for x in inputs], [p.grad for p in layer.parameters()]


def work(rank, path, results):
    dist.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = []
    for layer, inputs in layers():
        split_network(layer, Split(dist.group.WORLD))
        out, gradients, weights = run(layer, inputs)
        for gradient in weights:
            dist.all_reduce(gradient)
            gradient /= 2
        found.append([tensor.tolist() for tensor in (out, *gradients, *weights)])
    results.put((rank, found))
    dist.destroy_process_group()


def test_sharing_changes_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=work, args=(rank, tmp_path / "meet", results)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = [results.get(timeout=100)[1] for _ in ranks]
    for process in ranks:
        process.join()
    for number, (layer, inputs) in enumerate(layers()):
        out, gradients, weights = run(layer, inputs)
        for of_rank in found:
            for got, expected in zip(of_rank[number], (out, *gradients, *weights), strict=True):
                torch.testing.assert_close(torch.tensor(got, dtype=expected.dtype), expected)


def test_what_does_not_divide_is_refused():
    split = Split()
    split.size = 3
    with pytest.raises(ValueError, match=r"got 3, expected a divisor of the 4 heads of 0"):
        split_network(nn.Sequential(AttentionPairBias(C, HEADS, OPS)), split)
