# SPDX-License-Identifier: Apache-2.0
"""The kernels' self-test (`kernels.self_test`) before a run's first step, at the widths of its model."""

from __future__ import annotations

import lightning as L
import torch
from rich.console import Console

from foldwright.kernels import Ops
from foldwright.kernels.cases import Sizes
from foldwright.kernels.self_test import ATOMS, MSA_ROWS, SAMPLES, TOKENS, self_test
from foldwright.model import ModelConfig
from foldwright.training.config import ConfigError


class KernelSelfTest(L.Callback):
    """Every rank tests the ops on its own GPU, once it knows which that is; nothing on a CPU.

    Raises ConfigError, before any weight is drawn, for a kernel that fails.
    """

    def __init__(self, model: ModelConfig, ops: Ops, console: Console) -> None:
        self.model, self.ops, self.console = model, ops, console

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        check_kernels(self.model, self.ops, trainer.strategy.root_device, self.console)


def check_kernels(model: ModelConfig, ops: Ops, device: torch.device, console: Console) -> None:
    """Test the ops in every dtype that the model's products have; ConfigError for one that fails."""
    if device.type != "cuda":
        return
    for dtype in dict.fromkeys((model.trunk_dtype.dtype, model.diffusion_dtype.dtype)):
        try:
            self_test(ops, device, dtype, small_sizes(model), console)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def small_sizes(model: ModelConfig) -> Sizes:
    """A model's widths and heads at the self-test's numbers of tokens, atoms, rows and samples."""
    widths, trunk = model.widths, model.trunk
    return Sizes(
        tokens=TOKENS,
        atoms=ATOMS,
        msa_rows=MSA_ROWS,
        samples=SAMPLES,
        pair=widths.pair,
        single=widths.single,
        msa=widths.msa,
        token=widths.token,
        atom=widths.atom,
        atom_pair=widths.atom_pair,
        pair_heads=trunk.pairformer.pair_heads,
        token_heads=model.diffusion.heads,
        atom_heads=model.diffusion.atom.heads,
        msa_heads=trunk.msa.heads,
        c_head=trunk.msa.c_head,
        c_outer=trunk.msa.c_outer,
    )
