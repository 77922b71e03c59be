# SPDX-License-Identifier: Apache-2.0
import torch

from foldwright.layers.attention import ConditionedAttentionPairBias, PairBiases
from foldwright.layers.conditioned import ConditionedBlock, ConditionedTransformer, at_level
from foldwright.layers.transition import ConditionedTransition

B, D, N, C, S, HEADS = 2, 3, 5, 8, 6, 2


def blocks(ops, count):
    torch.manual_seed(0)
    made = [
        ConditionedBlock(ConditionedAttentionPairBias(C, S, HEADS, ops), ConditionedTransition(C, S, 2, ops))
        for _ in range(count)
    ]
    for block in made:
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter)
    return [block.double() for block in made]


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def norm(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def adaln(layer, a, s):
    """AF3 Algorithm 26, line by line."""
    a, s = norm(a), norm(s) * layer.norm_s.weight
    return torch.sigmoid(s @ layer.scale.weight.T + layer.scale.bias) * a + s @ layer.shift.weight.T


def attention(layer, a, s, bias):
    """AF3 Algorithm 24, line by line, with its residual; bias [B, H, N, N]."""
    x = adaln(layer.adaln, a, s)

    def heads(weight, offset=0.0):
        return (x @ weight.T + offset).unflatten(-1, (HEADS, -1)).transpose(-2, -3)  # [B, D, H, N, c]

    key_weight, value_weight = layer.key_value.weight.chunk(2)
    q, k, v = heads(layer.query.weight, layer.query.bias), heads(key_weight), heads(value_weight)
    weights = (q @ k.mT / (C // HEADS) ** 0.5 + bias[:, None]).softmax(-1)
    o = torch.sigmoid(heads(layer.gate.weight)) * (weights @ v)
    update = o.transpose(-2, -3).flatten(-2) @ layer.out.weight.T
    return a + torch.sigmoid(s @ layer.out_gate.weight.T + layer.out_gate.bias) * update


def transition(layer, a, s):
    """AF3 Algorithm 25, line by line, with its residual."""
    x = adaln(layer.adaln, a, s)
    one, two = (x @ weight.T for weight in layer.linear_in.weight.chunk(2))
    update = (one * torch.sigmoid(one) * two) @ layer.linear_out.weight.T
    return a + torch.sigmoid(s @ layer.gate.weight.T + layer.gate.bias) * update


def test_a_block_is_algorithms_23_to_26_as_written(ops):
    (block,) = blocks(ops, 1)
    a, s, bias = draw(B, D, N, C), draw(B, D, N, S), draw(B, HEADS, N, N)
    expected = transition(block.transition, attention(block.attention, a, s, bias), s)
    torch.testing.assert_close(block(a, s, bias), expected)


def test_conditioning_made_ahead_of_several_levels_is_that_of_each(ops):
    own = blocks(ops, 2)
    stack = ConditionedTransformer(own, PairBiases(4, HEADS, ops, blocks=2))
    a, s, biases = draw(B, D, N, C), draw(B, 4, N, S), [draw(B, HEADS, N, N) for _ in own]
    ahead = stack.condition(s)
    for level in range(4):
        one = stack(a, s[:, level, None], biases)
        torch.testing.assert_close(stack(a, [at_level(given, level) for given in ahead], biases), one)
        each = s[:, level, None].expand(-1, D, -1, -1)  # a level for every sample, as in training
        torch.testing.assert_close(stack(a, each.contiguous(), biases), one)
    assert not torch.allclose(stack(a, s[:, :1], biases), stack(a, s[:, 1:2], biases))
