# SPDX-License-Identifier: Apache-2.0
"""The attention ops through torch's scaled_dot_product_attention: no logits tensor is kept.

The bias is broadcast as a view; torch sums its gradient over the broadcast axes. It must share the dtype of
q: a float32 mask beside bfloat16 queries is silently wrong in some back ends. Its last axis must be
contiguous, or torch falls back to computing all logits in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from foldwright.kernels.registry import register
from foldwright.windows import key_windows, query_windows


def _needs_cuda(device: torch.device) -> str | None:
    return None if device.type == "cuda" else "only faster than the reference on a GPU"


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """q [B, S, H, Q, c], k and v [B, S, H, K, c], bias [B, H, Q, K] shared by S; returns [B, S, H, Q, c]."""
    samples = q.shape[1]
    mask = bias.to(q.dtype).contiguous()[:, None].expand(-1, samples, -1, -1, -1).flatten(0, 1)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.unflatten(0, (-1, samples))


@register("triangle_attention", "sdpa", supports=_needs_cuda, preference=1)
@register("attention_pair_bias", "sdpa", supports=_needs_cuda, preference=1)
def shared_bias_attention(packed: Tensor, bias: Tensor) -> Tensor:
    """See kernels.reference.triangle_attention and attention_pair_bias: one computation, S rows or
    samples.
    """
    q, k, v, gate = packed.transpose(3, 4).transpose(2, 3).unbind(4)
    return (_attend(q, k, v, bias) * torch.sigmoid(gate)).transpose(2, 3).flatten(-2)


@register("window_attention", "sdpa", supports=_needs_cuda, preference=1)
def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
    """See kernels.reference.window_attention: windows count as heads, so that D is the broadcast axis."""
    heads = q.shape[3]
    q, k, v = (window(x.flatten(-2)).unflatten(-1, (heads, -1)).transpose(3, 4) for window, x in
               ((query_windows, q), (key_windows, k), (key_windows, v)))  # fmt: skip
    windows = q.shape[2]
    q, k, v = (x.flatten(2, 3) for x in (q, k, v))
    out = _attend(q, k, v, bias.flatten(1, 2)).unflatten(2, (windows, -1))
    return out.transpose(3, 4).flatten(-2).flatten(2, 3) * torch.sigmoid(gate)
