# SPDX-License-Identifier: Apache-2.0
"""The diffusion network (AF3 Algorithms 20 and 23). It knows no noise: only r, scaled positions, and c_noise.

All that is the same for the D samples of an example (conditioned pairs, every bias map of the 24 + 6
attention blocks, atom terms) is computed once by `condition` and shared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from foldwright.batch import Batch
from foldwright.diffusion.conditioning import DiffusionConditioning
from foldwright.kernels import Ops
from foldwright.layers.atom_encoder import AtomAttentionDecoder, AtomAttentionEncoder, AtomConditioning
from foldwright.layers.atom_transformer import AtomTransformerConfig
from foldwright.layers.attention import ConditionedAttentionPairBias, PairBiases
from foldwright.layers.linear import Linear
from foldwright.layers.norm import LayerNorm
from foldwright.layers.stack import Stack
from foldwright.layers.transition import ConditionedTransition
from foldwright.layers.widths import Widths


@dataclass
class DiffusionConfig:
    """Defaults: AF3's."""

    blocks: int = 24
    heads: int = 16
    expansion: int = 2
    c_fourier: int = 256
    atom: AtomTransformerConfig = field(default_factory=AtomTransformerConfig)


@dataclass
class SharedConditioning:
    """What every diffusion sample of a batch shares; made by DiffusionModule.condition."""

    s: Tensor  # [B, N, c_s]
    token_biases: list[Tensor]  # one [B, H, N, N] a block
    atoms: AtomConditioning
    decoder_biases: list[Tensor]  # one [B, W, H, 32, 128] a block


class DiffusionTransformerBlock(nn.Module):
    """One block of AF3 Algorithm 23, with the residuals that its print lacks."""

    def __init__(self, c_token: int, c_s: int, heads: int, expansion: int, ops: Ops) -> None:
        super().__init__()
        self.attention = ConditionedAttentionPairBias(c_token, c_s, heads, ops)
        self.transition = ConditionedTransition(c_token, c_s, expansion, ops)

    def forward(self, a: Tensor, s: Tensor, bias: Tensor) -> Tensor:
        """a [B, D, N, c_token] residual stream, s [B, D, N, c_s], bias [B, H, N, N]."""
        return self.transition(self.attention(a, s, bias), s)


class DiffusionTransformer(Stack):
    """AF3 Algorithm 23. All bias maps come from one product (`pair_bias`), shared by the samples."""

    def __init__(self, config: DiffusionConfig, widths: Widths, ops: Ops) -> None:
        super().__init__(
            DiffusionTransformerBlock(widths.token, widths.single, config.heads, config.expansion, ops)
            for _ in range(config.blocks)
        )
        self.pair_bias = PairBiases(widths.pair, config.heads, ops, blocks=config.blocks)

    def forward(self, a: Tensor, s: Tensor, biases: list[Tensor]) -> Tensor:
        for index in range(len(self)):
            a = self.run(index, a, s, biases[index])
        return a


class DiffusionModule(nn.Module):
    """AF3 Algorithm 20 between its scalings: (r, c_noise) -> position update, zero at initialisation."""

    def __init__(self, config: DiffusionConfig, widths: Widths, ops: Ops) -> None:
        super().__init__()
        self.conditioning = DiffusionConditioning(widths, config.c_fourier, ops)
        self.encoder = AtomAttentionEncoder(config.atom, widths, widths.token, ops, from_trunk=True)
        self.norm_s = LayerNorm(widths.single, ops, offset=False)
        self.embed_s = Linear(widths.single, widths.token, init="zero")
        self.transformer = DiffusionTransformer(config, widths, ops)
        self.norm_a = LayerNorm(widths.token, ops, offset=False)
        self.decoder = AtomAttentionDecoder(config.atom, widths, ops)

    def condition(self, batch: Batch, s_inputs: Tensor, s: Tensor, z: Tensor) -> SharedConditioning:
        """Noise-independent terms. s_inputs [B, N, c_s_inputs], s [B, N, c_s], z [B, N, N, c_z] of the trunk.

        Their dtype is that of the module's products.
        """
        z = self.conditioning.pair(batch, z)
        atoms = self.encoder.condition(batch, z.dtype, s, z)
        return SharedConditioning(
            s=self.conditioning.single(s, s_inputs),
            token_biases=self.transformer.pair_bias(z, batch.token_mask),
            atoms=atoms,
            decoder_biases=self.decoder.condition(atoms.p, batch),
        )

    def forward(self, r: Tensor, c_noise: Tensor, shared: SharedConditioning) -> Tensor:
        """r [B, D, A, 3] float32, c_noise [B, D] -> r_update [B, D, A, 3] float32.

        The token and atom residual streams are float32 whatever the dtype of the products.
        """
        s = self.conditioning(shared.s, c_noise)
        a, q = self.encoder(shared.atoms, r)
        a = a.to(r.dtype) + self.embed_s(self.norm_s(s))
        a = self.transformer(a, s, shared.token_biases)
        return self.decoder(self.norm_a(a).to(s.dtype), q, shared.atoms, shared.decoder_biases)
