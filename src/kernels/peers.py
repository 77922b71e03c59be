# SPDX-License-Identifier: Apache-2.0
"""Other projects' kernels behind the signatures of our ops, for the kernel benchmark alone.

FlexAttention comes with torch; trifast (MIT) and cuEquivariance (proprietary, called through its documented
interface) are timed where they are installed. None of them can be chosen for training.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from foldwright.kernels.reference import dropout_residual

Op = Callable[..., Tensor]


def _flex_attention() -> Op:
    """FlexAttention, compiled; its score function reads the bias, whose gradient it sums by atomics."""
    from torch.nn.attention.flex_attention import flex_attention

    return flexible(torch.compile(flex_attention, dynamic=False))


def flexible(flex_attention: Callable[..., Any]) -> Op:
    """Our attention with a shared bias by `flex_attention`, whose batch is B S."""

    def shared_bias_attention(packed: Tensor, bias: Tensor) -> Tensor:
        q, k, v, gate = packed.unbind(3)
        rows = q.shape[1]

        def add_bias(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + bias[b // rows, h, i, j]

        heads_first = [x.flatten(0, 1).transpose(1, 2) for x in (q, k, v)]
        out = flex_attention(*heads_first, score_mod=add_bias).transpose(1, 2)
        return (out.reshape(gate.shape) * torch.sigmoid(gate)).flatten(-2)

    return shared_bias_attention


def _trifast() -> Op:
    from trifast import triangle_attention

    def shared_bias_attention(packed: Tensor, bias: Tensor) -> Tensor:
        q, k, v, gate = packed.unbind(3)
        heads_first = [x.permute(0, 3, 1, 2, 4) for x in (q, k, v)]
        masked = torch.zeros(q.shape[0], *bias.shape[-2:], dtype=torch.bool, device=q.device)
        out = triangle_attention(*heads_first, bias, masked)
        return (out.permute(0, 2, 3, 1, 4) * torch.sigmoid(gate)).flatten(-2)

    return shared_bias_attention


def _cuequivariance_attention() -> Op:
    from cuequivariance_torch import triangle_attention

    def shared_bias_attention(packed: Tensor, bias: Tensor) -> Tensor:
        q, k, v, gate = packed.unbind(3)
        out = triangle_attention(*(x.transpose(2, 3) for x in (q, k, v)), bias[:, None])
        return (out.transpose(2, 3) * torch.sigmoid(gate)).flatten(-2)

    return shared_bias_attention


def _cuequivariance_multiplication() -> Op:
    from cuequivariance_torch import triangle_multiplicative_update

    def triangle_multiplication(
        z: Tensor, mask: Tensor, norm_in_w: Tensor, norm_in_b: Tensor, w_in: Tensor, norm_out_w: Tensor,
        norm_out_b: Tensor, w_out: Tensor, w_gate: Tensor, outgoing: bool, seed: Tensor, rate: float,
    ) -> Tensor:  # fmt: skip
        """Parameters in z's dtype: it takes no mixture."""
        norms = {"norm_in_weight": norm_in_w, "norm_in_bias": norm_in_b, "norm_out_weight": norm_out_w,
                 "norm_out_bias": norm_out_b}  # fmt: skip
        g_in, p_in = w_in.chunk(2)
        products = {"p_in_weight": p_in, "g_in_weight": g_in, "p_out_weight": w_out, "g_out_weight": w_gate}
        update = triangle_multiplicative_update(
            z,
            direction="outgoing" if outgoing else "incoming",
            mask=(mask[:, :, None] & mask[:, None, :]).to(z.dtype),
            **{name: parameter.to(z.dtype) for name, parameter in (norms | products).items()},
        )
        return dropout_residual(z, update, seed, rate, 1)

    return triangle_multiplication


_PEERS: tuple[tuple[str, str, str, Callable[[], Op]], ...] = (
    ("triangle_attention", "FlexAttention", "torch", _flex_attention),
    ("attention_pair_bias", "FlexAttention", "torch", _flex_attention),
    ("triangle_attention", "trifast", "trifast", _trifast),
    ("triangle_attention", "cuEquivariance", "cuequivariance_ops_torch", _cuequivariance_attention),
    ("triangle_multiplication", "cuEquivariance", "cuequivariance_ops_torch", _cuequivariance_multiplication),
)


def peers(op: str) -> list[tuple[str, Op]]:
    """Name and function of every installed peer of an op."""
    return [(name, make()) for of, name, package, make in _PEERS if of == op and find_spec(package)]


def missing() -> list[str]:
    """Peers that are not installed here."""
    return sorted({name for _, name, package, _ in _PEERS if not find_spec(package)})
