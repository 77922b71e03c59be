# SPDX-License-Identifier: Apache-2.0
import torch

from foldwright.layers.attention import mask_bias
from foldwright.pairformer.triangle import TriangleAttention, TriangleMultiplication


def test_ending_attention_is_starting_attention_of_the_transpose(ops):
    torch.manual_seed(0)
    starting, ending = (TriangleAttention(8, 2, 4, ops, ending=e).double() for e in (False, True))
    for parameter in starting.parameters():
        parameter.data.normal_()
    ending.load_state_dict(starting.state_dict())
    z = torch.randn(1, 6, 6, 8, dtype=torch.float64)
    bias = mask_bias(torch.tensor([[True] * 5 + [False]]), z.dtype)
    seed = torch.zeros(1, dtype=torch.int64)
    turned = starting(z.transpose(1, 2), bias, seed, 0.25).transpose(1, 2)
    torch.testing.assert_close(ending(z, bias, seed, 0.25), turned)
    assert not torch.equal(turned, z)


def test_ending_attention_follows_algorithm_15_by_loops(ops):
    """o_ij = sum_k softmax_k(q_ij . k_kj / sqrt(c) + b_ki) v_kj, with unit gate and output."""
    torch.manual_seed(1)
    module = TriangleAttention(4, 1, 4, ops, ending=True).double()
    module.query_key_value.weight.data.normal_()
    module.bias.weight.data.normal_()
    module.out.weight.data.copy_(torch.eye(4))
    z = torch.randn(1, 5, 5, 4, dtype=torch.float64)
    bias = mask_bias(torch.ones(1, 5, dtype=torch.bool), z.dtype)
    out = (module(z, bias, torch.zeros(1, dtype=torch.int64), 0.0) - z)[0]
    x = torch.nn.functional.layer_norm(z[0], (4,))
    q, k, v = (x @ w.T for w in module.query_key_value.weight.chunk(3))
    b = x @ module.bias.weight.T
    for i, j in [(0, 0), (1, 3), (4, 2)]:
        logits = torch.stack([q[i, j] @ k[m, j] / 2 + b[m, i, 0] for m in range(5)])
        expected = (logits.softmax(0)[:, None] * v[:, j]).sum(0) * 0.5
        torch.testing.assert_close(out[i, j], expected)


def test_gates_start_half_open_and_updates_at_zero(ops):
    module = TriangleMultiplication(6, ops, outgoing=True)
    assert not module.linear_in.weight[:12].any()
    assert module.linear_in.weight[12:].all()
    z, mask, seed = torch.randn(1, 4, 4, 6), torch.ones(1, 4, dtype=torch.bool), torch.tensor([1])
    assert torch.equal(module(z, mask, seed, 0.25), z)
