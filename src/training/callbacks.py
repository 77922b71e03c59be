# SPDX-License-Identifier: Apache-2.0
"""Callbacks: checkpoint and resume, metrics.csv and the progress bar, the look at the result.

All act on optimiser steps, not on batches, and read the step's figures from the module's `record`.
"""

from __future__ import annotations

import csv
import math
import signal
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from foldwright.data.dataset import StoreDataset
from foldwright.training import checkpoint, hand_off, summary
from foldwright.training.checkpoint_writer import CheckpointWriter
from foldwright.training.config import TrainConfig, to_plain
from foldwright.training.curriculum import Curriculum
from foldwright.training.figures import model_flops
from foldwright.training.gpus import peak_flops
from foldwright.training.hand_off import HandOff
from foldwright.training.module import StructureTraining
from foldwright.training.parallel import any_rank, rank
from foldwright.training.prediction import predict
from foldwright.training.run_directory import require_own


class Checkpointer(L.Callback):
    """Resumes from the run's newest sound checkpoint; saves every so many steps, at the end, on SIGTERM.

    SIGTERM takes effect at the end of the running step, on all ranks at once: save, then leave the loop. No
    process ends before its checkpoint is written.
    """

    def __init__(
        self, root: Path, config: TrainConfig, console: Console, parent: HandOff | None = None
    ) -> None:
        self.root, self.config, self.console, self.parent = root, config, console, parent
        timeout = timedelta(minutes=config.trainer.timeout_minutes)
        self.writer = CheckpointWriter(root, config.checkpoint, timeout)
        self.resumed_step = 0
        self.interrupted = False
        self.best_step: int | None = None  # said by the validation
        self._saved_step = -1
        self._sigterm = False
        self._previous_handler: Any = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Load weights, average, moments and step; Lightning has set the optimiser up and not yet begun.

        What is handed over by a parent is saved at once, as step 0: a restart does not need the parent again.
        """
        assert isinstance(pl_module, StructureTraining)
        directory, passed_over = checkpoint.newest(self.root)
        for reason in passed_over:
            self.console.print(f"[yellow]checkpoint passed over:[/] {reason}")
        if directory is None:
            if self.parent is not None:
                hand_off.apply(self.parent, pl_module.network, pl_module.average, trainer.optimizers[0])
                self._save(trainer, pl_module)
            elif checkpoint.complete(self.root):
                raise checkpoint.CheckpointError(
                    f"{self.root}: every checkpoint is damaged; if the disk cannot give them back, remove "
                    "the folder to start again from step 0"
                )
            return
        record = checkpoint.load(directory, self._tensors(trainer, pl_module))
        require_own(directory, record.config, self.config)
        pl_module.skipped_steps = record.skipped_steps
        self.resumed_step = self._saved_step = record.step
        self.writer.latest = directory
        trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = (
            record.step
        )
        self.console.print(f"resuming at step {record.step:,} from {directory}")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take SIGTERM over from Lightning, whose own handler leaves without saving."""
        self._previous_handler = signal.signal(signal.SIGTERM, self._note_sigterm)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, StructureTraining)
        self.writer.check()
        step = trainer.global_step
        if step == self._saved_step or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self.interrupted = any_rank(self._sigterm, pl_module.device)
        is_due = step % self.config.checkpoint.every_steps == 0 or step >= trainer.max_steps
        if self.interrupted or is_due or step == self.best_step:
            self._save(trainer, pl_module)
        if self.interrupted:
            self.writer.finish()
            self.console.print(
                f"[bold]SIGTERM:[/] saved step {step:,} to {self.writer.latest}; the same command resumes"
            )
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.writer.finish()
        signal.signal(signal.SIGTERM, self._previous_handler)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """What is on its way is still written, where the other ranks are alive to do their part."""
        try:
            self.writer.finish()
        except RuntimeError as error:
            self.console.print(f"[red]{escape(str(error))}[/]")
        if isinstance(exception, KeyboardInterrupt):
            kept = self.writer.latest or "none yet"
            self.console.print(
                f"[bold]interrupted[/] after step {trainer.global_step:,}; newest checkpoint: {kept}. The "
                "same command resumes there. SIGTERM (kill PID) would have saved the running step first",
                soft_wrap=True,  # a path stays whole
            )

    def _note_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._sigterm = True

    def _tensors(self, trainer: L.Trainer, module: StructureTraining) -> dict[str, torch.Tensor]:
        return checkpoint.state_tensors(module.network, module.average, trainer.optimizers[0])

    def _save(self, trainer: L.Trainer, module: StructureTraining) -> None:
        record = checkpoint.Record(
            step=trainer.global_step,
            seed=self.config.seed,
            config=to_plain(self.config),
            skipped_steps=module.skipped_steps,
            world_size=trainer.world_size,
        )
        self.writer.write(self._tensors(trainer, module), record, self.best_step)
        self._saved_step = trainer.global_step


class MetricsFile:
    """metrics.csv: one row a step; steps after a resumed one are dropped.

    A leg on another machine may have other columns (memory, MFU): the file is then written anew with all of
    them, and a row says "nan" where it has none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] | None = None

    def truncate(self, step: int) -> None:
        """Keep the rows of steps 1..step: what ran after the checkpoint will run, and be written, again."""
        if not self.path.exists():
            return
        kept = [row for row in self.rows() if row["step"] <= step]
        if kept:
            self._write(kept)
        else:
            self.path.unlink()
            self._columns = None

    def append(self, row: dict[str, float]) -> None:
        if self._columns is None:
            self._columns = self._lines()[0] if self.path.exists() else []
        if not row.keys() <= set(self._columns):
            self._write([*self.rows(), row])
            return
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(_cells(row, self._columns))

    def rows(self) -> list[dict[str, float]]:
        """Rows in order; lines cut short, by a kill or a full disk, are left out."""
        if not self.path.exists():
            return []
        names, *lines = self._lines()
        return [dict(zip(names, values, strict=True)) for line in lines if (values := _numbers(line, names))]

    def _lines(self) -> list[list[str]]:
        """All that were written to their end, the names of the columns first."""
        text = self.path.read_text()
        return list(csv.reader(text[: text.rfind("\n") + 1].splitlines())) or [[]]

    def _write(self, rows: Sequence[dict[str, float]]) -> None:
        """The whole file, at once."""
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            csv.writer(file).writerows([self._columns, *(_cells(row, self._columns) for row in rows)])
        partial.replace(self.path)


def _cells(row: dict[str, float], names: Sequence[str]) -> list[str]:
    return [str(int(row[name])) if name == "step" else repr(float(row.get(name, math.nan))) for name in names]


def _numbers(line: Sequence[str], names: Sequence[str]) -> list[float]:
    """The values of a line, none where it is not whole."""
    try:
        return [float(value) for value in line] if len(line) == len(names) else []
    except ValueError:
        return []


class Meter(L.Callback):
    """Times steps and their waits for data, writes metrics.csv, now and then gradient_norms.csv (and both to
    W&B if chosen), keeps the bar.
    """

    def __init__(self, path: Path, config: TrainConfig, console: Console) -> None:
        self.norms = MetricsFile(path.with_name("gradient_norms.csv"))
        self.file, self.config, self.console = MetricsFile(path), config, console
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._last_time = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if rank() == 0:
            self.file.truncate(trainer.global_step)
            self.norms.truncate(trainer.global_step)
        self._bar = self.progress.add_task(
            self.config.stage, total=trainer.max_steps, completed=trainer.global_step, figures=""
        )
        if self.console.is_terminal:
            self.progress.start()
        self._last_time = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, StructureTraining)
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        now = time.perf_counter()
        seconds, self._last_time = now - self._last_time, now
        row = {"step": float(trainer.global_step), **pl_module.record, "step_time": seconds}
        data = trainer.datamodule  # type: ignore[attr-defined]
        row["loader_wait"] = data.loader.take_wait()
        row |= self._of_phase(pl_module.curriculum, trainer.global_step - 1)
        row |= {f"share/{name}": share for name, share in data.drawn(trainer.global_step - 1).items()}
        if pl_module.device.type == "cuda":
            row["peak_memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
            row |= self._utilisation(pl_module, row, trainer.world_size)
        norms = {f"gradient_norm/{name}": norm for name, norm in pl_module.module_norms.items()}
        if rank() == 0:
            self.file.append(row)
            if norms:
                self.norms.append({"step": row["step"], **norms})
        for logger in trainer.loggers:
            logger.log_metrics(row | norms, step=trainer.global_step)
        phase = pl_module.curriculum.name_at(trainer.global_step - 1)
        self._show(row, trainer.max_steps, phase, pl_module.not_finite)

    def _of_phase(self, curriculum: Curriculum, step: int) -> dict[str, float]:
        """The number of the phase and the crop of the step that followed `step` completed ones."""
        return {"phase": curriculum.number_at(step), "crop_tokens": curriculum.at(step).crop_tokens}

    def _utilisation(
        self, module: StructureTraining, row: dict[str, float], n_devices: int
    ) -> dict[str, float]:
        """Model FLOPs over what the GPUs could have done, where both are known."""
        peak = peak_flops(torch.cuda.get_device_name(module.device))
        phase = module.curriculum.at(int(row["step"]) - 1)
        flops = model_flops(self.config, phase, row["n_cycles"]) if "n_cycles" in row else None
        return {"mfu": flops / (row["step_time"] * peak * n_devices)} if flops and peak else {}

    def leave_out(self, seconds: float) -> None:
        """Time spent on something else than the step that is running."""
        self._last_time += seconds

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.progress.stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self.progress.stop()

    def _show(self, row: dict[str, float], max_steps: int, phase: str, not_finite: list[str]) -> None:
        step, seconds = int(row["step"]), row["step_time"]
        figures = (
            f"loss {row['loss']:#.4g}  lr {row['lr']:.2e}  {seconds:.2f} s/step  "
            f"{self.config.global_batch / seconds:.2f} examples/s  "
            f"waited {100 * row['loader_wait'] / seconds:.0f} %"
        )
        if "mfu" in row:
            figures += f"  MFU {100 * row['mfu']:.0f} %"
        if "peak_memory_gib" in row:
            figures += f"  {row['peak_memory_gib']:.1f} GiB"
        if len(self.config.curriculum) > 1:
            figures += f"  phase {phase}"
        if row["skipped"]:
            self.console.print(f"[yellow]step {step:,} skipped:[/] not finite: {', '.join(not_finite)}")
        self.progress.update(self._bar, completed=step, figures=figures)
        every = self.config.logger.every_steps
        if not self.console.is_terminal and (step % every == 0 or step in (1, max_steps)):
            self.console.print(f"step {step:,}/{max_steps:,}  {figures}", highlight=False)


class Summary(L.Callback):
    """When training has ended by itself: predict one structure with the average, write and print it."""

    def __init__(
        self, run_dir: Path, config: TrainConfig, dataset: StoreDataset, checkpointer: Checkpointer
    ) -> None:
        self.run_dir, self.config, self.dataset, self.checkpointer = run_dir, config, dataset, checkpointer

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All ranks sample, since the average may be sharded; the first writes."""
        assert isinstance(pl_module, StructureTraining)
        if self.checkpointer.interrupted:
            return
        device = trainer.strategy.root_device  # Lightning has moved the module to the CPU by now
        prediction = predict(
            pl_module.average.to(device),
            self.dataset,
            summary.choose_entry(self.dataset, self.config.summary.entry),
            self.config.summary.sampler,
            n_samples=1,
            n_cycles=self.config.max_cycles,
            msa_rows=pl_module.curriculum.at(trainer.global_step).msa_rows,
            seed=self.config.seed,
            device=device,
        )
        if rank() == 0:
            rows = MetricsFile(self.run_dir / "metrics.csv").rows()
            summary.write(prediction, rows, self.run_dir)
            self.checkpointer.console.rule("done", align="left")
            for line in summary.lines(prediction, rows, self.run_dir, self.checkpointer.writer.latest):
                self.checkpointer.console.print(line, soft_wrap=True, highlight=False, markup=False)
