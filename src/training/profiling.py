# SPDX-License-Identifier: Apache-2.0
"""A look at where a few steps spend their time: a trace of every operation, and a table of the largest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile

TRACE_FILE = "trace.json"


@dataclass
class ProfileConfig:
    """`steps` steps are profiled, none by default, after the `first` ones of this start of the run."""

    first: int = 3  # shapes are met, kernels compiled, graphs captured
    steps: int = 0
    rows: int = 20  # of the table


class Profiler(L.Callback):
    """Writes trace.json (chrome://tracing, Perfetto) into the run directory and prints a table.

    Of rank 0 alone; the profiled steps are slower than others.
    """

    def __init__(self, run_dir: Path, config: ProfileConfig, console: Console) -> None:
        self.path, self.config, self.console = run_dir / TRACE_FILE, config, console
        self._begin = 0
        self._profile: profile | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin = trainer.global_step + self.config.first

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and trainer.global_step == self._begin and self._profile is None:
            activities = [ProfilerActivity.CPU]
            if pl_module.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= self._begin + self.config.steps:
            self._finish(pl_module.device)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish(pl_module.device)

    def _finish(self, device: torch.device) -> None:
        if self._profile is None:
            return
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        running, self._profile, self._begin = self._profile, None, -1
        running.stop()
        running.export_chrome_trace(str(self.path))
        order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        table = running.key_averages().table(
            sort_by=order, row_limit=self.config.rows, max_name_column_width=60
        )
        self.console.print(table, soft_wrap=True, highlight=False, markup=False)
        self.console.print(f"trace of {self.config.steps} steps: {self.path}", highlight=False)
