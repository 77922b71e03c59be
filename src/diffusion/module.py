# SPDX-License-Identifier: Apache-2.0
"""The diffusion network (AF3 Algorithms 20 and 23). It knows no noise: only r, scaled positions, and c_noise.

All that is the same for the D samples of an example (conditioned pairs, every bias map of the 24 + 6
attention blocks, atom terms) is computed once by `condition` and shared. Sampling knows its noise levels
beforehand: what depends on them alone is computed of several at once by `levels`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from foldwright.batch import Batch
from foldwright.diffusion.conditioning import DiffusionConditioning
from foldwright.kernels import Ops
from foldwright.layers.atom_encoder import AtomAttentionDecoder, AtomAttentionEncoder, AtomConditioning
from foldwright.layers.atom_transformer import AtomTransformerConfig
from foldwright.layers.attention import ConditionedAttentionPairBias, PairBiases
from foldwright.layers.conditioned import ConditionedBlock, ConditionedTransformer, Given, at_level
from foldwright.layers.linear import Linear
from foldwright.layers.norm import LayerNorm
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
    decoder_given: Tensor | list[Given]  # c_l, or what the decoder's blocks make of it


@dataclass
class LevelConditioning:
    """What depends on the noise level alone."""

    embedded: Tensor  # [B, 1 or D, N, c_token], added to the tokens
    given: Tensor | list[Given]  # s [B, 1 or D, N, c_s], or what each block of the transformer makes of it


def diffusion_transformer(config: DiffusionConfig, widths: Widths, ops: Ops) -> ConditionedTransformer:
    """AF3 Algorithm 23 over tokens: a [B, D, N, c_token] given s [B, 1 or D, N, c_s], biases [B, H, N, N]."""
    c_token, c_s = widths.token, widths.single
    blocks = [
        ConditionedBlock(
            ConditionedAttentionPairBias(c_token, c_s, config.heads, ops),
            ConditionedTransition(c_token, c_s, config.expansion, ops),
        )
        for _ in range(config.blocks)
    ]
    return ConditionedTransformer(blocks, PairBiases(widths.pair, config.heads, ops, blocks=config.blocks))


class DiffusionModule(nn.Module):
    """AF3 Algorithm 20 between its scalings: (r, c_noise) -> position update, zero at initialisation."""

    def __init__(self, config: DiffusionConfig, widths: Widths, ops: Ops) -> None:
        super().__init__()
        self.conditioning = DiffusionConditioning(widths, config.c_fourier, ops)
        self.encoder = AtomAttentionEncoder(config.atom, widths, widths.token, ops, from_trunk=True)
        self.norm_s = LayerNorm(widths.single, ops, offset=False)
        self.embed_s = Linear(widths.single, widths.token, init="zero")
        self.transformer = diffusion_transformer(config, widths, ops)
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
            decoder_given=atoms.c,
        )

    def ahead(self, shared: SharedConditioning) -> SharedConditioning:
        """With all that the atoms' blocks make of their conditioning, for many passes without gradient."""
        c = shared.atoms.c
        atoms = replace(shared.atoms, given=self.encoder.transformer.condition(c))
        return replace(shared, atoms=atoms, decoder_given=self.decoder.transformer.condition(c))

    def levels(self, c_noise: Tensor, shared: SharedConditioning) -> list[LevelConditioning]:
        """Of T noise levels c_noise [B, T], each the same for all samples of an example."""
        together = self._level(c_noise, shared)
        assert isinstance(together.given, Tensor)
        given = self.transformer.condition(together.given)
        return [
            LevelConditioning(together.embedded[:, level, None], [at_level(block, level) for block in given])
            for level in range(c_noise.shape[1])
        ]

    @property
    def level_width(self) -> int:
        """Channels a token that `levels` writes for each of them."""
        c_token = self.embed_s.weight.shape[0]
        return c_token * (1 + 6 * len(self.transformer))  # two AdaLNs and two gates a block

    def forward(self, r: Tensor, noise: Tensor | LevelConditioning, shared: SharedConditioning) -> Tensor:
        """r [B, D, A, 3] float32; c_noise [B, D], or one of `levels` -> r_update [B, D, A, 3] float32.

        The token and atom residual streams are float32 whatever the dtype of the products.
        """
        level = self._level(noise, shared) if isinstance(noise, Tensor) else noise
        a, q = self.encoder(shared.atoms, r)
        a = a.to(r.dtype) + level.embedded
        a = self.norm_a(self.transformer(a, level.given, shared.token_biases)).to(level.embedded.dtype)
        return self.decoder(a, q, shared.atoms.assignment, shared.decoder_given, shared.decoder_biases)

    def _level(self, c_noise: Tensor, shared: SharedConditioning) -> LevelConditioning:
        s = self.conditioning(shared.s, c_noise)
        return LevelConditioning(self.embed_s(self.norm_s(s)), s)
