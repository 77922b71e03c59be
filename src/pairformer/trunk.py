# SPDX-License-Identifier: Apache-2.0
"""The trunk with recycling (AF3 Algorithm 1, lines 1 to 14).

Errata: the MSA and template modules' results replace or add to z as in the text, "+=" of line 10 is "=".
Every cycle but the last runs without gradient; each has MSA rows and dropout of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from foldwright.batch import Batch
from foldwright.kernels import Ops
from foldwright.kernels.casts import frozen_weights
from foldwright.layers.atom_transformer import AtomTransformerConfig
from foldwright.layers.linear import Linear
from foldwright.layers.norm import LayerNorm
from foldwright.layers.relative_position import RelativePositionEncoding
from foldwright.layers.widths import Widths
from foldwright.pairformer.embedder import InputFeatureEmbedder
from foldwright.pairformer.msa import MSAConfig, MSAModule
from foldwright.pairformer.pairformer import PairformerConfig, PairformerStack
from foldwright.pairformer.template import TemplateConfig, TemplateEmbedder
from foldwright.pairformer.triangle import added
from foldwright.randomness import key


@dataclass
class TrunkConfig:
    """Defaults: AF3's."""

    pairformer: PairformerConfig = field(default_factory=PairformerConfig)
    msa: MSAConfig = field(default_factory=MSAConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    atom: AtomTransformerConfig = field(default_factory=AtomTransformerConfig)


class Trunk(nn.Module):
    """AF3 Algorithm 1 up to the diffusion: Batch -> (s_inputs, s, z)."""

    def __init__(self, config: TrunkConfig, widths: Widths, ops: Ops) -> None:
        super().__init__()
        c_s, c_z, c_in = widths.single, widths.pair, widths.single_inputs
        self.embedder = InputFeatureEmbedder(config.atom, widths, ops)
        self.s_init = Linear(c_in, c_s)
        self.z_init_i = Linear(c_in, c_z)
        self.z_init_j = Linear(c_in, c_z)
        self.relative_position = RelativePositionEncoding(c_z)
        self.token_bonds = Linear(1, c_z)
        self.norm_s = LayerNorm(c_s, ops)
        self.recycle_s = Linear(c_s, c_s, init="zero")
        self.norm_z = LayerNorm(c_z, ops)
        self.recycle_z = Linear(c_z, c_z, init="zero")
        self.template = TemplateEmbedder(config.template, widths, ops)
        self.msa = MSAModule(config.msa, widths, ops)
        self.pairformer = PairformerStack(config.pairformer, widths, ops)

    def forward(self, batch: Batch, seed: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """As many cycles as the batch has MSA draws (axis R). seed int64 [B]. All three in `dtype`."""
        s_inputs = self.embedder(batch, dtype)
        s_init, z_init = self._initial(batch, s_inputs)
        s, z = torch.zeros_like(s_init), torch.zeros_like(z_init)
        n_cycles = batch.msa.shape[1]
        with frozen_weights():
            for cycle in range(n_cycles - 1):
                s, z = self._cycle(batch, cycle, s_inputs, s_init, z_init, s, z, key(seed, cycle))
        last = n_cycles - 1
        s, z = self._cycle(batch, last, s_inputs, s_init, z_init, s.detach(), z.detach(), key(seed, last))
        return s_inputs, s, z

    def _initial(self, batch: Batch, s_inputs: Tensor) -> tuple[Tensor, Tensor]:
        z = self.z_init_i(s_inputs)[:, :, None] + self.z_init_j(s_inputs)[:, None, :]
        z = z + self.relative_position(batch, z.dtype)
        return self.s_init(s_inputs), z + self.token_bonds(batch.token_bonds[..., None].to(z.dtype))

    def _cycle(
        self,
        batch: Batch,
        cycle: int,
        s_inputs: Tensor,
        s_init: Tensor,
        z_init: Tensor,
        s: Tensor,
        z: Tensor,
        seed: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One pass over templates, MSA and Pairformer, starting from the recycled s and z."""
        recycled = self.recycle_z(self.norm_z(z))
        # without gradient in the memory of the cycle before: at 5,000 tokens a pair tensor is 6 GiB
        z = z_init + recycled if torch.is_grad_enabled() else torch.add(z_init, recycled, out=z)
        del recycled
        z = added(z, self.template(batch, z, key(seed, "template")))
        z = self.msa(batch, cycle, z, s_inputs, key(seed, "msa"))
        s = s_init + self.recycle_s(self.norm_s(s))
        return self.pairformer(s, z, batch.token_mask, key(seed, "pairformer"))
