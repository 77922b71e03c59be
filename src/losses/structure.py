# SPDX-License-Identifier: Apache-2.0
"""The loss of a step: AF3 SI eq. 15, from the diffusion loss of eq. 6, the distogram and confidence terms."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from foldwright.batch import Batch
from foldwright.confidence.head import ConfidenceLogits
from foldwright.confidence.targets import confidence_targets
from foldwright.diffusion.noise import NoisedSamples
from foldwright.diffusion.precondition import loss_weight
from foldwright.kernels import Ops
from foldwright.losses.confidence import confidence_losses
from foldwright.losses.diffusion import (
    aligned_mse,
    atom_weights,
    bond_loss,
    smooth_lddt_loss,
    supervised_atoms,
)
from foldwright.losses.distogram import distogram_loss
from foldwright.losses.external import external_loss
from foldwright.losses.noise_levels import sums_by_noise_level


@dataclass
class LossConfig:
    """Weights of AF3's initial training (spec 4.3, 7.1)."""

    diffusion: float = 4.0
    smooth_lddt: float = 1.0  # inside the diffusion loss
    bond: float = 0.0  # inside the diffusion loss; 1 from fine-tuning on
    distogram: float = 0.03
    confidence: float = 1e-4  # of pLDDT, PDE, resolved and, times `pae`, the aligned error
    pae: float = 0.0  # α_pae: 1 in the confidence stage
    external: dict[str, float] = field(default_factory=dict)  # weights of other packages' terms, by name

    def check(self) -> None:
        """ValueError for an unknown external term, and where the distogram would be trained without the
        structure: they go together.
        """
        for name in self.external:
            external_loss(name)
        if self.distogram and not self.diffusion:
            raise ValueError(
                f"losses.distogram: got {self.distogram} with losses.diffusion=0, expected both or neither "
                "(SI Table 6); set losses.distogram=0 too, or freeze what should not be trained"
            )


def structure_loss(
    x_denoised: Tensor,
    distogram_logits: Tensor,
    noised: NoisedSamples,
    batch: Batch,
    config: LossConfig,
    ops: Ops,
) -> dict[str, Tensor]:
    """Scalars, averaged over samples and examples: `loss` (to be minimised) and its unweighted terms.

    x_denoised [B, D, A, 3] Å, distogram_logits [B, N, N, 64], float32. `weighted_mse` is w(t̂) L_MSE, about 1
    for protein at initialisation, and comes by noise level too (`noise_levels`); terms of weight zero are not
    computed.
    """
    mse = aligned_mse(x_denoised, noised.x_true, atom_weights(batch), supervised_atoms(batch), ops)
    w = loss_weight(noised.t_hat)
    terms = {"mse": mse, "weighted_mse": w * mse}
    diffusion = terms["weighted_mse"]
    if config.bond:
        terms["bond"] = bond_loss(x_denoised, noised.x_true, batch)
        diffusion = diffusion + config.bond * w * terms["bond"]
    if config.smooth_lddt:
        terms["smooth_lddt"] = smooth_lddt_loss(x_denoised, noised.x_true, batch, ops)
        diffusion = diffusion + config.smooth_lddt * terms["smooth_lddt"]
    terms["distogram"] = distogram_loss(distogram_logits, batch)
    scalars = {name: term.mean() for name, term in terms.items()}
    levels = sums_by_noise_level(terms["weighted_mse"], noised.t_hat)
    loss = config.diffusion * diffusion.mean() + config.distogram * scalars["distogram"]
    return {"loss": loss, **scalars, **levels}


def confidence_loss(
    logits: ConfidenceLogits, x_rollout: Tensor, batch: Batch, config: LossConfig
) -> dict[str, Tensor]:
    """Scalars, averaged over examples: `loss` and its unweighted terms, and the rollout's mean atom LDDT.

    x_rollout [B, A, 3] Å is the structure that the logits judge, `batch` the truth permuted onto it. The PAE
    term stays in the graph at weight zero: every parameter has a gradient in every stage. Of a structure that
    is not finite there is nothing to learn: neither is the loss.
    """
    targets = confidence_targets(x_rollout, batch)
    terms = {name: term.mean() for name, term in confidence_losses(logits, targets, batch).items()}
    loss = config.confidence * (terms["plddt"] + terms["pde"] + terms["resolved"] + config.pae * terms["pae"])
    loss = loss + 0.0 * x_rollout.sum()
    scored = targets.plddt_mask
    lddt = torch.where(scored, targets.lddt, 0.0).sum() / scored.sum().clamp(min=1)
    return {"loss": loss, **terms, "rollout_lddt": lddt}
