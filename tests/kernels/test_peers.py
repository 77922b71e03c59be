# SPDX-License-Identifier: Apache-2.0
"""The one peer that runs without a GPU computes our op; the benchmark's errors say it of the others."""

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from foldwright.kernels.peers import flexible, missing, peers
from foldwright.kernels.reference import shared_bias_attention


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_shares_the_bias_as_the_op_does():
    torch.manual_seed(0)
    packed, bias = torch.randn(2, 4, 5, 4, 2, 16), torch.randn(2, 2, 5, 5)
    expected = shared_bias_attention(packed, bias)
    assert torch.allclose(flexible(flex_attention)(packed, bias), expected, atol=1e-5)


def test_what_is_not_installed_is_said_and_left_out():
    assert "FlexAttention" not in missing(), "it comes with torch"
    named = {name for op in ("triangle_attention", "triangle_multiplication") for name, _ in peers(op)}
    assert named.isdisjoint(missing())
