# SPDX-License-Identifier: Apache-2.0
"""Figures of a step beyond its losses: how well it used the device, and gradient norms of the modules."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from foldwright.flops import StepSizes, step_flops
from foldwright.training.config import Learning, TrainConfig
from foldwright.training.curriculum import PhaseConfig


def step_sizes(config: TrainConfig, phase: PhaseConfig, n_cycles: float) -> StepSizes:
    """What one example of a phase's steps holds."""
    return StepSizes(
        tokens=phase.crop_tokens,
        atoms=phase.crop_atoms,
        msa_rows=phase.msa_rows,
        templates=config.data.n_templates,
        diffusion_samples=phase.diffusion_samples,
        cycles=n_cycles,
        rollout_steps=config.rollout.sampler.steps if config.rollout.enabled else 0,
    )


def model_flops(config: TrainConfig, phase: PhaseConfig, n_cycles: float) -> float | None:
    """Model FLOPs of a whole step (`foldwright.flops`), None for stages that do not train the structure."""
    if config.learn is not Learning.structure or not config.losses.diffusion:
        return None
    sizes = step_sizes(config, phase, n_cycles)
    return config.global_batch * step_flops(config.model, sizes)["total"]


def module_norms(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, float]:
    """Norm of the gradients of every module, `trunk.msa`, `diffusion`, ...; waits for the device.

    Collective where parameters are sharded: every rank gets the norms of the whole.
    """
    groups: dict[tuple[str, DeviceMesh | None], list[Tensor]] = {}
    for name, parameter in parameters:
        if (gradient := parameter.grad) is not None:
            mesh = gradient.device_mesh if isinstance(gradient, DTensor) else None
            groups.setdefault((module_of(name), mesh), []).append(gradient)
    if not groups:
        return {}
    norms = [torch.nn.utils.get_total_norm(gradients) for gradients in groups.values()]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    squares: dict[str, float] = {}
    for (module, _), norm in zip(groups, torch.stack([norm.float() for norm in whole]).tolist(), strict=True):
        squares[module] = squares.get(module, 0.0) + norm**2
    return {module: square**0.5 for module, square in squares.items()}


def module_of(name: str) -> str:
    """The module that a parameter's norm counts to: a part of the trunk, or a whole other module."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "trunk" else parts[0]
