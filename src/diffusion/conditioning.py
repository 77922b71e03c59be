# SPDX-License-Identifier: Apache-2.0
"""Diffusion conditioning (AF3 Algorithms 21 and 22), split into what the noise touches and what it does
not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from foldwright.batch import Batch
from foldwright.kernels import Ops
from foldwright.layers.linear import Linear
from foldwright.layers.norm import LayerNorm
from foldwright.layers.relative_position import RelativePositionEncoding
from foldwright.layers.transition import Transition
from foldwright.layers.widths import Widths

_ROWS = 256  # of pairs


class FourierEmbedding(nn.Module):
    """AF3 Algorithm 22: cos(2π (c_noise w + b)), w and b drawn once from N(0, 1) and kept in the checkpoint.

    They are drawn from a generator of their own, so that they never depend on what was initialised before.
    """

    w: Tensor
    b: Tensor

    def __init__(self, channels: int, seed: int = 42) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(2, channels, generator=generator, device="cpu")
        self.register_buffer("w", torch.empty(channels).copy_(draws[0]))
        self.register_buffer("b", torch.empty(channels).copy_(draws[1]))

    def forward(self, c_noise: Tensor) -> Tensor:
        """c_noise [B, D] -> [B, D, channels], float32 or wider."""
        return torch.cos(2.0 * math.pi * (c_noise[..., None] * self.w + self.b))


class DiffusionConditioning(nn.Module):
    """AF3 Algorithm 21. Norms of concatenated inputs carry a scale but no offset (DeepMind)."""

    def __init__(self, widths: Widths, c_fourier: int, ops: Ops) -> None:
        super().__init__()
        c_z, c_s = widths.pair, widths.single
        self.relative_position = RelativePositionEncoding(c_z)
        self.norm_z = LayerNorm(2 * c_z, ops, offset=False)
        self.embed_z = Linear(2 * c_z, c_z)
        self.transitions_z = nn.ModuleList(Transition(c_z, 2, ops) for _ in range(2))
        self.norm_s = LayerNorm(c_s + widths.single_inputs, ops, offset=False)
        self.embed_s = Linear(c_s + widths.single_inputs, c_s)
        self.fourier = FourierEmbedding(c_fourier)
        self.norm_noise = LayerNorm(c_fourier, ops, offset=False)
        self.embed_noise = Linear(c_fourier, c_s)
        self.transitions_s = nn.ModuleList(Transition(c_s, 2, ops) for _ in range(2))

    def pair(self, batch: Batch, z_trunk: Tensor) -> Tensor:
        """Conditioned pairs [B, N, N, c_z]: no noise in them, once for all samples.

        Without gradient some rows at a time: whole targets, not crops, go through it then.
        """
        if torch.is_grad_enabled():
            return self._pair_rows(batch, z_trunk, slice(None))
        z = torch.empty_like(z_trunk)
        for start in range(0, z.shape[1], _ROWS):
            rows = slice(start, start + _ROWS)
            z[:, rows] = self._pair_rows(batch, z_trunk, rows)
        return z

    def _pair_rows(self, batch: Batch, z_trunk: Tensor, rows: slice) -> Tensor:
        z = torch.cat([z_trunk[:, rows], self.relative_position(batch, z_trunk.dtype, rows)], -1)
        z = self.embed_z(self.norm_z(z))
        for transition in self.transitions_z:
            z = transition(z)
        return z

    def single(self, s_trunk: Tensor, s_inputs: Tensor) -> Tensor:
        """The noise-independent part of the single conditioning [B, N, c_s]."""
        return self.embed_s(self.norm_s(torch.cat([s_trunk, s_inputs], -1)))

    def forward(self, s: Tensor, c_noise: Tensor) -> Tensor:
        """s of `single` and c_noise [B, D] -> s [B, D, N, c_s] in the dtype of s."""
        noise = self.embed_noise(self.norm_noise(self.fourier(c_noise)))
        s = s[:, None] + noise.to(s.dtype)[:, :, None]
        for transition in self.transitions_s:
            s = transition(s)
        return s
