# SPDX-License-Identifier: Apache-2.0
"""AF3's optimiser: Adam and its learning-rate schedule (SI 5.4).

The learning rate is a pure function of the step, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import increment_version
from torch.distributed.tensor import DTensor


@dataclass
class OptimizerConfig:
    """Adam, or AdamW where there is weight decay; gradients clipped to a global norm; too many bad steps in a
    row stop.
    """

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 10.0
    max_skipped_in_a_row: int = 20


@dataclass
class ScheduleConfig:
    """Linear warm-up from zero to `lr`, then a factor `decay` every `decay_every` steps."""

    lr: float = 1.8e-3
    warmup_steps: int = 1000
    decay: float = 0.95
    decay_every: int = 50_000


def learning_rate(step: int, config: ScheduleConfig) -> float:
    """Learning rate of update number `step`, counted from 1: no update is wasted on a rate of zero."""
    warmup = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    return config.lr * warmup * config.decay ** (step // config.decay_every)


def build_adam(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.Adam:
    """Adam in its fused form where every parameter's device has one, else foreach; its state made at once.

    State exists from the start so that a checkpoint before, after or without a parameter's first update holds
    the same tensors. An update counts as a change of each parameter (`_version`), on which `kernels.casts`
    relies and which the fused form forgets.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    fused = all(parameter.device.type in ("cuda", "cpu") for parameter in parameters)
    sharded = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    optimizer = torch.optim.Adam(
        [{"params": group} for group in (sharded, whole) if group],  # no operation takes both at once
        lr=0.0,  # set before every update
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        decoupled_weight_decay=True,
        fused=fused,
        foreach=not fused,
    )
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device if fused else "cpu"),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
    optimizer.register_step_post_hook(lambda *_: increment_version(whole))
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
