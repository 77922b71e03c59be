# SPDX-License-Identifier: Apache-2.0
"""The AlphaFold3-style network: trunk, diffusion module, distogram and confidence heads (AF3 Algorithm 1).

Precision follows the dtype of the activations (see layers.linear): `trunk_dtype` and `diffusion_dtype` choose
it, parameters stay float32, and coordinates, norm statistics, softmax, residual streams of the diffusion
module and logits of the heads are float32 in every case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

import torch
from torch import Tensor, nn

from foldwright.affinity.head import AffinityConfig, AffinityHead, AffinityPrediction, Pocket
from foldwright.batch import Batch
from foldwright.confidence.head import ConfidenceConfig, ConfidenceHead, ConfidenceLogits
from foldwright.confidence.scores import iptm
from foldwright.diffusion.module import DiffusionConfig, DiffusionModule, SharedConditioning
from foldwright.diffusion.noise import NoisedSamples
from foldwright.diffusion.precondition import denoise, denoisers
from foldwright.diffusion.sampler import SamplerConfig, sample_diffusion
from foldwright.kernels import Ops
from foldwright.kernels.reference import upcast
from foldwright.layers.linear import Linear
from foldwright.layers.widths import Widths
from foldwright.pairformer.trunk import Trunk, TrunkConfig
from foldwright.randomness import key

N_DISTOGRAM_BINS = 64


class Precision(Enum):
    """dtype of the products of a part of the network."""

    float32 = "float32"
    bfloat16 = "bfloat16"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self is Precision.bfloat16 else torch.float32


@dataclass
class ModelConfig:
    """Architecture and precision; the defaults are AF3's sizes."""

    widths: Widths = field(default_factory=Widths)
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    affinity: AffinityConfig = field(default_factory=AffinityConfig)
    trunk_dtype: Precision = Precision.bfloat16
    diffusion_dtype: Precision = Precision.bfloat16

    @property
    def products_dtype(self) -> torch.dtype:
        """The dtype that holds every block's products."""
        return torch.promote_types(self.trunk_dtype.dtype, self.diffusion_dtype.dtype)


Noising = Callable[[Tensor | None], NoisedSamples | None]
"""From the mini-rollout's structure [B, A, 3], or None without one, to what is denoised, or None for nothing:
the ground truth is permuted onto the former before it is noised.
"""


@dataclass
class Output:
    """What a training step's losses and heads read. Float32 but for s_inputs, s, z (the trunk's dtype).

    Without noised samples there is no x_denoised; without a mini-rollout neither x_rollout nor confidence.
    """

    x_denoised: Tensor | None  # [B, D, A, 3] Å
    distogram_logits: Tensor  # [B, N, N, 64]
    s_inputs: Tensor  # [B, N, c_s_inputs]
    s: Tensor  # [B, N, c_s]
    z: Tensor  # [B, N, N, c_z]
    x_rollout: Tensor | None = None  # [B, A, 3] Å, no gradient
    confidence: ConfidenceLogits | None = None


@dataclass
class Representation:
    """The trunk's outputs, in its dtype."""

    s_inputs: Tensor  # [B, N, c_s_inputs]
    s: Tensor  # [B, N, c_s]
    z: Tensor  # [B, N, N, c_z]


@dataclass
class Judged:
    """The confidence head's view of structures, its pair logits still to be made, some rows at a time."""

    plddt: Tensor  # float32 [B, A, 50]
    pairs: Callable[[slice], tuple[Tensor, Tensor]]  # rows -> pae, pde logits, float32 [B, n, N, 64]


@dataclass
class Pose:
    """The best of several sampled structures of one example, and the representations that it came from."""

    s_inputs: Tensor  # [N, c_s_inputs]
    z: Tensor  # [N, N, c_z], in the trunk's dtype
    x: Tensor  # [A, 3] Å
    iptm: Tensor  # [D] of all samples


def _by_example(denoiser: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Denoises the D samples of one example that stand as D examples of one sample, [D, 1, A, 3]."""
    return denoiser(x.transpose(0, 1)).transpose(0, 1)


class DistogramHead(nn.Module):
    """Symmetrised logits over representative-atom distances; zero at initialisation."""

    def __init__(self, c_z: int) -> None:
        super().__init__()
        self.linear = Linear(c_z, N_DISTOGRAM_BINS, bias=True, init="zero")

    def forward(self, z: Tensor) -> Tensor:
        """z [B, N, N, c_z] -> [B, N, N, 64]."""
        logits = self.linear(upcast(z))
        return logits + logits.transpose(1, 2)

    def rows(self, z: Tensor, rows: slice) -> Tensor:
        """The logits [B, n, N, 64] of n rows alone."""
        return self.linear(upcast(z[:, rows])) + self.linear(upcast(z[:, :, rows])).transpose(1, 2)


class AlphaFold3(nn.Module):
    """The whole network. The number of recycling cycles is the batch's axis R."""

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config.trunk, config.widths, ops)
        self.diffusion = DiffusionModule(config.diffusion, config.widths, ops)
        self.distogram = DistogramHead(config.widths.pair)
        self.confidence = ConfidenceHead(config.confidence, config.widths, ops)
        self.affinity: AffinityHead | None = None  # of the last stage alone
        if config.affinity.enabled:
            self.affinity = AffinityHead(config.affinity, config.widths, ops)

    def forward(
        self, batch: Batch, noising: Noising, seed: Tensor, rollout: SamplerConfig | None = None
    ) -> Output:
        """One trunk pass, a mini-rollout and its confidence if asked for, and D denoised copies.

        seed int64 [B] keys this step's dropout and rollout. The heads' gradients end at the trunk's outputs.
        """
        s_inputs, s, z = self.trunk(batch, key(seed, "dropout"), self._dtype(self.config.trunk_dtype))
        shared = self._condition(batch, s_inputs, s, z)
        x_rollout = None if rollout is None else self._rollout(batch, shared, rollout, key(seed, "rollout"))
        noised = noising(x_rollout)
        x = None
        if noised is not None:
            x = denoise(self.diffusion, noised.x_noisy, noised.t_hat, shared)
        confidence = None
        if x_rollout is not None:
            inputs = (part.detach() for part in (s_inputs, s, z))
            confidence = self.confidence(batch, *inputs, x_rollout, key(seed, "confidence"))
        return Output(x, self.distogram(z), s_inputs, s, z, x_rollout, confidence)

    @torch.no_grad()
    def sample(self, batch: Batch, n_samples: int, config: SamplerConfig, seed: Tensor) -> Tensor:
        """Structures [B, D, A, 3] Å from noise (AF3 Algorithm 18). seed int64 [B]."""
        s_inputs, s, z = self.trunk(batch, key(seed, "dropout"), self._dtype(self.config.trunk_dtype))
        return self._sample(
            batch, self._condition(batch, s_inputs, s, z), n_samples, config, key(seed, "sampler")
        )

    @torch.no_grad()
    def represent(self, batch: Batch, seed: Tensor) -> Representation:
        """One pass of the trunk, all cycles of it, for samples drawn and judged apart. seed int64 [B]."""
        return Representation(*self.trunk(batch, key(seed, "dropout"), self._dtype(self.config.trunk_dtype)))

    @torch.no_grad()
    def sample_numbers(
        self, batch: Batch, trunk: Representation, numbers: Tensor, config: SamplerConfig, seed: Tensor
    ) -> Tensor:
        """The structures [D, A, 3] Å of the given sample numbers [D], of a batch of one; seed int64 [1].

        A sample's noise is keyed by its number, so that samples may be drawn in any portions.
        """
        shared = self._condition(batch, trunk.s_inputs, trunk.s, trunk.z)

        def by_example(t_hats: Sequence[float]) -> Iterator[Callable[[Tensor], Tensor]]:
            for denoiser in denoisers(self.diffusion, shared, t_hats):
                yield partial(_by_example, denoiser)

        own = torch.cat([key(key(seed, "sampler"), int(number)) for number in numbers])
        mask = batch.atom_mask.expand(len(own), -1)
        return sample_diffusion(by_example, mask, 1, config, own)[:, 0]

    @torch.no_grad()
    def judge(self, batch: Batch, trunk: Representation, x: Tensor, seed: Tensor) -> Judged:
        """The confidence head's view of structures x [B, A, 3] Å. seed int64 [B]."""
        head, number = self.confidence, key(seed, "confidence")
        s, z = head.embed(batch, trunk.s_inputs, trunk.s, trunk.z, x, number)
        return Judged(head.plddt(upcast(s), batch), partial(head.pairs, z))

    @torch.no_grad()
    def sample_judged(
        self, batch: Batch, n_samples: int, config: SamplerConfig, seed: Tensor
    ) -> tuple[Tensor, list[ConfidenceLogits]]:
        """The structures of `sample`, and the confidence head's view [B, ...] of each of the D."""
        s_inputs, s, z = self.trunk(batch, key(seed, "dropout"), self._dtype(self.config.trunk_dtype))
        shared = self._condition(batch, s_inputs, s, z)
        x = self._sample(batch, shared, n_samples, config, key(seed, "sampler"))
        number = key(seed, "confidence")
        return x, [self.confidence(batch, s_inputs, s, z, sample, number) for sample in x.unbind(1)]

    @torch.no_grad()
    def pose(self, batch: Batch, n_samples: int, config: SamplerConfig, seed: Tensor) -> Pose:
        """Of a batch of one: the sample with the best ipTM, by the confidence head. seed int64 [1]."""
        s_inputs, s, z = self.trunk(batch, key(seed, "dropout"), self._dtype(self.config.trunk_dtype))
        shared = self._condition(batch, s_inputs, s, z)
        samples = self._sample(batch, shared, n_samples, config, key(seed, "sampler"))[0]
        scores = []
        for x in samples:
            logits = self.confidence(batch, s_inputs, s, z, x[None], key(seed, "confidence"))
            tokens = batch.token_mask[0]
            scores.append(iptm(logits.pae[0], tokens, batch.has_frame[0], batch.asym_id[0]))
        score = torch.stack(scores)
        return Pose(s_inputs[0], z[0], samples[int(score.argmax())], score)

    def predict_affinity(self, pocket: Pocket, seed: Tensor) -> AffinityPrediction:
        """The affinity head's ensemble on pockets of poses. seed int64 [B] keys dropout."""
        assert self.affinity is not None, "model.affinity.enabled is false"
        pocket.z = pocket.z.to(self._dtype(self.config.trunk_dtype))
        return self.affinity(pocket, seed)

    def _condition(self, batch: Batch, s_inputs: Tensor, s: Tensor, z: Tensor) -> SharedConditioning:
        dtype = self._dtype(self.config.diffusion_dtype)
        return self.diffusion.condition(batch, s_inputs.to(dtype), s.to(dtype), z.to(dtype))

    @torch.no_grad()
    def _rollout(
        self, batch: Batch, shared: SharedConditioning, config: SamplerConfig, seed: Tensor
    ) -> Tensor:
        """The mini-rollout of SI 4.1 (figure 2c): one structure [B, A, 3] from the current weights."""
        return self._sample(batch, shared, 1, config, seed)[:, 0]

    def _sample(
        self, batch: Batch, shared: SharedConditioning, n_samples: int, config: SamplerConfig, seed: Tensor
    ) -> Tensor:
        own = partial(denoisers, self.diffusion, shared)
        return sample_diffusion(own, batch.atom_mask, n_samples, config, seed)

    def _dtype(self, wanted: Precision) -> torch.dtype:
        """The configured dtype; a float64 model (references in tests) computes in float64 throughout."""
        parameter = self.distogram.linear.weight.dtype
        return parameter if parameter == torch.float64 else wanted.dtype
