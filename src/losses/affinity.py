# SPDX-License-Identifier: Apache-2.0
"""The affinity losses (Boltz-2; spec 6): Huber on differences in an assay and on values, focal on binding.

Every label is an interval: a measured value is its own bound from both sides, "> K" bounds from below alone,
"< K" from above alone. The error of a prediction is its distance to the interval; that of a pair is the
distance of the predicted difference to the interval of differences which the two labels allow. So a censored
label costs only what contradicts it, and two labels censored alike say nothing about their difference.

Terms are means over groups of the mean in each, zero for a group that a term has no label of: the mean over
all labels would depend on which groups a device happens to take at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from foldwright.affinity.head import AffinityPrediction


@dataclass
class AffinityLossConfig:
    """Weights and shapes; the defaults are Boltz-2's paper (its code's focal exponent is 2)."""

    pairwise: float = 0.9
    absolute: float = 0.1
    binder: float = 1.0
    huber_delta: float = 0.5  # in units of log10 K
    focal_gamma: float = 1.0
    focal_alpha: float = 0.8  # weight of binders; 1 - alpha is that of the others


@dataclass
class AffinityLabels:
    """Labels of B complexes: `low` and `high` bound log10(K / µM), infinite where nothing is known.

    Complexes of one `assay` (a number) of one `group` (numbers below B) may be compared. `is_binder` counts
    where `has_binder`, the values where `has_value`.
    """

    low: Tensor  # float32 [B]
    high: Tensor  # float32 [B]
    assay: Tensor  # int64 [B]
    has_value: Tensor  # bool [B]
    is_binder: Tensor  # bool [B]
    has_binder: Tensor  # bool [B]
    group: Tensor  # int64 [B]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AffinityLabels:
        return AffinityLabels(*(part.to(device, non_blocking=non_blocking) for part in vars(self).values()))


def affinity_loss(
    prediction: AffinityPrediction, labels: AffinityLabels, config: AffinityLossConfig
) -> dict[str, Tensor]:
    """Scalars: `loss` and its unweighted terms, averaged over the members of the ensemble, each of which
    learns by itself. A term without any label is zero and stays in the graph.
    """
    terms = {
        "pairwise": pairwise_loss(prediction.value, labels, config.huber_delta),
        "absolute": absolute_loss(prediction.value, labels, config.huber_delta),
        "binder": focal_loss(prediction.logit, labels, config.focal_gamma, config.focal_alpha),
    }
    scalars = {name: term.mean() for name, term in terms.items()}
    loss = torch.stack([getattr(config, name) * term for name, term in scalars.items()]).sum()
    return {"loss": loss, **scalars}


def absolute_loss(value: Tensor, labels: AffinityLabels, delta: float) -> Tensor:
    """Huber loss of the distances to the labels' intervals, [E] of values [E, B]."""
    error = huber(outside(value, labels.low, labels.high), delta)
    return _mean(error, labels.has_value, labels.group)


def pairwise_loss(value: Tensor, labels: AffinityLabels, delta: float) -> Tensor:
    """Huber loss over the pairs of one assay, [E] of values [E, B]; every pair counts once."""
    first, second = torch.triu_indices(value.shape[-1], value.shape[-1], 1, device=value.device)
    low = labels.low[second] - labels.high[first]
    high = labels.high[second] - labels.low[first]
    error = huber(outside(value[:, second] - value[:, first], low, high), delta)
    same = (labels.assay[first] == labels.assay[second]) & (labels.group[first] == labels.group[second])
    return _mean(error, same & labels.has_value[first] & labels.has_value[second], labels.group, first)


def focal_loss(logit: Tensor, labels: AffinityLabels, gamma: float, alpha: float) -> Tensor:
    """Focal cross-entropy of the labelled complexes, [E] of logits [E, B]."""
    is_binder = labels.is_binder.expand_as(logit)
    signed = torch.where(is_binder, logit, -logit)
    weight = torch.where(is_binder, alpha, 1.0 - alpha)
    error = -weight * torch.sigmoid(-signed) ** gamma * F.logsigmoid(signed)
    return _mean(error, labels.has_binder, labels.group)


def outside(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far values lie outside [low, high], with the sign of the side; zero inside."""
    return (value - high).clamp(min=0) - (low - value).clamp(min=0)


def huber(error: Tensor, delta: float) -> Tensor:
    """Half the square up to delta, linear beyond."""
    return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)


def _mean(error: Tensor, counted: Tensor, group: Tensor, member: Tensor | None = None) -> Tensor:
    """Mean over groups of the mean of error [E, M] over the entries counted [M]; zero, with a gradient of
    zero, where none is. `group` is that of every complex [B], `member` the complex of every entry.
    """
    own = group if member is None else group[member]
    zeros = torch.zeros(len(group), dtype=error.dtype, device=error.device)
    labels_of_group = zeros.index_add(0, own, counted.to(error.dtype))  # whole numbers: exact in any order
    n_groups = (zeros.index_add(0, group, torch.ones_like(zeros)) > 0).sum()
    each = torch.where(counted, error, 0.0) / labels_of_group[own].clamp(min=1)
    return each.sum(-1) / n_groups
